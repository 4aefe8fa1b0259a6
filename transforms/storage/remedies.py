"""Suggests remedies for errors of the operating system and of storage."""

import errno
import importlib.metadata
import importlib.util
import os

REMEDIES = {
    errno.ENOSPC: "free space there",
    errno.EDQUOT: "free space there, or have the quota raised",
    errno.EMFILE: "allow more open files (ulimit -n)",
    errno.ENFILE: "allow more open files",
    errno.EROFS: "choose a folder that can be written to",
    errno.EACCES: "give yourself the permission",
    errno.EPERM: "give yourself the permission",
    errno.EISDIR: "move away the folder that stands there",
    errno.ENOTDIR: "move away the file that stands in a folder's place",
    errno.EEXIST: "move away what stands there",
    errno.ENAMETOOLONG: "give the input a shorter name, or choose another output",
}


def described(error: OSError) -> str:
    """Describes an OSError by its file, its cause and a remedy, or by its own text if it has no cause.

    >>> described(OSError(errno.EROFS, "Read-only file system", "out/_keyjoin/lock"))
    'out/_keyjoin/lock: Read-only file system; choose a folder that can be written to'
    """
    if error.errno is None or error.strerror is None:
        return str(error)
    named = [os.fsdecode(error.filename)] if isinstance(error.filename, (str, bytes)) else []
    return ": ".join([*named, error.strerror]) + (f"; {REMEDIES[error.errno]}" if error.errno in REMEDIES else "")


def remedy(error: Exception) -> str:
    """Returns the remedy for an error of the operating system."""
    return REMEDIES.get(getattr(error, "errno", None) or 0, "see that the file system and the network are well")


# Scheme -> the module that Beam needs to read it, and the extra of apache-beam that installs the module:
# https://beam.apache.org/releases/pydoc/2.77.0/apache_beam.io.filesystems.html
EXTRAS = {"s3": ("boto3", "aws"), "hdfs": ("hdfs", "hadoop"), "azfs": ("azure", "azure")}


def store_remedy(path: str) -> str:
    """Returns the remedy for a path whose file system cannot be reached.

    Args:
        path: The path, with its scheme.
    """
    scheme = path.partition("://")[0].lower()
    if scheme == "gs":
        return "check the path, that its bucket exists, and your permissions: gcloud auth application-default login"
    if scheme not in EXTRAS:
        return f"Beam has no file system for {scheme}://; copy it to this machine, or to Cloud Storage (gs://)"
    return install_command(scheme) or f"check the path, your permissions, and Beam's flags for {scheme}://"


def install_command(scheme: str) -> str:
    """Returns how to install what Beam needs for the paths of a scheme; empty if it is there, or nothing is needed."""
    module, extra = EXTRAS.get(scheme, ("", ""))
    if not module or importlib.util.find_spec(module) is not None:
        return ""
    version = importlib.metadata.version("apache-beam")
    return f"install what Beam reads {scheme}:// with: pip install 'apache-beam[{extra}]=={version}'"
