"""Who has not proven that he knows the key: gets little, learns nothing, disturbs nobody."""

import contextlib
import logging
import os
import pickle
import resource
import socket
import threading

import pytest

from sage_flow.errors import ChannelNotReachable
from sage_flow.links.address import TcpAddress
from sage_flow.links.dialing import dial
from sage_flow.links.listener import most_half_open
from sage_flow.wire.frames import HEADER, HELLO, MAGIC, PROOF, WIRE_VERSION, header
from sage_flow.wire.handshake import HANDSHAKE_LIMIT, Dialer, Identity, WriteBytes
from tests.links.certificates import Authority
from tests.links.links import KEY, PATIENCE_S, Events, authority, directory, every_way, room

__all__ = ["authority", "directory", "room"]


class Bomb:
    """Whoever unpickles it leaves a mark."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def stranger(listener):
    return socket.create_connection((listener.address.host, listener.address.port), timeout=PATIENCE_S)


def answers(sock):
    """All that the listener says before it hangs up."""
    said = b""
    with contextlib.suppress(ConnectionResetError):
        while data := sock.recv(4096):
            said += data
    return said


def served(room, listener, there):
    """A link that knows the key is served."""
    link, _ = room.dial(listener)
    link.send("still here")
    assert there.next() == "still here"
    return link


def hello(key=b"guess"):
    return Dialer(Identity(0, "echo", 0, key), bytes(32), 0).start().data


def test_nothing_is_unpickled_before_the_handshake(room, tmp_path):
    listener, there = room.listener()
    mark = tmp_path / "mark"
    payload = pickle.dumps(Bomb(str(mark)))
    frame = header(0, len(payload)) + payload
    proof = header(PROOF, 32) + bytes(32)
    for opening in (b"", hello(), hello() + proof):
        with stranger(listener) as sock:
            sock.sendall(opening + frame)
            answers(sock)
    assert not mark.exists()
    assert listener.statistics()["refused"] == 3
    link = served(room, listener, there)  # with the key it would have gone off: the mark is one
    link.send(Bomb(str(mark)))
    there.next()
    assert mark.exists()


def test_a_handshake_that_was_listened_to_cannot_be_replayed(room):
    listener, there = room.listener()
    recorded = record_handshake(listener)
    assert there.link()
    with stranger(listener) as sock:
        sock.sendall(recorded)
        assert b"does not know the key" in answers(sock)
    assert there.links.empty()


def record_handshake(listener):
    """Dial through a relay; return what the dialer said."""
    said = bytearray()

    def carry():
        with relay.accept()[0] as here, stranger(listener) as there:

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

    with socket.create_server(("127.0.0.1", 0)) as relay:
        carrying = threading.Thread(target=carry)
        carrying.start()
        dial(TcpAddress(*relay.getsockname()), KEY, "echo", on_message=Events().on_message).close()
        carrying.join()
    return bytes(said)


def test_a_dialer_cannot_be_answered_with_its_own_words(room):
    """Whoever reflects what a dialer says proves nothing: the roles are in the proof."""

    def reflect():
        with mirror.accept()[0] as sock, contextlib.suppress(OSError):
            while data := sock.recv(4096):
                sock.sendall(data)

    with socket.create_server(("127.0.0.1", 0)) as mirror:
        reflecting = threading.Thread(target=reflect)
        reflecting.start()
        with pytest.raises(ChannelNotReachable, match="kind 1 instead of 2"):
            dial(TcpAddress(*mirror.getsockname()), KEY, "echo", on_message=Events().on_message)
        reflecting.join()


def test_an_acceptor_cannot_be_answered_with_its_own_challenge(room):
    listener, _ = room.listener()
    with stranger(listener) as sock:
        sock.sendall(hello())
        challenge = sock.recv(HEADER.size + 64)
        sock.sendall(header(PROOF, 32) + challenge[-32:])
        assert b"does not know the key" in answers(sock)


@pytest.mark.parametrize(
    ("noise", "answer"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"not a sage_flow process"),
        (b"\x16\x03\x01" + bytes(60), b"it uses TLS, this side does not"),
        (HEADER.pack(MAGIC, WIRE_VERSION + 1, HELLO, 0), b"this process speaks version"),
        (header(HELLO, HANDSHAKE_LIMIT + 1), b"over 2048"),
        (header(HELLO, 1 << 63), b"over 2048"),
        (header(HELLO, 3) + b"abc", b"malformed hello"),
    ],
)
def test_noise_is_refused_with_a_word(room, noise, answer):
    listener, there = room.listener()
    with stranger(listener) as sock:
        sock.sendall(noise)
        assert answer in answers(sock)
    served(room, listener, there)


@every_way
def test_a_stranger_that_says_nothing_is_shown_out(room):
    listener, there = room.listener(handshake_s=0.1)
    kind = socket.AF_UNIX if room.way.kind == "unix" else socket.AF_INET
    with socket.socket(kind) as sock:
        sock.settimeout(PATIENCE_S)
        sock.connect(
            str(listener.address) if kind == socket.AF_UNIX else (listener.address.host, listener.address.port)
        )
        assert answers(sock) == b""
    assert "no handshake within 0.1 s" in str(listener.statistics()["story"])
    assert there.ends.empty()


@pytest.mark.parametrize("room", ["tcp", "tls"], indirect=True)
@pytest.mark.parametrize("words", [b"", b"\x16\x03", b"SGF", hello()[:-1], hello()])
def test_a_stranger_that_vanishes_in_the_middle_of_a_handshake_disturbs_nobody(room, words):
    listener, there = room.listener()
    for _ in range(20):
        with stranger(listener) as sock:
            sock.sendall(words)
    served(room, listener, there)
    assert listener.statistics()["links"] == 1


def test_many_silent_strangers_keep_nobody_out(room):
    listener, there = room.listener(half_open=20)
    silent = [stranger(listener) for _ in range(50)]
    try:
        served(room, listener, there)
        for sock in silent[:30]:  # the oldest had to go
            assert answers(sock) == b""
        assert listener.statistics()["half_open"] <= 20
    finally:
        for sock in silent:
            sock.close()


@contextlib.contextmanager
def no_file_left():
    """Nothing can be opened in this process before something else is closed."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def half_open(room, count, **options):
    """A listener with so many strangers that have said nothing, oldest first."""
    listener, there = room.listener(handshake_s=10 * PATIENCE_S, **options)
    silent = [stranger(listener) for _ in range(count)]
    while listener.statistics()["half_open"] < count:
        threading.Event().wait(0.001)
    return listener, there, silent


@pytest.mark.parametrize("at", ["the same listener", "another listener"])
def test_without_file_descriptors_the_oldest_stranger_goes(room, at, request):
    listener, there, silent = half_open(room, 3)
    for sock in silent:
        request.addfinalizer(sock.close)
    door = listener if at == "the same listener" else room.listener()[0]
    with socket.socket() as waiting:
        waiting.settimeout(PATIENCE_S)
        with no_file_left():
            waiting.connect((door.address.host, door.address.port))
            waiting.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert b"not a sage_flow process" in answers(waiting)
            assert answers(silent[0]) == b""
    assert "Too many open files, and this is the oldest handshake" in str(listener.statistics()["story"])
    assert listener.statistics()["half_open"] == 2
    served(room, listener, there)


@pytest.mark.parametrize(("files", "most"), [(64, 16), (3, 1), (4096, 128), (resource.RLIM_INFINITY, 128)])
def test_strangers_leave_most_file_descriptors_of_a_process_alone(monkeypatch, files, most):
    monkeypatch.setattr(resource, "getrlimit", lambda what: (files, files))
    assert most_half_open() == most


def test_a_listener_without_file_descriptors_accepts_again_when_there_are_some(room):
    listener, there = room.listener()
    served(room, listener, there)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as waiting:
        waiting.settimeout(PATIENCE_S)
        free = os.dup(waiting.fileno())
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
        try:
            waiting.connect((listener.address.host, listener.address.port))
            while "Too many open files" not in str(listener.statistics()["story"]):
                threading.Event().wait(0.001)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        waiting.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert b"not a sage_flow process" in answers(waiting)
    served(room, listener, there)


def test_the_name_of_another_is_no_way_in(room):
    """The proof is over the name: who knows the key of one service cannot use it for a relay to another one."""
    listener, _ = room.listener(name="queues")
    dialer = Dialer(Identity(0, "echo", 0, KEY), bytes(32), 0)
    forged = bytearray(dialer.start().data.replace(b"echo", b"queues"))
    forged[8:16] = (len(forged) - HEADER.size).to_bytes(8, "little")
    with stranger(listener) as sock:
        sock.sendall(forged)
        verdict = dialer.receive(sock.recv(4096))
    assert not any(isinstance(decision, WriteBytes) and decision.data[4] == PROOF for decision in verdict)


# TLS.


@pytest.mark.parametrize("room", ["mutual tls"], indirect=True)
def test_a_client_without_a_certificate_is_refused_where_one_is_wanted(room, authority):
    listener, there = room.listener()
    bare = TcpAddress(listener.address.host, listener.address.port, authority.client())
    with pytest.raises(ChannelNotReachable, match=r"TLS: TLSV13_ALERT_CERTIFICATE_REQUIRED|reset|closed"):
        room.dial(listener, address=bare)
    assert there.links.empty()


@pytest.mark.parametrize("room", ["tls"], indirect=True)
def test_a_server_that_nobody_has_certified_is_refused(room, tmp_path):
    listener, there = room.listener()
    believer = Authority(tmp_path, "other").client()
    with pytest.raises(ChannelNotReachable, match=r"TLS: unable to get local issuer certificate|TLS: self.signed"):
        room.dial(listener, address=TcpAddress(listener.address.host, listener.address.port, believer))
    served(room, listener, there)


@pytest.mark.parametrize("room", ["tls"], indirect=True)
def test_a_server_that_is_somebody_else_is_refused(room, authority):
    listener, _ = room.listener()
    wrong = TcpAddress(listener.address.host, listener.address.port, authority.client(), "example.org")
    with pytest.raises(ChannelNotReachable, match=r"TLS: Hostname mismatch"):
        room.dial(listener, address=wrong)


@pytest.mark.parametrize("room", ["tls"], indirect=True)
def test_a_plain_client_of_a_tls_server_is_told(room):
    listener, _ = room.listener()
    with pytest.raises(ChannelNotReachable, match=r"it uses TLS, this side does not|reset|closed"):
        room.dial(listener, address=TcpAddress(listener.address.host, listener.address.port))
    assert "TLS: " in str(listener.statistics()["story"])


def test_a_tls_client_of_a_plain_server_is_told(room, authority):
    listener, _ = room.listener()
    with pytest.raises(ChannelNotReachable, match="TLS: WRONG_VERSION_NUMBER"):
        room.dial(listener, address=TcpAddress(listener.address.host, listener.address.port, authority.client()))
    assert "it uses TLS, this side does not" in str(listener.statistics()["story"])


# The key.


@every_way
def test_the_key_is_told_nowhere(room, caplog):
    caplog.set_level(logging.DEBUG)
    listener, there = room.listener()
    link, here = room.dial(listener)
    peer = there.link()
    with pytest.raises(ChannelNotReachable) as refused:
        room.dial(listener, key=b"another key that is wrong")
    link.send("x")
    there.next()
    link.close()
    here.end()
    things = [link, peer, listener, listener.address, refused.value, listener.statistics(), link.statistics()]
    told = [text for thing in things for text in (repr(thing), str(thing), repr(getattr(thing, "__dict__", "")))]
    told += [caplog.text, str(there.end())]
    for thing in things:
        with contextlib.suppress(TypeError):  # what holds locks or keys cannot be pickled
            told.append(pickle.dumps(thing).decode("latin-1"))
    for text in told:
        assert KEY.decode() not in text
        assert KEY.hex() not in text
        assert "another key" not in text


def test_an_identity_with_its_key_is_in_no_pickle():
    with pytest.raises(TypeError, match="holds a key"):
        pickle.dumps(Identity(0, "echo", 0, KEY))
