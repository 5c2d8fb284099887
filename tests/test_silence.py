"""Silence is counted only while this process is there to hear."""

from sage_flow.silence import Silence


def looks(silence, *times):
    return [silence.is_over(now) for now in times]


def test_a_limit_without_a_word_is_silence():
    assert looks(Silence(4.0, 0.0), 1.0, 2.0, 3.0, 4.0) == [False, False, False, True]


def test_a_word_begins_the_limit_anew():
    silence = Silence(4.0, 0.0)
    looks(silence, 1.0, 2.0, 3.0)
    silence.heard(3.0)
    assert looks(silence, 4.0, 5.0, 6.0, 7.0) == [False, False, False, True]


def test_who_stood_still_gives_the_whole_limit_again():
    silence = Silence(4.0, 0.0)
    looks(silence, 1.0, 2.0, 3.0)
    assert looks(silence, 100.0, 101.0, 102.0, 103.0, 104.0) == [False, False, False, False, True]


def test_a_look_that_is_a_little_late_counts():
    assert looks(Silence(4.0, 0.0), 2.0, 4.0) == [False, True]


def test_whoever_looks_is_told_that_the_limit_began_anew():
    silence = Silence(4.0, 0.0)
    silence.is_over(1.0)
    assert not silence.starts_anew
    silence.is_over(10.0)
    assert silence.starts_anew
    silence.is_over(11.0)
    assert not silence.starts_anew
