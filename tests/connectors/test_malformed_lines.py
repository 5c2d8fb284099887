"""`on_error` of sources: what is no record fails the job, is skipped and counted, or becomes a dead letter."""

import gzip

import pytest

from sage_flow import END, LocalEnvironment, Malformed, Source
from sage_flow.connectors.lines import MalformedLine
from sage_flow.errors import InputError, PipelineError

READ = {
    "read_text": (b"a\nb\xff\nc\n", ["a", "c"], "b\ufffd", 2, "is not utf-8"),
    "read_jsonl": (b'1\n{"n": \n3\n', [1, 3], '{"n": ', 2, "every line must be one JSON value"),
    "read_csv": (b"n,m\n1,2\n3\n5,6\n", [{"n": "1", "m": "2"}, {"n": "5", "m": "6"}], "3", 3, "1 cells in a row of 2"),
}


@pytest.fixture(params=READ)
def case(request, tmp_path):
    data, *expected = READ[request.param]
    path = tmp_path / "in"
    path.write_bytes(data)
    return request.param, path, *expected


def test_a_malformed_line_is_skipped_and_counted(mode, case):
    read, path, good, *_ = case
    env = mode.environment()
    getattr(env, read)(path, on_error="skip", name="read").collect("good")
    result = env.execute(progress=False)
    assert result.collected["good"] == good
    assert result.skipped == {"read": 1}
    assert result.counts["read"] == 2


def test_a_malformed_line_is_a_dead_letter_of_file_line_and_text(mode, case):
    read, path, good, text, line, told = case
    env = mode.environment()
    rows = getattr(env, read)(path, on_error="dead_letter", name="read")
    rows.collect("good")
    rows.dead_letters().collect("bad")
    result = env.execute(progress=False)
    assert result.collected["good"] == good
    (letter,) = result.collected["bad"]
    assert letter.record == MalformedLine(str(path), line, text)
    assert letter.operator == "read"
    assert f"{path}:{line}: " in letter.error or f"{path}:{line}:" in letter.error
    assert told in letter.error
    assert result.dead_letters == {"read": 1}


def test_a_malformed_line_fails_the_job_by_default_and_the_error_shows_it_and_the_cure(mode, case):
    read, path, _, _, line, told = case
    env = mode.environment()
    getattr(env, read)(path).collect("good")
    with pytest.raises(InputError, match=told) as raised:
        env.execute(progress=False)
    assert str(raised.value).startswith(f"{path}:{line}:")
    notes = "\n".join(raised.value.__notes__)
    assert "record    MalformedLine(file=" in notes
    assert 'on_error="skip" or "dead_letter" lets the job go on past such records' in notes


def test_many_malformed_lines_are_passed_over_one_by_one(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text("".join(f"{n}\n" if n % 3 else f"bad {n}\n" for n in range(5000)))
    env = LocalEnvironment("test")
    rows = env.read_jsonl(path, on_error="dead_letter")
    rows.collect("good")
    rows.dead_letters().map(lambda letter: letter.record[1:]).collect("bad")
    result = env.execute(progress=False)
    assert result.collected["good"] == [n for n in range(5000) if n % 3]
    assert result.collected["bad"] == [(n + 1, f"bad {n}") for n in range(0, 5000, 3)]


def test_an_open_quote_costs_one_line_and_not_the_rest_of_the_file(tmp_path):
    path = tmp_path / "in.csv"
    path.write_text("n,m\n" + "".join(f'{n},"{n}\n' if n in (7, 2000) else f"{n},{n}\n" for n in range(3000)))
    env = LocalEnvironment("test")
    rows = env.read_csv(path, on_error="dead_letter", types={"n": int})
    rows.map(lambda row: row["n"]).collect("good")
    rows.dead_letters().map(lambda letter: letter.record[1:]).collect("bad")
    result = env.execute(progress=False)
    # The quote of line 7 ends at that of line 2000, which makes no row either.
    assert result.collected["bad"] == [(9, '7,"7'), (2002, '2000,"2000')]
    assert result.collected["good"] == [n for n in range(3000) if n not in (7, 2000)]


def test_a_file_that_cannot_be_read_fails_the_job_whatever_on_error_says(tmp_path):
    path = tmp_path / "in.gz"
    path.write_bytes(gzip.compress(b"1\n" * 5000)[:-10])
    env = LocalEnvironment("test")
    env.read_jsonl(path, on_error="skip").collect("good")
    with pytest.raises(InputError, match="the compressed data ends early"):
        env.execute(progress=False)


def test_a_binary_file_is_no_file_of_malformed_lines(tmp_path):
    path = tmp_path / "in.parquet"
    path.write_bytes(b"PAR1\x15\xff\n" * 10)
    env = LocalEnvironment("test")
    env.read_text(path, on_error="skip").collect("good")
    with pytest.raises(InputError, match="is a Parquet file"):
        env.execute(progress=False)


@pytest.mark.parametrize("blocks", [False, True])
def test_a_source_of_the_users_says_what_is_malformed(mode, blocks):
    class Some(Source):
        bounded = True
        blocking = blocks
        step = 0

        def next_batch(self):
            self.step += 1
            return [[1], Malformed("two", ValueError("no number")), [3], END][self.step - 1]

    env = mode.environment()
    rows = env.from_source(Some, on_error="dead_letter", name="some")
    rows.collect("good")
    rows.dead_letters().collect("bad")
    result = env.execute(progress=False)
    assert result.collected["good"] == [1, 3]
    (letter,) = result.collected["bad"]
    assert (letter.record, letter.error, letter.operator) == ("two", "ValueError: no number", "some")


def test_an_unknown_policy_of_a_source_is_refused(tmp_path):
    (tmp_path / "a").write_text("")
    with pytest.raises(PipelineError, match="must be one of fail, skip, dead_letter, not 'ignore'"):
        LocalEnvironment("test").read_text(tmp_path / "a", on_error="ignore")
