"""The order of `sys.path`: the standard library first, then the folders of a job, then what is installed.

Python itself puts the folder of a script first. A job file is no script: sage_flow and the libraries under it import
modules while the job runs, and a `json.py` or `queue.py` beside the job must not take their place.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterable

__all__ = ["put_behind_standard_library"]


def put_behind_standard_library(folders: Iterable[str]) -> None:
    """Put these folders, in this order, into `sys.path` behind the standard library and before everything else."""
    here = os.getcwd()
    own = list(dict.fromkeys(folders))
    others = [entry for entry in sys.path if (entry or here) not in own]
    library = _standard_library()
    standard = [entry for entry in others if os.path.realpath(entry or here) in library]
    sys.path[:] = standard + own + [entry for entry in others if entry not in standard]


def _standard_library() -> set[str]:
    """The folders of the standard library, as real paths; that of compiled modules is below the first."""
    library = os.path.dirname(os.__file__)
    folders = {library, os.path.join(library, "lib-dynload"), sysconfig.get_path("stdlib")}
    compiled = sysconfig.get_config_var("DESTSHARED")
    return {os.path.realpath(folder) for folder in (*folders, compiled) if folder}
