"""Functions and classes by value."""

import pickle
import subprocess
import sys

from sage_flow.by_value import dumps


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
        "import sys\nfrom sage_flow.by_value import dumps\n"
        "class Thing:\n    def twice(self, n): return 2 * n\n"
        "sys.stdout.buffer.write(dumps(Thing))\n"
    )
    code = subprocess.run([sys.executable, str(script)], capture_output=True, check=True).stdout
    thing = pickle.loads(code)
    assert thing().twice(4) == 8
    assert thing.twice.__code__.co_filename == str(script)
