"""Workers on this machine: a runner requests one, and Beam's own boot starts it in the environment of the image."""

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import grpc
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc

from tests.cloud.image import boot_environment

SESSION = 3  # index of the session id in /proc/PID/stat, after the program's name, counted from the state


class Machine(NamedTuple):
    """A worker: its boot process, and its log."""

    boot: subprocess.Popen[bytes]
    log: Path


class Workers(beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolServicer):
    """The service that an EXTERNAL environment asks for workers.

    Attributes:
        died: Called with a machine's log if the machine ends before the runner stops it.
        started: How many machines were started.
    """

    def __init__(self, programs: Path, folder: Path) -> None:
        """Takes the folder of the image's programs, and a folder for what the machines write."""
        self.programs, self.folder = programs, folder
        self.died: Callable[[str], None] = lambda _: None
        self.started = 0
        self._machines: dict[str, Machine] = {}
        self._lock = threading.Lock()

    def StartWorker(self, request: Any, _: Any) -> Any:  # noqa: N802  as the service has it
        with self._lock:
            place = self.folder / f"worker-{self.started}"
            place.mkdir(parents=True)
            self.started += 1
        endpoints = {
            "logging_endpoint": request.logging_endpoint.url,
            "artifact_endpoint": request.artifact_endpoint.url,
            "provision_endpoint": request.provision_endpoint.url,
            "control_endpoint": request.control_endpoint.url,
            "semi_persist_dir": place,
        }
        command = [
            os.environ["KEYJOIN_BOOT"],
            f"--id={request.worker_id}",
            *(f"--{k}={v}" for k, v in endpoints.items()),
        ]
        log = place / "boot.log"
        with log.open("wb") as said:
            boot = subprocess.Popen(
                command,
                cwd=place,
                env=boot_environment(self.programs, place),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        machine = self._machines[request.worker_id] = Machine(boot, log)
        threading.Thread(target=self._watch, args=(request.worker_id, machine), daemon=True).start()
        return beam_fn_api_pb2.StartWorkerResponse()

    def _watch(self, worker_id: str, machine: Machine) -> None:
        machine.boot.wait()
        if self._machines.get(worker_id) is machine:
            self.died(machine.log.read_text(errors="replace"))

    def StopWorker(self, request: Any, _: Any) -> Any:  # noqa: N802
        machine = self._machines.pop(request.worker_id, None)
        if machine:
            _kill(machine)
        return beam_fn_api_pb2.StopWorkerResponse()

    def kill(self) -> int:
        """Kills all machines at once, as a loss of power does; returns the number of killed processes."""
        return sum(map(_kill, list(self._machines.values())))

    def said(self) -> str:
        """The logs of all machines."""
        return "".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("worker-*/boot.log")))


def _kill(machine: Machine) -> int:
    """Kills all processes of a machine. It goes by session, because boot gives each worker its own process group."""
    found = list(_processes(machine.boot.pid))
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    machine.boot.wait()
    return len(found)


def _processes(session: int) -> Iterator[int]:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # the process has just ended
            if int(stat.read_text().rpartition(")")[2].split()[SESSION]) == session:
                yield int(stat.parent.name)


@contextlib.contextmanager
def running_workers(programs: Path, folder: Path) -> Iterator[tuple[Workers, str]]:
    """Yields the service and its address; ends all machines with the context."""
    workers = Workers(programs, folder)
    server = grpc.server(ThreadPoolExecutor())
    beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(workers, server)
    port = server.add_insecure_port("localhost:0")
    server.start()
    try:
        yield workers, f"localhost:{port}"
    finally:
        workers.died = lambda _: None
        workers.kill()
        server.stop(None).wait()
