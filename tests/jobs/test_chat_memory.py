"""jobs/chat_memory.py: dialogues with a small folder of documents whose answers are known, and at a real terminal."""

import fcntl
import os
import pty
import re
import select
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from operators import retrieval
from sage_flow import LocalEnvironment
from sage_flow.cli import main
from sage_flow.cli.jobfile import load_job
from sage_flow.errors import InputError

ROOT = Path(__file__).parents[2]
JOB = ROOT / "jobs" / "chat_memory.py"
PATIENCE_S = 120
NOTHING = "Nothing in these documents answers that."

TEA = """\
# Tea

## Brewing

Green tea is brewed with water of 70 degrees.
Black tea wants boiling water.

## Storing

Tea is kept dry, in a tin, for a year.
"""
COFFEE = """\
Coffee is brewed with a filter made of paper.

Coffee beans are kept in the freezer.

Brewed coffee is drunk hot, and from a small cup.
"""
DIALOGUE = """\
How is tea brewed?
And how is it kept?
Who discovered America?

How is coffee brewed?
And where are its beans kept?
Tell me more
"""
GREEN, STORING, FILTER, BEANS, CUP = "tea.md:5", "tea.md:10", "coffee.txt:1", "coffee.txt:3", "coffee.txt:5"


@pytest.fixture(autouse=True)
def _search_path(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def folder(tmp_path):
    documents = tmp_path / "documents"
    documents.mkdir()
    (documents / "tea.md").write_text(TEA)
    (documents / "coffee.txt").write_text(COFFEE)
    return documents


@pytest.fixture
def questions(tmp_path):
    file = tmp_path / "questions"
    file.write_text(DIALOGUE)
    return file


def answers(env, *given):
    """(question, places of the quotes), in the order of asking."""
    job = load_job(JOB)
    job.build_pipeline(env, job.options(given))
    collected = sorted(env.execute(progress=False).collected["answers"], key=lambda answer: answer.question.number)
    return [
        (answer.question.text, [quote.passage.place for quote in answer.quotes], answer.question.conversation)
        for answer in collected
    ]


@pytest.mark.on_ray
@pytest.mark.on_two_nodes
def test_two_dialogues_are_answered_in_every_mode(mode, folder, questions):
    assert answers(mode.environment(), f"folder={folder}", f"questions={questions}", "quotes=1", "length=80") == [
        ("How is tea brewed?", [GREEN], "1"),
        ("And how is it kept?", [STORING], "1"),  # tea: the coffee of the other conversation is kept, too
        ("Who discovered America?", [], "1"),
        ("How is coffee brewed?", [FILTER], "2"),
        ("And where are its beans kept?", [BEANS], "2"),
        ("Tell me more", [CUP], "2"),  # of coffee, what has not been told
    ]


def test_many_conversations_are_not_mixed_up(mode, tmp_path, folder):
    file = tmp_path / "questions"
    file.write_text("\n\n".join(f"How is {('tea', 'coffee')[n % 2]} brewed?\nAnd how is it kept?" for n in range(20)))
    found = answers(mode.environment(), f"folder={folder}", f"questions={file}", "quotes=1", "length=80")
    assert [places for _, places, _ in found] == [[GREEN], [STORING], [FILTER], [BEANS]] * 10
    assert [conversation for *_, conversation in found] == [str(n) for n in range(1, 21) for _ in range(2)]


def test_answers_have_as_many_quotes_as_are_asked_for(folder, questions):
    given = [f"folder={folder}", f"questions={questions}", "length=80"]
    (_, places, _), *_ = answers(LocalEnvironment(), *given, "quotes=3", "least_score=0.01")
    assert places[0] == GREEN
    assert len(places) == 3
    (_, places, _), *_ = answers(LocalEnvironment(), *given, "quotes=3", "least_score=0.9")
    assert places == []


def test_a_question_leans_on_no_more_turns_than_allowed(tmp_path, folder):
    file = tmp_path / "questions"
    file.write_text("How is coffee kept?\nAnd then?\nWhy?\n")
    given = [f"folder={folder}", f"questions={file}", "quotes=1", "length=80"]
    assert [len(places) for _, places, _ in answers(LocalEnvironment(), *given)] == [1, 1, 1]
    assert [len(places) for _, places, _ in answers(LocalEnvironment(), *given, "turns=1")] == [1, 1, 0]


def test_the_report_quotes_with_places(folder, questions, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    given = [f"folder={folder}", f"questions={questions}", "quotes=1", "length=80"]
    assert main(["run", str(JOB), *[part for option in given for part in ("--option", option)]]) == 0
    out = re.sub(r"\(\d\.\d\d\)", "(score)", capsys.readouterr().out)
    assert out.startswith(
        "> How is tea brewed?\n"
        "\n"
        "  tea.md:5  Brewing  (score)\n"
        "    Green tea is brewed with water of 70 degrees.\n"
        "    Black tea wants boiling water.\n"
        "\n"
        "> And how is it kept?\n"
    )
    assert f"> Who discovered America?\n\n  {NOTHING}\n\n{'-' * 40}\n> How is coffee brewed?\n\n  coffee.txt:1  " in out
    assert out.endswith("5 of 6 questions answered\n")
    assert "\x1b" not in out


def test_by_default_it_quotes_the_pages_of_the_project(capsys):
    assert main(["run", str(JOB)]) == 0
    out = capsys.readouterr().out
    places = re.findall(r"^  (\S+):(\d+)  .*\(\d\.\d\d\)\n(    .*)$", out, re.MULTILINE)
    assert len(places) >= 3
    for file, line, quoted in places:
        assert quoted.strip() in (ROOT / file).read_text("utf-8").splitlines()[int(line) - 1]
    assert out.startswith("> How does a job end?\n\n  ")
    assert f"> Who won the world cup in 1998?\n\n  {NOTHING}\n" in out


# --- bad input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["folder=none"], "none: no such folder; a relative path starts at "),
        (["folder=empty"], "empty: there is no document in this folder (.md, .rst, .txt)"),
        (["folder=file"], "file: is a file; name a folder of documents"),
        (["questions=none"], "none: No such file or directory"),
        (["questions=file"], "file: there is no question in this file; write one on each line"),
        (["questions=latin"], "latin: is not utf-8; convert the file"),
        (["quotes=0"], "quotes must be at least 1, not 0"),
        (["length=-5"], "length must be at least 1, not -5"),
        (["turns=0"], "turns must be at least 1, not 0"),
        (["least_score=0"], "least_score must be above 0 and at most 1, not 0.0"),
        (["least_score=nan"], "least_score must be above 0 and at most 1, not nan"),
        (["chat=true", "questions=latin"], "questions are read from a file or, with chat=true, from a prompt"),
    ],
    ids=str,
)
def test_a_wrong_use_is_told_before_anything_runs(tmp_path, monkeypatch, capsys, options, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text(" \n\n")
    (tmp_path / "latin").write_bytes("Grün?".encode("latin-1"))
    assert main(["run", str(JOB), *[part for option in options for part in ("--option", option)]]) == 2
    assert told in capsys.readouterr().err


def test_without_the_library_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(retrieval, "find_spec", lambda name: None)
    assert main(["run", str(JOB)]) == 2
    assert "pip install scikit-learn" in capsys.readouterr().err


def test_a_project_without_pages_needs_a_folder(tmp_path, monkeypatch):
    job = load_job(JOB)
    monkeypatch.setattr(sys.modules["chat_memory"], "_PROJECT", tmp_path)
    with pytest.raises(InputError, match=r"has no README\.md and no docs/; give --option folder=FOLDER"):
        job.build_pipeline(LocalEnvironment(), job.options())


def test_a_document_that_cannot_be_read_fails_the_job(folder, capsys):
    (folder / "latin.md").write_bytes(b"one\nGr\xfcn")
    assert main(["run", str(JOB), "--option", f"folder={folder}"]) == 1
    assert "latin.md:2: is not utf-8" in capsys.readouterr().err


# --- at the prompt ----------------------------------------------------------------------------------------


class Terminal:
    """A job at a terminal of its own, whose Ctrl-C reaches it."""

    def __init__(self, folder, *arguments):
        self._master, slave = pty.openpty()
        self._read_so_far = b""
        options = [f"folder={folder}", "chat=true", "quotes=1", "length=80"]
        self.job = subprocess.Popen(
            [sys.executable, "-m", "sage_flow", "run", str(JOB), *arguments]
            + [part for option in options for part in ("--option", option)],
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", "TERM": "xterm", "COLUMNS": "80"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self._master)
        self.job.kill()
        self.job.wait(PATIENCE_S)

    def type(self, text):
        os.write(self._master, text.encode())

    @property
    def shown(self):
        """What is to be seen; colours are not."""
        text = self._read_so_far.decode(errors="replace").replace("\r\n", "\n")
        return re.sub("\x1b\\[[0-9;]*m", "", text)

    def read_until(self, text, times=1):
        while self.shown.count(text) < times:
            self._read()

    def end(self):
        """Return the exit code, when everything it shows has been read."""
        try:
            while True:
                self._read()
        except OSError:  # the job was the last to hold the other end
            pass
        return self.job.wait(PATIENCE_S)

    def _read(self):
        assert select.select([self._master], [], [], PATIENCE_S)[0], self.shown
        self._read_so_far += os.read(self._master, 65536)


def test_a_dialogue_at_a_terminal(folder):
    with Terminal(folder) as terminal:
        terminal.read_until("> ")
        terminal.type("How is tea brewed?\n")
        terminal.read_until("> ", 2)
        assert re.fullmatch(
            "> How is tea brewed\\?\n\n  tea.md:5  Brewing  \\(0...\\)\n    Green tea .*\n    Black tea .*\n\n> ",
            terminal.shown,
        )
        terminal.type("And how is it kept?\n")
        terminal.read_until("> ", 3)
        assert f"  {STORING}  Storing" in terminal.shown
        terminal.type("Who discovered America?\n")
        terminal.read_until("> ", 4)
        terminal.type("\x04")  # Ctrl-D
        assert terminal.end() == 0
        assert terminal.shown.endswith(f"\n\n  {NOTHING}\n\n> \n")


@pytest.mark.parametrize("arguments", [(), ("--parallelism", "3")], ids=str)
def test_the_prompt_waits_for_the_answer_however_fast_somebody_types(folder, arguments):
    with Terminal(folder, *arguments) as terminal:
        terminal.type("How is tea brewed?\nHow is tea kept?\nHow is coffee brewed?\nHow are beans kept?\n\n")
        assert terminal.end() == 0
        steps = re.findall(r"> |tea.md:\d+|coffee.txt:\d+", terminal.shown)
        assert steps == ["> ", GREEN, "> ", STORING, "> ", FILTER, "> ", BEANS, "> "]


def test_ctrl_c_ends_a_dialogue(folder):
    with Terminal(folder) as terminal:
        terminal.read_until("> ")
        terminal.type("How is tea brewed?\n")
        terminal.read_until("> ", 2)
        terminal.type("\x03")
        assert terminal.end() == 130
        assert "Traceback" not in terminal.shown
        assert terminal.shown.splitlines()[-1] == "sage-flow: job 'chat_memory' is FINISHED"


def test_a_dialogue_through_pipes_reads_the_same(folder):
    options = ["--option", f"folder={folder}", "--option", "chat=true", "--option", "length=80"]
    talk = subprocess.run(
        [sys.executable, "-m", "sage_flow", "run", str(JOB), *options, "--option", "quotes=1"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"},
        input="How is tea brewed?\nAnd how is it kept?",
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert (talk.returncode, talk.stderr) == (0, "")
    assert re.findall(r"^(> .*|  \S+:\d+)", talk.stdout, re.MULTILINE) == [
        "> How is tea brewed?",
        f"  {GREEN}",
        "> And how is it kept?",
        f"  {STORING}",
        "> ",
    ]
    assert "\x1b" not in talk.stdout
