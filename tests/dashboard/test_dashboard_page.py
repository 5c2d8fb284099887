"""The page in a browser, with jobs of this machine."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
from urllib.parse import urlsplit

import pytest
from browser import PATIENCE_MS, ROOT, address_in, browser, served_page  # noqa: F401 - a fixture
from job_folder import write

from sage_flow.dashboard.server import serve_page
from sage_flow.errors import PipelineError

SLOW = """
import time
from sage_flow import Service


class Scores(Service):
    def score(self, n):
        return n % 7


def slow(n, ctx):
    time.sleep(0.002)
    return n, ctx.service(Scores).score(n)


def build(env):
    def numbers():
        n = 0
        while True:
            yield n
            n += 1

    env.register_service("scores", Scores)
    tripled = env.from_iterable(numbers, name="numbers").map(lambda n: n * 3, name=NAME)
    scored = tripled.rebalance().map(slow, name="slow", parallelism=2)
    scored.key_by(lambda pair: pair[1]).count(name="by-score").for_each(lambda row: None, name="out")


NAME = '<img src="x" onerror="window.hacked = 1">'
"""

FAILING = """
import time


def divide(n):
    time.sleep(0.05)
    return 100 // (60 - n)  # fails after three seconds


def build(env):
    env.from_collection(range(1000)).map(divide).for_each(str)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the jobs of these tests are found, and no others."""
    found = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(found))
        patch.setenv("PYTHONPATH", str(ROOT))
        write(found / "slow.py", SLOW)
        write(found / "failing.py", FAILING)
        yield found


@pytest.fixture(scope="module")
def address(folder, browser):  # noqa: F811
    with served_page() as found:
        yield found


@pytest.fixture
def page(address, browser):  # noqa: F811
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    made = context.new_page()
    made.set_default_timeout(PATIENCE_MS)
    made.requested = []
    made.on("request", lambda request: made.requested.append(request.url))
    made.goto(address)
    yield made
    context.close()


@contextlib.contextmanager
def running(folder, *arguments):
    """A job of this machine, as a program."""
    command = [sys.executable, "-m", "sage_flow.cli", "run", *arguments]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=60)


def choose(page, process):
    page.locator("table.jobs tr", has_text=f"process {process.pid}").locator("a").click()
    page.locator(".head", has_text=f"process {process.pid}").wait_for()


def until(condition, page):
    for _ in range(PATIENCE_MS // 100):
        if (found := condition()) is not None:
            return found
        page.wait_for_timeout(100)
    raise AssertionError("it never came to be")


def records_of(page, operator):
    row = page.locator("table.operators tr", has_text=operator).first
    return int(row.locator("td").nth(2).inner_text().replace(",", ""))


def shades(page):
    """Of each node of the picture: its operators, colour, how dark it is, and of which kind."""
    return page.eval_on_selector_all(
        ".graph rect[data-operators]",
        """rects => rects.map(rect => ({
            operators: rect.dataset.operators, color: rect.getAttribute('fill'),
            depth: parseFloat(rect.getAttribute('fill-opacity')), kind: rect.dataset.kind,
        }))""",
    )


def test_counts_move_and_the_slow_operator_is_the_darkest_node_and_the_first_row(page, folder):
    with running(folder, "--quiet", "slow.py") as process:
        choose(page, process)
        page.locator("table.operators td", has_text="slow").first.wait_for()
        before = records_of(page, "slow")
        until(lambda: True if records_of(page, "slow") > before else None, page)

        def settled():
            found = shades(page)
            kinds = {node["operators"].split()[0]: node["kind"] for node in found}
            return found if kinds.get("slow") == "busy" and kinds.get("numbers") == "held" else None

        found = until(settled, page)
        darkest = max(found, key=lambda node: node["depth"])
        assert (darkest["operators"], darkest["color"]) == ("slow", "#d93025")
        (held,) = (node for node in found if node["operators"].startswith("numbers"))
        assert held["color"] == "#f2a900"  # the colour of backpressure: it waits for the slow one
        assert page.locator("table.operators tbody tr").first.locator("td").first.inner_text() == "slow"

        # What users write is text, wherever it is shown.
        assert page.locator("table.operators td", has_text="<img src=").count() == 1
        assert page.locator(".graph text", has_text="<img src=").count() == 1
        assert page.locator("img[src=x]").count() == 0
        assert page.evaluate("window.hacked === undefined")
        assert {urlsplit(url).hostname for url in page.requested} == {"127.0.0.1"}

        page.locator('[data-tab="subtasks"]').click()
        page.locator("table.subtasks td", has_text="slow[2/2]").wait_for()
        page.locator('[data-tab="channels"]').click()
        page.locator("table.channels td", has_text="requests of scores").wait_for()
        page.locator('[data-tab="services"]').click()
        row = page.locator("table.services tr", has_text="scores.score")
        row.wait_for()
        assert "ms" in row.locator("td").nth(4).inner_text()  # p50 of its latency
        page.locator('[data-tab="logs"]').click()
        page.locator(".part-logs", has_text="prints to the terminal").wait_for()

        page.locator('[data-order="cancel"]').click()
        page.locator('[data-confirm="cancel"]').click()
        page.locator(".head .status.cancelled").wait_for()
        _, err = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "was cancelled" in err


def test_a_drain_from_the_page_lets_the_job_finish(page, folder):
    with running(folder, "--quiet", "slow.py") as process:
        choose(page, process)
        page.locator("table.operators td", has_text="slow").first.wait_for()
        page.locator('[data-order="drain"]').click()
        page.locator('[data-confirm="drain"]').click()
        page.locator(".head .status.finished").wait_for()
        assert process.wait(60) == 0


def test_a_failed_job_shows_its_error_with_the_line_of_the_user(page, folder):
    with running(folder, "--quiet", "failing.py") as process:
        choose(page, process)
        page.locator(".head .status.failed").wait_for()
        page.locator('[data-tab="errors"]').click()
        failure = page.locator("pre.failure")
        failure.wait_for()
        text = failure.inner_text()
        assert text.startswith("ZeroDivisionError")
        assert re.search(r"failing\.py:\d+ in divide", text)
        assert "operator" in text
        assert page.locator('[data-order="cancel"]').is_disabled()


def test_a_job_whose_process_was_killed_is_gone(page, folder):
    with running(folder, "--quiet", "slow.py") as process:
        choose(page, process)
        page.locator("table.operators td", has_text="slow").first.wait_for()
        process.send_signal(signal.SIGKILL)
        page.locator(".head .status.gone").wait_for()


def test_a_job_that_is_not_there_is_said(page, address, folder):
    with running(folder, "--quiet", "slow.py"):
        page.locator("table.jobs a").first.wait_for()
        page.goto(f"http://{urlsplit(address).netloc}/?job=old")
        page.locator(".head", has_text="there is no such job here").wait_for()


def test_run_serves_the_page_of_its_job(browser, folder):  # noqa: F811
    with running(folder, "--quiet", "--dashboard", "slow.py") as process:
        found = address_in(process.stderr)
        context = browser.new_context()
        made = context.new_page()
        made.set_default_timeout(PATIENCE_MS)
        made.goto(found)
        made.locator("table.operators td", has_text="slow").first.wait_for()
        process.send_signal(signal.SIGINT)  # a drain
        assert process.wait(60) == 130
        context.close()
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", urlsplit(found).port), timeout=5)


# -- who gets in ----------------------------------------------------------------------------------------------


def answer(address, path, **headers):
    """The status, the headers and the text of one request, as a program makes it."""
    port = urlsplit(address).port
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path, headers={"Host": f"127.0.0.1:{port}", **headers})
    got = connection.getresponse()
    text = got.read().decode()
    connection.close()
    return got.status, dict(got.getheaders()), text


@pytest.fixture(scope="module")
def bare_address(folder):
    """A page that needs no browser."""
    with served_page() as found:
        yield found


def test_without_the_token_nobody_gets_in(bare_address):
    for path in ("/", "/?token=", "/?token=wrong", "/_nicegui_ws/socket.io/?EIO=4&transport=polling"):
        status, _, text = answer(bare_address, path)
        assert (status, "needs a token" in text) == (403, True), path


def test_the_token_becomes_a_cookie_for_this_address_only(bare_address):
    parts = urlsplit(bare_address)
    status, headers, _ = answer(bare_address, f"/?{parts.query}&job=a")
    assert (status, headers["location"]) == (303, "/?job=a")
    cookie = headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    name_and_token = cookie.split(";")[0]
    assert answer(bare_address, "/", Cookie=name_and_token)[0] == 200
    assert answer(bare_address, "/", Cookie=name_and_token[:-1])[0] == 403
    assert answer(bare_address, "/", Cookie=name_and_token, Host="evil.example")[0] == 403
    assert answer(bare_address, "/", Cookie=name_and_token, Origin="http://evil.example")[0] == 403


def test_the_page_is_for_this_machine_only(bare_address):
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.2", urlsplit(bare_address).port), timeout=5)


def run_dashboard(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "sage_flow.cli", "dashboard", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_port_in_use_is_said():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run_dashboard("--port", port)
    assert done.returncode == 2
    assert f"port {port} is in use: choose another one by --port" in done.stderr
    assert "Traceback" not in done.stderr
    with pytest.raises(PipelineError, match="there is no port 70000"):
        serve_page(None, 70000, print)


def test_without_nicegui_the_command_says_how_to_install_it(tmp_path):
    write(tmp_path / "nicegui.py", "raise ImportError('no', name='nicegui')")
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); from sage_flow.cli import main; sys.exit(main(['dashboard']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "pip install nicegui" in done.stderr
