"""Makes the pictures of docs/images/ again: `make screenshots`."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from browser import PATIENCE_MS, ROOT, opened_browser, served_page
from test_dashboard_page import SLOW, running, until

_IMAGES = ROOT / "docs" / "images"


def main() -> None:
    """Run a job whose second step is slow, and take a picture of its page."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["XDG_RUNTIME_DIR"], os.environ["PYTHONPATH"] = name, str(ROOT)
        (folder / "scoring.py").write_text(SLOW.replace("NAME = '<img", "NAME = 'triple'  # '<img"))
        with opened_browser() as browser, served_page() as address, running(folder, "--quiet", "scoring.py"):
            page = browser.new_page(viewport={"width": 1300, "height": 760})
            page.set_default_timeout(PATIENCE_MS)
            page.goto(address)
            page.locator('rect[data-operators^="numbers"][data-kind="held"]').wait_for()
            page.locator('rect[data-operators="slow"][data-kind="busy"]').wait_for()
            row = page.locator("table.operators tr", has_text="slow").first
            until(lambda: True if row.locator("td").nth(3).inner_text() not in ("0", "-") else None, page)
            _IMAGES.mkdir(exist_ok=True)
            page.screenshot(path=_IMAGES / "dashboard.png")


if __name__ == "__main__":
    main()
