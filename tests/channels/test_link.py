"""Links: proven on both sides, both ways, in order; their end is told once."""

import contextlib
import datetime
import ipaddress
import logging
import os
import pickle
import queue
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading

import pytest

from sage_flow.channels.handshake import Dialer, Identity
from sage_flow.channels.link import Link, Listener, dial, exchange_loop
from sage_flow.channels.transport import TcpAddress, UnixAddress
from sage_flow.channels.wire import header
from sage_flow.errors import ChannelNotReachable, CodecError, LinkClosed

KEY = b"the key of these tests, 32 bytes"
PATIENCE_S = 60.0


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    """A certificate of 127.0.0.1 that signs itself, and contexts that trust it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "sage_flow test")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    client = ssl.create_default_context(cafile=str(file))
    mutual = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    mutual.load_cert_chain(file)
    mutual.load_verify_locations(file)
    mutual.verify_mode = ssl.CERT_REQUIRED
    with_certificate = ssl.create_default_context(cafile=str(file))
    with_certificate.load_cert_chain(file)
    return {"server": server, "client": client, "mutual": mutual, "with certificate": with_certificate}


@pytest.fixture
def directory():
    path = tempfile.mkdtemp(prefix="sf-", dir="/tmp")
    yield path
    shutil.rmtree(path)


@pytest.fixture(params=["unix", "tcp", "tls", "mutual tls"])
def addresses(request, directory):
    """Where to listen, and how to dial what was bound."""
    if request.param == "unix":
        return UnixAddress(f"{directory}/s"), lambda bound: bound
    if request.param == "tcp":
        return TcpAddress("127.0.0.1", 0), lambda bound: TcpAddress("127.0.0.1", bound.port)
    contexts = request.getfixturevalue("certificates")
    server, client = ("server", "client") if request.param == "tls" else ("mutual", "with certificate")
    return (
        TcpAddress("127.0.0.1", 0, contexts[server]),
        lambda bound: TcpAddress("127.0.0.1", bound.port, contexts[client]),
    )


class End:
    """Records what its links tell."""

    def __init__(self):
        self.messages, self.ends, self.links = queue.Queue(), queue.Queue(), queue.Queue()

    @property
    def hooks(self):
        return {
            "on_message": lambda link, value, size: self.messages.put(value),
            "on_closed": lambda link, reason: self.ends.put(reason),
        }

    def next(self):
        return self.messages.get(timeout=PATIENCE_S)

    def end(self):
        return self.ends.get(timeout=PATIENCE_S)


class Pair:
    def __init__(self, addresses, key=KEY, name="tests"):
        self.server, self.client = End(), End()
        listen_at, self.dial_at = addresses
        self.listener = Listener(listen_at, key, name, on_link=self.server.links.put, **self.server.hooks)
        self.address = self.dial_at(self.listener.address)

    def dial(self, key=KEY, name="tests", **options):
        return dial(self.address, key, name, **self.client.hooks, **options)

    def both(self):
        link = self.dial()
        return link, self.server.links.get(timeout=PATIENCE_S)


@pytest.fixture
def pair(addresses):
    made = Pair(addresses)
    yield made
    made.listener.close()


@pytest.fixture
def tcp_pair():
    made = Pair((TcpAddress("127.0.0.1", 0), lambda bound: bound))
    yield made
    made.listener.close()


def test_messages_cross_both_ways_in_order(pair):
    ours, theirs = pair.both()
    for n in range(1000):
        ours.send(("there", n))
        theirs.send(("back", n))
    assert [pair.server.next() for _ in range(1000)] == [("there", n) for n in range(1000)]
    assert [pair.client.next() for _ in range(1000)] == [("back", n) for n in range(1000)]


def test_large_messages_cross_both_ways_at_once(pair):
    ours, theirs = pair.both()
    large = os.urandom(20 << 20)
    ours.send(large)
    theirs.send(large)
    assert pair.server.next() == large
    assert pair.client.next() == large
    assert ours.statistics()["sent_bytes"] == theirs.statistics()["received_bytes"] > len(large)


def test_many_links_are_apart(pair):
    links = [pair.dial() for _ in range(20)]
    for number, link in enumerate(links):
        link.send(number)
    assert sorted(pair.server.next() for _ in links) == list(range(20))
    assert pair.listener.statistics()["links"] == 20


def test_a_close_writes_what_was_sent_and_both_ends_are_told_once(pair):
    ours, theirs = pair.both()
    for _ in range(100):
        ours.send(bytes(100_000))
    ours.close()
    assert [len(pair.server.next()) for _ in range(100)] == [100_000] * 100
    assert "closed its connection" in pair.server.end()
    assert "closed here" in pair.client.end()
    with pytest.raises(LinkClosed, match="closed here"):
        ours.send(1)
    with pytest.raises(LinkClosed, match="closed its connection"):
        theirs.send(1)
    assert pair.server.ends.empty()
    assert pair.client.ends.empty()


def test_the_close_of_the_listener_ends_its_links(addresses):
    pair = Pair(addresses)
    ours, _ = pair.both()
    pair.listener.close()
    assert "closed" in pair.client.end()
    assert ours.is_closed
    with pytest.raises(ChannelNotReachable):
        pair.dial()


@pytest.mark.parametrize("change", [{"key": b"another"}, {"key": None}, {"name": "others"}])
def test_a_wrong_key_or_name_is_refused_on_both_sides(pair, change):
    with pytest.raises(ChannelNotReachable) as caught:
        pair.dial(**change)
    assert "does not know the key" in str(caught.value) or "others" in str(caught.value)
    assert pair.server.links.empty()
    until_refused(pair, 1)
    ours, _ = pair.both()  # and everybody else is served
    ours.send("still here")
    assert pair.server.next() == "still here"


def test_a_listener_with_another_key_is_refused_by_the_dialer(addresses):
    """It cannot make us believe that it knows ours, and gets nothing from us that it could use elsewhere."""
    impostor = Pair(addresses, key=b"another")
    try:
        with pytest.raises(ChannelNotReachable, match="acceptor does not know the key"):
            impostor.dial()
    finally:
        impostor.listener.close()


def test_what_cannot_be_pickled_is_not_sent_and_the_link_lives_on(tcp_pair):
    ours, _ = tcp_pair.both()
    with pytest.raises(CodecError, match="lock"):
        ours.send(threading.Lock())
    ours.send("next")
    assert tcp_pair.server.next() == "next"


def test_a_message_that_cannot_be_handled_ends_its_link_and_no_other():
    def refuse(link, value, size):
        if value == "bad":
            raise ZeroDivisionError("in the handler")
        link.send(value)

    listener = Listener(TcpAddress("127.0.0.1", 0), KEY, "tests", on_message=refuse)
    ends = [End(), End()]
    try:
        bad, good = (dial(listener.address, KEY, "tests", **end.hooks) for end in ends)
        bad.send("bad")
        assert "closed its connection" in ends[0].end()
        good.send("good")
        assert ends[1].next() == "good"
    finally:
        listener.close()


def test_a_port_in_use_says_so():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ChannelNotReachable, match=rf"port {port} of 127\.0\.0\.1 is in use.*0 for any"):
            Listener(TcpAddress("127.0.0.1", port), KEY, "tests", on_message=print)


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::"])
def test_without_a_key_only_this_machine_may_reach_us(host):
    with pytest.raises(ChannelNotReachable, match="there is no key: give one"):
        Listener(TcpAddress(host, 0), None, "tests", on_message=print)


def test_without_a_key_loopback_works():
    pair = Pair((TcpAddress("localhost", 0), lambda bound: bound), key=None)
    try:
        pair.dial(key=None).send("hello")
        assert pair.server.next() == "hello"
    finally:
        pair.listener.close()


def test_nobody_listening_says_so(directory):
    for address in (UnixAddress(f"{directory}/nobody"), TcpAddress("127.0.0.1", free_port())):
        with pytest.raises(ChannelNotReachable, match="nobody to talk to at"):
            dial(address, KEY, "tests", on_message=print)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


def test_a_listener_that_says_nothing_is_given_up(directory):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = TcpAddress("127.0.0.1", silent.getsockname()[1])
        with pytest.raises(ChannelNotReachable, match="no answer in time"):
            dial(address, KEY, "tests", on_message=print, connect_timeout_s=0.05)


def test_a_client_without_a_certificate_is_refused_where_one_is_wanted(certificates):
    pair = Pair((TcpAddress("127.0.0.1", 0, certificates["mutual"]), lambda bound: bound))
    try:
        pair.address = TcpAddress("127.0.0.1", pair.listener.address.port, certificates["client"])
        with pytest.raises(ChannelNotReachable):
            pair.dial()
        assert pair.server.links.empty()
    finally:
        pair.listener.close()


def test_plain_and_tls_do_not_come_together(certificates):
    pair = Pair((TcpAddress("127.0.0.1", 0, certificates["server"]), lambda bound: bound))
    try:
        pair.address = TcpAddress("127.0.0.1", pair.listener.address.port)
        with pytest.raises(ChannelNotReachable):
            pair.dial(connect_timeout_s=2.0)
    finally:
        pair.listener.close()


CLIENT = """
import os, sys
from sage_flow.channels.link import dial
from sage_flow.channels.transport import TcpAddress

link = dial(TcpAddress("127.0.0.1", int(sys.argv[1])), sys.argv[2].encode(), "tests", on_message=lambda *_: None)
link.send(os.getpid())
sys.stdin.read()
"""


@pytest.mark.race
def test_a_peer_that_is_killed_is_noticed_at_once(tcp_pair):
    command = [sys.executable, "-c", CLIENT, str(tcp_pair.listener.address.port), KEY.decode()]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        assert tcp_pair.server.next() == process.pid
        os.kill(process.pid, signal.SIGKILL)
        assert "closed its connection" in tcp_pair.server.end()
    ours, _ = tcp_pair.both()
    ours.send("next")
    assert tcp_pair.server.next() == "next"


@pytest.mark.race
def test_a_child_of_a_fork_has_a_thread_of_its_own(tcp_pair):
    """The child's links are served by a loop of the child."""
    tcp_pair.both()
    code = """
import os, sys
from sage_flow.channels.link import dial, exchange_loop
from sage_flow.channels.transport import TcpAddress
exchange_loop()
child = os.fork()
if child == 0:
    link = dial(TcpAddress("127.0.0.1", int(sys.argv[1])), sys.argv[2].encode(), "tests", on_message=lambda *_: None)
    link.send("from the child")
    link.close()
    sys.stdin.read()
    os._exit(0)
os.waitpid(child, 0)
"""
    command = [sys.executable, "-W", "ignore", "-c", code, str(tcp_pair.listener.address.port), KEY.decode()]
    with subprocess.Popen(command, stdin=subprocess.PIPE):
        assert tcp_pair.server.next() == "from the child"


def test_one_thread_serves_all_links(pair):
    pair.both()
    pair.both()
    assert exchange_loop() is exchange_loop()
    assert len([t for t in threading.enumerate() if t.name == "exchange of links"]) == 1


# --- who has not proven anything --------------------------------------------------------------------------


class Bomb:
    """Whoever unpickles it leaves a mark."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def raw(pair):
    return socket.create_connection(("127.0.0.1", pair.listener.address.port), timeout=PATIENCE_S)


def test_nothing_is_unpickled_before_the_handshake(tcp_pair, tmp_path):
    payload = pickle.dumps(Bomb(str(tmp_path / "mark")))
    frame = header(0, len(payload)) + payload
    hello = Dialer(Identity(0, "tests", 0, b"guess"), bytes(32), 0).start().data
    for opening in (b"", hello):
        with raw(tcp_pair) as sock:
            sock.sendall(opening + frame)
            with contextlib.suppress(ConnectionResetError):
                while sock.recv(4096):
                    pass
    assert not (tmp_path / "mark").exists()
    until_refused(tcp_pair, 2)
    link, _ = tcp_pair.both()  # with the key it would have gone off: the mark is one
    link.send(Bomb(str(tmp_path / "mark")))
    link.send("after")
    tcp_pair.server.next(), tcp_pair.server.next()
    assert (tmp_path / "mark").exists()


def test_a_handshake_that_was_listened_to_cannot_be_replayed(tcp_pair):
    """Between them sits one who records a good handshake, and sends it again."""
    recorded, ours = record_handshake(tcp_pair)
    ours.close()
    with raw(tcp_pair) as sock:
        sock.sendall(recorded)
        answers = b""
        with contextlib.suppress(ConnectionResetError):
            while data := sock.recv(4096):
                answers += data
    assert b"does not know the key" in answers
    assert tcp_pair.server.links.qsize() == 1


def record_handshake(pair):
    """Dial through a relay; return what the dialer said, and the link."""
    said = bytearray()
    relay = socket.create_server(("127.0.0.1", 0))

    def carry():
        here, _ = relay.accept()
        there = raw(pair)

        def pump(source, target, copy):
            with contextlib.suppress(OSError):
                while data := source.recv(4096):
                    copy.extend(data)
                    target.sendall(data)
                target.shutdown(socket.SHUT_WR)

        back = threading.Thread(target=pump, args=(there, here, bytearray()))
        back.start()
        pump(here, there, said)
        back.join()
        for sock in (here, there, relay):
            sock.close()

    threading.Thread(target=carry).start()
    link = dial(TcpAddress("127.0.0.1", relay.getsockname()[1]), KEY, "tests", **pair.client.hooks)
    return bytes(said), link


def test_too_many_silent_connections_do_not_keep_others_out(tcp_pair):
    silent = [raw(tcp_pair) for _ in range(150)]
    try:
        until_refused(tcp_pair, 150 - 128)
        for sock in silent[:10]:
            sock.close()
        until_refused(tcp_pair, 150 - 128 + 10)
        ours, _ = tcp_pair.both()
        ours.send("in")
        assert tcp_pair.server.next() == "in"
    finally:
        for sock in silent:
            sock.close()


def until_refused(pair, count):
    for _ in range(6000):
        if pair.listener.statistics()["refused"] >= count:
            return
        threading.Event().wait(0.01)
    raise AssertionError(pair.listener.statistics())


def test_the_key_is_told_nowhere(pair, caplog):
    caplog.set_level(logging.DEBUG)
    ours, theirs = pair.both()
    with pytest.raises(ChannelNotReachable) as refused:
        pair.dial(key=b"another key that is wrong")
    ours.close()
    pair.server.end()
    told = [repr(ours), repr(theirs), repr(pair.listener), str(pair.listener.statistics()), str(ours.statistics())]
    told += [str(refused.value), repr(refused.value), caplog.text, str(pair.listener.address), repr(pair.address)]
    told += [repr(vars(pair.listener)), repr(vars(ours))]
    for text in told:
        assert KEY.decode() not in text
        assert KEY.hex() not in text
        assert "another key" not in text


def test_a_link_is_what_listeners_give():
    pair = Pair((TcpAddress("127.0.0.1", 0), lambda bound: bound))
    try:
        ours, theirs = pair.both()
        assert isinstance(ours, Link)
        assert isinstance(theirs, Link)
        assert theirs.peer.startswith("127.0.0.1:")
        assert ours.peer == str(pair.address)
    finally:
        pair.listener.close()
