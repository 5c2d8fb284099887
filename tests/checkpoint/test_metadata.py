"""The metadata of a checkpoint, as it is written and read."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_flow.checkpoint.format import sealed, unsealed
from sage_flow.checkpoint.metadata import CheckpointMetadata, OperatorPlace, SubtaskPart
from sage_flow.checkpoint.storage import open_storage
from sage_flow.errors import CheckpointError, StorageError

PLACE = OperatorPlace("count-1", "count", False, "jobs/words.py:12", ("split",), 4)
PART = SubtaskPart(3, ("count-1", "collect"), 1, 4, True, ("chunks/a2-n7-s3-0",), 1234)
METADATA = CheckpointMetadata(
    job="Wörter \x00\udcff",
    run="20261128T123000-1a2b3c4d",
    attempt=2,
    checkpoint=7,
    created_ms=1_790_000_000_000,
    max_parallelism=128,
    operators=(PLACE,),
    parts=(PART,),
    prepared=bytes(range(256)),
    rows=("chunks/a2-n7-s0-0",),
    size=1234,
    took_ms=17,
    alignment_ms=3,
    pause_ms=0.25,
)


def with_content(change):
    content = json.loads(unsealed("checkpoint", METADATA.to_bytes(), "f"))
    change(content)
    return sealed("checkpoint", json.dumps(content).encode())


def test_metadata_comes_back_as_it_was_written():
    assert CheckpointMetadata.from_bytes(METADATA.to_bytes(), "f") == METADATA


@given(st.builds(CheckpointMetadata, pause_ms=st.floats(allow_nan=False, allow_infinity=False)))
def test_any_metadata_comes_back_as_it_was_written(metadata):
    assert CheckpointMetadata.from_bytes(metadata.to_bytes(), "f") == metadata


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c.pop("parts"), "parts is missing"),
        (lambda c: c.update(colour=1), "colour is unknown"),
        (lambda c: c.update(attempt="2"), "attempt is '2', where int is expected"),
        (lambda c: c.update(attempt=True), "attempt is True, where int is expected"),
        (lambda c: c.update(parts={}), "parts is no list"),
        (lambda c: c["parts"].append(1), r"parts\[1\] is no object"),
        (lambda c: c["parts"][0].pop("chunks"), r"parts\[0\].chunks is missing"),
        (lambda c: c["parts"][0].update(chunks=[1]), r"parts\[0\].chunks\[0\] is 1, where str is expected"),
        (lambda c: c.update(prepared="no base64!"), "prepared is no base64"),
        (lambda c: c.update(prepared=1), "prepared is no base64"),
    ],
)
def test_metadata_with_a_wrong_field_is_refused_with_the_field(change, reason):
    with pytest.raises(CheckpointError, match=f"^/s/checkpoints/a2-n7: is no metadata of a checkpoint: {reason}; "):
        CheckpointMetadata.from_bytes(with_content(change), "/s/checkpoints/a2-n7")


@pytest.mark.parametrize("payload", [b"", b"[", b"[]", b"\xff", b"null"])
def test_a_payload_that_is_no_metadata_is_refused(payload):
    with pytest.raises(CheckpointError, match=r"^f: is no metadata of a checkpoint"):
        CheckpointMetadata.from_bytes(sealed("checkpoint", payload), "f")


def test_half_written_metadata_is_refused():
    content = METADATA.to_bytes()
    for size in (0, 5, 40, len(content) // 2, len(content) - 1):
        with pytest.raises(CheckpointError, match=r"^f: is (cut off|empty)"):
            CheckpointMetadata.from_bytes(content[:size], "f")


def test_the_fields_are_those_of_format_2():
    """A field that is added, removed or renamed needs a new FORMAT_VERSION, or a default."""
    fields = {kind.__name__: [f.name for f in dataclasses.fields(kind)] for kind in (OperatorPlace, SubtaskPart)}
    assert fields == {
        "OperatorPlace": ["name", "kind", "is_named", "key", "upstream", "parallelism"],
        "SubtaskPart": [
            *("address", "chain", "index", "parallelism", "is_finished", "chunks", "size", "stored"),
            *("keeping", "finished_splits"),
        ],
    }


def test_a_disk_that_is_full_between_the_chunks_and_the_metadata_leaves_no_metadata(tmp_path, monkeypatch):
    run = open_storage(tmp_path)
    run.write("chunks/a2-n7-s3-0", b"1")

    def full(file, data):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.write", full)
        with pytest.raises(StorageError):
            run.write("checkpoints/a2-n7", METADATA.to_bytes())
    assert run.names("checkpoints") == []
    run.write("checkpoints/a2-n7", METADATA.to_bytes())
    assert CheckpointMetadata.from_bytes(run.read("checkpoints/a2-n7"), "f") == METADATA
