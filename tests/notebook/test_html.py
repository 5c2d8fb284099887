"""What notebooks get: whole HTML, that of the user escaped, and nothing to be fetched."""

import pickle
import re
from xml.etree import ElementTree

import pytest

from sage_flow import LocalEnvironment, PipelineService
from sage_flow.errors import ClusterError
from sage_flow.job import JobHandle, JobResult, JobStatus

EVIL = """<script>alert("it's")</script>&amp;"""


class Evil:
    def get(self): ...


@pytest.fixture
def env():
    env = LocalEnvironment(EVIL, parallelism=2)
    env.register_service(EVIL + " class", Evil, ray_actor_options={"slot_sharing_group": EVIL})
    env.register_service(EVIL, PipelineService(lambda asked: asked.map(str, name=EVIL + "in")))
    numbers = env.from_collection([1, 2], name=EVIL + "source")
    keyed = numbers.key_by(lambda n: n, name=EVIL + "key")
    keyed.process(lambda n, ctx: ctx.output(EVIL, n), name=EVIL + "process").side_output(EVIL).collect(EVIL + "rows")
    numbers.map(str, name=EVIL + "lost")
    return env


def pages(env):
    numbers = env.from_collection([1], name=EVIL + "more")
    yield env._repr_html_()
    yield numbers._repr_html_()
    yield numbers.key_by(str, name=EVIL + "of more")._repr_html_()
    yield numbers.connect(numbers)._repr_html_()
    yield JobResult(JobStatus.CANCELLED, {EVIL: [EVIL]}, {EVIL: 1}, stuck=[EVIL])._repr_html_()
    good = LocalEnvironment(EVIL)
    good.from_collection([1], name=EVIL).collect(EVIL)
    job = good.submit()
    yield job.result()._repr_html_()
    yield job._repr_html_()


def test_every_page_is_well_formed_and_has_the_texts_of_the_user_as_texts(env):
    for page in pages(env):
        tree = ElementTree.fromstring(page)
        assert {element.tag.rpartition("}")[2] for element in tree.iter()} <= {
            *("div", "b", "ul", "li", "table", "thead", "tbody", "tr", "th", "td"),
            *("svg", "rect", "path", "text", "title"),
        }
        assert EVIL in "".join(tree.itertext()).replace("\\", "")


def test_no_page_fetches_anything(env):
    for page in pages(env):
        assert re.findall(r"\b(?:src|href|url|import)\b", page) == []
        assert set(re.findall(r"\w+://[^\"]+", page)) <= {"http://www.w3.org/2000/svg"}


def test_boxes_stand_apart_and_arrows_lead_to_the_right():
    env = LocalEnvironment(parallelism=2)
    numbers = env.from_collection([1], name="source")
    for name in ("first", "second", "third"):
        numbers.map(str, name=name * 30).rebalance().map(str, parallelism=1).collect(name)
    svg = ElementTree.fromstring(env._repr_html_()).find(".//{http://www.w3.org/2000/svg}svg")
    boxes = [
        tuple(float(rect.get(name)) for name in ("x", "y", "width", "height"))
        for rect in svg.iter("{http://www.w3.org/2000/svg}rect")
    ]
    assert len(boxes) == 7
    for one, (x, y, width, height) in enumerate(boxes):
        assert x + width <= float(svg.get("width"))
        assert y + height <= float(svg.get("height"))
        for left, top, wide, high in boxes[:one]:
            assert x >= left + wide or left >= x + width or y >= top + high or top >= y + height
    paths = [path.get("d") for path in svg.iter("{http://www.w3.org/2000/svg}path") if "C" in path.get("d")]
    ends = [re.fullmatch(r"M(\d+) \d+C\d+ \d+ \d+ \d+ (\d+) \d+", path).groups() for path in paths]
    assert len(ends) == 6
    assert all(int(start) < int(end) for start, end in ends)


def test_a_long_name_is_cut_and_whole_in_its_tooltip():
    env = LocalEnvironment()
    env.from_collection([1], name="n" * 300).collect("rows")
    shown = env._repr_html_()
    assert f">{'n' * 39}…<title>{'n' * 300}</title></text>" in shown


def test_the_repr_of_a_result_is_short_whatever_it_holds():
    counts = {f"operator {n}": n for n in range(1000)}
    result = JobResult(JobStatus.FINISHED, {"rows": list(range(10**6)), "none": []}, counts, skipped={"operator 1": 2})
    assert repr(result).startswith("JobResult(FINISHED, rows={'rows': 1000000, 'none': 0}, counts={'operator 0': 0, ")
    assert repr(result).endswith("'operator 19': 19, ... 980 more}, skipped={'operator 1': 2})")


def test_a_result_pickles_with_its_picture():
    env = LocalEnvironment()
    env.from_collection([1]).map(lambda n: n).collect("rows")
    result = env.execute()
    again = pickle.loads(pickle.dumps(result))
    assert again == result
    assert again._repr_html_() == result._repr_html_()


def test_reprs_name_what_they_are():
    env = LocalEnvironment("flights")
    rows = env.from_collection([1], name="rows")
    keyed = rows.map(str, name="texts", on_error="dead_letter").key_by(len, name="length")
    assert repr(env) == "<LocalEnvironment 'flights': 2 operators, 0 services>"
    assert repr(keyed) == "<KeyedStream of 'texts' by 'length' in 'flights'>"
    assert repr(rows.union(rows.map(str, name="more"))) == "<DataStream of 'rows', 'more' in 'flights'>"
    assert repr(rows.connect(rows)) == "<ConnectedStreams of 'rows' and of 'rows' in 'flights'>"
    assert repr(rows.side_output("odd")) == "<DataStream of 'rows' (side output 'odd') in 'flights'>"


class Unreachable:
    name, id, is_over = "far", "far-1", False

    @property
    def status(self):
        raise ClusterError("nobody answers at <10.0.0.1>")


def test_a_handle_whose_cluster_does_not_answer_says_so():
    handle = JobHandle(Unreachable(), is_owner=False)
    assert repr(handle) == "<JobHandle 'far'>"
    assert "unknown:<ul><li>nobody answers at &lt;10.0.0.1&gt;</li></ul>" in handle._repr_html_()
