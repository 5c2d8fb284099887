"""Two processes that know the key, the job and the attempt accept each other, and nobody else."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_flow._version import __version__
from sage_flow.errors import ProtocolError
from sage_flow.wire import frames as wire
from sage_flow.wire.handshake import HANDSHAKE_LIMIT, Acceptor, Dialer, Established, Identity, Refused, WriteBytes

ALICE = Identity(process=1, name="flights", attempt=3, key=b"k" * 32)
BOB = dataclasses.replace(ALICE, process=2)


def nonce(seed):
    return bytes([seed]) * 32


def talk(dialer, acceptor, mangle=lambda data: data):
    """Both sides' verdicts; `mangle` changes what is under way to the acceptor."""
    to_acceptor, to_dialer, verdicts = [dialer.start().data], [], {}
    while to_acceptor or to_dialer:
        side, other = (acceptor, to_dialer) if to_acceptor else (dialer, to_acceptor)
        data = mangle(to_acceptor.pop()) if to_acceptor else to_dialer.pop()
        if side in verdicts:
            break
        for decision in side.receive(data):
            if isinstance(decision, WriteBytes):
                other.insert(0, decision.data)
            else:
                verdicts[side] = decision
    return verdicts.get(dialer), verdicts.get(acceptor)


def pair(dialing=ALICE, accepting=BOB, peer=2):
    return Dialer(dialing, nonce(1), peer), Acceptor(accepting, nonce(2))


def reasons(verdicts):
    assert all(isinstance(verdict, Refused) for verdict in verdicts), verdicts
    return " / ".join(verdict.reason for verdict in verdicts)


def test_two_that_know_the_key_accept_each_other():
    assert talk(*pair()) == (Established(2), Established(1))


def test_a_process_may_dial_itself():
    assert talk(*pair(ALICE, ALICE, peer=1)) == (Established(1), Established(1))


@given(st.lists(st.integers(1, 50), min_size=1))
def test_the_bytes_may_be_split_anyhow(sizes):
    dialer, acceptor = pair()
    sides, data, accepted = [acceptor, dialer], dialer.start().data, []
    while data:
        answer = b""
        while data:
            size = sizes[len(data) % len(sizes)]
            for decision in sides[0].receive(data[:size]):
                if isinstance(decision, WriteBytes):
                    answer += decision.data
                else:
                    accepted.append(decision)
            data = data[size:]
        sides.reverse()
        data = answer
    assert accepted == [Established(1), Established(2)]


def test_a_wrong_key_is_refused_by_both():
    verdicts = talk(*pair(accepting=dataclasses.replace(BOB, key=b"other")))
    assert reasons(verdicts[:1]) == "the acceptor does not know the key of 'flights'"
    assert "refused by the peer" in reasons(verdicts[1:])


def test_a_dialer_without_the_key_is_refused_even_if_it_believes_the_acceptor():
    dialer, acceptor = pair(dataclasses.replace(ALICE, key=b"guess"))
    acceptor.receive(dialer.start().data)
    forged = wire.header(wire.PROOF, 32) + bytes(32)
    send, refused = acceptor.receive(forged)
    assert refused == Refused("the dialer does not know the key of 'flights'")
    assert b"does not know the key" in send.data


def test_a_reflected_challenge_is_no_proof():
    dialer, acceptor = pair()
    (challenge,) = acceptor.receive(dialer.start().data)
    reflected = wire.header(wire.PROOF, 32) + challenge.data[-32:]
    assert isinstance(acceptor.receive(reflected)[-1], Refused)


def test_a_reflected_hello_is_no_challenge():
    dialer, _ = pair()
    assert isinstance(dialer.receive(dialer.start().data)[-1], Refused)


def test_a_proof_made_for_somebody_else_is_worth_nothing():
    # Mallory, whom Alice dials, passes everything on to Bob.
    dialer, acceptor = pair(peer=9)
    assert "meant for process 9" in reasons(talk(dialer, acceptor))


def test_a_replayed_dialer_is_refused():
    dialer, acceptor = pair()
    recorded = []
    assert talk(dialer, acceptor, mangle=lambda data: recorded.append(data) or data) == (Established(2), Established(1))
    fresh = Acceptor(BOB, nonce(3))
    (challenge,) = fresh.receive(recorded[0])
    assert isinstance(challenge, WriteBytes)
    assert fresh.receive(recorded[1])[-1] == Refused("the dialer does not know the key of 'flights'")


def test_a_replayed_acceptor_is_refused():
    dialer, acceptor = pair()
    (challenge,) = acceptor.receive(dialer.start().data)
    fresh = Dialer(ALICE, nonce(4), 2)
    fresh.start()
    assert fresh.receive(challenge.data)[-1] == Refused("the acceptor does not know the key of 'flights'")


def test_an_older_attempt_is_refused_and_told_so():
    dialer, acceptor = pair(dataclasses.replace(ALICE, attempt=2))
    for reason in reasons(talk(dialer, acceptor)).split(" / "):
        assert "attempt 2 is an older one, this process belongs to attempt 3" in reason


def test_a_newer_attempt_is_refused_by_a_process_that_was_left_behind():
    dialer, acceptor = pair(dataclasses.replace(ALICE, attempt=4))
    assert "attempt 4 is a newer one" in reasons(talk(dialer, acceptor))


def test_another_job_is_refused():
    dialer, acceptor = pair(dataclasses.replace(ALICE, name="taxis"))
    assert "it asks for 'taxis', here is 'flights'" in reasons(talk(dialer, acceptor))


def test_an_attempt_that_only_one_side_believes_in_fails_the_proof():
    # The hello claims attempt 3, but the dialer's proof is over attempt 2.
    dialer, acceptor = pair(dataclasses.replace(ALICE, attempt=2))
    hello = bytearray(dialer.start().data)
    hello[wire.HEADER.size + 8] = 3
    (challenge,) = acceptor.receive(bytes(hello))
    assert isinstance(dialer.receive(challenge.data)[-1], Refused)


@pytest.mark.parametrize("kind", [wire.HELLO, wire.CHALLENGE])
def test_another_wire_version_is_refused(kind):
    dialer, acceptor = pair()
    dialer.start()
    side = acceptor if kind == wire.HELLO else dialer
    _, refused = side.receive(wire.HEADER.pack(wire.MAGIC, 7, kind, 5))
    assert refused == Refused(f"wire version 7, this process speaks version {wire.WIRE_VERSION}")


def test_another_release_of_sage_flow_is_refused_and_both_sides_name_the_two():
    dialer, acceptor = pair(dialing=dataclasses.replace(ALICE, release="0.0.7"))
    verdicts = talk(dialer, acceptor)
    for reason in reasons(verdicts).split(" / "):
        assert f"the dialer runs sage_flow 0.0.7, the acceptor runs sage_flow {__version__}: install the same" in reason
    assert verdicts[0].reason.startswith("refused by the peer: ")


def test_a_release_is_not_told_to_a_stranger():
    dialer, acceptor = pair(dataclasses.replace(ALICE, release="0.0.7", key=b"guess"))
    told = acceptor.receive(dialer.start().data) + acceptor.receive(wire.header(wire.PROOF, 32) + bytes(32))
    assert isinstance(told[-1], Refused)
    assert __version__ not in repr(told)


def test_a_release_that_was_changed_on_the_way_fails_the_proof():
    ours = __version__.encode()
    theirs = b"9" * len(ours)
    dialer, acceptor = pair(dataclasses.replace(ALICE, release=theirs.decode()))
    verdicts = talk(dialer, acceptor, mangle=lambda data: data.replace(theirs, ours))
    assert "the acceptor does not know the key" in reasons(verdicts[:1])


def test_something_else_is_refused():
    assert pair()[1].receive(b"GET / HTTP/1.1\r\n")[-1] == Refused("not a sage_flow process")


def test_an_oversized_message_is_refused_by_its_header():
    refused = pair()[1].receive(wire.header(wire.HELLO, HANDSHAKE_LIMIT + 1))[-1]
    assert refused == Refused(f"a handshake message of {HANDSHAKE_LIMIT + 1} bytes, over {HANDSHAKE_LIMIT}")


@pytest.mark.parametrize("size", [0, 1, 47, 48])
def test_a_truncated_hello_is_refused(size):
    assert pair()[1].receive(wire.header(wire.HELLO, size) + bytes(size))[-1] == Refused("a malformed hello")


@pytest.mark.parametrize("size", [0, 63, 65])
def test_a_truncated_challenge_is_refused(size):
    dialer, _ = pair()
    dialer.start()
    decision = dialer.receive(wire.header(wire.CHALLENGE, size) + bytes(size))[-1]
    assert decision == Refused("a malformed challenge")


def test_an_incomplete_message_decides_nothing():
    dialer, acceptor = pair()
    assert acceptor.receive(dialer.start().data[:-1]) == []


def test_a_message_out_of_turn_is_refused():
    _, acceptor = pair()
    assert "kind 3 instead of 1" in acceptor.receive(wire.header(wire.PROOF, 0))[-1].reason


def test_nothing_may_come_before_the_welcome():
    def with_a_message(data):
        is_proof = data[4] == wire.PROOF
        return data + wire.header(wire.MESSAGE, 0) if is_proof else data

    assert "unexpected bytes after the handshake" in reasons(talk(*pair(), mangle=with_a_message))


def test_a_hello_with_a_flipped_bit_leads_nowhere():
    length = len(pair()[0].start().data)
    for position in range(length):
        dialer, acceptor = pair()
        hello = bytearray(dialer.start().data)
        hello[position] ^= 1
        verdicts = talk(dialer, acceptor, mangle=lambda data, hello=hello: hello if data[4] == wire.HELLO else data)
        assert not any(isinstance(verdict, Established) for verdict in verdicts), position


def test_after_the_verdict_it_is_over():
    dialer, acceptor = pair()
    talk(dialer, acceptor)
    for side in (dialer, acceptor):
        with pytest.raises(ProtocolError, match="over"):
            side.receive(b"x")


def test_the_key_is_in_no_repr():
    assert "kkk" not in repr(ALICE)


def test_a_bad_nonce_or_an_endless_job_name_is_our_own_mistake():
    with pytest.raises(ProtocolError, match="nonce"):
        Acceptor(ALICE, b"short")
    with pytest.raises(ProtocolError, match="a name of"):
        Acceptor(dataclasses.replace(ALICE, name="j" * HANDSHAKE_LIMIT), nonce(1))
    with pytest.raises(ProtocolError, match="a release of"):
        Acceptor(dataclasses.replace(ALICE, release="1" * 256), nonce(1))
