"""A service of a job on Ray for programs that speak HTTP, and its batches."""

import http.client
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from job_parts import Ticking

from sage_flow import RemoteEnvironment, Service, batched


class Sizes(Service):
    @batched(max_size=4)
    def size(self, texts):
        return [[len(text), len(texts)] if text else ValueError("empty") for text in texts]


@pytest.fixture(scope="module")
def served(ray_cluster, tmp_path_factory):
    env = RemoteEnvironment("sizes")
    env.register_service("sizes", Sizes)
    env.from_source(Ticking(gate=str(tmp_path_factory.mktemp("never") / "gate"))).for_each(str)
    with env.submit() as job:
        with job.serve_http("sizes") as server:
            yield server
        job.cancel()


def ask(served, body, headers=(), path="/size"):
    connection = http.client.HTTPConnection(served.host, served.port, timeout=60)
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json", **dict(headers)})
    reply = connection.getresponse()
    content = reply.read()
    connection.close()
    return reply.status, content


def test_programs_call_a_service_of_a_job_on_ray(served):
    status, content = ask(served, "four")
    assert (status, json.loads(content)[0]) == (200, 4)
    assert ask(served, "")[0] == 500
    assert ask(served, "four", path="/sise")[0] == 404
    assert ask(served, "four", {"Accept": "application/x-ndjson"})[1].splitlines()[0] == b"4"


def test_calls_of_many_clients_are_a_batch(served):
    with ThreadPoolExecutor(16) as clients:
        replies = [json.loads(content) for _, content in clients.map(lambda n: ask(served, "a" * n), range(1, 200))]
    assert [length for length, _ in replies] == list(range(1, 200))
    assert max(size for _, size in replies) > 1
