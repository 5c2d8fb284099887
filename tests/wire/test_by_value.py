"""Functions and classes by value."""

import pickle
import subprocess
import sys

from sage_flow.wire.by_value import dumps


def test_a_closure_comes_back_and_knows_its_file():
    factor = 3

    def outer(n):
        return [k * factor for k in range(n)]

    copied = pickle.loads(dumps(outer))
    assert copied(3) == [0, 3, 6]
    assert copied is not outer
    assert copied.__code__.co_filename == __file__


def test_code_inside_code_knows_its_file_too():
    def outer():
        def inner():
            return 1

        return inner

    assert pickle.loads(dumps(outer))().__code__.co_filename == __file__


def test_a_class_of_main_crosses_with_its_methods(tmp_path):
    script = tmp_path / "main.py"
    script.write_text(
        "import sys\nfrom sage_flow.wire.by_value import dumps\n"
        "class Thing:\n    def twice(self, n): return 2 * n\n"
        "sys.stdout.buffer.write(dumps(Thing))\n"
    )
    code = subprocess.run([sys.executable, str(script)], capture_output=True, check=True).stdout
    thing = pickle.loads(code)
    assert thing().twice(4) == 8
    assert thing.twice.__code__.co_filename == str(script)


SEEN = []


def test_a_class_that_comes_back_is_the_one_it_was_and_has_not_changed():
    def note(self):
        SEEN.append(self.n)

    mine = type("Mine", (), {"__module__": "__main__", "__qualname__": "Mine", "n": 1, "note": note})
    for _ in range(2):
        instance = pickle.loads(dumps(mine()))
        assert type(instance) is mine
        assert mine.note is note
    SEEN.clear()
    instance.note()
    assert SEEN == [1]
    mine.n = 2
    assert pickle.loads(dumps(mine)).n == 2


def test_a_class_from_elsewhere_is_as_it_is_there_when_it_comes_again(tmp_path):
    script = tmp_path / "main.py"
    script.write_text(
        "import sys\nfrom sage_flow.wire.by_value import dumps\n"
        "class Thing:\n    n = 1\n"
        "first = dumps(Thing)\nThing.n = 2\n"
        "sys.stdout.buffer.write(len(first).to_bytes(4, 'big') + first + dumps(Thing))\n"
    )
    sent = subprocess.run([sys.executable, str(script)], capture_output=True, check=True).stdout
    size = int.from_bytes(sent[:4], "big")
    thing = pickle.loads(sent[4 : 4 + size])
    assert thing.n == 1
    assert pickle.loads(dumps(thing)) is thing  # passing it on does not make it ours
    assert pickle.loads(sent[4 + size :]) is thing
    assert thing.n == 2
