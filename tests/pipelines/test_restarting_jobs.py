"""An attempt that fails while another one is to follow: what waits is told so, in every mode."""

import asyncio
from dataclasses import replace

import pytest

from sage_flow import END, IDLE, FixedDelay, JobStatus, NoRestart, Source


class NeverAnswers:
    async def ask(self):
        await asyncio.Event().wait()


class Fuse(Source):
    """One record, once the file is there."""

    def __init__(self, path):
        self.path = path
        self.has_burnt = False

    def next_batch(self):
        if self.has_burnt:
            return END
        self.has_burnt = self.path.exists()
        return [0] if self.has_burnt else IDLE


@pytest.mark.parametrize(("restarts", "unwound"), [(True, "JobRestarting"), (False, "JobCancelled")])
def test_user_code_that_waits_is_unwound_by_what_is_to_come(mode, tmp_path, restarts, unwound):
    waits, told = tmp_path / "waits", tmp_path / "told"

    def call(n, ctx):
        waits.touch()
        try:
            ctx.service("slow").options(timeout=1000.0).ask()
        except Exception:
            told.write_text("swallowed")
        except BaseException as error:
            told.write_text(type(error).__name__)
            raise

    env = mode.environment()
    env._options = replace(env._options, restart=FixedDelay(1, delay_s=0.0) if restarts else NoRestart())
    env.register_service("slow", NeverAnswers)
    env.from_collection([1]).for_each(call)
    env.from_source(Fuse(waits)).for_each(lambda n: 1 // n)
    with env.submit() as job:
        assert job.wait(60) is JobStatus.FAILED
    assert told.read_text() == unwound
    with pytest.raises(ZeroDivisionError):
        job.result()
