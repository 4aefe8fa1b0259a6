"""What travels to workers: it names no folder of the machine that sends it."""

import os
import sys

from pipeline.compat import beam


def leave_out_folders() -> None:
    """Has Beam name the files that code comes from by their place among the packages, as `apache_beam/pipeline.py`.

    A function that cannot be imported by its name, as some of Beam's own, travels as code, and with it the name of its
    file: with this machine's folders in it, a user's among them.
    """
    beam.name_files_by(among_packages)


def among_packages(path: str) -> str:
    """A file's path below the folder that Python imports it from; only its name where there is none.

    >>> among_packages(__file__)
    'pipeline/job/pickles.py'
    >>> among_packages("/home/user/notebook.py"), among_packages("<string>")
    ('notebook.py', '<string>')
    """
    folders = (os.path.join(os.path.abspath(folder), "") for folder in sys.path)
    inside = max((folder for folder in folders if path.startswith(folder)), key=len, default=None)
    return path[len(inside) :] if inside else os.path.basename(path)
