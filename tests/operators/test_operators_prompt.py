"""The prompt: one line at a time, and it never waits."""

import os

import pytest

from operators.prompt import Prompt
from sage_flow import END, IDLE
from sage_flow.errors import InputError


@pytest.fixture
def pipe():
    """A Prompt that reads a pipe, and the end to write to."""
    ends = os.pipe()
    prompt = Prompt("? ", stdin=ends[0])
    prompt.open(None)
    with os.fdopen(ends[1], "wb", buffering=0) as keyboard:
        yield prompt, keyboard
    os.close(ends[0])


def test_lines_come_one_at_a_time_each_behind_its_prompt(pipe, capsys):
    prompt, keyboard = pipe
    keyboard.write(b"one\n two \nthree\n")
    shown = ""
    for line in ("one", "two", "three"):
        assert prompt.next_batch() == [line]
        shown += f"? {line}\n"
        assert capsys.readouterr().out == f"? {line}\n"
    assert prompt.next_batch() is IDLE
    assert capsys.readouterr().out == "? "


def test_it_does_not_wait_for_the_rest_of_a_line(pipe, capsys):
    prompt, keyboard = pipe
    for part in (b"", b"ha", b"lf"):
        keyboard.write(part)
        assert prompt.next_batch() is IDLE
    keyboard.write(b" a line\n")
    assert prompt.next_batch() == ["half a line"]
    assert capsys.readouterr().out == "? half a line\n"  # one prompt, however often it was called


@pytest.mark.parametrize("empty", [b"\n", b"  \r\n", b"\nnot read\n"])
def test_an_empty_line_is_the_end(pipe, empty):
    prompt, keyboard = pipe
    keyboard.write(b"one\n" + empty)
    assert [prompt.next_batch(), prompt.next_batch()] == [["one"], END]


@pytest.mark.parametrize(("typed", "lines"), [(b"", []), (b"one\n", ["one"]), (b"one\ntwo", ["one", "two"])])
def test_the_end_of_the_file_is_the_end(pipe, typed, lines):
    prompt, keyboard = pipe
    keyboard.write(typed)
    keyboard.close()
    assert [prompt.next_batch() for _ in lines] == [[line] for line in lines]
    assert prompt.next_batch() is END


def test_bytes_that_are_no_text_are_marked(pipe):
    prompt, keyboard = pipe
    keyboard.write("é ".encode() + b"\xff\n")
    assert prompt.next_batch() == ["é \ufffd"]


def test_a_prompt_without_a_line_is_ended(pipe, capsys):
    prompt, keyboard = pipe
    prompt.next_batch()
    prompt.close()
    assert capsys.readouterr().out == "? \n"
    keyboard.write(b"one\n")
    prompt.next_batch()
    prompt.close()
    assert capsys.readouterr().out == "one\n"


def test_without_stdin_it_cannot_ask():
    ends = os.pipe()
    for end in ends:
        os.close(end)
    with pytest.raises(InputError, match="stdin cannot be read: Bad file descriptor; a dialogue needs one"):
        Prompt(stdin=ends[0]).open(None)
