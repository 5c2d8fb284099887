"""A dialogue with documents, by default this project's own pages: every answer is a quotation, with its place.

sage-flow run jobs/chat_memory.py --option chat=true
sage-flow run jobs/chat_memory.py --option questions=questions.txt --option folder=docs
"""

from __future__ import annotations

if __name__ == "__main__":  # python jobs/chat_memory.py = sage-flow run jobs/chat_memory.py
    from sage_flow.cli import run_file

    raise SystemExit(run_file(__file__))

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from operators.dialogue import Answer, Query, Question, Turn, query_for
from operators.documents import documents_in, pages_of
from operators.memory import LongTermMemory, ShortTermMemory
from operators.prompt import Prompt
from operators.retrieval import check_installed
from sage_flow import DataStream, Environment, JobResult, PipelineService, RuntimeContext
from sage_flow.errors import InputError

if TYPE_CHECKING:
    from rich.text import Text

_PROJECT = Path(__file__).parents[1]
_INDEXING_S = 300.0  # a call waits until the documents are indexed; a folder may be large
_EXAMPLE = """\
How does a job end?
And after a failure?
Tell me more.

What are credits for?
Who won the world cup in 1998?
"""


@dataclass(frozen=True)
class Options:
    """What --option sets.

    Attributes:
        folder: of documents (.md, .rst, .txt, also in folders below); by default README.md and docs/ of the project.
        questions: a file with a question on each line; an empty line begins another conversation.
        chat: ask at a prompt instead, until an empty line or Ctrl-D.
        quotes: passages that an answer quotes, at most.
        length: characters of a passage, at most.
        turns: earlier ones that a question like "and how does it end?" may lean on.
        least_score: from 0 to 1; a passage that scores less is no answer.
    """

    folder: Path | None = None
    questions: Path | None = None
    chat: bool = False
    quotes: int = 2
    length: int = 600
    turns: int = 5
    least_score: float = 0.2

    def __post_init__(self) -> None:
        for name in ("quotes", "length", "turns"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 < self.least_score <= 1:
            raise ValueError(f"least_score must be above 0 and at most 1, not {self.least_score}")
        if self.chat and self.questions is not None:
            raise ValueError("questions are read from a file or, with chat=true, from a prompt")


def build(env: Environment, options: Options) -> None:
    """Write the pipeline: two memories, the pipeline that answers, and who asks it."""
    check_installed()
    folder, files = documents(options.folder)
    env.register_service("short_term_memory", ShortTermMemory, options.turns)
    env.register_service(
        "long_term_memory", LongTermMemory, str(folder.absolute()), files, options.length, timeout=_INDEXING_S
    )
    env.register_service("answer", PipelineService(answering(options)), timeout=_INDEXING_S)
    if options.chat:
        env.progress = False  # the terminal is the dialogue's
        # One chain, whatever --parallelism says: the prompt appears when the answer before it has been shown.
        lines = env.from_source(Prompt(), name="prompt")
        asked = lines.map(lambda line: Question(line, "chat", 0), name="questions", parallelism=1)
        asked.map(ask, name="dialogue", parallelism=1).for_each(show, name="screen", parallelism=1)
    else:
        questions = env.from_collection(questions_in(options.questions), name="questions")
        # By conversation: a question is asked when the one before it has been answered, and remembered.
        asked_in_order = questions.key_by(lambda question: question.conversation)
        asked_in_order.map(ask, name="dialogue").collect("answers")


def ask(question: Question, ctx: RuntimeContext) -> Answer:
    """Have the service answer."""
    answer: Answer = ctx.call_service("answer", question)
    return answer


def answering(options: Options) -> Callable[[DataStream[Question]], DataStream[Answer]]:
    """The pipeline behind the service: recall, look up, remember.

    The turn is remembered before its answer is given, so whoever asks on finds it.
    """

    def recall(question: Question, ctx: RuntimeContext) -> tuple[Question, Query]:
        turns = ctx.service(ShortTermMemory).retrieve(question.conversation, options.turns)
        return question, query_for(question.text, turns)

    def look_up(asked: tuple[Question, Query], ctx: RuntimeContext) -> Answer:
        question, query = asked
        found = ctx.service(LongTermMemory).retrieve(query.text, options.quotes + len(query.told))
        near = [each for each in found if each.score >= options.least_score and each.passage.place not in query.told]
        return Answer(question, tuple(near[: options.quotes]))

    def remember(answer: Answer, ctx: RuntimeContext) -> Answer:
        turn = Turn(answer.question.text, tuple(quote.passage.place for quote in answer.quotes))
        ctx.service(ShortTermMemory).append(answer.question.conversation, turn)
        return answer

    def answer(questions: DataStream[Question]) -> DataStream[Answer]:
        return questions.map(recall, name="recall").map(look_up, name="look up").map(remember, name="remember")

    return answer


def documents(folder: Path | None) -> tuple[Path, list[str]]:
    """The folder, and the documents in it; by default README.md and docs/ of the project. Raises InputError."""
    if folder is not None:
        return folder, documents_in(folder)
    pages = pages_of(_PROJECT)
    if not pages:
        raise InputError(f"{_PROJECT}: has no README.md and no docs/; give --option folder=FOLDER")
    return _PROJECT, pages


def questions_in(file: Path | None) -> list[Question]:
    """The questions in a file, or the examples above. Raises InputError."""
    if file is None:
        return _questions(_EXAMPLE)
    try:
        questions = _questions(file.read_text("utf-8-sig"))
    except OSError as fault:
        raise InputError(f"{file}: {fault.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{file}: is not utf-8; convert the file") from None
    if not questions:
        raise InputError(f"{file}: there is no question in this file; write one on each line")
    return questions


def _questions(text: str) -> list[Question]:
    conversations = [part.split("\n") for part in "\n".join(map(str.strip, text.splitlines())).split("\n\n")]
    numbered = [(line, number) for number, lines in enumerate(conversations, 1) for line in lines if line]
    return [Question(line, str(conversation), number) for number, (line, conversation) in enumerate(numbered)]


def report(result: JobResult, options: Options) -> None:
    """Print the questions with their answers; a dialogue at the prompt has been shown already."""
    if options.chat:
        return
    answers: list[Answer] = sorted(result.collected["answers"], key=lambda answer: answer.question.number)
    conversation = answers[0].question.conversation
    for answer in answers:
        if answer.question.conversation != conversation:
            conversation = answer.question.conversation
            print("-" * 40)
        print(f"> {answer.question.text}")
        show(answer)
    known = sum(bool(answer.quotes) for answer in answers)
    print(f"{known} of {len(answers)} questions answered")


def show(answer: Answer) -> None:
    """Print an answer: its passages under their places; colours on a terminal only."""
    from rich.console import Console

    Console().print(_told(answer), soft_wrap=True)


def _told(answer: Answer) -> Text:
    from rich.text import Text

    text = Text()
    for passage, score in answer.quotes:
        heading = passage.heading.rpartition(" > ")[2]
        text.append("\n  ").append(passage.place, style="cyan").append(f"  {heading}", style="bold")
        text.append(f"  ({score:.2f})\n", style="dim")
        for line in passage.text.split("\n"):
            text.append(f"    {line}".rstrip() + "\n")
    if not answer.quotes:
        text.append("\n  Nothing in these documents answers that.\n")
    return text
