"""Rules about the code itself."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from import_graph import ImportGraph

import sage_flow
from sage_flow import errors

PACKAGE = Path(sage_flow.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
PURE = [
    file
    for file in FILES
    if file.relative_to(PACKAGE).parts[0] in ("runtime", "plan", "checkpoint")
    or file.relative_to(PACKAGE).as_posix()
    in (
        "aggregates.py",
        "restart.py",
        "retry.py",
        "timestamps.py",
        "watermarks.py",
        "windows.py",
        "queues/client_session.py",
        "queues/hosted.py",
        "queues/hosted_backlog.py",
        "queues/hosted_decisions.py",
        "queues/hosted_sessions.py",
        "queues/record.py",
    )
]
GRAPH = ImportGraph(PACKAGE)
WORLD = {"ray", "socket", "threading", "time", "selectors", "subprocess", "asyncio"}

PUBLIC = [
    "Environment",
    "LocalEnvironment",
    "RemoteEnvironment",
    "connect",
    "Cluster",
    "JobHandle",
    "JobResult",
    "JobStatus",
    "NoRestart",
    "FixedDelay",
    "ExponentialDelay",
    "FailureRate",
    "Retry",
    "DataStream",
    "KeyedStream",
    "ConnectedStreams",
    "RuntimeContext",
    "Function",
    "ProcessFunction",
    "CoProcessFunction",
    "Source",
    "SplitSource",
    "SplitReader",
    "Malformed",
    "Sink",
    "IDLE",
    "END",
    "DeadLetter",
    "Service",
    "PipelineService",
    "batched",
    "ServiceHandle",
    "ServiceFuture",
    "wait",
    "connect_service",
    "ServiceClient",
    "to_timestamp",
    "MAX_TIMESTAMP",
    "MIN_TIMESTAMP",
    "Window",
    "TumblingWindow",
    "SlidingWindow",
    "SessionWindow",
    "WindowResult",
    "Firing",
    "TimeSpan",
    "Timer",
    "WatermarkGenerator",
    "Aggregate",
    "stable_hash",
    "__version__",
]

CONSTANTS = {
    "IDLE": "functions.py",
    "END": "functions.py",
    "MAX_TIMESTAMP": "timestamps.py",
    "MIN_TIMESTAMP": "timestamps.py",
    "Firing": "windows.py",
}

SILENT = {
    # (file, function): why `except Exception: pass` is right there
    ("wire/culprit.py", "find_culprit"): "it walks the user's objects; what they raise ends the search",
    ("runtime/packed_error.py", "_pickled"): "cloudpickle is tried next",
}


def name(file):
    return file.relative_to(PACKAGE).as_posix()


def module(file):
    return ".".join(("sage_flow", *file.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


def tree(file):
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


@pytest.mark.parametrize("file", PURE, ids=name)
def test_the_core_reaches_no_thread_socket_clock_or_ray_by_whatever_it_imports(file):
    assert GRAPH.path_to(module(file), WORLD) is None


def test_no_modules_import_each_other():
    assert GRAPH.circles() == []


def test_a_module_that_is_imported_in_a_function_is_reached(tmp_path):
    package = tmp_path / "house"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "core.py").write_text("def run():\n    from house import door\n")
    (package / "door.py").write_text("import socket\n")
    assert ImportGraph(package).path_to("house.core", WORLD) == ["house.core", "house.door", "socket"]


def test_modules_that_import_each_other_are_found_unless_it_is_for_type_checkers(tmp_path):
    package = tmp_path / "house"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "a.py").write_text("from house.b import B\n")
    (package / "b.py").write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from house.a import A\n")
    assert ImportGraph(package).circles() == []
    (package / "b.py").write_text("def late():\n    from house import a\n")
    assert ImportGraph(package).circles() == [{"house.a", "house.b"}]


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, sage_flow; print(*{m.split('.')[0] for m in sys.modules})"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert set(told.split()) & {"ray", "numpy", "rich", "cloudpickle", "pytest"} == set()


# --- public names -----------------------------------------------------------------------------------------


def test_the_public_names_are_these():
    assert sage_flow.__all__ == PUBLIC
    for public in PUBLIC:
        getattr(sage_flow, public)


def documented():
    """(name, object) of every public class and function, and of every public method of the classes."""
    for public in [*PUBLIC, *(f"errors.{error}" for error in errors.__all__)]:
        thing = getattr(errors, public[7:]) if public.startswith("errors.") else getattr(sage_flow, public)
        if inspect.isclass(thing):
            yield public, thing
            for method, value in vars(thing).items():
                if not method.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
                    yield f"{public}.{method}", value
            for base in thing.__mro__[1:]:
                if base.__module__.startswith("sage_flow"):
                    for method, value in vars(base).items():
                        if not method.startswith("_") and inspect.isfunction(value):
                            yield f"{public}.{method}", value
        elif callable(thing) and public not in CONSTANTS:
            yield public, type(thing) if not inspect.isfunction(thing) else thing


@pytest.mark.parametrize(
    ("public", "thing"), list(documented()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_public_name_is_documented(public, thing):
    doc = thing.__doc__
    assert doc, public
    assert not doc.startswith(f"{public}("), "a dataclass without a docstring of its own"


@pytest.mark.parametrize(("constant", "file"), CONSTANTS.items())
def test_constants_are_documented_where_they_are_defined(constant, file):
    source = (PACKAGE / file).read_text(encoding="utf-8").splitlines()
    (line,) = [n for n, text in enumerate(source) if text.startswith((f"{constant}:", f"{constant} ="))]
    assert source[line + 1].startswith('"""')


# --- errors -----------------------------------------------------------------------------------------------


def drawn():
    """(name, indentation) of the exceptions in the tree at the top of errors.py."""
    for line in errors.__doc__.splitlines():
        words = line.replace("│", " ").replace("├──", "   ").replace("└──", "   ")
        first = words.split()[0] if words.split() else ""
        if first in errors.__all__ and words.startswith("    "):
            yield first, len(words) - len(words.lstrip())


def defined():
    return {
        thing.__name__: thing
        for thing in vars(errors).values()
        if inspect.isclass(thing) and issubclass(thing, BaseException)
    }


def test_every_exception_is_exported_and_drawn_once():
    assert sorted(errors.__all__) == sorted(defined())
    assert sorted(name for name, _ in drawn()) == sorted(errors.__all__)


def test_the_tree_is_drawn_as_the_classes_are():
    above = []  # (name, indentation) from the root to here
    for child, indentation in drawn():
        while above and above[-1][1] >= indentation:
            above.pop()
        if above:
            assert defined()[above[-1][0]] in defined()[child].__bases__, child
        above.append((child, indentation))


def test_what_unwinds_user_code_cannot_be_swallowed_by_it():
    assert not issubclass(errors.JobCancelled, Exception)
    assert issubclass(errors.JobRestarting, errors.JobCancelled)


# --- habits -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", [f for f in FILES if "queues" not in f.relative_to(PACKAGE).parts], ids=name)
def test_the_engine_shares_descriptors_and_never_clones_them(file):
    calls = [node for node in ast.walk(tree(file)) if isinstance(node, ast.Call)]
    assert [call.lineno for call in calls if getattr(call.func, "attr", getattr(call.func, "id", "")) == "clone"] == []


def swallowing(file):
    """(function, line) of handlers that catch everything and do nothing."""
    for function in ast.walk(tree(file)):
        if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        for node in ast.walk(function):
            if not isinstance(node, ast.ExceptHandler):
                continue
            catches_all = node.type is None or getattr(node.type, "id", "") in ("Exception", "BaseException")
            does_nothing = all(isinstance(step, (ast.Pass, ast.Continue)) for step in node.body)
            if catches_all and does_nothing:
                yield function.name, node.lineno


@pytest.mark.parametrize("file", FILES, ids=name)
def test_no_error_is_swallowed(file):
    found = [(function, line) for function, line in swallowing(file) if (name(file), function) not in SILENT]
    assert found == []
