"""What callers ask, and the one outcome that is right for each.

Everything that travels names its caller and its number there, so that a reply of another call is seen wherever
it turns up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from sage_flow.errors import NoReply, RemoteError, ServiceTimeout

LIKELY = {"value": 20, "refuse": 3, "break": 2, "filter": 3, "skip": 2, "late": 1, "racy": 2}
"""What may be asked for, and how often."""

ROUTES = {
    "short_term_memory": ("short_term_memory",),
    "answer": ("short_term_memory", "answer"),
    "relay": ("short_term_memory", "answer", "relay"),
}
"""Which services a reply has passed when it comes from this one."""

NO_PIPELINE = "short_term_memory"
"""The service whose replies do not come through a pipeline: it has no record to filter or to skip."""


class Refused(Exception):
    """An error of a service with a type and attributes of its own."""

    def __init__(self, caller, seq):
        super().__init__(f"{caller}/{seq} is refused")
        self.caller = caller
        self.seq = seq


class Unpicklable(Exception):
    """An error that no pickle takes."""

    def __init__(self, caller, seq):
        super().__init__(f"{caller}/{seq} cannot leave")
        self.held = (step for step in ())


class WrongOutcome(AssertionError):
    """A call got what is not its own, got it too early, or changed its mind."""


class Turn(NamedTuple):
    """A request."""

    caller: str
    seq: int
    what: str
    text: bytes


class Answer(NamedTuple):
    """A reply: the text backwards, and the services that it passed."""

    caller: str
    seq: int
    text: bytes
    route: tuple[str, ...]


@dataclass(frozen=True)
class Ask:
    """One call that a caller is going to make; `timeout` None is so long that it never passes."""

    caller: str
    seq: int
    what: str
    size: int
    service: str
    timeout: float | None

    @property
    def turn(self):
        stamp = f"{self.caller}/{self.seq};".encode()
        return Turn(self.caller, self.seq, self.what, (stamp * (self.size // len(stamp) + 1))[: self.size])

    @property
    def answer(self):
        return Answer(self.caller, self.seq, self.turn.text[::-1], ROUTES[self.service])


def drawn(random, caller, seq, largest):
    """An ask as `random` has it, with a text of at most `largest` bytes: mostly small ones."""
    service = random.choice(list(ROUTES))
    what = random.choices(list(LIKELY), list(LIKELY.values()))[0]
    if service == NO_PIPELINE and what in ("filter", "skip"):
        what = "value"
    size = int(largest ** random.random()) if what == "value" else random.randrange(64)
    timeout = {"late": 0.005, "racy": random.choice([0.0005, 0.002, 0.005])}.get(what)
    return Ask(caller, seq, what, size, service, timeout)


def judge(ask, outcome, began, ended):
    """Return (caller, seq) if `outcome`, a reply or an error, may come of `ask`. Raises WrongOutcome."""
    if not _is_right(ask, outcome):
        raise WrongOutcome(f"{_named(ask)} got {_told(outcome)} after {ended - began:.6f} s")
    if isinstance(outcome, ServiceTimeout) and ended < began + ask.timeout:
        raise WrongOutcome(f"{_named(ask)} timed out after {ended - began:.6f} s")
    return (ask.caller, ask.seq)


def judge_again(ask, outcome, later):
    """Raises WrongOutcome if a second look at a call shows another outcome than the first one."""
    if type(outcome) is not type(later) or (isinstance(outcome, Answer) and outcome != later):
        raise WrongOutcome(f"{_named(ask)} got {_told(outcome)}, and later {_told(later)}")


def _is_right(ask, outcome):
    match ask.what:
        case "value":
            return outcome == ask.answer
        case "refuse":
            return type(outcome) is Refused and (outcome.caller, outcome.seq) == (ask.caller, ask.seq)
        case "break":
            if type(outcome) is not RemoteError or not outcome.type_name.endswith("Unpicklable"):
                return False
            return f"{ask.caller}/{ask.seq} cannot leave" in str(outcome)
        case "filter" | "skip":
            return type(outcome) is NoReply
        case "late":
            return type(outcome) is ServiceTimeout
        case "racy":
            return type(outcome) is ServiceTimeout or outcome == ask.answer
    raise ValueError(ask.what)


def _named(ask):
    within = "" if ask.timeout is None else f" within {ask.timeout} s"
    return (
        f"call {ask.seq} of {ask.caller!r}, which asked {ask.service!r} for a {ask.what} of {ask.size} bytes{within},"
    )


def _told(outcome):
    if isinstance(outcome, Answer):
        return (
            f"the reply to call {outcome.seq} of {outcome.caller!r} with {len(outcome.text)} bytes by {outcome.route}"
        )
    return repr(outcome)
