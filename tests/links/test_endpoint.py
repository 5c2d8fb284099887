"""Endpoints: which way from where, and who gets through the TLS of a job."""

import pickle
import queue

import pytest

from sage_flow.errors import ChannelNotReachable
from sage_flow.links.address import TcpAddress, UnixAddress
from sage_flow.links.dialing import dial
from sage_flow.links.endpoint import Credentials, Endpoint
from sage_flow.links.listener import Listener

KEY = b"k" * 32


@pytest.fixture(scope="module")
def credentials():
    return Credentials.make("job")


@pytest.fixture
def listener(credentials):
    got = queue.Queue()
    listener = Listener(
        TcpAddress("127.0.0.1", 0, credentials.server()),
        KEY,
        "job",
        on_message=lambda link, value, size: link.send(value + 1) and got.put(value),
    )
    yield listener
    listener.close()


def call(address, key=KEY):
    answers = queue.Queue()
    link = dial(address, key, "job", on_message=lambda link, value, size: answers.put(value), connect_timeout_s=10)
    try:
        link.send(1)
        return answers.get(timeout=30)
    finally:
        link.close(wait=True)


def test_a_process_of_the_same_node_comes_by_the_unix_socket():
    endpoint = Endpoint("one", "\0name", "127.0.0.1", 7)
    assert endpoint.address_from("one", None) == UnixAddress("\0name")
    assert endpoint.address_from("two", None) == TcpAddress("127.0.0.1", 7)


def test_a_process_that_listens_for_its_node_only_says_so_to_others():
    with pytest.raises(ChannelNotReachable, match="its own node only"):
        Endpoint("one", "\0name").address_from("two", None)


def test_who_has_the_certificate_gets_through(credentials, listener):
    endpoint = Endpoint("one", "", "127.0.0.1", listener.address.port)
    assert call(endpoint.address_from("two", credentials.client())) == 2


def test_credentials_work_where_they_were_sent(credentials, listener):
    sent = pickle.loads(pickle.dumps(credentials))
    assert call(TcpAddress("127.0.0.1", listener.address.port, sent.client())) == 2


@pytest.mark.parametrize("context", [None, Credentials.make("other").client()], ids=["plain", "another certificate"])
def test_others_do_not(listener, context):
    with pytest.raises(ChannelNotReachable):
        call(TcpAddress("127.0.0.1", listener.address.port, context))


def test_the_key_is_asked_for_behind_tls(credentials, listener):
    with pytest.raises(ChannelNotReachable, match="key"):
        call(TcpAddress("127.0.0.1", listener.address.port, credentials.client()), b"x" * 32)


def test_no_repr_shows_the_private_key(credentials):
    assert repr(credentials) == "Credentials()"


def test_an_unnamed_socket_leaves_nothing(tmp_path):
    address = UnixAddress.unnamed()
    assert not address.is_file
    assert str(address).startswith("@sage-flow-")
    listener = Listener(address, KEY, "job", on_message=lambda link, value, size: link.send(value + 1))
    assert call(address) == 2
    listener.close()
    with pytest.raises(ChannelNotReachable):
        call(address)
