"""All that led to an error is told and travels: causes, what was being handled, each member of a group."""

import asyncio
import sys

import pytest
from failing_pipelines import error_of, notes_of

from sage_flow import Function, LocalEnvironment, PipelineService
from sage_flow.errors import RemoteError
from sage_flow.runtime.failure import describe

needs_groups = pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 has no exception groups")


class Stubborn(Exception):
    """Pickles, and cannot be unpickled elsewhere."""

    def __init__(self, text, *, token):
        super().__init__(text)
        self.token = token

    def __new__(cls, *args, token):
        return super().__new__(cls, *args)


def connect(n):
    raise ConnectionRefusedError(f"no answer to {n}")


def look_up(n):
    try:
        connect(n)
    except ConnectionRefusedError as error:
        raise KeyError("address") from error


def chained(n):
    """ConnectionRefusedError -> KeyError -> (handling that) RuntimeError."""
    try:
        look_up(n)
    except KeyError as error:
        raise RuntimeError("cannot start") from error


def while_handling(n):
    try:
        connect(n)
    except ConnectionRefusedError:
        raise RuntimeError("cannot start")  # noqa: B904 - this is what the test is about


def suppressed(n):
    try:
        connect(n)
    except ConnectionRefusedError:
        raise RuntimeError("cannot start") from None


def caught(function, n):
    try:
        function(n)
    except Exception as error:
        return error


def grouped(n):
    members = [caught(chained, n), Stubborn("stubborn", token=1), ValueError("plain")]
    raise ExceptionGroup("three", members)  # noqa: F821 - of Python 3.11


class OpensInVain(Function):
    def open(self, ctx):
        chained(7)

    def __call__(self, value):
        return value


def map_with(function, env):
    env.from_collection([7]).map(function, name="step").collect()


def called(function, env):
    env.register_service("s", PipelineService(lambda requests: requests.map(function)))
    env.from_collection([7]).map(lambda n, ctx: ctx.call_service("s", n), name="step").collect()


def opened(function, env):
    env.from_collection([7]).map(OpensInVain, name="step").collect()


@pytest.mark.on_ray
@pytest.mark.parametrize("write", [map_with, called, opened])
def test_a_program_gets_the_causes_of_an_error_in_every_mode(mode, write):
    env = mode.environment()
    write(chained, env)
    error = error_of(env, RuntimeError)
    assert str(error) == "cannot start"
    assert (type(error.__cause__), error.__cause__.args) == (KeyError, ("address",))
    origin = error.__cause__.__cause__
    assert (type(origin), str(origin)) == (ConnectionRefusedError, "no answer to 7")
    assert "operator  'step'" in notes_of(error)


def test_each_cause_is_told_with_its_lines_in_every_mode(mode):
    env = mode.environment()
    map_with(chained, env)
    lines = describe(error_of(env, RuntimeError))
    causes = [line for line in lines if "caused by" in line or "handling" in line]
    assert causes == ["caused by KeyError: 'address'", "caused by ConnectionRefusedError: no answer to 7"]
    places = [line.split()[0].rpartition(":")[0][-len("test_causes.py") :] for line in lines if " in connect " in line]
    assert places == ["test_causes.py"]
    assert lines[0] == "RuntimeError: cannot start"


def test_what_was_being_handled_is_told_and_travels_in_every_mode(mode):
    env = mode.environment()
    map_with(while_handling, env)
    error = error_of(env, RuntimeError)
    assert "raised while handling ConnectionRefusedError: no answer to 7" in describe(error)
    assert type(error.__context__) is ConnectionRefusedError


def test_what_is_suppressed_is_not_told(mode):
    env = mode.environment()
    map_with(suppressed, env)
    assert "ConnectionRefused" not in "\n".join(describe(error_of(env, RuntimeError)))


@needs_groups
@pytest.mark.parametrize("write", [map_with, called])
def test_a_group_keeps_every_member_in_every_mode(mode, write):
    env = mode.environment()
    write(grouped, env)
    error = error_of(env, ExceptionGroup)  # noqa: F821
    first, second, third = error.exceptions
    assert (type(first), type(first.__cause__)) == (RuntimeError, KeyError)
    assert (type(third), str(third)) == (ValueError, "plain")
    assert "stubborn" in str(second)
    text = "\n".join(describe(error))
    assert "1 of 3  RuntimeError: cannot start" in text
    assert "caused by ConnectionRefusedError: no answer to 7" in text
    assert "stubborn" in text
    assert "3 of 3  ValueError: plain" in text


@needs_groups
def test_a_member_that_does_not_travel_leaves_its_text_behind():
    from sage_flow.runtime.failure import pack_error, rebuild_error

    copy = rebuild_error(pack_error(caught(grouped, 7)))
    assert [type(member) for member in copy.exceptions] == [RuntimeError, RemoteError, ValueError]
    assert copy.exceptions[1].type_name.endswith("Stubborn")


@needs_groups
def test_a_group_of_a_type_that_does_not_travel_keeps_its_members():
    from sage_flow.runtime.failure import pack_error, rebuild_error

    class Picky(ExceptionGroup):  # noqa: F821
        def __new__(cls, members, token):
            return super().__new__(cls, "picky", members)

        def derive(self, members):
            return Picky(members, 1)

    copy = rebuild_error(pack_error(Picky([ValueError("a"), KeyError("b")], 1)))
    assert [repr(member) for member in copy.exceptions] == ["ValueError('a')", "KeyError('b')"]
    assert "picky (2 sub-exceptions)" in str(copy)


def dead_letter_of(function, mode=None):
    env = mode.environment() if mode else LocalEnvironment("test")
    stream = env.from_collection([7]).map(function, on_error="dead_letter")
    stream.collect()
    stream.dead_letters().collect("letters")
    (letter,) = env.execute().collected["letters"]
    return letter.error


def test_a_dead_letter_tells_what_led_to_its_error(mode):
    assert dead_letter_of(chained, mode) == (
        "RuntimeError: cannot start (caused by KeyError: 'address' (caused by ConnectionRefusedError: no answer to 7))"
    )


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (
            while_handling,
            "RuntimeError: cannot start (raised while handling ConnectionRefusedError: no answer to 7)",
        ),
        (suppressed, "RuntimeError: cannot start"),
        (connect, "ConnectionRefusedError: no answer to 7"),
    ],
)
def test_a_dead_letter_has_one_line(function, text):
    assert dead_letter_of(function) == text


@needs_groups
def test_a_dead_letter_tells_each_member_of_a_group(mode):
    assert dead_letter_of(grouped, mode) == (
        "ExceptionGroup: three (3 sub-exceptions) [RuntimeError: cannot start (caused by KeyError: 'address'"
        " (caused by ConnectionRefusedError: no answer to 7)); Stubborn: stubborn; ValueError: plain]"
    )


def test_a_circle_of_causes_is_told_once():
    first, second = ValueError("first"), KeyError("second")
    first.__cause__, second.__cause__ = second, first
    assert describe(first) == ["ValueError: first", "caused by KeyError: 'second'"]


def test_a_chain_without_end_is_told_as_far_as_it_helps():
    error = ValueError("0")
    for n in range(1, 2000):
        later = ValueError(f"number {n}")
        later.__cause__, error = error, later
    lines = describe(error)
    assert lines[:2] == ["ValueError: number 1999", "caused by ValueError: number 1998"]
    assert 10 < len(lines) < 100


# --- what is no Exception ------------------------------------------------------------------------------------


def raises(error):
    raise error


ENDING = [SystemExit(3), KeyboardInterrupt("mine"), asyncio.CancelledError("mine"), GeneratorExit("mine")]


@pytest.mark.parametrize("error", ENDING, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("verb", ["map", "filter", "flat_map", "process", "for_each"])
def test_what_ends_a_program_names_operator_and_record_and_is_not_swallowed(verb, error):
    env = LocalEnvironment("test")
    made = getattr(env.from_collection([7]), verb)(lambda n: raises(type(error)(*error.args)), name="step")
    if verb != "for_each":
        made.collect()
    notes = notes_of(error_of(env, type(error)))
    assert "operator  'step'" in notes
    assert "record    7" in notes
    assert "lets the job go on past such records" not in notes
    assert "so on_error does not apply: raise an Exception to fail a single record" in notes


@pytest.mark.parametrize("policy", ["skip", "dead_letter"])
@pytest.mark.parametrize("error", ENDING, ids=lambda error: type(error).__name__)
def test_no_on_error_lets_what_ends_a_program_pass(error, policy):
    env = LocalEnvironment("test")
    made = env.from_collection([7]).map(lambda n: raises(type(error)(*error.args)), name="step", on_error=policy)
    made.collect()
    if policy == "dead_letter":
        made.dead_letters().collect()
    assert "on_error does not apply" in notes_of(error_of(env, type(error)))


def test_sys_exit_says_that_it_asks_the_program_to_end():
    env = LocalEnvironment("test")
    env.from_collection([7]).map(sys.exit).collect()
    assert "sys.exit() asks the program to end" in notes_of(error_of(env, SystemExit))
