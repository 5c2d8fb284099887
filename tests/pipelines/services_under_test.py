"""A service that can be asked many things, and jobs that ask it."""

import threading

from failing_pipelines import TwoArguments

from sage_flow import LocalEnvironment, Service


class Calculator(Service):
    """Answers what a service can be asked."""

    def __init__(self, factor=10):
        self.factor = factor

    def open(self, ctx):
        self.ctx = ctx

    def process(self, value):
        return value * self.factor

    def add(self, a, b=1, *, c=0):
        return a + b + c

    def nothing(self):
        return None

    def fail(self, value):
        raise TwoArguments(value, "refused")

    def read(self, path):
        with open(path) as file:
            return file.read()

    def take(self, value):
        value.append("taken")
        return value

    def lock(self):
        return threading.Lock()

    def lines(self):
        return (line for line in "ab")

    def _private(self):
        return "secret"


def make_calculator(factor):
    return Calculator(factor)


def asked(function, *, mode=None, items=(1,), register=(("calculator", Calculator),), **options):
    """What `function(value, ctx)` gives for `items`, in a job with these services."""
    env = LocalEnvironment("test") if mode is None else mode.environment()
    for name, service in register:
        env.register_service(name, service)
    env.from_collection(list(items)).map(function, name="ask", **options).collect("replies")
    return env.execute().collected["replies"]


def caught_in_map(call):
    """A function that returns what error `call(value, ctx)` raised."""

    def function(value, ctx):
        try:
            return ("reply", call(value, ctx))
        except Exception as error:
            return error

    return function


def error_of_call(call, **kwargs):
    (error,) = asked(caught_in_map(call), **kwargs)
    return error
