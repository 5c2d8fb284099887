"""The table of messages: complete, and of one form for each version of the wire."""

import dataclasses
import hashlib
import typing
from fractions import Fraction
from typing import NamedTuple, get_args

import pytest

from sage_flow.checkpoint.coordinator import StoredPart
from sage_flow.checkpoint.metadata import SubtaskPart
from sage_flow.checkpoint.prepared import Prepared
from sage_flow.errors import InternalError
from sage_flow.runtime.message_table import Family, MessageRow, MessageTable, Receiver
from sage_flow.runtime.messages import (
    DRIVER,
    MESSAGES,
    CancelRequest,
    Control,
    Credit,
    Data,
    EndOfInput,
    EndOfRequests,
    Finished,
    Message,
    Progress,
    Reply,
    Request,
    by_type,
)
from sage_flow.runtime.packed_error import PackedError
from sage_flow.runtime.report import PortReport, SubtaskReport
from sage_flow.wire.frames import WIRE_VERSION
from sage_flow.wire.packed import Packed

DIGESTS = {
    4: "26a3c8a7e01449dd",
    5: "36f82c4d1b08677f",
    6: "c15dc6194a651d0c",
    7: "7387dbaca079fb9d",
    8: "b2c3853cd1447d40",
    9: "2324dcc51d08fac5",
    10: "b03ef85fb371a9b8",
    11: "fdc3c636b1a7dfff",
    12: "685e54d186bd8cc5",
    13: "aa858ade8d773f9a",
    14: "c0ac041d3019367e",
}
"""Of the messages, by the wire version that they had. One that was released is never changed."""

NAMES = {
    "Fraction": Fraction,
    "Packed": Packed,
    "Prepared": Prepared,
    "StoredPart": StoredPart,
    "SubtaskPart": SubtaskPart,
    "PackedError": PackedError,
    "PortReport": PortReport,
    "SubtaskReport": SubtaskReport,
}


def fields_of(kind):
    """The fields of a class in the order in which they cross."""
    if dataclasses.is_dataclass(kind):
        return tuple(field.name for field in dataclasses.fields(kind))
    return getattr(kind, "_fields", None) or getattr(kind, "__slots__", ())


def carried(kind):
    """The engine's own classes in the annotations of a class; those of `wire` are the wire's own affair."""
    found, todo = [], list(typing.get_type_hints(kind, localns=NAMES).values())
    while todo:
        hint = todo.pop(0)
        todo += get_args(hint)
        module = getattr(hint, "__module__", "")
        if isinstance(hint, type) and module.startswith("sage_flow.") and not module.startswith("sage_flow.wire."):
            found.append(hint)
    return found


def form(rows):
    """One line per message, by number, then one per class that they carry: what both ends must agree on."""
    kinds = [row.type for row in rows]
    lines = [f"{number} {kind.__name__}({', '.join(fields_of(kind))})" for number, kind in enumerate(kinds)]
    seen, todo = set(kinds), [part for kind in kinds for part in carried(kind)]
    while todo:
        if (kind := todo.pop(0)) not in seen:
            seen.add(kind)
            todo += carried(kind)
            lines.append(f"{kind.__module__}.{kind.__qualname__}({', '.join(fields_of(kind))})")
    return lines


def digest(rows):
    return hashlib.sha256("\n".join(form(rows)).encode()).hexdigest()[:16]


def test_messages_change_only_with_the_wire_version():
    now = digest(MESSAGES)
    assert DIGESTS.get(WIRE_VERSION) == now, (
        f"The messages are not those of wire version {WIRE_VERSION}, and a process of the earlier form would misread"
        f" them: raise WIRE_VERSION in sage_flow/wire/frames.py, and add the line `N: {now!r}` for it to DIGESTS in"
        f" {__file__}.\nThe messages are now:\n" + "\n".join(form(MESSAGES))
    )


def test_the_digest_covers_the_classes_that_messages_carry():
    told = "\n".join(form(MESSAGES))
    for part in (
        "Ticket(reply_to",
        "Watermark(timestamp)",
        "SubtaskReport(operators",
        "Histogram(_counts)",
        "PackedError(",
    ):
        assert part in told


class First(NamedTuple):
    left: int
    right: int


class Swapped(NamedTuple):
    right: int
    left: int


class Carries(NamedTuple):
    what: First | None


def row(kind):
    return MessageRow(kind, Family.COMMAND, frozenset({Receiver.SUBTASK}), by_type)


def test_the_digest_knows_names_order_and_number():
    Swapped.__name__ = "First"
    forms = [[row(First)], [row(Swapped)], [row(First), row(Carries)], [row(Carries), row(First)], []]
    assert len({digest(rows) for rows in forms}) == len(forms)


# --- the rows ---------------------------------------------------------------------------------------------


def test_every_message_has_a_row():
    assert {row.type for row in MESSAGES} == set(get_args(Message))


def test_every_message_is_obeyed_by_somebody():
    assert [row.type.__name__ for row in MESSAGES if not row.receivers] == []


def test_frames_have_a_channel_and_a_number_and_nothing_else_has():
    for row in MESSAGES:
        assert ({"channel", "seq"} <= set(row.type._fields)) == (row.family is Family.FRAME)


def test_what_is_copied_are_fields():
    for row in MESSAGES:
        assert set(row.copied) <= set(row.type._fields), row.type


def test_a_number_is_given_once_and_only_the_latest_is_taken_back():
    table = MessageTable([row(First), row(Swapped)])
    with pytest.raises(InternalError, match="twice"):
        table.add(row(First))
    with pytest.raises(InternalError, match="First is not the latest"):
        table.remove(First)
    table.remove(Swapped)
    assert (table.types, list(table.routes), list(table)) == ([First], [First], [row(First)])


# --- lanes ------------------------------------------------------------------------------------------------


def lane(target, message):
    return MESSAGES.routes[type(message)][1](target, message)


def test_a_channel_is_a_lane():
    assert lane(5, Data(7, 0, [1])) == lane(5, Control(7, 1, EndOfInput()))
    assert lane(5, Data(7, 0, [1])) != lane(5, Data(8, 0, [1]))


def test_what_goes_to_the_driver_is_one_lane():
    finished = Finished(3, None, ())
    assert lane(DRIVER, Data(7, 0, [1])) == lane(DRIVER, finished) == lane(DRIVER, Progress(3, None))


def test_the_end_and_the_cancellation_of_requests_do_not_overtake_them():
    request = Request(3, 1, 1.0, "process", (), {})
    assert lane(5, request) == lane(5, CancelRequest(3, 1)) == lane(5, EndOfRequests(3))
    assert lane(5, request) != lane(5, EndOfRequests(4))
    assert lane(5, request) != lane(6, request)


def test_replies_to_two_calls_overtake_each_other():
    assert lane(5, Reply(1, 1, ())) == lane(5, Reply(1, 0, ()))
    assert lane(5, Reply(1, 1, ())) != lane(5, Reply(2, 1, ()))


def test_other_commands_are_a_lane_per_class_and_target():
    assert lane(5, Credit(7, 1, 1, 9)) == lane(5, Credit(8, 1, 1, 9))
    assert lane(5, Credit(7, 1, 1, 9)) not in (lane(6, Credit(7, 1, 1, 9)), lane(5, Reply(1, 1, ())))
