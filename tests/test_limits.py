"""How large a file, a class and a function may become, and how a reader finds the way among them.

What is larger is listed here with the reason. A test fails if an entry is no longer needed, so the lists only shrink.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import sage_flow

PACKAGE = Path(sage_flow.__file__).parent
ROOT = PACKAGE.parent
FILES = sorted(PACKAGE.rglob("*.py"))
CODE = [file for folder in ("sage_flow", "operators", "jobs") for file in sorted((ROOT / folder).rglob("*.py"))]

MOST_LINES = 500
MOST_LINES_OF_A_FUNCTION = 70
MOST_METHODS = 25
MOST_ATTRIBUTES = 15

LINKS = "is being rebuilt with named states, after the session at a hosted queue"
LEADER = "is becoming a shell around the pure leader"

LARGE_FILES: dict[str, str] = {}

LARGE_FUNCTIONS: dict[str, str] = {}

LARGE_CLASSES: dict[str, str] = {
    "executors/ray/master.py: JobMaster": LEADER,
    "links/link.py: Link": LINKS,
    "links/listener.py: Listener": LINKS,
    "queues/descriptor.py: BaseQueueDescriptor": "a contract: the methods of queue.Queue, and how a descriptor travels",
}

SAME_NAMES: dict[str, str] = {}

ASSERTS: dict[str, str] = {}


def name(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def check(found: dict[str, object], listed: dict[str, str]) -> None:
    """What was found is what is listed: nothing is missing there, and nothing is too many."""
    unlisted = {key: value for key, value in found.items() if key not in listed}
    assert unlisted == {}
    unneeded = sorted(set(listed) - set(found))
    assert unneeded == [], "these are within the limits: remove them from the list"
    assert all(listed.values()), "an exception needs a reason"


# --- sizes ------------------------------------------------------------------------------------------------


def test_no_file_is_longer_than_one_person_can_hold_in_mind():
    lengths = {name(file): len(file.read_text(encoding="utf-8").splitlines()) for file in FILES}
    check({file: lines for file, lines in lengths.items() if lines > MOST_LINES}, LARGE_FILES)


def functions(node: ast.AST, owner: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Every function and method, nested ones too, with its name as Python qualifies it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield owner + child.name, child
            yield from functions(child, f"{owner}{child.name}.")
        elif isinstance(child, ast.ClassDef):
            yield from functions(child, f"{owner}{child.name}.")
        else:
            yield from functions(child, owner)


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1


def test_no_function_is_longer_than_a_screen():
    lengths = {f"{name(file)}: {title}": lines_of(f) for file in FILES for title, f in functions(tree(file))}
    check({key: lines for key, lines in lengths.items() if lines > MOST_LINES_OF_A_FUNCTION}, LARGE_FUNCTIONS)


# --- classes ----------------------------------------------------------------------------------------------


def classes(file: Path) -> Iterator[ast.ClassDef]:
    """Every class of a file, nested ones too."""
    return (node for node in ast.walk(tree(file)) if isinstance(node, ast.ClassDef))


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Those of a class body, also inside `if`."""
    for statement in body:
        if isinstance(statement, ast.If):
            yield from statements([*statement.body, *statement.orelse])
        else:
            yield statement


def is_enum(kind: ast.ClassDef) -> bool:
    return any("Enum" in ast.unparse(base) or "Flag" in ast.unparse(base) for base in kind.bases)


def methods(kind: ast.ClassDef) -> set[str]:
    """Their names: overloads, and the getter and the setter of a property, are one."""
    found = statements(kind.body)
    return {method.name for method in found if isinstance(method, (ast.FunctionDef, ast.AsyncFunctionDef))}


def attributes(kind: ast.ClassDef) -> set[str]:
    """What the class declares and what its methods assign to `self`; the members of an enum are values."""
    found = set() if is_enum(kind) else declared(kind)
    for method in statements(kind.body):
        if isinstance(method, (ast.FunctionDef, ast.AsyncFunctionDef)) and method.args.args:
            found |= assigned(method, to=method.args.args[0].arg)
    return {one for one in found if not one.startswith("__")}


def declared(kind: ast.ClassDef) -> set[str]:
    found = set()
    for statement in statements(kind.body):
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        nodes = [node for target in targets if target is not None for node in ast.walk(target)]
        names = {node.id for node in nodes if isinstance(node, ast.Name)}
        if "__slots__" in names and isinstance(statement, ast.Assign):
            names |= set(ast.literal_eval(statement.value))
        found |= names
    return found


def assigned(method: ast.AST, to: str) -> set[str]:
    attributes = [n for n in ast.walk(method) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)]
    return {one.attr for one in attributes if isinstance(one.value, ast.Name) and one.value.id == to}


COUNTED = """
class Door:
    __slots__ = ("_key", "_lock")
    width: int = 1
    left, right = 0, 1
    @overload
    def open(self, far: int) -> int: ...
    @overload
    def open(self, far: str) -> str: ...
    def open(self, far):
        self._far, other.key = far, 1
        for self._step in range(far):
            self._key = far
    @property
    def state(self): ...
    @state.setter
    def state(self, value): ...
    if not TYPE_CHECKING:
        def __getattr__(self, name):
            def ask():
                self._asked = True
"""


def test_what_has_one_name_counts_once():
    (door,) = (node for node in ast.parse(COUNTED).body if isinstance(node, ast.ClassDef))
    assert methods(door) == {"open", "state", "__getattr__"}
    assert attributes(door) == {"_key", "_lock", "width", "left", "right", "_far", "_step", "_asked"}


def test_no_class_has_more_parts_than_a_reader_can_keep_in_view():
    counts = {
        f"{name(file)}: {kind.name}": (len(methods(kind)), len(attributes(kind)))
        for file in FILES
        for kind in classes(file)
    }
    check({k: v for k, v in counts.items() if v[0] > MOST_METHODS or v[1] > MOST_ATTRIBUTES}, LARGE_CLASSES)


def test_no_two_public_classes_have_one_name():
    found = defaultdict(list)
    for file in FILES:
        for node in statements(tree(file).body):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(name(file))
    check({title: files for title, files in found.items() if len(files) > 1}, SAME_NAMES)


# --- words ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", FILES, ids=name)
def test_every_module_says_what_it_is_for(file):
    assert ast.get_docstring(tree(file)), file


def rooms() -> list[str]:
    """The modules that the map of rooms has a line for."""
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    chapter = page.partition("\n## Map of rooms\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| `([\w/]+\.py)` \| \S.*\|$", chapter, re.MULTILINE)


def test_the_map_of_rooms_has_a_line_for_each_module_and_for_no_other():
    assert sorted(rooms()) == [name(file) for file in FILES]


def test_impossible_states_raise_an_error_and_are_not_asserted():
    """`python -O` runs without asserts, and their error says nothing to a user."""
    found = {}
    for file in CODE:
        lines = [node.lineno for node in ast.walk(tree(file)) if isinstance(node, ast.Assert)]
        if lines:
            found[file.relative_to(ROOT).as_posix()] = lines
    check(found, ASSERTS)
