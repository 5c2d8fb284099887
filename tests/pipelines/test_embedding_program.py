"""A program as users write it: questions through a batched embedder, with checkpoints; killed, and continued."""

import json
import os
import signal
import threading
from collections import Counter

from job_folder import finish, start, write
from sklearn.feature_extraction.text import HashingVectorizer

PROGRAM = """
from __future__ import annotations
from datetime import timedelta
from typing import Any, cast
from sage_flow import LocalEnvironment, RuntimeContext, Service, batched

env = LocalEnvironment("six", parallelism=2)

def load_model() -> Any:
    from sklearn.feature_extraction.text import HashingVectorizer  # any model, made once per process
    return HashingVectorizer(n_features=256)
class Embedder(Service):
    def open(self, ctx: RuntimeContext[Any]) -> None:
        self.model: Any = ctx.resource("model", load_model)
    @batched(max_size=32, max_wait=timedelta(milliseconds=5))
    def embed(self, texts: list[str]) -> list[list[float]]:
        return cast("list[list[float]]", self.model.transform(texts).toarray().tolist())
env.register_service("embed", Embedder, stateless=True, concurrency=64)
env.enable_checkpointing("checkpoints/", interval=timedelta(seconds=10), restore="latest")
(env.read_jsonl("questions.jsonl")
    .map_async(lambda q, ctx: ctx.service("embed").embed.remote(q["text"]), capacity=64, name="embed-questions")
    .write_jsonl("vectors.jsonl"))
env.execute()
"""

OFTEN = PROGRAM.replace("timedelta(seconds=10)", "timedelta(milliseconds=100)")
"""The same program with a checkpoint ten times a second, so that the test need not run for 10 s before each kill."""


def questions(count):
    return [f"what is {number * number} to {number}?" for number in range(count)]


def prepare(folder, program, count):
    write(folder / "program.py", program)
    write(folder / "questions.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in questions(count)))


def kill_when(folder, is_time):
    """Start the program and kill it as soon as `is_time()`, which is before its end."""
    process = start("program.py", cwd=folder, warnings="default")
    while not is_time():
        assert process.poll() is None, process.communicate()
        threading.Event().wait(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def run_to_the_end(folder):
    code, _, err = finish(start("program.py", cwd=folder, warnings="default"))
    assert code == 0, err
    return Counter((folder / "vectors.jsonl").read_text().splitlines())


def expected(count):
    vectors = HashingVectorizer(n_features=256).transform(questions(count)).toarray().tolist()
    return Counter(json.dumps(vector) for vector in vectors)


def as_numbers(lines):
    """The same rows, whatever the spaces between the numbers."""
    return Counter({json.dumps(json.loads(line)): times for line, times in lines.items()})


def test_the_program_as_written_is_killed_before_its_first_checkpoint_and_begins_again(tmp_path):
    prepare(tmp_path, PROGRAM, 400)
    kill_when(tmp_path, lambda: any(tmp_path.glob("checkpoints/*/*/log/*")))
    assert not (tmp_path / "vectors.jsonl").exists()
    assert as_numbers(run_to_the_end(tmp_path)) == expected(400)


def test_the_program_is_killed_after_checkpoints_and_goes_on_from_the_last(tmp_path):
    count = 6000
    prepare(tmp_path, OFTEN, count)

    def taken():
        return {file.name for file in tmp_path.glob("checkpoints/*/*/checkpoints/*")}

    kill_when(tmp_path, lambda: taken() - {"a1-n1"})
    kill_when(tmp_path, lambda: any(name.startswith("a2-") for name in taken()))
    assert as_numbers(run_to_the_end(tmp_path)) == expected(count)
