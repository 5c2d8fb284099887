"""Services of a job for programs that speak HTTP."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from datetime import timedelta

import pytest
from async_services import Adder

from sage_flow import FixedDelay, LocalEnvironment, PipelineService, Service, batched, errors
from sage_flow.executors.processes import ProcessExecutor
from sage_flow.executors.threads import ThreadExecutor

TOKEN = "a-token-of-these-tests"
JSON = {"Content-Type": "application/json"}


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("no text")


class Answers(Service):
    def fail_unspeakably(self, value):
        raise Unspeakable

    def double(self, value):
        return [value, value]

    def join(self, a, b="-", *, end=""):
        return f"{a}{b}{end}"

    def nothing(self):
        return None

    def fail(self, value):
        raise ValueError(f"no {value}")

    def not_json(self):
        return {1, 2}

    def not_a_number(self):
        return float("nan")

    @batched(max_size=8, max_wait=timedelta(milliseconds=1))
    def length(self, texts):
        return [len(text) if text else ValueError("empty") for text in texts]


class Held(Service):
    """Answers when the test lets it."""

    lets_go = threading.Event()
    started = threading.Semaphore(0)

    def hold(self, value=None):
        Held.started.release()
        Held.lets_go.wait(60)
        return value


def letters(text):
    for letter in text:
        if letter == "!":
            raise ValueError("no !")
        if letter == "|":
            Held.lets_go.wait(60)
        yield letter


def start():
    done = threading.Event()

    def wait_for_the_end():
        done.wait(60)
        yield from ()

    env = LocalEnvironment("serving")
    env.register_service("answers", Answers)
    env.register_service("held", Held, max_pending=2, concurrency=4)
    env.register_service("letters", PipelineService(lambda r: r.flat_map(letters), reply="many"))
    env.register_service("odd", PipelineService(lambda r: r.filter(lambda n: n % 2)))
    env.from_iterable(wait_for_the_end).for_each(str)
    return env.submit(), done


@pytest.fixture(scope="module")
def serving():
    job, done = start()
    with job:
        yield job
        Held.lets_go.set()
        done.set()


@pytest.fixture(scope="module")
def answers(serving):
    with serving.serve_http("answers") as served:
        yield served


@pytest.fixture(scope="module")
def held(serving):
    with serving.serve_http("held") as served:
        yield served


@pytest.fixture
def letting_go():
    Held.lets_go.clear()
    yield Held.lets_go.set
    Held.lets_go.set()


def request(served, path, body=None, headers=JSON, method="POST"):
    """The status, the JSON of the reply (None without), and the headers."""
    connection = http.client.HTTPConnection(served.host, served.port, timeout=30)
    try:
        connection.request(method, path, body, headers)
        reply = connection.getresponse()
        content = reply.read()
        return reply.status, json.loads(content) if content else None, reply.headers
    finally:
        connection.close()


def ask(served, method, value, **headers):
    status, reply, _ = request(served, f"/{method}", json.dumps(value), {**JSON, **headers})
    return status, reply


def error(kind, message):
    return {"error": {"type": kind, "message": message}}


def test_the_body_is_the_argument_and_the_reply_is_json(answers):
    assert ask(answers, "double", {"a": [1, None]}) == (200, [{"a": [1, None]}] * 2)


def test_batched_methods_are_called_by_http_too(answers):
    assert ask(answers, "length", "four") == (200, 4)
    assert ask(answers, "length", "") == (500, error("ValueError", "empty"))


def test_spread_gives_several_arguments(answers):
    assert request(answers, "/join?spread=1", '["a", "b"]')[:2] == (200, "ab")
    assert request(answers, "/join?spread=1", '{"a": 1, "end": "."}')[:2] == (200, "1-.")
    assert request(answers, "/join?spread=1", '"a"')[0] == 400
    assert request(answers, "/join?spread=yes", "[]")[0] == 400


def test_a_request_without_a_body_has_no_argument_and_none_is_null(answers):
    status, reply, headers = request(answers, "/nothing", headers={})
    assert (status, reply) == (200, None)
    assert headers["Content-Type"].startswith("application/json")


def test_an_error_of_the_method_is_told_without_its_traceback(answers):
    status, reply = ask(answers, "fail", 3)
    assert status == 500
    assert reply == error("ValueError", "no 3")


@pytest.mark.parametrize("body", ["{", '"a" "b"', b"\xff\xfe", "[" * 100_000, "NaN", '{"a": [-Infinity]}'])
def test_malformed_json_is_a_bad_request(answers, body):
    status, reply, _ = request(answers, "/double", body)
    assert status == 400
    assert "the body is no JSON" in reply["error"]["message"]


def test_a_body_that_is_not_compressed_as_its_header_says_is_a_bad_request(answers):
    status, reply, _ = request(answers, "/double", b"abc", {**JSON, "Content-Encoding": "gzip"})
    assert status == 400
    assert "the body cannot be read" in reply["error"]["message"]


def test_an_error_without_a_text_is_told_as_json(answers):
    assert ask(answers, "fail_unspeakably", 1)[1] == error("Unspeakable", "<its __str__ raised RuntimeError>")


def test_a_body_of_another_type_is_refused(answers):
    status, reply, _ = request(answers, "/double", "1", {"Content-Type": "text/plain"})
    assert status == 415
    assert "Content-Type: application/json" in reply["error"]["message"]


def test_a_body_over_the_limit_is_refused(answers):
    status, reply, _ = request(answers, "/double", json.dumps("a" * (16 * 1024 * 1024 + 1)))
    assert (status, reply["error"]["message"]) == (413, "the body is larger than 16 MiB")


@pytest.mark.parametrize("method", ["doubel", "_caller", "open", "check_health"])
def test_an_unknown_or_private_method_is_not_found(answers, method):
    status, reply = ask(answers, method, 1)
    assert (status, reply["error"]["type"]) == (404, "UnknownService")


def test_unknown_paths_and_verbs_are_told(answers):
    assert request(answers, "/a/b", "1")[0] == 404
    status, reply, headers = request(answers, "/double", method="GET")
    assert (status, headers["Allow"]) == (405, "POST")
    assert "call a method by POST" in reply["error"]["message"]
    status, reply, headers = request(answers, "/-/health")
    assert (status, reply["error"]["message"]) == (405, "POST is not allowed: ask for the health by GET")


@pytest.mark.parametrize("method", ["not_json", "not_a_number"])
def test_a_reply_that_is_no_json_is_an_error_that_names_the_method(answers, method):
    status, reply, _ = request(answers, f"/{method}")
    assert status == 500
    assert f"the reply of answers.{method} cannot be written as JSON" in reply["error"]["message"]


@pytest.mark.parametrize("seconds", ["0", "-1", "soon", "nan", "inf"])
def test_a_deadline_that_is_none_is_a_bad_request(answers, seconds):
    status, reply = ask(answers, "double", 1, **{"X-Timeout": seconds})
    assert status == 400
    assert reply["error"]["message"].startswith(f"X-Timeout is {seconds!r}")


def test_a_call_ends_at_its_deadline(held, letting_go):
    status, reply = ask(held, "hold", 1, **{"X-Timeout": "0.05"})
    assert (status, reply) == (504, error("ServiceTimeout", "held.hold gave no reply within 0.05 s"))


def test_more_than_max_pending_calls_are_told_to_come_later(held, letting_go):
    replies = []
    callers = [threading.Thread(target=lambda: replies.append(ask(held, "hold", 7))) for _ in range(2)]
    while Held.started.acquire(blocking=False):
        pass
    for caller in callers:
        caller.start()
    for _ in callers:
        assert Held.started.acquire(timeout=30)
    status, reply, headers = request(held, "/hold", "8")
    letting_go()
    for caller in callers:
        caller.join()
    assert (status, headers["Retry-After"]) == (429, "1")
    assert reply == error("ServiceOverloaded", "held.hold was not called: 2 calls (max_pending) are open")
    assert replies == [(200, 7)] * 2


def test_a_client_that_goes_frees_its_place(held, letting_go):
    while Held.started.acquire(blocking=False):
        pass
    for _ in range(3):  # each takes a place of two
        with socket.create_connection((held.host, held.port)) as client:
            client.sendall(b"POST /hold HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
            assert Held.started.acquire(timeout=30)
        letting_go_is_not_needed(held)


def letting_go_is_not_needed(held):
    """Wait until the server has noticed that a client has gone."""
    for _ in range(3000):
        if not held._caller._port._calls.in_flight("calls by HTTP"):
            return
        time.sleep(0.01)
    raise AssertionError("the place was not freed")


def test_a_request_that_is_filtered_has_no_content(serving):
    with serving.serve_http("odd") as odd:
        assert ask(odd, "process", 3) == (200, 3)
        assert ask(odd, "process", 4) == (204, None)


def test_several_outputs_are_a_list_or_a_line_each(serving):
    with serving.serve_http("letters") as served:
        assert ask(served, "process", "abc") == (200, ["a", "b", "c"])
        assert lines(served, "abc") == (200, ["a", "b", "c"])
        assert lines(served, "") == (204, [])
        assert lines(served, "!") == (500, [error("ValueError", "no !")])


def test_outputs_are_sent_as_they_come_and_a_late_error_is_the_last_line(serving, letting_go):
    with serving.serve_http("letters") as served:
        connection = http.client.HTTPConnection(served.host, served.port, timeout=30)
        connection.request(
            "POST", "/process", json.dumps("a" * 5000 + "|b!"), {**JSON, "Accept": "application/x-ndjson"}
        )
        reply = connection.getresponse()
        assert reply.readline() == b'"a"\n'  # of a call that goes on
        letting_go()
        rest = reply.read().splitlines()
        assert rest[0] == b'"a"'
        assert json.loads(rest[-1]) == error("ValueError", "no !")
        connection.close()


def test_a_reply_that_is_a_list_can_come_as_lines(answers):
    assert lines(answers, 1, "double") == (200, [1, 1])


def lines(served, value, method="process"):
    connection = http.client.HTTPConnection(served.host, served.port, timeout=30)
    connection.request("POST", f"/{method}", json.dumps(value), {**JSON, "Accept": "application/x-ndjson"})
    reply = connection.getresponse()
    found = [json.loads(line) for line in reply.read().splitlines()]
    connection.close()
    return reply.status, found


def test_the_health_of_an_open_service_needs_no_token(serving):
    with serving.serve_http("answers", token=TOKEN) as served:
        assert request(served, "/-/health", method="GET")[:2] == (200, {"status": "ok"})


@pytest.mark.parametrize(
    ("header", "told"),
    [
        (None, "a token is missing"),
        ("Bearer", "a token is missing"),
        (f"Basic {TOKEN}", "a token is missing"),
        ("Bearer another", "the token is wrong"),
        ("Bearer \xe9", "the token is wrong"),
    ],
)
def test_a_missing_or_wrong_token_is_unauthorized(serving, header, told):
    with serving.serve_http("answers", token=TOKEN) as served:
        given = {} if header is None else {"Authorization": header}
        status, reply, headers = request(served, "/double", "1", {**JSON, **given})
        assert (status, headers["WWW-Authenticate"]) == (401, "Bearer")
        assert told in reply["error"]["message"]
        assert TOKEN not in json.dumps(reply)


def test_the_right_token_opens_the_service(serving):
    with serving.serve_http("answers", host="0.0.0.0", token=TOKEN) as served:
        assert ask(served, "double", 1, Authorization=f"Bearer {TOKEN}") == (200, [1, 1])
        assert TOKEN not in repr(served)


def test_without_a_token_only_this_machine_may_call(serving, answers):
    with pytest.raises(errors.ChannelNotReachable, match=r"callers need a token.*token=\.\.\."):
        serving.serve_http("answers", host="0.0.0.0")
    for host in ("attacker.example", "127.0.0.1:port"):
        status, reply = ask(answers, "double", 1, Host=host)
        assert status == 403
        assert f"{host!r} is not this machine" in reply["error"]["message"]


@pytest.mark.parametrize(("token", "kind"), [("", ValueError), ("two words", ValueError), (b"bytes", TypeError)])
def test_a_token_that_no_header_can_have_is_refused(serving, token, kind):
    with pytest.raises(kind, match="token"):
        serving.serve_http("answers", token=token)


def test_a_port_in_use_and_an_unknown_service_are_refused(serving, answers):
    with pytest.raises(errors.ChannelNotReachable, match=f"port {answers.port} of 127.0.0.1 is in use"):
        serving.serve_http("answers", port=answers.port)
    with pytest.raises(errors.UnknownService, match="did you mean 'answers'"):
        serving.serve_http("answer")


def ticks():
    while True:
        time.sleep(0.02)
        yield 1


@pytest.mark.parametrize("make", [ThreadExecutor, ProcessExecutor])
def test_the_server_ends_with_its_job(make):
    env = LocalEnvironment("ending", executor=make())
    env.register_service("adder", Adder)
    env.from_iterable(ticks).for_each(str)
    with env.submit() as job:
        served = job.serve_http("adder")
        assert ask(served, "add", 1) == (200, 2)
        assert ask(served, "fail", 1) == (500, error("ValueError", "no 1"))
    served._thread.join(30)
    with pytest.raises(ConnectionRefusedError):
        ask(served, "add", 1)


def test_calls_go_on_after_a_restart_of_the_job():
    fails, goes_on = threading.Event(), threading.Event()

    def until_told(value):
        fails.wait(60)
        if not goes_on.is_set():
            goes_on.set()
            raise OSError("once")
        ends.wait(60)
        return value

    ends = threading.Event()
    env = LocalEnvironment("restarting", restart=FixedDelay(3, 0))
    env.register_service("adder", Adder)
    env.from_collection([1]).for_each(until_told)
    with env.submit() as job, job.serve_http("adder") as served:
        assert ask(served, "add", 1) == (200, 2)
        fails.set()
        assert goes_on.wait(60)
        while job.statistics()["attempt"] < 2:  # until then the service of the first attempt may answer
            time.sleep(0.01)
        statuses = [ask(served, "add", 1)[0]]
        while statuses[-1] != 200:  # while it restarts the service is not available
            statuses.append(ask(served, "add", 1)[0])
        assert set(statuses) <= {200, 503}
        assert ask(served, "add", 2) == (200, 3)
        ends.set()
        job.result()
