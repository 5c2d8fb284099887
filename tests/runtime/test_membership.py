"""Who is dead: the witnesses of an end in every order, at every time; never a healthy process, and never for ever."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_flow.errors import InternalError
from sage_flow.runtime.membership import LEADER, LOSS_S, Declare, Kill, Membership, Suspicion, Wake

START_S = 60.0
LEASE_S = 10.0
SUBTASKS = {1: (10, 11), 2: (20,), 3: (30,)}  # 2 and 3 share a node
HOW = "was killed by SIGKILL"


class Attempt:
    """Drives a membership as a shell does: in time, and it calls `on_time` only when it was told to."""

    def __init__(self, start_s=START_S, subtasks=SUBTASKS):
        self.membership = Membership(subtasks, start_s=start_s)
        self.now = 0.0
        self.wake_at = math.inf
        self.killed, self.declared = [], []
        self.obey(self.membership.start(0.0))

    def obey(self, decisions):
        for decision in decisions:
            match decision:
                case Wake(at):
                    self.wake_at = at
                case Kill(process):
                    self.killed.append((self.now, process))
                case Declare():
                    self.declared.append((self.now, decision))

    def until(self, now):
        """Let time pass."""
        while self.wake_at <= now:
            self.now = max(self.now, self.wake_at)
            self.obey(self.membership.on_time(self.now))
        self.now = max(self.now, now)

    def after(self, seconds):
        self.until(self.now + seconds)

    def connect(self, *processes):
        for process in processes:
            self.obey(self.membership.on_connected(process))

    def lose(self, process, witness=LEADER, reason="it closed its connection"):
        self.obey(self.membership.on_peer_lost(process, witness, reason, self.now))

    def end(self, process, how=HOW, *, is_clean=False):
        self.obey(self.membership.on_process_ended(process, how, self.now, is_clean=is_clean))

    def finish(self, process):
        for address in SUBTASKS[process]:
            self.obey(self.membership.on_subtask_ended(address))

    @property
    def dead(self):
        return [declared.process for _, declared in self.declared]

    @property
    def killed_processes(self):
        return [process for _, process in self.killed]


@pytest.fixture
def attempt():
    return Attempt()


@pytest.fixture
def running(attempt):
    attempt.connect(1, 2, 3)
    return attempt


# --- the matrix -------------------------------------------------------------------------------------------

GONE = {"worker": (2,), "node": (2, 3)}
WITNESSES = ["connection first", "process first", "neither"]
MOMENTS = ["start", "run", "end"]


def witness(attempt, gone, order, moment):
    """What a shell sees when the processes `gone` are killed at once."""
    if order == "connection first":
        for process in gone:
            attempt.lose(process)
            attempt.lose(process, witness=1)
        attempt.after(15.8)  # of Ray, for a node
        for process in gone:
            attempt.end(process)
    elif order == "process first":
        for process in gone:
            attempt.end(process)
        attempt.after(0.5)
        for process in gone:
            if moment != "start":  # what never connected can lose no connection
                attempt.lose(process)
    elif moment != "start":
        attempt.after(LEASE_S)  # that of the connection, which then ends
        for process in gone:
            attempt.lose(process, reason="it was silent for 10 s, the length of its lease")


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("order", WITNESSES)
@pytest.mark.parametrize("what", GONE)
def test_whatever_dies_whenever_and_whoever_tells_first_it_is_declared_once_and_nothing_else_is(what, order, moment):
    attempt, gone = Attempt(), GONE[what]
    attempt.connect(*(SUBTASKS if moment != "start" else SUBTASKS.keys() - set(gone)))
    if moment == "end":
        attempt.obey(attempt.membership.on_subtask_ended(10))
        attempt.finish(1)
    witness(attempt, gone, order, moment)
    attempt.after(1000.0)
    assert sorted(attempt.dead) == sorted(gone)
    assert set(attempt.killed_processes) <= set(gone)
    for _, declared in attempt.declared:
        assert declared.subtasks == SUBTASKS[declared.process]
    latest = max(at for at, _ in attempt.declared)
    limits = {"connection first": LOSS_S, "process first": LOSS_S, "neither": LEASE_S + LOSS_S}
    assert latest <= (START_S + LOSS_S if (order, moment) == ("neither", "start") else limits[order])
    assert attempt.wake_at == math.inf


# --- one by one -------------------------------------------------------------------------------------------


def test_an_end_is_declared_as_soon_as_its_connection_has_been_read(running):
    running.end(2)
    assert running.dead == []  # what it sent may tell why
    running.after(0.5)
    running.lose(2)
    assert running.declared == [(0.5, Declare(2, (20,), HOW, (Suspicion(2, LEADER, "it closed its connection"),)))]


def test_an_end_whose_connection_does_not_end_is_declared_all_the_same(running):
    running.end(2)
    running.until(LOSS_S)
    assert running.declared == [(LOSS_S, Declare(2, (20,), HOW, ()))]
    assert running.killed == []


def test_an_end_behind_its_connection_is_declared_at_once_and_is_no_suspicion(running):
    running.lose(2)
    running.after(0.1)
    running.end(2)
    assert running.declared[0][0] == 0.1
    assert running.declared[0][1].how == HOW
    running.after(1000.0)
    assert running.killed == []


def test_a_suspect_that_nobody_explains_is_killed_and_declared_with_what_was_told(running):
    running.lose(2, witness=1, reason="cannot be decoded")
    running.after(0.3)
    running.lose(1, witness=2, reason="it closed its connection")
    running.until(LOSS_S)
    assert running.killed == [(LOSS_S, 2)]
    told = (Suspicion(2, 1, "cannot be decoded"), Suspicion(1, 2, "it closed its connection"))
    assert running.declared == [(LOSS_S, Declare(2, (20,), None, told))]


def test_of_two_that_have_lost_each_other_only_one_is_killed(running):
    running.lose(2, witness=1)
    running.lose(1, witness=2)
    running.after(1000.0)
    assert len(running.dead) == 1
    assert running.dead == running.killed_processes


def test_one_that_others_have_lost_and_the_leader_has_never_seen_is_killed_although_somebody_is_dead(attempt):
    attempt.connect(1)
    attempt.lose(2, witness=1)
    attempt.lose(3, witness=1)
    attempt.after(LOSS_S)
    assert attempt.dead == attempt.killed_processes == [2, 3]


def test_one_that_another_has_lost_and_the_leader_too_is_killed_although_somebody_is_dead(running):
    running.end(3)
    running.lose(3)
    running.lose(2, witness=1)
    running.lose(2)
    running.after(LOSS_S)
    assert running.dead == [3, 2]


def test_a_process_whose_subtasks_have_ended_may_go_as_it_likes(running):
    running.finish(2)
    running.lose(2)
    running.lose(2, witness=1)
    running.end(2, "exited with code 1")
    running.after(1000.0)
    assert (running.dead, running.killed) == ([], [])
    assert running.membership.alive == (1, 3)


def test_a_process_of_which_one_subtask_has_ended_may_not(running):
    running.obey(running.membership.on_subtask_ended(10))
    running.end(1)
    running.lose(1)
    assert running.dead == [1]


def test_the_last_messages_of_a_suspect_make_it_a_process_that_is_done(running):
    running.lose(2, witness=1)
    running.finish(2)
    running.after(1000.0)
    assert running.dead == []


def test_what_has_ended_by_itself_is_read_to_the_end_however_long_that_takes(running):
    running.end(2, "its run has returned", is_clean=True)
    running.after(30.0)
    assert running.dead == []
    running.finish(2)
    running.lose(2)
    running.after(1000.0)
    assert running.dead == []


def test_what_has_ended_by_itself_and_left_its_work_undone_is_dead(running):
    running.end(2, "its run has returned", is_clean=True)
    running.lose(2)
    assert running.dead == [2]


def test_what_has_ended_by_itself_before_it_connected_is_not_waited_for_for_ever(attempt):
    attempt.connect(1, 3)
    attempt.end(2, "its run has returned", is_clean=True)
    attempt.after(LOSS_S)
    assert attempt.dead == [2]


def test_a_slow_start_is_no_death_where_somebody_else_watches_it():
    attempt = Attempt(start_s=None)
    attempt.connect(1, 3)
    attempt.after(3600.0)
    assert (attempt.dead, attempt.wake_at) == ([], math.inf)


def test_one_that_connects_late_is_suspected_and_acquitted(attempt):
    attempt.connect(1, 3)
    attempt.after(START_S + LOSS_S / 2)
    attempt.connect(2)
    attempt.after(1000.0)
    assert (attempt.dead, attempt.killed) == ([], [])


def test_one_that_connects_late_is_still_a_suspect_for_those_that_have_lost_it(attempt):
    attempt.connect(1, 3)
    attempt.lose(2, witness=1)
    attempt.connect(2)
    attempt.after(LOSS_S)
    assert attempt.dead == [2]


def test_one_that_never_connects_is_told_apart(attempt):
    attempt.connect(1, 3)
    attempt.until(START_S + LOSS_S)
    ((_, declared),) = attempt.declared
    assert declared.suspicions == (Suspicion(2, LEADER, "it did not connect within 60 s"),)


def test_a_process_that_nobody_knows_is_a_mistake_of_ours(attempt):
    with pytest.raises(InternalError, match=r"process 7 is none of \[1, 2, 3\]"):
        attempt.lose(7)


# --- any order --------------------------------------------------------------------------------------------

PROCESSES = st.sampled_from([1, 2, 3])
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("connect"), PROCESSES),
        st.tuples(st.just("lose"), PROCESSES),
        st.tuples(st.just("accuse"), PROCESSES, PROCESSES),
        st.tuples(st.just("end"), PROCESSES),
        st.tuples(st.just("end cleanly"), PROCESSES),
        st.tuples(st.just("finish"), PROCESSES),
        st.tuples(st.just("wait"), st.sampled_from([0.1, 1.0, 2.0, 5.0])),
    ),
    max_size=25,
)


@given(EVENTS)
def test_in_any_order_who_has_gone_is_declared_once_who_is_done_never_and_nobody_without_a_reason(events):
    attempt = Attempt()
    gone, accused, done, connected, ended = set(), set(), set(), set(), set()
    for kind, *given_ in events:
        process = given_[0]
        match kind:
            case "connect" if process not in gone:
                attempt.connect(process)
                connected.add(process)
            case "lose":
                attempt.lose(process)
                gone.add(process)
            case "accuse" if given_[1] != process:
                attempt.lose(process, witness=given_[1])
                accused.add(process)
            case "end" | "end cleanly" if process not in ended:
                ended.add(process)
                attempt.end(process, is_clean=kind == "end cleanly")
                if kind == "end" or process not in connected:
                    gone.add(process)
            case "finish" if process not in attempt.dead:
                attempt.finish(process)
                done.add(process)
            case "wait":
                attempt.after(process)
    attempt.after(START_S + 2 * LOSS_S)
    never_came = SUBTASKS.keys() - connected
    assert len(attempt.dead) == len(set(attempt.dead))
    assert not done & set(attempt.dead)
    assert (gone | never_came) - done <= set(attempt.dead)
    assert set(attempt.dead) <= gone | accused | never_came | {p for k, *g in events for p in g if k == "end cleanly"}
    assert set(attempt.killed_processes) <= set(attempt.dead)
    assert attempt.wake_at == math.inf
