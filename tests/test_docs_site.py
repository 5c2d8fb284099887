"""The documentation as a site: its pages, its links, and its reference, which has every public name."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import sage_flow

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built strict: a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(build, cwd=ROOT, env=quiet, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_in_the_site(site):
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")}
    assert {*pages, "index", "benchmarks", "docker", "security"} <= {page.stem for page in site.glob("*.html")}


def test_the_first_page_says_what_it_is_and_links_to_pages_of_the_site(site):
    text = (site / "index.html").read_text("utf-8")
    assert "A dataflow engine for Python" in text
    assert 'href="fault-tolerance.html"' in text
    assert 'href="docs/' not in text


def test_the_reference_has_every_public_name_with_its_methods(site):
    text = (site / "api.html").read_text("utf-8")
    named = set(re.findall(r'id="sage_flow\.(\w+)"', text))
    values = {"IDLE", "END", "MAX_TIMESTAMP", "MIN_TIMESTAMP", "Firing", "__version__"}
    assert set(sage_flow.__all__) - values <= named
    for method in ("DataStream.map_async", "KeyedStream.window", "JobHandle.drain", "LocalEnvironment.read_csv"):
        assert f'id="sage_flow.{method}"' in text, method


def test_no_page_names_a_script_a_font_or_a_picture_of_another_server(site):
    for page in ("index.html", "api.html"):
        text = (site / page).read_text("utf-8")
        fetched = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?://[^"]+)"', text)
        assert fetched == [], page
