"""Environments: how a pipeline says where it runs."""

import os

import pytest

from sage_flow import LocalEnvironment, RemoteEnvironment
from sage_flow.errors import PipelineError
from sage_flow.executors.processes import ProcessExecutor


@pytest.mark.parametrize(("executor", "is_here"), [("threads", True), ("processes", False), (None, True)])
def test_an_executor_is_named(executor, is_here):
    env = LocalEnvironment(executor=executor)
    env.from_collection([1]).map(lambda n: os.getpid()).collect("pids")
    (pid,) = env.execute(progress=False).collected["pids"]
    assert (pid == os.getpid()) is is_here


@pytest.mark.parametrize(
    ("environment", "executor", "message"),
    [
        (LocalEnvironment, "process", r"executor must be an executor such as .*, not 'process'; \"threads\" and"),
        (LocalEnvironment, ProcessExecutor, r"not the class ProcessExecutor: ProcessExecutor\(\)"),
        (LocalEnvironment, 2, "executor must be an executor such as"),
        (RemoteEnvironment, "processes", '"threads" and "processes" are for LocalEnvironment'),
    ],
)
def test_an_executor_that_is_none_is_refused_when_the_environment_is_made(environment, executor, message):
    with pytest.raises(PipelineError, match=message):
        environment("wrong", executor=executor)
