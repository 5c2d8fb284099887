"""A record that fails whenever it comes is told of, with what would let the job go on."""

import logging
from datetime import timedelta

import pytest

from sage_flow import FixedDelay, LocalEnvironment


def fails_at_five(n):
    if n == 5:
        raise ValueError("five is right out")
    return n


def test_a_record_that_fails_attempt_after_attempt_is_named_with_the_cure(tmp_path, caplog):
    env = LocalEnvironment("poisoned", restart=FixedDelay(attempts=4, delay_s=0.01))
    env.enable_checkpointing(str(tmp_path), interval=timedelta(milliseconds=10))
    env.from_collection(range(10)).map(fails_at_five).collect("all")
    with caplog.at_level(logging.WARNING, "sage_flow"), pytest.raises(ValueError, match="right out"):
        env.execute()
    told = [record.getMessage() for record in caplog.records if "restarts in" in record.getMessage()]
    assert len(told) == 4
    assert "attempts in a row" not in told[1]
    assert "the same failure has ended 3 attempts in a row" in told[2]
    assert "the same failure has ended 4 attempts in a row" in told[3]
    assert "record    5" in told[3]
    assert 'on_error="skip" or "dead_letter"' in told[3]


def test_failures_of_different_records_are_no_poison(tmp_path, caplog):
    failed = set()

    def fails_once_each(n):
        if n % 3 == 0 and n not in failed:
            failed.add(n)
            raise ValueError(f"not yet {n}")
        return n

    env = LocalEnvironment("unlucky", restart=FixedDelay(attempts=9, delay_s=0.01))
    env.enable_checkpointing(str(tmp_path), interval=timedelta(milliseconds=10))
    env.from_collection(range(10)).map(lambda n: fails_once_each(n)).collect("all")
    with caplog.at_level(logging.WARNING, "sage_flow"):
        assert env.execute().collected["all"] == list(range(10))
    assert "attempts in a row" not in caplog.text
