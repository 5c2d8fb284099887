"""Messages between processes: in order, complete, and a peer's end is told once."""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from sage_flow.errors import ChannelNotReachable, CodecError, InternalError, ProtocolError, SageFlowError
from sage_flow.links.address import TcpAddress
from sage_flow.links.connection import Outbound
from sage_flow.links.endpoint import Credentials
from sage_flow.runtime.messages import Control, Credit, Data, EndOfInput, EndOfRequests, Reply, Request
from sage_flow.wire.handshake import Dialer, Established, Identity
from tests.executors.exchanges import KEY, PATIENCE_S, End, FailsToLoad, directory, open_end

__all__ = ["directory", "open_end"]


def wait_for(condition):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


ROOT = pathlib.Path(__file__).parents[2]


def test_messages_cross_and_cost_what_they_take(open_end):
    one, two = open_end(1), open_end(2)
    messages = [
        Data(3, 0, [{"carrier": "US"}] * 10),
        Control(3, 1, EndOfInput()),
        Request(1, 7, 2.5, "process", (1,), {"n": 2}),
        EndOfRequests(1),
    ]
    costs = [one.send(2, 40, message) for message in messages]
    received = [two.next() for _ in messages]
    assert received[0][1].unpacked() == messages[0].records
    received[0] = (40, received[0][1]._replace(records=messages[0].records))
    assert received == [(40, messages[0]._replace(cost=costs[0])), *((40, message) for message in messages[1:])]
    two.send(1, 0, Reply(7, 1, ("out",)))
    assert one.next() == (0, Reply(7, 1, ("out",)))


def test_an_exchange_reaches_itself(open_end):
    one = open_end(1)
    one.send(1, 5, Credit(1, 2, 2, 9))
    assert one.next() == (5, Credit(1, 2, 2, 9))


def test_a_peer_may_be_dialed_before_it_exists(open_end):
    one = open_end(1)
    for number in range(10):
        one.send(2, number, Credit(number, 1, 1, 9))
    assert one.exchange.statistics()["queued_bytes"] > 0
    two = open_end(2)
    assert [two.next()[0] for _ in range(10)] == list(range(10))


def test_a_peer_whose_process_is_watched_may_take_any_time_to_listen(open_end):
    one = open_end(1, connect_timeout_s=PATIENCE_S, bind_timeout_s=None)
    one.send(2, 7, Credit(0, 1, 1, 9))
    other = open_end(1_000, bind_timeout_s=0.05)
    other.send(3, 0, Credit(0, 1, 1, 9))
    assert other.loss()[0] == 3  # so long that one with a limit would be lost
    two = open_end(2)
    assert two.next() == (7, Credit(0, 1, 1, 9))
    assert one.losses.empty()


def test_process_0_which_started_the_others_is_gone_if_it_does_not_listen(open_end, monkeypatch):
    monkeypatch.setattr("sage_flow.executors.outlets.BIND_S", 0.05)
    one = open_end(1, bind_timeout_s=None)
    one.send(0, 0, Credit(1, 1, 1, 9))
    peer, reason = one.loss()
    assert peer == 0
    assert "it did not listen for 0.05 s" in reason


def test_messages_may_be_sent_before_the_start(open_end):
    one, two = open_end(1, start=False), open_end(2)
    one.send(2, 0, Credit(1, 1, 1, 9))
    one.exchange.start()
    assert two.next() == (0, Credit(1, 1, 1, 9))


def test_a_peer_that_never_comes_is_lost(open_end):
    one = open_end(1, bind_timeout_s=0.05)
    one.send(2, 0, Credit(1, 1, 1, 9))
    peer, reason = one.loss()
    assert peer == 2
    assert "it did not listen for 0.05 s" in reason
    assert one.send(2, 0, Credit(1, 1, 1, 9)) == 0
    statistics = one.exchange.statistics()
    assert statistics["dropped_messages"] == 1
    assert statistics["dropped_bytes"] > 0
    assert statistics["lost"] == {2: reason}


def test_a_peer_that_does_not_answer_the_handshake_is_lost(open_end, directory):
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(f"{directory}/2.sock")
        mute.listen()
        one = open_end(1, connect_timeout_s=0.05)
        one.send(2, 0, Credit(1, 1, 1, 9))
        assert one.loss() == (2, "no handshake within 0.05 s")


@pytest.mark.race
def test_each_of_many_sending_threads_keeps_its_order(open_end):
    one, two = open_end(1), open_end(2)

    def send(thread):
        for number in range(500):
            one.send(2, thread, Data(thread, number, [lambda number=number: number, "x" * (number % 3 * 40_000)]))

    threads = [threading.Thread(target=send, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    seen = {thread: [] for thread in range(8)}
    for _ in range(8 * 500):
        target, message = two.next()
        seen[target].append(message.seq)
        assert message.records[0]() == message.seq
    for thread in threads:
        thread.join()
    assert seen == {thread: list(range(500)) for thread in range(8)}


@pytest.mark.race
def test_threads_that_send_the_same_new_definition_at_once_agree_on_who_defines_it(open_end):
    one, two = open_end(1), open_end(2)
    rounds = [lambda number=number: number for number in range(100)]
    together = threading.Barrier(4)

    def send(thread):
        for number, function in enumerate(rounds):
            together.wait()
            one.send(2, thread, Data(thread, number, [function, "x" * (number % 4 * 30_000)]))

    threads = [threading.Thread(target=send, args=(thread,)) for thread in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for _ in range(4 * len(rounds)):
            message = two.next()[1]
            assert message.records[0]() == message.seq
    finally:
        sys.setswitchinterval(interval)
        for thread in threads:
            thread.join()


@pytest.mark.race
def test_only_one_thread_writes_at_a_time():
    class SlowPipe:
        writes = 0

        def write(self, queue):
            self.writes += 1
            writer.start()
            writer.join(0.05)  # it may try, and has to wait
            assert writer.is_alive()
            return sum(map(len, queue))

    out, slow = Outbound(), SlowPipe()
    out.open(slow)
    writer = threading.Thread(target=out.write)
    out.send("text", None, copy_buffers=True, subject=None)
    writer.join()
    assert slow.writes == 1


def test_two_that_send_large_messages_to_each_other_do_not_block(open_end):
    one, two = open_end(1), open_end(2)
    size = 100 << 20
    for end, peer in ((one, 2), (two, 1)):
        end.send(peer, 0, Data(1, 0, [bytes(size)]))
        end.send(peer, 0, Credit(1, 1, 1, 9))
    for end in (one, two):
        _, data = end.next()
        assert len(data.unpacked()[0]) == size
        assert end.next() == (0, Credit(1, 1, 1, 9))


def test_an_array_is_received_without_a_copy(open_end):
    numpy = pytest.importorskip("numpy")
    one, two = open_end(1), open_end(2)
    array = numpy.arange(500_000)
    cost = one.send(2, 0, Data(1, 0, [array]))
    received = two.next()[1].unpacked()[0]
    assert (received == array).all()
    assert not received.flags.owndata
    assert received.flags.aligned
    assert array.nbytes < cost < array.nbytes + 1000


def test_arguments_of_a_call_may_change_after_it_was_sent(open_end):
    numpy = pytest.importorskip("numpy")
    one = open_end(1)
    array = numpy.zeros(100_000)
    one.send(2, 0, Request(1, 1, 1.0, "process", (array,), {}))  # still in the queue, nobody is there
    array[:] = 1
    two = open_end(2)
    assert not two.next()[1].args[0].any()


def test_what_cannot_be_pickled_is_told_to_the_sender_and_breaks_nothing(open_end):
    one, two = open_end(1), open_end(2)
    with pytest.raises(CodecError, match=r"Data: records\[1\]\['lock'\] is a _thread.lock"):
        one.send(2, 0, Data(1, 0, ["fine", {"lock": threading.Lock()}]))
    with pytest.raises(ProtocolError, match="a str is not a message"):
        one.send(2, 0, "text")
    one.send(2, 0, Credit(1, 1, 1, 9))
    assert two.next() == (0, Credit(1, 1, 1, 9))


class SendsWhilePickled:
    def __init__(self, end):
        self.end = end

    def __reduce__(self):
        self.end.send(2, 1, Credit(1, 1, 1, 9))
        return str, ("outer",)


def test_pickling_may_send_to_the_same_peer(open_end):
    one, two = open_end(1), open_end(2)
    one.send(2, 2, Data(1, 0, [SendsWhilePickled(one)]))
    assert [two.next()[0], two.next()[0]] == [1, 2]


def test_messages_sent_from_on_message_arrive(open_end):
    one = open_end(1)
    two = open_end(2, on_message=lambda target, message: two.send(1, target, message))
    for number in range(100):
        one.send(2, number, Credit(number, 1, 1, 9))
    assert [one.next() for _ in range(100)] == [(number, Credit(number, 1, 1, 9)) for number in range(100)]


# The end of a peer.


@pytest.mark.race
def test_a_peer_that_closes_is_lost_once_and_after_its_last_message(open_end):
    one, two = open_end(1), open_end(2)
    two.send(1, 0, Credit(0, 1, 1, 9))
    one.next()
    one.send(2, 0, Credit(0, 1, 1, 9))  # connections in both directions
    two.next()
    for number in range(100):
        two.send(1, number, Data(1, number, ["x" * 10_000]))
    two.exchange.close()
    assert one.loss() == (2, "it closed its connection")
    assert [one.next()[0] for _ in range(100)] == list(range(100))
    assert one.messages.empty()
    assert one.send(2, 0, Credit(1, 1, 1, 9)) == 0
    one.exchange.close()
    assert one.losses.empty()
    assert two.losses.empty()


def test_what_a_peer_wrote_before_its_end_counts_also_if_the_end_shows_first(open_end):
    busy, seen = threading.Event(), []

    def on_message(target, message):
        seen.append(target)
        busy.wait()  # meanwhile the peer writes and closes, so that all of it is noticed at once

    one, two = open_end(1, on_message=on_message), open_end(2, flush_s=PATIENCE_S)
    one.send(2, 0, Credit(1, 1, 1, 9))  # connections in both directions
    two.next()
    for number in range(15):
        two.send(1, number, Data(1, number, ["x" * 10_000]))  # more than one read, less than a buffer
    two.exchange.close()
    busy.set()
    assert one.loss() == (2, "it closed its connection")
    assert seen == list(range(15))


def test_what_a_peer_wrote_is_read_before_the_end_of_the_connection_to_it_is_told(open_end):
    """Which of the two connections shows the end first is up to the system: here it is the one that we dialed."""
    reading, go_on, seen = threading.Event(), threading.Event(), []
    one = open_end(1, on_message=lambda target, message: seen.append(target))
    two = open_end(2, flush_s=PATIENCE_S)
    one.send(2, 0, Credit(1, 1, 1, 9))
    two.send(1, 100, Credit(1, 1, 1, 9))  # connections in both directions
    two.next()
    wait_for(lambda: seen == [100])
    outlet = one.exchange._outlets.links[2]

    def end_the_outlet_first():
        reading.set()
        go_on.wait()
        outlet.end("its end shows here first")

    one.exchange.loop.call_soon_threadsafe(end_the_outlet_first)
    reading.wait()  # from here on nobody reads what comes
    for number in range(15):
        two.send(1, number, Data(1, number, ["x" * 1_000]))
    two.exchange.close()  # returns when all of it is written
    go_on.set()
    assert one.loss() == (2, "its end shows here first")
    assert seen == [100, *range(15)]


def test_closing_writes_what_is_queued(open_end, directory):
    one, two = open_end(1, flush_s=PATIENCE_S), open_end(2)
    one.send(2, 0, Data(1, 0, ["x" * (50 << 20)]))
    one.send(2, 1, Credit(1, 1, 1, 9))
    assert os.path.exists(f"{directory}/1.sock")
    one.exchange.close()
    assert not os.path.exists(f"{directory}/1.sock")
    assert {two.next()[0], two.next()[0]} == {0, 1}
    assert one.exchange.statistics()["dropped_bytes"] == 0


def test_closing_gives_up_after_a_while_and_counts_the_rest(open_end):
    one = open_end(1, flush_s=0.05)
    cost = one.send(2, 0, Credit(1, 1, 1, 9))
    one.exchange.close()
    assert one.exchange.statistics()["dropped_bytes"] > cost
    assert one.send(2, 0, Credit(1, 1, 1, 9)) == 0
    assert one.send(3, 0, Credit(1, 1, 1, 9)) == 0
    assert one.exchange.statistics()["dropped_messages"] == 2
    assert one.losses.empty()


def test_a_peer_that_goes_while_we_close_is_no_news(open_end):
    one, two = open_end(1, flush_s=PATIENCE_S), open_end(2)
    two.send(1, 0, Credit(1, 1, 1, 9))
    one.next()
    one.send(3, 0, Credit(1, 1, 1, 9))  # keeps the exchange up until process 3 is there
    closing = threading.Thread(target=one.exchange.close)
    closing.start()
    while not one.exchange.statistics()["lost"]:
        two.exchange.close()
    open_end(3)
    closing.join(PATIENCE_S)
    assert not closing.is_alive()
    assert one.losses.empty()


def test_closing_twice_or_before_the_start_is_fine(open_end):
    one, two = open_end(1), open_end(2, start=False)
    for end in (one, one, two, two):
        end.exchange.close()


def test_an_exchange_cannot_be_closed_from_its_own_thread(open_end):
    def close(target, message):
        with pytest.raises(InternalError, match="on_message"):
            two.exchange.close()
        two.messages.put((target, message))

    one, two = open_end(1), open_end(2, on_message=close)
    one.send(2, 0, Credit(1, 1, 1, 9))
    assert two.next() == (0, Credit(1, 1, 1, 9))


def test_a_failure_to_deliver_costs_the_sender_its_connection_and_nobody_else(open_end):
    def fail(target, message):
        if target == 13:
            raise BlockingIOError("no inbox for 13")
        two.messages.put((target, message))

    one, two, three = open_end(1), open_end(2, on_message=fail), open_end(3)
    for target in (12, 13, 14):
        one.send(2, target, Credit(1, 1, 1, 9))
    peer, reason = two.loss()
    assert peer == 1
    assert "its Credit for 13 could not be delivered" in reason
    assert "no inbox for 13" in reason
    assert 'raise BlockingIOError("no inbox for 13")' in reason
    assert one.loss()[0] == 2
    three.send(2, 15, Credit(1, 1, 1, 9))
    assert [two.next()[0], two.next()[0]] == [12, 15]


def test_a_message_that_cannot_be_decoded_costs_the_sender_its_connection(open_end):
    one, two = open_end(1), open_end(2)
    one.send(2, 0, Request(1, 7, 2.5, "process", (FailsToLoad(),), {}))
    peer, reason = two.loss()
    assert peer == 1
    assert "cannot be decoded (ValueError: invalid literal" in reason
    assert one.loss()[0] == 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_exchange_that_dies_loses_all_its_peers(open_end):
    def die(target, message):
        raise SystemError if target == 1 else KeyboardInterrupt("not an Exception")

    one, two, three = open_end(1), open_end(2, on_message=die), open_end(3)
    two.send(3, 0, Credit(1, 1, 1, 9))
    three.next()
    one.send(2, 0, Credit(1, 1, 1, 9))
    reasons = dict([two.loss(), two.loss()])
    assert reasons.keys() == {1, 3}
    assert all("the exchange of process 2 failed: KeyboardInterrupt" in reason for reason in reasons.values())
    assert one.loss()[0] == three.loss()[0] == 2


# Strangers.


def test_a_wrong_key_is_refused(open_end):
    one, two = open_end(1, key=b"guess"), open_end(2)
    one.send(2, 0, Credit(1, 1, 1, 9))
    assert one.loss() == (2, "the acceptor does not know the key of 'job'")
    assert two.messages.empty()
    assert two.losses.empty()


def test_a_refused_peer_is_lost_once_and_not_again_when_its_time_is_over(open_end):
    one, _ = open_end(1, key=b"guess", connect_timeout_s=0.1, bind_timeout_s=0.3), open_end(2)
    one.send(2, 0, Credit(1, 1, 1, 9))
    assert one.loss()[0] == 2
    one.send(3, 0, Credit(1, 1, 1, 9))
    assert one.loss()[0] == 3  # not there, and its time ends after that of 2
    assert one.losses.empty()


def test_an_older_attempt_is_refused_and_told_so(open_end):
    one, two = open_end(1, attempt=1), open_end(2, attempt=2)
    one.send(2, 0, Credit(1, 1, 1, 9))
    assert "attempt 1 is an older one, this process belongs to attempt 2" in one.loss()[1]
    two.exchange.close()
    statistics = two.exchange.statistics()
    assert statistics["refused_connections"] == 1
    assert "attempt 1 is an older one" in str(statistics["story"])


def test_noise_from_a_stranger_is_refused_and_disturbs_nobody(open_end, directory):
    one, two = open_end(1), open_end(2)
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(f"{directory}/2.sock")
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        stranger.settimeout(PATIENCE_S)
        assert b"not a sage_flow process" in stranger.recv(4096)
        with contextlib.suppress(ConnectionResetError):  # what it wrote behind that was not read
            assert stranger.recv(4096) == b""
    one.send(2, 0, Credit(1, 1, 1, 9))
    assert two.next() == (0, Credit(1, 1, 1, 9))
    assert two.exchange.statistics()["refused_connections"] == 1


def test_a_stranger_that_says_nothing_is_shown_out(open_end, directory):
    open_end(2, connect_timeout_s=0.05)
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(f"{directory}/2.sock")
        stranger.settimeout(PATIENCE_S)
        assert stranger.recv(4096) == b""


def test_a_second_process_with_the_same_number_is_refused(open_end, directory):
    one, two = open_end(1), open_end(2)
    one.send(2, 0, Credit(1, 1, 1, 9))
    two.next()
    dialer = Dialer(Identity(1, "job", 1, KEY), os.urandom(32), 2)
    with socket.socket(socket.AF_UNIX) as twin:
        twin.settimeout(PATIENCE_S)
        twin.connect(f"{directory}/2.sock")
        twin.sendall(dialer.start().data)
        for decision in dialer.receive(twin.recv(4096)):
            twin.sendall(decision.data)
        assert dialer.receive(twin.recv(4096)) == [Established(2)]
        assert twin.recv(4096) == b""
    assert "process 1 has been connected before" in str(two.exchange.statistics()["story"])
    one.send(2, 0, Credit(2, 2, 2, 9))
    assert two.next() == (0, Credit(2, 2, 2, 9))


@pytest.mark.parametrize("mode", [0o755, 0o710, 0o701])
def test_a_directory_that_others_can_enter_is_refused(open_end, directory, mode):
    os.chmod(directory, mode)
    with pytest.raises(ChannelNotReachable, match="must be a directory of mode 0700"):
        open_end(1, start=False).exchange.start()


def test_a_path_too_long_for_a_unix_socket_is_a_clear_error(open_end, directory):
    deep = os.path.join(directory, "d" * 100)
    os.mkdir(deep, mode=0o700)
    end = End(1, deep)
    with pytest.raises(SageFlowError, match=r"a Unix socket's path at most 107: set TMPDIR"):
        end.exchange.start()
    end.exchange.close()


def test_a_number_that_is_taken_is_an_error(open_end):
    open_end(1)
    with pytest.raises(OSError, match="in use"):
        open_end(1, start=False).exchange.start()


# A second operating system process.

CHILD = """
import sys, threading
from sage_flow.executors.exchange import Exchange
from sage_flow.runtime.messages import Data, EndOfRequests
from sage_flow.links.address import sockets_in

class Flight:
    def __init__(self, carrier):
        self.carrier = carrier

def on_message(target, message):
    if isinstance(message, EndOfRequests):
        over.set()
    elif isinstance(message, Data) and message.channel == 7:
        same = [type(record) is Flight for record in message.records]
        exchange.send(0, target, Data(8, 0, same))
    else:
        exchange.send(0, target, message)

over = threading.Event()
exchange = Exchange(1, sockets_in(sys.argv[1]), b"k" * 32, job="job", attempt=1, on_message=on_message,
                    on_peer_lost=lambda peer, reason: over.set())
exchange.start()
for number in range(2):
    exchange.send(0, number, Data(7, number, [Flight("US"), Flight]))
over.wait()
exchange.close()
"""


@pytest.fixture
def child(directory):
    child = subprocess.Popen([sys.executable, "-c", CHILD, directory], env={**os.environ, "PYTHONPATH": str(ROOT)})
    yield child
    child.kill()
    child.wait()


def test_classes_of_main_cross_between_processes_and_come_home(open_end, child):
    end = open_end(0)
    (_, first), (_, second) = end.next(), end.next()
    (us, flight), (aa, flight_again) = first.unpacked(), second.unpacked()
    assert type(us) is type(aa) is flight is flight_again
    assert flight.__module__ == "__main__"
    assert us.carrier == "US"
    assert first.cost == second.cost < 200  # the class itself came before
    end.send(1, 5, Data(7, 0, [us, aa, flight("AA"), "text"]))
    target, answer = end.next()
    assert (target, answer.unpacked()) == (5, [True, True, True, False])
    end.send(1, 0, EndOfRequests(0))
    assert end.loss() == (1, "it closed its connection")
    assert child.wait(PATIENCE_S) == 0


def test_a_killed_process_is_lost_within_seconds(open_end, child):
    end = open_end(0)
    end.next(), end.next()
    end.send(1, 9, Credit(1, 1, 1, 9))
    assert end.next() == (9, Credit(1, 1, 1, 9))
    os.kill(child.pid, signal.SIGKILL)
    peer, reason = end.losses.get(timeout=5)
    assert peer == 1
    assert "closed" in reason or "reset" in reason.lower()


def test_a_process_killed_in_the_middle_of_a_large_message_is_lost(open_end, child):
    end = open_end(0)
    end.next(), end.next()
    os.kill(child.pid, signal.SIGSTOP)
    end.send(1, 9, Data(1, 0, ["x" * (50 << 20)]))
    os.kill(child.pid, signal.SIGKILL)
    assert end.losses.get(timeout=5)[0] == 1
    assert end.exchange.statistics()["dropped_bytes"] > 40 << 20


# Nodes: TCP, and leases.


@pytest.fixture
def over_tcp():
    """Exchanges whose addresses are known once both listen, as on two nodes."""
    book, ends = {}, []

    def open_end(me, tls=None, **options):
        end = End(me, None, **options)
        end.exchange._addresses = book.get
        book[me] = TcpAddress("127.0.0.1", 0, None if tls is None else tls.server())
        end.exchange.start()
        port = end.exchange._inlets._listeners[0].address.port
        book[me] = TcpAddress("127.0.0.1", port, None if tls is None else tls.client())
        ends.append(end)
        return end

    yield open_end
    for end in ends:
        end.exchange.close()


@pytest.mark.parametrize("tls", [None, Credentials.make("job")], ids=["plain", "tls"])
def test_messages_cross_by_tcp(over_tcp, tls):
    one, two = over_tcp(1, tls), over_tcp(2, tls)
    for number in range(100):
        one.send(2, number, Data(1, number, [b"x" * 100_000]))
    assert [two.next()[0] for _ in range(100)] == list(range(100))
    two.send(1, 5, Credit(1, 2, 2, 9))
    assert one.next() == (5, Credit(1, 2, 2, 9))


def test_a_peer_that_does_not_listen_any_more_is_lost(over_tcp):
    one, two = over_tcp(1), over_tcp(2)
    two.exchange.close()
    one.send(2, 1, Credit(1, 1, 1, 9))
    assert one.loss()[0] == 2


def test_leases_are_renewed_while_nothing_else_is_said(open_end):
    hub, worker = open_end(0, lease_s=0.4), open_end(1, lease_s=0.4)
    before = []
    for end, peer in ((hub, 1), (worker, 0)):  # several times the length of the lease
        while not (inlet := end.exchange._inlets.links.get(peer)):
            threading.Event().wait(0.01)
        before.append(inlet)
    while min(inlet.received_messages for inlet in before) < 12:
        threading.Event().wait(0.01)
    assert hub.losses.empty()
    assert worker.losses.empty()


def test_who_is_silent_for_the_length_of_its_lease_is_lost(open_end, child):
    hub = open_end(0, lease_s=0.5)  # the child knows of no lease: it says something, and then nothing
    hub.next(), hub.next()
    peer, reason = hub.loss()
    assert (peer, reason) == (1, "it was silent for 0.5 s, the length of its lease")


def test_a_process_that_was_stopped_for_less_than_its_lease_goes_on(open_end, child):
    hub = open_end(0, lease_s=60.0)
    hub.next(), hub.next()
    os.kill(child.pid, signal.SIGSTOP)
    for number in range(50):
        hub.send(1, number, Data(1, number, [b"x" * 100_000]))
    os.kill(child.pid, signal.SIGCONT)
    assert [hub.next()[0] for _ in range(50)] == list(range(50))
    assert hub.losses.empty()
