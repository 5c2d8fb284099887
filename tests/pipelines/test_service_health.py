"""Services that warm up before the first call, and that tell when they are no longer well."""

import threading

import pytest

from sage_flow import FixedDelay, LocalEnvironment, Service, errors


def ask(env, items=(1,)):
    env.from_collection(list(items)).map(lambda n, ctx: ctx.service("asked").ask(n)).collect("rows")
    return env.execute(progress=False).collected["rows"]


class Warm(Service):
    def open(self, ctx):
        self.did = ["open"]

    def warm_up(self):
        self.did.append("warm_up")

    def ask(self, n):
        return self.did


def test_a_service_warms_up_before_its_first_call(mode):
    env = mode.environment(parallelism=1)
    env.register_service("asked", Warm)
    assert ask(env) == [["open", "warm_up"]]


def test_a_service_that_is_no_subclass_may_do_without():
    class Plain:
        def ask(self, n):
            return n

    env = LocalEnvironment("plain")
    env.register_service("asked", Plain)
    assert ask(env) == [1]


def test_an_error_while_warming_up_fails_the_job_and_names_the_service():
    class Cold(Warm):
        def warm_up(self):
            raise OSError("no model")

    env = LocalEnvironment("cold")
    env.register_service("asked", Cold)
    with pytest.raises(OSError, match="no model") as caught:
        ask(env)
    assert "service   'asked', warm_up()" in "\n".join(caught.value.__notes__)


@pytest.mark.parametrize("method", ["warm_up", "check_health"])
def test_methods_of_the_life_cycle_cannot_be_called_nor_be_coroutines(method):
    env = LocalEnvironment("by_name")
    env.register_service("asked", Warm)
    env.from_collection([1]).map(lambda n, ctx: getattr(ctx.service("asked"), method)()).collect("rows")
    with pytest.raises(errors.UnknownService, match=method):
        env.execute(progress=False)

    async def later(self):
        pass

    with pytest.raises(errors.PipelineError, match=rf"would not wait for its {method}\(\)"):
        LocalEnvironment("later").register_service("asked", type("Later", (Warm,), {method: later}))


class Checked(Service):
    health_check_period_s = 0.01

    checked = threading.Semaphore(0)
    is_well = True

    def ask(self, n):
        return n

    def check_health(self):
        Checked.checked.release()
        if not Checked.is_well:
            Checked.is_well = True
            raise ConnectionError("lost the GPU")


@pytest.mark.parametrize("concurrency", [1, 3])
def test_the_health_is_checked_while_the_service_has_nothing_to_do(concurrency):
    def wait_for_checks(n):
        for _ in range(3):
            assert Checked.checked.acquire(timeout=30)
        return n

    env = LocalEnvironment("checked")
    env.register_service("asked", Checked, concurrency=concurrency)
    stream = env.from_collection([1, 2]).map(lambda n, ctx: ctx.service("asked").ask(n))
    stream.map(wait_for_checks).collect("rows")
    assert env.execute(progress=False).collected["rows"] == [1, 2]


def test_a_service_that_is_not_well_fails_its_job_which_may_start_again():
    def run(**options):
        env = LocalEnvironment("ill", **options)
        env.register_service("asked", Checked)
        stuck = threading.Event()

        def until_ill(n):
            if not ill:
                ill.append(n)
                Checked.is_well = False
                while not Checked.is_well:  # until the check has told
                    stuck.wait(0.005)
            return n

        env.from_collection([1, 2]).map(until_ill).map(lambda n, ctx: ctx.service("asked").ask(n)).collect("rows")
        return env.execute(progress=False)

    ill = []
    with pytest.raises(ConnectionError, match="lost the GPU") as caught:
        run()
    assert "service   'asked', check_health()" in "\n".join(caught.value.__notes__)
    ill = []
    assert run(restart=FixedDelay(2, 0)).collected["rows"] == [1, 2]


def test_a_period_that_is_none_is_refused():
    class Never(Checked):
        health_check_period_s = 0

    env = LocalEnvironment("never")
    env.register_service("asked", Never)
    with pytest.raises(errors.PipelineError, match="health_check_period_s must be a number of seconds above 0, not 0"):
        ask(env)
