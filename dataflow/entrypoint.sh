#!/bin/sh
# Starts Beam's worker, as the user keyjoin. The container starts as root, because Dataflow mounts the folder for staged
# files as root's; it is given to the user first, and then there is no way back.
set -eu

if [ "$(id -u)" = 0 ]; then
  for word do
    case $word in
      --semi_persist_dir=?*)
        mkdir -p -- "${word#*=}"
        chown keyjoin: -- "${word#*=}"
        ;;
    esac
  done
  HOME=~keyjoin
  export HOME
  set -- setpriv --reuid=keyjoin --regid=keyjoin --init-groups --no-new-privs /opt/apache/beam/boot "$@"
else
  set -- /opt/apache/beam/boot "$@"
fi
exec "$@"
