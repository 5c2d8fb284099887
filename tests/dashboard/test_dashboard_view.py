"""What the page is made of."""

from __future__ import annotations

from sage_flow.dashboard import view
from sage_flow.dashboard.looks import JobLook
from sage_flow.dashboard.view import JobView
from sage_flow.dashboard.watcher import Watcher
from sage_flow.errors import ClusterError
from sage_flow.executors.execution import no_metrics, no_statistics
from sage_flow.runtime.report import OperatorCounts

EVIL = "<script>alert(1)</script>"


def look(emitted=0, **changes):
    subtask = {"name": EVIL, "chain": 0, "operators": {}, "watermarks": {}, "queued": 3, "oldest_s": None}
    subtask |= {"threads": [{"name": EVIL, "doing": "busy", "for_s": 31.2, "frames": [f"a.py:7 in f    {EVIL}"]}]}
    subtask |= {"work": {"busy_s": 1.0, "idle_s": 1.0, "credit_s": 0.0, "calls_s": 0.0}, "flow": None}
    box = {"id": 0, "operators": ((EVIL, EVIL),), "parallelism": 1, "service": None, "needs": EVIL}
    pipeline = {"job": EVIL, "boxes": (box,), "arrows": (), "missing": ()}
    statistics = {**no_statistics(), "attempt": 2, "subtasks": [subtask], "pipeline": pipeline}
    statistics |= {"stories": {EVIL: [EVIL]}, "unresponsive": [EVIL], "failures": [EVIL]}
    metrics = no_metrics({EVIL: OperatorCounts(emitted)})
    return JobLook("k", EVIL, "RUNNING", EVIL, metrics, statistics, failure=EVIL, notes=(EVIL,), **changes)


def test_whatever_comes_from_users_is_escaped():
    shown = JobView(look(10), look(), 1.0, {EVIL: EVIL})
    parts = [shown.graph(), shown.operators(), shown.subtasks(), shown.channels(), shown.services(), shown.errors()]
    parts += [shown.checkpoints(), view.status_line(shown.look), view.jobs_table([shown.look], "k"), view.notice(EVIL)]
    parts += [view.logs({EVIL: EVIL}, 1000), view.table([EVIL], [[EVIL]], "t")]
    assert all("<script" not in part for part in parts)
    assert sum("&lt;script&gt;" in part for part in parts) == 9


def test_user_code_that_takes_long_is_named():
    assert "in user code for 31.2 s at a.py:7 in f" in view.status_line(look())


def test_a_rate_is_that_between_two_looks():
    assert JobView(look(30), look(10), 2.0).rate(EVIL) == 10.0
    assert JobView(look(30)).rate(EVIL) == 0.0


class Silent:
    title = "silent"

    def __init__(self):
        self.answers = [[look()], ClusterError("it is down"), OSError("a socket"), [look(5)]]

    def looks(self):
        found = self.answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found


def test_while_the_jobs_cannot_be_asked_the_last_look_stays_and_says_so():
    watcher = Watcher(Silent())
    watcher.look()
    assert (list(watcher.views), watcher.trouble) == (["k"], "")
    watcher.look()
    assert (list(watcher.views), watcher.trouble) == (["k"], "it is down")
    watcher.look()
    assert watcher.trouble == "OSError: a socket"
    watcher.look()
    assert (watcher.views["k"].before, watcher.trouble) == (look(), "")
