"""Runs what a page of the docs has its reader type, in one shell, with the programs of this environment."""

import os
import subprocess
import sys

from job_folder import ROOT

PROGRAMS = {"sage-flow": "-m sage_flow.cli ", "python": ""}


def run_in_shell(script, folder, timeout):
    """Run a script of bash in a folder; return the completed process, with what it has printed as text."""
    programs = folder / "bin"
    programs.mkdir()
    for name, arguments in PROGRAMS.items():
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec {sys.executable} {arguments}"$@"\n', encoding="utf-8")
        program.chmod(0o755)
    return subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
