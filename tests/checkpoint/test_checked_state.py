"""The test mode that finds values of state which change while another key is current."""

import importlib
from dataclasses import replace
from datetime import timedelta

import pytest

from nexmark.job import Options
from nexmark.model import COLUMNS
from sage_flow import LocalEnvironment, NoRestart, ProcessFunction
from sage_flow.errors import PipelineError
from sage_flow.executors.worker import CHECK_STATE


@pytest.fixture(autouse=True)
def checks(monkeypatch):
    monkeypatch.setenv(CHECK_STATE, "1")


def env_with(tmp_path):
    env = LocalEnvironment("checked", parallelism=2, restart=NoRestart())
    env.enable_checkpointing(tmp_path / "checkpoints", interval=timedelta(milliseconds=5), min_pause=timedelta(0))
    return env


class SharesAList(ProcessFunction):
    def open(self, ctx):
        self.shared = [0]

    def process(self, value, ctx):
        self.shared[0] = value
        ctx.state.value("list").set(self.shared)
        return ()


def test_a_job_whose_keys_share_a_value_fails_with_operator_and_key(tmp_path):
    env = env_with(tmp_path)
    numbers = env.from_collection(range(10**8)).key_by(lambda n: n // 100)
    numbers.process(SharesAList, name="shares").collect("none")
    with pytest.raises(PipelineError, match=r"the state of 'shares' for key \d+ has changed while no record"):
        env.submit().result(timeout=60.0)


@pytest.mark.parametrize("query", COLUMNS)
def test_no_query_of_nexmark_changes_state_of_another_key(query, tmp_path):
    env = env_with(tmp_path)
    options = replace(Options(events=2_000, events_per_s=100, ooo_ms=1000), output=tmp_path / "rows.jsonl")
    importlib.import_module(f"nexmark.{query}").build(env, options)
    env.execute(progress=False)
    assert (tmp_path / "rows.jsonl").exists()
