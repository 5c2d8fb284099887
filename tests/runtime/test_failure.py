"""Errors, told: across processes as their own type, to the user in a few lines with theirs first."""

import json
import pickle
import threading
import traceback

import pytest

from sage_flow import LocalEnvironment, Sink
from sage_flow.errors import RemoteError
from sage_flow.plan import kinds
from sage_flow.plan.graph import Operator
from sage_flow.plan.location import Location
from sage_flow.runtime.failure import (
    add_notes,
    describe,
    explain_failure,
    fold_engine_frames,
    pack_error,
    rebuild_error,
    shorten,
    unpack_error,
)


class NeedsKeywords(Exception):
    def __init__(self, *, code, reason):
        super().__init__(f"{code}: {reason}")
        self.code = code


class NeedsMore(Exception):
    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")
        self.first, self.second = first, second


class HoldsALock(Exception):
    def __init__(self):
        super().__init__("held")
        self.lock = threading.Lock()


class CannotBeRebuilt(Exception):
    def __new__(cls, *args, token):
        return super().__new__(cls, *args)

    def __init__(self, *args, token):
        super().__init__(*args)


class BreaksInStr(Exception):
    def __str__(self):
        raise ValueError("no text")


def raised(error):
    try:
        raise error
    except BaseException as caught:
        return caught


def travelled(error):
    """The exception as it is in another process."""
    return rebuild_error(pickle.loads(pickle.dumps(pack_error(raised(error)))))


def builtin_errors():
    yield ValueError("plain")
    yield KeyError("key")
    yield ValueError()
    yield ValueError(1, "two", None)
    yield ZeroDivisionError("integer division or modulo by zero")
    yield FileNotFoundError(2, "No such file or directory", "missing.csv")
    yield UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
    yield json.JSONDecodeError("Expecting value", "doc", 2)
    yield ImportError("no module", name="missing")
    yield SyntaxError("bad", ("file.py", 3, 1, "x ="))
    yield StopIteration("value")
    yield NeedsKeywords(code=404, reason="gone")
    yield NeedsMore("a", "b")


@pytest.mark.parametrize("error", list(builtin_errors()), ids=lambda error: type(error).__name__)
def test_an_exception_travels_with_its_type_its_text_and_its_attributes(error):
    copy = travelled(error)
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert copy.args == error.args
    assert vars(copy) == {**vars(error), **{name: vars(copy)[name] for name in ("__notes__",) if name in vars(copy)}}


def test_the_fields_of_an_os_error_travel():
    copy = travelled(FileNotFoundError(2, "No such file or directory", "missing.csv"))
    assert (copy.errno, copy.strerror, copy.filename) == (2, "No such file or directory", "missing.csv")


@pytest.mark.parametrize(
    "error", [HoldsALock(), CannotBeRebuilt("text", token=1)], ids=["a lock inside", "a keyword needed"]
)
def test_an_exception_that_does_not_travel_is_named_by_one_that_does(error):
    copy = travelled(error)
    assert isinstance(copy, RemoteError)
    assert copy.type_name.endswith(type(error).__name__)
    assert str(error) in str(copy)
    assert "test_failure.py" in copy.traceback_text


def test_an_exception_without_a_text_still_travels():
    copy = travelled(BreaksInStr())
    assert type(copy) is BreaksInStr
    assert describe(copy)[0] == "BreaksInStr: <its __str__ raised ValueError>"


def test_a_local_exception_class_travels():
    class Local(Exception):
        pass

    assert str(travelled(Local("here"))) == "here"


def test_notes_are_kept_and_the_remote_traceback_is_the_cause():
    error = ValueError("x")
    add_notes(error, ["first", "second"])
    copy = travelled(error)
    assert copy.__notes__ == ["first", "second"]
    assert "in raised" in str(copy.__cause__)
    assert travelled(copy).__notes__ == ["first", "second"]


def test_where_it_never_left_the_exception_is_itself_and_a_copy_is_another_one():
    error = raised(ValueError("x"))
    packed = pack_error(error)
    assert unpack_error(packed) is error
    copy = rebuild_error(packed)
    assert copy is not error
    add_notes(copy, ["only here"])
    assert not hasattr(error, "__notes__")


# --- describe ---------------------------------------------------------------------------------------------


def failing(n):
    if n == 0:
        return 1 // n
    return failing(n - 1)


def failed_in_a_job(function, records=(0,), **options):
    """What the user gets of a job of which a function raised."""
    env = LocalEnvironment("flights")
    env.from_collection(list(records)).map(function, name="speed", **options).collect("out")
    with pytest.raises(Exception) as caught:
        env.execute()
    return caught.value


def test_the_first_frame_is_the_users_line_and_the_engines_are_folded():
    error = failed_in_a_job(lambda n: failing(n))
    header, executed, first, second, *notes = describe(error)
    assert header == "ZeroDivisionError: integer division or modulo by zero"
    assert executed.endswith("env.execute()")
    assert "in <lambda>" in first
    assert "in failing" in second
    assert second.endswith("return 1 // n")
    assert notes[0].startswith("operator  'speed' (map), subtask 1 of 1, job 'flights', written at ")
    assert notes[1] == "record    0"
    assert "on_error=" in notes[2]


class FailingSink(Sink):
    def write(self, value):
        failing(value)


@pytest.mark.parametrize(
    ("write", "cure"),
    [
        (lambda stream: stream.filter(failing).collect(), 'on_error="skip" or "dead_letter" lets the job go on'),
        (lambda stream: stream.for_each(failing), 'on_error="skip" lets the job go on'),
        (lambda stream: stream.add_sink(FailingSink), None),
        (lambda stream: stream.key_by(failing).count().collect(), None),
    ],
)
def test_on_error_is_named_where_it_is_an_option(write, cure):
    env = LocalEnvironment("flights")
    write(env.from_collection([0]))
    with pytest.raises(ZeroDivisionError) as caught:
        env.execute()
    told = [note.strip() for note in caught.value.__notes__ if "on_error=" in note]
    assert told == ([f"{cure} past such records"] if cure else [])


def test_a_deep_traceback_is_told_in_under_15_lines():
    lines = describe(failed_in_a_job(failing, [200]))
    assert len(lines) < 15
    assert lines[1] == "  ... 197 more frames"  # one is that of execute()


class Wide:
    def __repr__(self):
        return "\n".join("row" for _ in range(100))


def test_a_record_of_many_lines_is_told_in_under_15_lines():
    def refuse(record):
        raise ValueError("no")

    text = "\n".join(describe(failed_in_a_job(refuse, [Wide()])))
    assert len(text.split("\n")) < 15


def test_what_the_user_gets_to_see_has_none_of_the_engines_frames():
    error = failed_in_a_job(lambda n: failing(n))
    inner = [frame for frame in traceback.extract_tb(error.__traceback__) if "sage_flow" in frame.filename]
    # Behind the call of execute() itself only user code follows.
    names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    assert names[-2:] == ["<lambda>", "failing"]
    assert all("/runtime/" not in frame.filename and "/executors/" not in frame.filename for frame in inner)


def test_folding_keeps_the_users_frames_in_order():
    def user():
        return LocalEnvironment("x")._graph.name_for("", "map")  # an engine line raises

    try:
        user()
    except Exception as caught:
        error = caught
    fold_engine_frames(error)
    names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    assert names[-1] == "user"


def test_a_failure_is_explained_once_by_who_was_nearest():
    near, far = (Operator(name, kinds.MAP, (), (), Location("job.py", 3)) for name in ("near", "far"))
    error = ValueError("x")
    explain_failure(error, near, subtask="subtask 1 of 1", job="j", record=1)
    explain_failure(error, far, subtask="subtask 1 of 1", job="j", record=2)
    assert len(error.__notes__) == 3
    assert "'near'" in error.__notes__[0]


# --- shorten ----------------------------------------------------------------------------------------------


class BadRepr:
    def __repr__(self):
        raise RuntimeError("no")


def endless():
    loop = []
    loop.append(loop)
    return loop


def deep():
    nested = []
    for _ in range(100_000):
        nested = [nested]
    return nested


@pytest.mark.parametrize(
    "value",
    [
        BadRepr(),
        [BadRepr()],
        {BadRepr(): 1, "a": BadRepr()},
        endless(),
        deep(),
        {1: 2, "a": 3, None: 4},
        "x" * 10**6,
        list(range(10**5)),
        dict.fromkeys(range(1000), "y" * 1000),
        b"z" * 10**6,
        10**5000,
        None,
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_record_is_shortened_whatever_it_is(value):
    assert 0 < len(shorten(value)) < 1500


def test_a_small_record_is_shown_as_it_is():
    record = {"carrier": "US", "flight": 1895, "distance": 17}
    assert shorten(record) == str({"carrier": "US", "distance": 17, "flight": 1895})
    assert shorten({n: n for n in range(20)}).endswith("...}")
