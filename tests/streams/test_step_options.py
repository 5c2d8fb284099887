"""Every method says which options it takes - to editors, in help() and at the call."""

from __future__ import annotations

import inspect

import pytest

from sage_flow import ConnectedStreams, DataStream, KeyedStream, LocalEnvironment, PipelineService, Sink, Source
from sage_flow.errors import PipelineError
from sage_flow.streams import CountWindowedStream, WindowedStream
from sage_flow.streams.step_options import AggregateOptions, OperatorOptions, SourceOptions, StepOptions

TAKEN = {
    StepOptions: {
        DataStream: [
            "map",
            "filter",
            "flat_map",
            "process",
            "map_batches",
            "map_async",
            "for_each",
            "assign_timestamps",
        ],
        ConnectedStreams: ["map", "process"],
        WindowedStream: ["process"],
    },
    AggregateOptions: {
        KeyedStream: [
            *("reduce", "fold", "sum", "min", "max", "mean", "count_distinct", "top"),
            *("join", "join_window", "join_interval", "join_asof"),
        ],
        WindowedStream: ["reduce", "fold", "sum", "min", "max"],
        CountWindowedStream: ["reduce", "fold", "sum", "min", "max", "mean", "count_distinct", "top"],
    },
    OperatorOptions: {
        DataStream: ["assign_arrival_times", "add_sink", "print", "write_text", "write_csv", "write_jsonl"],
        KeyedStream: ["count", "deduplicate"],
        CountWindowedStream: ["count", "to_list"],
        WindowedStream: ["count", "mean", "count_distinct", "top", "to_list"],
    },
    SourceOptions: {
        LocalEnvironment: ["read_text", "read_csv", "read_jsonl", "from_source"],
    },
}
METHODS = [
    pytest.param(getattr(kind, name), options, id=f"{kind.__name__}.{name}")
    for options, kinds in TAKEN.items()
    for kind, names in kinds.items()
    for name in names
]


def stream():
    return LocalEnvironment("test").from_collection([1, 2])


@pytest.mark.parametrize(("method", "options"), METHODS)
def test_help_shows_each_option_with_its_default_and_what_it_means(method, options):
    shown = {one.name: one for one in inspect.signature(method).parameters.values()}
    for key in options.__annotations__:
        assert shown[key].kind is inspect.Parameter.KEYWORD_ONLY
        assert shown[key].default == ("fail" if key == "on_error" else None)
        assert f"\n    {key}: " in inspect.getdoc(method)
    assert not [one for one in shown.values() if one.kind is one.VAR_KEYWORD]


def test_no_method_that_takes_options_is_missing_from_these_tests():
    """Each one but `options` itself, and `register_service`, which passes what it does not know to the service."""
    found = set()
    for kind in (DataStream, KeyedStream, ConnectedStreams, CountWindowedStream, WindowedStream, LocalEnvironment):
        for name in dir(kind):
            method = inspect.getattr_static(kind, name)
            code = getattr(inspect.unwrap(method) if callable(method) else None, "__code__", None)
            if not name.startswith("_") and code is not None and code.co_flags & inspect.CO_VARKEYWORDS:
                found.add(method)
    assert found - {param.values[0] for param in METHODS} == {
        DataStream.options,
        LocalEnvironment.register_service,
        CountWindowedStream.aggregate,  # whose keywords are aggregates, as of the next two
        KeyedStream.aggregate,
        WindowedStream.aggregate,
    }


def test_an_unknown_keyword_is_refused_with_the_method_the_place_and_the_known_ones():
    with pytest.raises(TypeError) as caught:
        stream().map(str, paralelism=2)
    text = str(caught.value)
    assert text.startswith("DataStream.map() got an unexpected keyword argument 'paralelism' (")
    assert f"{__file__.rpartition('/')[2]}:{caught.traceback[0].lineno + 1})" in text
    assert text.endswith("its arguments are function, name, parallelism, on_error, with_ctx")


@pytest.mark.parametrize("keyword", ["own", "values", "base", "kind", "given", "keyed"])
def test_what_the_engine_passes_on_inside_is_no_keyword_of_users(keyword):
    with pytest.raises(TypeError, match=f"unexpected keyword argument {keyword!r}"):
        stream().map(str, **{keyword: 1})


def test_an_operator_that_was_refused_for_a_keyword_has_not_taken_its_name():
    numbers = stream()
    with pytest.raises(TypeError):
        numbers.map(str, name="text", paralelism=2)
    numbers.map(str, name="text").collect()


def test_options_may_be_given_as_none():
    doubled = stream().map(str, name=None, parallelism=None, with_ctx=None)
    assert repr(doubled) == "<DataStream of 'map-1' in 'test'>"


# --- what connectors declare ------------------------------------------------------------------------------


class Table(Sink):
    default_name = "table"
    default_parallelism = 2

    def write(self, value):
        pass


class Ticks(Source):
    default_name = "ticks"
    bounded = parallel = True


def node_of(sink):
    return sink._taps[0].node


def test_a_connector_declares_the_name_and_the_parallelism_of_its_operator():
    env = LocalEnvironment("test", parallelism=3)
    ticks = env.from_source(Ticks)
    table = node_of(ticks.add_sink(Table()))
    assert (ticks._taps[0].node.name, table.name, table.parallelism) == ("ticks-1", "table-1", 2)


def test_what_the_user_says_wins_over_what_a_connector_declares():
    node = node_of(stream().add_sink(Table, name="mine", parallelism=1))
    assert (node.name, node.parallelism) == ("mine", 1)


def test_an_operator_of_a_connector_that_declares_nothing_is_as_parallel_as_the_environment_says():
    assert node_of(stream().add_sink(Sink())).parallelism is None


@pytest.mark.parametrize("method", ["write_text", "write_csv", "write_jsonl"])
def test_a_file_has_one_subtask_unless_the_user_says_otherwise(method, tmp_path):
    node = node_of(getattr(stream(), method)(tmp_path / "out"))
    assert (node.name, node.parallelism) == (f"{method}-1", 1)
    with pytest.raises(PipelineError, match=r"parallelism of 'write_.*' must be a whole number of at least 1, not 0"):
        getattr(stream(), method)(tmp_path / "out", parallelism=0)


def test_the_options_of_a_service_pipeline_are_those_of_other_pipelines():
    env = LocalEnvironment("test")
    with pytest.raises(TypeError, match="unexpected keyword argument 'paralelism'"):
        env.register_service("s", PipelineService(lambda requests: requests.map(str, paralelism=2)))
