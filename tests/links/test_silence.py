"""Silence is counted only while this process is there to hear."""

from sage_flow.links.silence import Silence


def looks(silence, *times):
    return [silence.is_over(now) for now in times]


def test_a_limit_without_a_word_is_silence():
    assert looks(Silence(4.0, 0.0), 1.0, 2.0, 3.0, 4.0) == [False, False, False, True]


def test_a_word_begins_the_limit_anew():
    silence = Silence(4.0, 0.0)
    looks(silence, 1.0, 2.0)
    assert not silence.is_over(3.0, heard=True)
    assert looks(silence, 4.0, 5.0, 6.0, 7.0) == [False, False, False, True]


def test_who_stood_still_takes_what_has_come_before_it_judges():
    silence = Silence(4.0, 0.0)
    assert looks(silence, 1.0, 2.0, 3.0, 100.0) == [False] * 4
    assert not silence.is_over(101.0, heard=True)  # it was there to be read
    assert looks(silence, 102.0, 103.0, 104.0, 105.0) == [False, False, False, True]


def test_who_stood_still_judges_those_who_stay_silent():
    assert looks(Silence(4.0, 0.0), 1.0, 2.0, 3.0, 100.0, 101.0) == [False, False, False, False, True]


def test_a_look_that_is_a_little_late_counts():
    assert looks(Silence(4.0, 0.0), 2.0, 4.0, 6.0, 8.0) == [False, False, False, True]


def test_who_is_always_late_finds_out_at_last():
    times = [100.0 * n for n in range(1, 9)]
    assert looks(Silence(4.0, 0.0), *times) == [False] * 7 + [True]


def test_whoever_looks_is_told_how_long_it_stood_still():
    silence = Silence(4.0, 0.0)
    told = []
    for now in (1.0, 10.0, 11.0):
        silence.is_over(now)
        told.append(silence.stood_still_s)
    assert told == [0.0, 9.0, 0.0]
