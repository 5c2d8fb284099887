"""Pipelines in a notebook, in a real kernel: what is shown, and what a cell that runs again does."""

import re

import pytest

pytest.importorskip("nbclient")
from kernel import started_kernel

HTML = "text/html"


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    with started_kernel(tmp_path_factory.mktemp("notebook")) as kernel:
        kernel.run("from sage_flow import LocalEnvironment, PipelineService")
        yield kernel


@pytest.fixture
def cell(kernel):
    """Runs cells, with an environment of the test's own, `env`."""
    kernel.run("env = LocalEnvironment('notebook')")
    return kernel


# --- cells that run again ---------------------------------------------------------------------------------


def test_a_sink_that_a_later_cell_writes_again_replaces_the_earlier_one(cell):
    cell.run("numbers = env.from_collection([1, 2, 3])")
    cell.run("numbers.map(lambda n: n + 1).map(str).collect('out')")
    cell.run("numbers.map(lambda n: n * 10, name='tenfold').collect('out')")
    assert cell.text("env.execute().collected") == "{'out': [10, 20, 30]}"
    assert cell.text("sorted(env.execute().counts)") == "['collect-1', 'collection-1', 'out', 'tenfold']"


def test_two_sinks_of_one_name_in_one_cell_stay_an_error(cell):
    error = cell.error("numbers = env.from_collection([1])\nfor _ in range(2):\n    numbers.collect('out')")
    assert re.match(r"PipelineError: two collect sinks have the name 'out' \(In\[\d+\]:3 and In\[\d+\]:3\)", error)


def test_a_whole_pipeline_in_a_cell_runs_again(cell):
    whole = """
rows = env.from_collection([1, 2], name="rows")
evens = rows.filter(lambda n: n % 2 == 0, name="evens").key_by(lambda n: n, name="key").count(name="counts")
evens.collect("counts")
rows.for_each(lambda n: None, name="each")
env.execute().collected
"""
    for _ in range(3):
        assert cell.text(whole) == "{'counts': [(2, 1)]}"
    assert cell.text(whole.replace("== 0", "== 1")) == "{'counts': [(1, 1)]}"


def test_sinks_without_a_name_are_replaced_by_their_own_cell(cell):
    cell.run("numbers, seen = env.from_collection([1, 2]), []")
    for _ in range(2):
        cell.run("for sign in (1, -1):\n    numbers.for_each(lambda n, sign=sign: seen.append(sign * n))")
    cell.run("env.execute()")
    assert cell.text("sorted(seen)") == "[-2, -1, 1, 2]"


def test_a_file_that_a_later_cell_writes_again_is_written_by_that_one_alone(cell):
    cell.run("texts = env.from_collection(['a'])\ntexts.write_text('out.txt')")
    cell.run("texts.map(str.upper).write_text('./out.txt')")
    cell.run("env.execute()")
    assert cell.text("open('out.txt').read()") == repr("A\n")
    cell.run("texts.write_text('out.txt', name='one')\ntexts.write_text('out.txt')")
    assert "both write" in cell.error("env.execute()")


def test_a_source_that_is_registered_again_feeds_the_cells_that_run_after_it(cell):
    cell.run("numbers = env.from_collection([1], name='numbers')")
    cell.run("numbers.collect('out')")
    cell.run("numbers = env.from_collection([2], name='numbers')")
    error = cell.error("env.execute()")
    assert re.match(
        r"PipelineError: 'out' \(In\[\d+\]:1\) still reads 'numbers' of In\[\d+\]:1, which In\[\d+\]:1 has replaced:"
        " run the cells between them again",
        error,
    )
    assert "missing: 'out'" in cell.run("print(env.explain()) or env.explain()")["text/plain"]
    cell.run("numbers.collect('out')")
    assert cell.text("env.execute().collected") == "{'out': [2]}"


def test_an_iterator_may_be_read_by_a_cell_that_runs_again(cell):
    cell.run("items = iter([1, 2])")
    for _ in range(2):
        cell.run("env.from_iterable(items).collect('out')")
    assert cell.text("env.execute().collected") == "{'out': [1, 2]}"
    cell.run("items = iter([1, 2])\nenv.from_iterable(items, name='first').collect('first')")
    cell.run("env.from_iterable(items, name='second').collect('second')")
    assert "a list_iterator can be read only once, and 'second'" in cell.error("env.execute()")


def test_a_key_that_a_later_cell_writes_again_takes_its_name(cell):
    cell.run("words = env.from_collection(['a', 'bb'])")
    cell.run("words.key_by(len, name='key').count(emit='final').collect('out')")
    cell.run("words.key_by(str, name='key').count(emit='final').collect('out')")
    assert cell.text("env.execute().collected") == "{'out': [('a', 1), ('bb', 1)]}"


def test_a_service_that_a_later_cell_registers_again_replaces_the_earlier_one(cell):
    for answer in (1, 2):
        cell.run(f"class Answer:\n    def get(self):\n        return {answer}\nenv.register_service('answer', Answer)")
        body = f"lambda asked: asked.map(lambda n: n + {answer}, name='add')"
        cell.run(f"env.register_service('add', PipelineService({body}))")
        cell.run(
            "env.from_collection([0])"
            ".map(lambda n, ctx: (ctx.service('answer').get(), ctx.call_service('add', n))).collect('out')"
        )
        assert cell.text("env.execute().collected") == f"{{'out': [({answer}, {answer})]}}"


def test_a_service_that_is_refused_the_second_time_stays_as_it_was(cell):
    cell.run("env.register_service('add', PipelineService(lambda asked: asked.map(str, name='text')))")
    assert "must return the stream" in cell.error("env.register_service('add', PipelineService(lambda asked: 3))")
    cell.run("env.from_collection([0]).map(lambda n, ctx: ctx.call_service('add', n)).collect('out')")
    assert cell.text("env.execute().collected") == "{'out': ['0']}"


def test_an_operator_that_is_refused_the_second_time_leaves_the_earlier_one(cell):
    cell.run("numbers = env.from_collection([1])")
    cell.run("numbers.for_each(lambda n: None, name='out')")
    assert "on_error" in cell.error("numbers.for_each(lambda n: None, name='out', on_error='perhaps')")
    assert cell.text("env.execute().counts") == "{'collection-1': 1, 'out': 1}"


def test_what_earlier_cells_have_written_and_nothing_reads_is_left_out_and_told(cell):
    cell.run("numbers = env.from_collection([1])\nnumbers.collect('out')")
    cell.run("numbers.key_by(str, name='lost key')\nnumbers.map(str, name='lost')")
    assert "missing: nothing reads the output of 'lost' (In[" in cell.run("print(env.explain()) or env.explain()")[
        "text/plain"
    ].replace("\\'", "'")
    assert cell.text("env.execute().counts") == "{'collection-1': 1, 'collect-1': 1, 'out': 1}"
    assert "nothing reads the output of 'lost'" in cell.error("numbers.map(str, name='lost')\nenv.execute()")


def test_streams_of_an_environment_that_was_made_again_are_told(cell):
    cell.run("numbers = env.from_collection([1])")
    cell.run("env = LocalEnvironment('notebook')")
    cell.run("numbers.collect('out')")
    assert "it is empty: streams that another environment made belong to that one" in cell.error("env.execute()")


def test_to_show_the_handle_of_a_service_calls_nothing(cell):
    cell.run("class Answer:\n    def get(self):\n        return 42\nenv.register_service('answer', Answer)")
    cell.run("import threading\ngo = threading.Event()")
    cell.run("env.from_collection([1]).map(lambda n: go.wait(60)).collect('out')\njob = env.submit()")
    cell.run("service = job.service('answer')\nservice")
    assert cell.text("service.get()") == "42"
    assert cell.text("go.set() or job.metrics()['services']['answer']['get']['calls']") == "1"
    assert cell.text("list(job.metrics()['services']['answer'])") == "['get']"
    cell.run("job.wait()")


# --- what is shown ----------------------------------------------------------------------------------------


def test_half_a_pipeline_shows_itself_and_what_is_missing(cell):
    shown = cell.run("numbers = env.from_collection([1], name='numbers')\nenv")
    assert shown["text/plain"] == "<LocalEnvironment 'notebook': 1 operators, 0 services>"
    assert "<svg" in shown[HTML]
    assert ">numbers</text>" in shown[HTML]
    assert "the pipeline has no sink" in shown[HTML]


def test_a_stream_shows_where_it_is_in_the_pipeline(cell):
    shown = cell.run("env.from_collection([1], name='numbers').map(str, name='texts', parallelism=2)")
    assert shown["text/plain"] == "<DataStream of 'texts' in 'notebook'>"
    thick = re.findall(r'stroke-width="2.5"/><text[^>]*>([^<]*)</text>', shown[HTML])
    assert thick == ["texts"]


def test_a_result_and_a_handle_show_counts_and_no_rows(cell):
    cell.run("env.from_collection(['a secret'] * 3000).map(str, name='texts').collect('rows')")
    shown = cell.run("job = env.submit()\nresult = job.result()\nresult")
    assert shown["text/plain"].startswith("JobResult(FINISHED, rows={'rows': 3000}, counts={")
    assert "<td>3,000</td>" in shown[HTML]
    handle = cell.run("job")
    assert handle["text/plain"] == "<JobHandle 'notebook'>"
    assert "FINISHED" in handle[HTML]
    assert ">texts</td><td>3,000</td>" in handle[HTML]
    for page in (shown, handle):
        assert "<svg" in page[HTML]
        assert "secret" not in page[HTML] + page["text/plain"]
        assert len(page[HTML] + page["text/plain"]) < 5000


def test_a_wrong_pipeline_shows_its_fault(cell):
    cell.run("numbers = env.from_collection([1])")
    shown = cell.run("numbers.forward().map(str, parallelism=2)")
    assert "which needs equal parallelism" in shown[HTML]
    assert shown["text/plain"] == "<DataStream of 'map-1' in 'notebook'>"
