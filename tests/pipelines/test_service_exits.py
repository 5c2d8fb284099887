"""A service that calls sys.exit() ends neither itself nor the job: the exit is its caller's error."""

import sys

import pytest
from services_under_test import asked

from sage_flow import PipelineService, Service
from sage_flow.errors import ServiceError


class Leaving(Service):
    def process(self, number):
        return sys.exit(number) if number == 3 else number

    async def later(self, number):
        return self.process(number)


def leave(number):
    return Leaving().process(number)


async def leave_later(number):
    return Leaving().process(number)


SERVICES = {
    "class": (Leaving, "process"),
    "coroutine": (Leaving, "later"),
    "pipeline": (PipelineService(lambda requests: requests.map(leave)), "process"),
    "pipeline that awaits": (PipelineService(lambda requests: requests.map_async(leave_later)), "process"),
    "pipeline that awaits in time": (
        PipelineService(lambda requests: requests.map_async(leave_later, timeout=60)),
        "process",
    ),
    "pipeline that skips": (PipelineService(lambda requests: requests.map(leave, on_error="skip")), "process"),
}


def calling(method, outcome):
    def ask(number, ctx):
        try:
            return ctx.call_service("leaving", number, method=method)
        except ServiceError as error:
            return outcome(error)

    return ask


@pytest.mark.parametrize("kind", SERVICES)
def test_an_exit_in_a_service_is_an_error_of_its_caller_and_the_service_lives_on(mode, kind):
    service, method = SERVICES[kind]
    ask = calling(method, lambda error: type(error).__name__)
    replies = asked(ask, mode=mode, items=range(6), register=[("leaving", service)])
    assert sorted(replies, key=str) == [0, 1, 2, 4, 5, "ServiceError"]


@pytest.mark.parametrize("kind", SERVICES)
def test_the_error_tells_the_code_and_the_line(kind):
    service, method = SERVICES[kind]
    ask = calling(method, lambda error: (str(error), str(error.__cause__)))
    ((message, remote),) = asked(ask, items=[3], register=[("leaving", service)])
    assert "sys.exit(3)" in message
    assert "return sys.exit(number)" in remote
    assert "operator  'leaving" in remote


def test_an_exit_that_the_caller_lets_through_fails_the_job_as_a_service_error():
    with pytest.raises(ServiceError, match=r"sys\.exit"):
        asked(lambda n, ctx: ctx.call_service("leaving", n), items=[3], register=[("leaving", Leaving)])


def test_a_keyboard_interrupt_of_a_service_still_ends_the_job():
    class Interrupted(Service):
        def process(self, number):
            raise KeyboardInterrupt

    ask = calling("process", str)
    with pytest.raises(KeyboardInterrupt):
        asked(ask, register=[("leaving", Interrupted)])
