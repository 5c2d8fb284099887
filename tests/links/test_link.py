"""One connection, messages both ways, by every transport; and clear words when there is none."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading

import pytest

from sage_flow.errors import ChannelNotReachable, CodecError, InternalError, LinkClosed
from sage_flow.links.address import SILENCE_S, TcpAddress, UnixAddress
from sage_flow.links.dialing import dial
from sage_flow.links.listener import Listener
from sage_flow.links.loop import exchange_loop
from sage_flow.wire.frames import WIRE_VERSION
from tests.links.links import KEY, PATIENCE_S, Events, authority, directory, every_way, room
from tests.wire.columns import column_kind, every_kind

__all__ = ["authority", "directory", "room"]

ROOT = pathlib.Path(__file__).parents[2]


@every_way
def test_messages_cross_both_ways(room):
    (link, here), (peer, there) = room.pair()
    sent = ["text", None, {"a": [1, 2]}, ValueError("x"), b"b" * 100_000]
    for number, value in enumerate(sent):
        assert link.send(value) > 0
        assert repr(there.next()) == repr(value)
        peer.send(number)
        assert here.next() == number
    assert link.statistics()["sent_messages"] == link.statistics()["received_messages"] == len(sent)
    assert peer.statistics()["received_bytes"] == link.statistics()["sent_bytes"] > 100_000


@every_way
@pytest.mark.race
def test_every_lane_keeps_its_order_whatever_the_sizes(room):
    (link, here), (peer, there) = room.pair()
    sizes = [10, 300_000, 10, 70_000, 1_000_000, 1]

    def send(end, lane):
        for number in range(60):
            end.send((lane, number, bytes(sizes[(number + lane) % len(sizes)])), lane=lane)

    threads = [threading.Thread(target=send, args=(end, lane)) for end in (link, peer) for lane in range(3)]
    for thread in threads:
        thread.start()
    for events in (here, there):
        seen = {lane: [] for lane in range(3)}
        for _ in range(3 * 60):
            lane, number, payload = events.next()
            assert len(payload) == sizes[(number + lane) % len(sizes)]
            seen[lane].append(number)
        assert seen == {lane: list(range(60)) for lane in range(3)}
    for thread in threads:
        thread.join()


@every_way
def test_messages_on_hold_arrive_in_order_without_another_word(room):
    (link, _), (_, there) = room.pair()
    for number in range(100):
        link.send(number, on_hold=number % 3 != 0)
    link.send("held", on_hold=True)
    assert [there.next() for _ in range(101)] == [*range(100), "held"]


@every_way
def test_two_that_send_100_mb_to_each_other_at_once_do_not_block(room):
    (link, here), (peer, there) = room.pair()
    for end in (link, peer):
        end.send(bytes(100 << 20))
    assert len(here.next()) == len(there.next()) == 100 << 20


@every_way
def test_a_large_message_holds_up_no_other_lane(room):
    (link, _), (_, there) = room.pair()
    link.send(bytes(100 << 20), lane="large")
    link.send("after it", lane="large")
    link.send("past it", lane="small")
    assert there.next() == "past it"
    assert len(there.next()) == 100 << 20
    assert there.next() == "after it"


@every_kind
@pytest.mark.parametrize("room", ["tcp", "tls"], indirect=True)
def test_columns_cross_both_ways(room, kind):
    columns, value = column_kind(kind)
    (link, here), (peer, there) = room.pair()
    link.send(value)
    first = there.next()
    peer.send(first)
    assert columns.equal(first, value)
    assert columns.equal(here.next(), value)


def test_arguments_are_copied_unless_the_sender_promises_not_to_change_them(room):
    numpy = pytest.importorskip("numpy")
    (link, _), (_, there) = room.pair()
    copied, shared = numpy.zeros(10_000_000), numpy.zeros(10_000_000)
    changed = threading.Event()
    exchange_loop().call_soon_threadsafe(lambda: changed.wait(60))  # only what the socket takes at once is written
    link.send(copied)
    link.send(shared, lane=1, copy_buffers=False)
    copied[:] = shared[-1] = 1
    changed.set()
    first, second = there.next(), there.next()
    assert {first[-1], second[-1]} == {0, 1}
    assert first[0] == second[0] == 0


def test_many_links_share_one_thread(room):
    listener, _ = room.listener(on_message=lambda link, value, size: link.send((value, threading.get_ident())))
    links = [room.dial(listener) for _ in range(20)]
    for number, (link, _) in enumerate(links):
        link.send(number)
    answers = [here.next() for _, here in links]
    assert [value for value, _ in answers] == list(range(20))
    assert {thread for _, thread in answers} == {exchange_loop().thread}
    assert listener.statistics()["links"] == 20


def test_an_acceptor_may_speak_first_and_at_once(room):
    listener = Listener(
        room.way.listen(),
        KEY,
        "echo",
        on_link=lambda link: [link.send(number) for number in range(100)],
        on_message=lambda link, value, size: None,
    )
    room.listeners.append(listener)
    _, here = room.dial(listener)
    assert [here.next() for _ in range(100)] == list(range(100))


def test_what_cannot_be_pickled_is_told_to_the_sender_and_breaks_nothing(room):
    (link, _), (_, there) = room.pair()
    with pytest.raises(CodecError, match=r"\['lock'\] is a _thread.lock"):
        link.send({"lock": threading.Lock()})
    link.send("fine")
    assert there.next() == "fine"


# Ends.


@every_way
def test_closing_writes_what_is_queued_and_tells_both(room):
    (link, here), (peer, there) = room.pair()
    peer.send("unread by a link that is about to close")
    link.send(bytes(20 << 20))
    link.send("last", lane="other")
    link.close(flush_s=PATIENCE_S, wait=True)
    assert {len(there.next()), len(there.next())} == {20 << 20, 4}
    assert there.end() == "it closed its connection"
    assert here.end() == "it was closed here"
    assert link.statistics()["dropped_bytes"] == 0
    for end, reason in ((link, "it was closed here"), (peer, "it closed its connection")):
        with pytest.raises(LinkClosed, match=reason):
            end.send("late")
    link.close()
    assert here.ends.empty()
    assert there.ends.empty()


def test_a_listener_that_closes_closes_its_links(room):
    (_, here), (_, there) = room.pair()
    (listener,) = room.listeners
    listener.close()
    assert here.end() == "it closed its connection"
    assert there.end() == "it was closed here"
    with pytest.raises(ChannelNotReachable, match=r"cannot connect to 127.0.0.1:\d+: ConnectionRefusedError"):
        room.dial(listener)


def test_a_callback_may_close_its_link(room):
    (link, here), (_, there) = room.pair(on_message=lambda link, value, size: link.close())
    link.send("over")
    assert there.end() == "it was closed here"
    assert here.end() == "it closed its connection"


def test_a_failure_to_deliver_ends_the_link_and_no_other(room):
    def fail(link, value, size):
        if value == 13:
            raise BlockingIOError("no place for 13")
        link.send(value)

    listener, there = room.listener(on_message=fail)
    (one, here), (two, other) = room.dial(listener), room.dial(listener)
    one.send(13)
    reason = there.end()
    assert "a message could not be delivered" in reason
    assert 'raise BlockingIOError("no place for 13")' in reason
    assert here.end() == "it closed its connection"
    two.send(14)
    assert other.next() == 14


CHILD = """
import sys
from sage_flow.links.dialing import dial
from sage_flow.links.address import TcpAddress, UnixAddress
import threading
address = sys.argv[1:]
transport = UnixAddress(address[0]) if len(address) == 1 else TcpAddress(address[0], int(address[1]))
link = dial(transport, b"a secret of thirty-two bytes ...", "echo",
            on_message=lambda link, value, size: link.send(value))
link.send("ready")
threading.Event().wait()
"""


@pytest.fixture
def child(room):
    """(process, its link here, what comes of it)"""
    listener, there = room.listener()
    address = str(listener.address).rsplit(":", 1)
    child = subprocess.Popen([sys.executable, "-c", CHILD, *address], env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        assert there.next() == "ready"
        yield child, there.link(), there
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize("room", ["unix", "tcp"], indirect=True)
def test_a_killed_peer_is_noticed(child):
    process, link, there = child
    link.send("hello")
    assert there.next() == "hello"
    process.send_signal(signal.SIGKILL)
    assert "closed" in (reason := there.end()) or "reset" in reason.lower()


@pytest.mark.parametrize("room", ["unix", "tcp"], indirect=True)
def test_a_peer_that_stops_reading_and_goes_on_loses_nothing(child):
    process, link, there = child
    process.send_signal(signal.SIGSTOP)
    for number in range(100):
        link.send((number, bytes(200_000)))
    assert link.statistics()["queued_bytes"] > 0
    process.send_signal(signal.SIGCONT)
    assert [there.next()[0] for _ in range(100)] == list(range(100))


@pytest.mark.parametrize("room", ["unix", "tcp"], indirect=True)
def test_a_peer_killed_in_the_middle_of_a_large_message_is_noticed(child):
    process, link, there = child
    process.send_signal(signal.SIGSTOP)
    link.send(bytes(50 << 20))
    process.send_signal(signal.SIGKILL)
    assert there.end()
    assert link.statistics()["dropped_bytes"] > 20 << 20


def test_closing_gives_up_after_a_while_and_says_so(child):
    process, link, there = child
    process.send_signal(signal.SIGSTOP)
    link.send(bytes(50 << 20))
    link.close(flush_s=0.05)
    assert there.end() == "it was closed here before all was written"
    assert link.statistics()["dropped_bytes"] > 20 << 20


def test_a_fork_takes_no_link_along(room):
    (link, _), (_, there) = room.pair()
    child = os.fork()
    if not child:
        try:
            link.send("from the child")
        except LinkClosed:
            listener = Listener(TcpAddress("127.0.0.1", 0), KEY, "own", on_message=lambda link, value, size: None)
            dial(listener.address, KEY, "own", on_message=lambda link, value, size: None).close(wait=True)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    link.send("from the parent")
    assert there.next() == "from the parent"


# No link.


def test_nobody_listens(directory):
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    for address in (TcpAddress("127.0.0.1", port), UnixAddress(f"{directory}/none")):
        with pytest.raises(ChannelNotReachable, match=f"cannot connect to {address}"):
            dial(address, KEY, "echo", on_message=Events().on_message)


def test_a_host_that_does_not_exist():
    with pytest.raises(ChannelNotReachable, match=r"cannot connect to no-such-host.invalid:1: "):
        dial(TcpAddress("no-such-host.invalid", 1), KEY, "echo", on_message=Events().on_message)


@every_way
@pytest.mark.parametrize("key", [b"guess", b"", None])
def test_a_wrong_key(room, key):
    listener, there = room.listener()
    with pytest.raises(ChannelNotReachable, match="the acceptor does not know the key of 'echo'"):
        room.dial(listener, key=key)
    assert there.links.empty()
    assert there.ends.empty()


def test_a_key_for_another_name(room):
    listener, _ = room.listener(name="service:answer")
    with pytest.raises(ChannelNotReachable, match="it asks for 'queues', here is 'service:answer'"):
        room.dial(listener, name="queues")


def test_another_wire_version():
    def answer():
        with old.accept()[0] as sock:
            sock.sendall(b"SGF\x07" + bytes(12))
            sock.recv(4096)

    with socket.create_server(("127.0.0.1", 0)) as old:
        answering = threading.Thread(target=answer)
        answering.start()
        with pytest.raises(ChannelNotReachable, match=f"wire version 7, this process speaks version {WIRE_VERSION}"):
            dial(TcpAddress(*old.getsockname()), KEY, "echo", on_message=Events().on_message)
        answering.join()


def test_who_listens_does_not_answer():
    with (
        socket.create_server(("127.0.0.1", 0)) as mute,
        pytest.raises(ChannelNotReachable, match=r"no handshake within 0\.\d+ s"),
    ):
        dial(TcpAddress(*mute.getsockname()), KEY, "echo", on_message=Events().on_message, connect_timeout_s=0.1)


def test_who_listens_hangs_up():
    with socket.create_server(("127.0.0.1", 0)) as rude:
        hang_up = threading.Thread(target=lambda: rude.accept()[0].close())
        hang_up.start()
        with pytest.raises(ChannelNotReachable, match=r"closed its connection|reset"):
            dial(TcpAddress(*rude.getsockname()), KEY, "echo", on_message=Events().on_message)
        hang_up.join()


def test_a_port_in_use(room):
    listener, _ = room.listener()
    with pytest.raises(ChannelNotReachable, match=r"port \d+ of 127.0.0.1 is in use: choose another one, or 0"):
        room.listener(address=listener.address)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
def test_a_listener_without_a_key_keeps_to_loopback(room, host):
    with pytest.raises(ChannelNotReachable, match="can be reached from other machines and there is no key: give one"):
        room.listener(address=TcpAddress(host, 0), key=None)


def test_without_a_key_processes_of_this_machine_get_in(room):
    listener, there = room.listener(key=None)
    link, _ = room.dial(listener, key=None)
    link.send("hello")
    assert there.next() == "hello"


def test_dialing_in_a_callback_is_refused(room):
    answers = []

    def redial(link, value, size):
        try:
            room.dial(listener)
        except InternalError as error:
            answers.append(str(error))
        link.send(answers)

    listener, _ = room.listener(on_message=redial)
    link, here = room.dial(listener)
    link.send("go")
    assert "was called in a callback of a link" in here.next()[0]


def test_a_silent_machine_is_noticed_by_the_kernel(room):
    (link, _), (peer, _) = room.pair()
    for end in (link, peer):
        sock = end._pipe.sock
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == SILENCE_S * 1000
        probing = [socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT]
        idle, pause, probes = (sock.getsockopt(socket.IPPROTO_TCP, option) for option in probing)
        assert idle + pause * probes <= SILENCE_S


# --- reading in the thread that waits ---------------------------------------------------------------------


@every_way
def test_a_thread_that_waits_for_messages_may_read_them_itself(room):
    (link, here), (peer, _) = room.pair()
    for n in range(200):
        peer.send(n)
        link.read_while(here.messages.empty, PATIENCE_S)
        assert here.next() == n
    peer.send("read by the exchange thread again")
    assert here.next() == "read by the exchange thread again"


@every_way
def test_a_thread_that_reads_gives_up_after_its_time(room):
    (link, here), (peer, _) = room.pair()
    link.read_while(lambda: True, 0.02)
    peer.send("after")
    assert here.next() == "after"


def test_a_thread_that_reads_asks_again_when_it_is_interrupted(room):
    (link, _), _ = room.pair()
    asked, ended = threading.Event(), threading.Event()

    def waits():
        asked.set()
        return not ended.is_set()

    reading = threading.Thread(target=link.read_while, args=(waits, None))
    reading.start()
    asked.wait(PATIENCE_S)
    ended.set()
    link.interrupt()
    reading.join(PATIENCE_S)
    assert not reading.is_alive()
    link.interrupt()  # nobody reads


@every_way
def test_a_thread_that_would_read_a_link_that_has_ended_does_not(room):
    (link, here), _ = room.pair()
    link.close(wait=True)
    here.end()
    asked = []
    link.read_while(lambda: not asked.append(None), PATIENCE_S)
    assert not asked  # whether it waits: it left before


@pytest.mark.race
@pytest.mark.parametrize("who", ["we", "they"])
def test_the_end_of_the_link_wakes_a_thread_that_reads(room, who):
    (link, here), (peer, _) = room.pair()
    reading = threading.Thread(target=link.read_while, args=(lambda: True, PATIENCE_S))
    reading.start()
    (link if who == "we" else peer).close()
    reading.join(PATIENCE_S)
    assert not reading.is_alive()
    here.end()


@every_way
def test_nobody_reads_a_link_that_has_ended(room):
    (link, here), (peer, _) = room.pair()
    peer.close()
    here.end()
    link.close(wait=True)
    link.read_while(lambda: True, PATIENCE_S)  # who begins to wait just now must see it, and not a closed socket
    assert link.is_closed


@pytest.mark.race
def test_threads_that_wait_get_their_messages_whoever_reads(room):
    got, come = [], threading.Condition()

    def on_message(link, value, size):
        with come:
            got.append(value)
            come.notify_all()

    listener, there = room.listener()
    link, _ = room.dial(listener, on_message=on_message)
    peer = there.link()

    def wait_for(count):
        while len(got) < count:
            link.read_while(lambda: len(got) < count, PATIENCE_S)
            with come:
                come.wait_for(lambda: len(got) >= count, 0.001)

    waiting = [threading.Thread(target=wait_for, args=(count,)) for count in (100, 300, 500)]
    for thread in waiting:
        thread.start()
    for n in range(500):
        peer.send(n)
    for thread in waiting:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    assert got == list(range(500))
