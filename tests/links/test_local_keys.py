"""A server without a key makes one: programs of the same user find it by themselves, nobody else gets in."""

import os
import signal
import stat
import subprocess
import sys

import pytest

from sage_flow import LocalEnvironment, connect_service
from sage_flow.channels import RPCQueueDescriptor, RPCQueueServer
from sage_flow.errors import ChannelNotReachable
from sage_flow.links.address import TcpAddress, UnixAddress
from sage_flow.links.local_keys import LocalKey, found_key, made_key

SERVE = """
import sys
from sage_flow.channels import RPCQueueServer
server = RPCQueueServer("127.0.0.1", 0)
print(server.port, flush=True)
sys.stdin.read()
"""


@pytest.fixture(name="runtime", autouse=True)
def own_runtime_directory(tmp_path, monkeypatch):
    """A runtime directory of the test's own; another one is as good as another user."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture(name="elsewhere")
def what_another_user_sees(tmp_path, monkeypatch):
    """Call it to be somebody who has no access to the runtime directory."""

    def become():
        (tmp_path / "other").mkdir()
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "other"))

    return become


def files(runtime):
    return sorted((runtime / f"sage_flow-{os.geteuid()}" / "keys").iterdir())


def queue_at(server, **options):
    return RPCQueueDescriptor("127.0.0.1", server.port, 5.0, retry_count=0, queue_id="orders", **options)


class Keeper:
    def say(self, n):
        return n


@pytest.fixture(name="job")
def job_with_a_service():
    env = LocalEnvironment("test")
    env.register_service("keeper", Keeper)
    env.from_iterable(iter(lambda: __import__("time").sleep(0.01) or 1, 0)).for_each(lambda _: None)
    with env.submit() as job:
        yield job
        job.cancel()


def test_a_program_of_the_same_user_needs_no_key():
    with RPCQueueServer("127.0.0.1", 0) as server:
        code = "import sys; from sage_flow.channels import *; RPCQueueDescriptor('localhost', int(sys.argv[1])"
        code += ", queue_id='orders').put('tea')"
        subprocess.run([sys.executable, "-c", code, str(server.port)], check=True, timeout=120)
        assert queue_at(server).get(timeout=60) == "tea"


def test_whoever_cannot_read_the_key_is_refused_at_a_loopback_port(elsewhere):
    with RPCQueueServer("127.0.0.1", 0) as server:
        elsewhere()
        with pytest.raises(ChannelNotReachable, match=r"does not know the key.*with_credentials\(key=server.key\)"):
            queue_at(server).put("tea")
        assert server.statistics()["queues"] == {}


def test_the_key_of_a_server_opens_it_for_others(elsewhere):
    with RPCQueueServer("127.0.0.1", 0) as server:
        elsewhere()
        assert len(server.key) == 32
        queue_at(server, key=server.key).put("tea")
        assert queue_at(server).with_credentials(key=server.key).get(timeout=60) == "tea"


def test_a_key_that_is_given_is_kept_and_in_no_file(runtime):
    with RPCQueueServer("127.0.0.1", 0, key=b"given") as server:
        assert server.key == b"given"
        assert not any(runtime.iterdir())


def test_a_service_that_is_served_without_a_key_makes_one(job, elsewhere):
    with job.serve("keeper") as served:
        with connect_service("localhost", served.port, "keeper") as keeper:
            assert keeper.say(1) == 1
        elsewhere()
        with pytest.raises(ChannelNotReachable, match="does not know the key"):
            connect_service("127.0.0.1", served.port, "keeper", retry_count=0)
        with connect_service("127.0.0.1", served.port, "keeper", key=served.key) as keeper:
            assert keeper.say(2) == 2


def test_the_key_of_a_service_goes_with_its_job(job, runtime):
    served = job.serve("keeper")
    assert [path.name for path in files(runtime)] == [f"127.0.0.1-{served.port}.key"]
    job.cancel()
    job.wait()
    assert files(runtime) == []


def test_the_file_is_the_users_alone_named_by_the_address_and_goes_with_the_server(runtime):
    with RPCQueueServer("localhost", 0) as server:
        (path,) = files(runtime)
        assert path.name == f"127.0.0.1-{server.port}.key"
        assert bytes.fromhex(path.read_text()) == server.key
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert [stat.S_IMODE(parent.stat().st_mode) for parent in path.parents[:2]] == [0o700, 0o700]
    assert files(runtime) == []


def test_the_key_is_in_no_text_of_a_server():
    with RPCQueueServer("127.0.0.1", 0) as server:
        told = f"{server!r} {server} {server.statistics()} {queue_at(server)!r} {queue_at(server).to_json()}"
        assert server.key.hex() not in told
        assert repr(server.key)[2:-1] not in told


def test_what_a_killed_server_left_goes_when_the_next_one_starts(runtime):
    process = subprocess.Popen([sys.executable, "-c", SERVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    port = int(process.stdout.readline())
    (left,) = files(runtime)
    with RPCQueueServer("127.0.0.1", 0):
        assert left in files(runtime)  # it lives
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert left in files(runtime)
    with RPCQueueServer("127.0.0.1", 0) as other:
        assert [path.name for path in files(runtime)] == [f"127.0.0.1-{other.port}.key"]
    with RPCQueueServer("127.0.0.1", port) as again:
        queue_at(again).put("tea")
        assert queue_at(again).get(timeout=60) == "tea"


def test_a_server_that_ends_leaves_the_key_of_the_next_one_at_its_port(runtime):
    address = TcpAddress("127.0.0.1", 9)
    first, second = LocalKey(address, b"first"), LocalKey(address, b"second")
    first.remove()
    assert found_key(address) == b"second"
    second.remove()
    second.remove()
    assert found_key(address) == b""
    assert files(runtime) == []


def test_a_file_that_is_no_key_is_none(runtime):
    address = TcpAddress("127.0.0.1", 9)
    key = LocalKey(address, b"key")
    files(runtime)[0].write_text("what is this?")
    assert found_key(address) == b""
    key.remove()


@pytest.mark.parametrize("which", ["", "keys"])
def test_a_directory_that_others_can_use_is_refused_by_servers_and_clients(runtime, which):
    own = runtime / f"sage_flow-{os.geteuid()}"
    (own / which).mkdir(parents=True)
    own.chmod(0o700)
    (own / which).chmod(0o777)
    cure = r"cannot use .*0700.*set XDG_RUNTIME_DIR to .*, or pass key= to the server and its clients"
    with pytest.raises(ChannelNotReachable, match=cure):
        RPCQueueServer("127.0.0.1", 0)
    with RPCQueueServer("127.0.0.1", 0, key=b"given") as server, pytest.raises(ChannelNotReachable, match=cure):
        queue_at(server).put("tea")


def test_a_link_to_a_directory_is_refused(runtime):
    (runtime / "mine").mkdir(mode=0o700)
    (runtime / f"sage_flow-{os.geteuid()}").symlink_to(runtime / "mine")
    with pytest.raises(ChannelNotReachable, match="cannot use"):
        RPCQueueServer("127.0.0.1", 0)


def test_other_machines_need_a_key_that_is_given():
    assert made_key(TcpAddress("0.0.0.0", 0), b"") == b""
    assert found_key(TcpAddress("192.0.2.1", 9)) == b""
    with pytest.raises(ChannelNotReachable, match="there is no key"):
        RPCQueueServer("0.0.0.0", 0)


def test_a_unix_socket_which_checks_the_user_needs_none():
    assert made_key(UnixAddress("/somewhere"), b"") == b""
    assert found_key(UnixAddress("/somewhere")) == b""
