"""A batch that fails is not run again: each of its records is skipped or becomes a dead letter."""

import sys

import pytest
from failing_pipelines import Boom, error_of, notes_of

from sage_flow import DeadLetter, LocalEnvironment, PipelineService
from sage_flow.errors import PipelineError
from sage_flow.runtime.failure import describe

BATCHES = [[0, 1, 2], [3, 4, 5], [6, 7]]


def failing(batch):
    if 4 in batch or 7 in batch:
        raise Boom(f"of {len(batch)}")
    return [sum(batch)]


def late(batch):
    yield sum(batch)
    failing(batch)


def one_by_one(env):
    """Records whose batches are known at every parallelism."""
    return env.from_collection(range(8))


def written(env, function=failing, **options):
    batches = one_by_one(env).map_batches(function, batch_size=3, name="step", parallelism=1, **options)
    batches.collect("sums")
    return batches


@pytest.mark.on_ray
def test_each_record_of_a_failed_batch_is_skipped_and_counted(mode):
    env = mode.environment()
    written(env, on_error="skip")
    result = env.execute()
    assert result.collected["sums"] == [3]
    assert result.skipped == {"step": 5}
    assert result.counts["step"] == 1


@pytest.mark.on_ray
def test_each_record_of_a_failed_batch_becomes_a_dead_letter_with_the_error_of_the_batch(mode):
    env = mode.environment()
    written(env, on_error="dead_letter").dead_letters().collect("letters")
    result = env.execute()
    assert result.collected["sums"] == [3]
    assert sorted(result.collected["letters"], key=lambda letter: letter.record) == [
        *(DeadLetter(n, "Boom: of 3", "step") for n in (3, 4, 5)),
        *(DeadLetter(n, "Boom: of 2", "step") for n in (6, 7)),
    ]
    assert result.dead_letters == {"step": 5}


@pytest.mark.parametrize("policy", ["skip", "dead_letter"])
def test_a_failed_batch_is_not_run_again(policy):
    env, seen = LocalEnvironment("test"), []
    batches = written(env, lambda batch: seen.append(list(batch)) or failing(batch), on_error=policy)
    if policy == "dead_letter":
        batches.dead_letters().collect()
    env.execute()
    assert seen == BATCHES


def test_what_a_batch_gave_before_it_failed_stays_given():
    env = LocalEnvironment("test")
    written(env, late, on_error="skip")
    result = env.execute()
    assert result.collected["sums"] == [3, 12, 13]
    assert result.skipped == {"step": 5}


def test_the_records_of_a_batch_are_those_that_came_and_not_what_the_function_made_of_its_list():
    def emptied(batch):
        batch.clear()
        raise Boom("empty")

    env = LocalEnvironment("test")
    written(env, emptied, on_error="dead_letter").dead_letters().map(lambda letter: letter.record).collect("records")
    assert env.execute().collected["records"] == list(range(8))


@pytest.mark.parametrize(("first", "batch"), [(3, "3 records: [3, 4, 5]"), (6, "2 records: [6, 7]")])
def test_a_batch_that_fails_the_job_is_named_with_its_records_and_the_way_past_it(first, batch):
    env = LocalEnvironment("test")
    written(env, lambda batch: failing(batch) if batch[0] == first else [])
    notes = notes_of(error_of(env, Boom))
    assert "operator  'step' (map_batches)" in notes
    assert f"batch     {batch}" in notes
    assert 'on_error="skip" or "dead_letter" lets the job go on past such batches, without their records' in notes


def test_outputs_of_a_batch_that_cannot_be_looped_over_are_the_batchs_fault():
    env = LocalEnvironment("test")
    written(env, lambda batch: None, on_error="dead_letter").dead_letters().collect("letters")
    letters = env.execute().collected["letters"]
    assert len(letters) == 8
    assert "the function of map_batches must return an iterable of outputs" in letters[0].error


async def several(batch):
    return batch


@pytest.mark.parametrize("size", [3, 100])
def test_a_promise_of_a_batch_is_not_skipped(size):
    env = LocalEnvironment("test")
    one_by_one(env).map_batches(lambda batch: several(batch), batch_size=size, on_error="skip").collect()
    assert "returned a coroutine" in str(error_of(env, PipelineError))


@pytest.mark.parametrize("size", [3, 100])
def test_no_on_error_lets_an_exit_in_a_batch_pass(size):
    env = LocalEnvironment("test")
    one_by_one(env).map_batches(lambda batch: sys.exit(3), batch_size=size, on_error="skip", name="step").collect()
    lines = describe(error_of(env, SystemExit))
    assert any(line.startswith("operator  'step'") for line in lines)
    assert any("sys.exit() asks the program to end" in line for line in lines)


def test_a_batch_has_no_place_in_the_pipeline_of_a_service_whatever_its_on_error():
    env = LocalEnvironment("test")
    body = PipelineService(lambda requests: requests.map_batches(list, on_error="skip"))
    env.register_service("s", body)
    one_by_one(env).collect()
    with pytest.raises(PipelineError, match="joins records of several requests"):
        env.execute()
