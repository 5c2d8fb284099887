"""A headless Chromium for the tests of the page, and the page as a program. Without a Chromium they are left out."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

ROOT = Path(__file__).parents[1]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE_MS = 60_000


def chromium() -> str | None:
    """Where it is: SAGE_FLOW_CHROMIUM, or on the PATH."""
    found = os.environ.get("SAGE_FLOW_CHROMIUM")
    return found or next((path for name in NAMES if (path := shutil.which(name))), None)


@contextlib.contextmanager
def opened_browser() -> Iterator[Any]:
    """A browser of playwright. Raises FileNotFoundError without a Chromium."""
    from playwright.sync_api import sync_playwright

    path = chromium()
    if path is None:
        raise FileNotFoundError(f"no Chromium: none of {', '.join(NAMES)} is on the PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path,
            args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"],  # as root, in a container
        )
        try:
            yield browser
        finally:
            browser.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Of the tests of a module."""
    if chromium() is None:
        pytest.skip(f"the page's tests were left out: no Chromium on this machine ({', '.join(NAMES)})")
    with opened_browser() as found:
        yield found


@contextlib.contextmanager
def served_page(*arguments: str, environment: dict[str, str] | None = None) -> Iterator[str]:
    """Run `sage-flow dashboard` on a free port; yield the address that it prints."""
    process = subprocess.Popen(
        [sys.executable, "-m", "sage_flow.cli", "dashboard", "--port", "0", *arguments],
        env={**(os.environ if environment is None else environment), "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield address_in(process.stderr)
    finally:
        process.terminate()
        process.communicate(timeout=30)


def address_in(stderr: IO[str] | None) -> str:
    """Read what a program prints until the address of the page comes."""
    lines: list[str] = []
    for line in stderr or ():
        lines.append(line)
        if (found := re.search(r"page: (http://\S+)", line)) is not None:
            return found[1]
    raise AssertionError(f"no page: {''.join(lines)}")
