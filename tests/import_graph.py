"""Which modules of a package import which, read from the source.

Imports inside functions count; those under `if TYPE_CHECKING` do not.
"""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path


class ImportGraph:
    """The modules below `package`, by their full names. `imports[module]`: what it imports, other packages included."""

    def __init__(self, package: Path) -> None:
        self.files = {_name(file, package): file for file in package.rglob("*.py")}
        self.root = package.name
        self.imports = {module: self._imports(module) for module in self.files}

    def _imports(self, module: str) -> set[str]:
        found: set[str] = set()
        for node in _run_imports(ast.parse(self.files[module].read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            else:
                inside = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= {name for name in inside if name in self.files}
                if inside - set(self.files):
                    found.add(str(node.module))
        return found - {module}

    def inside(self, module: str) -> set[str]:
        """The modules of the package that it imports."""
        return self.imports[module] & set(self.files)

    def loaded(self, module: str) -> set[str]:
        """The modules of the package that are run because it imports something: also the packages around them.

        The package itself is left out: whoever imports one of its modules runs that, too.
        """
        found = self.inside(module)
        around = {".".join(name.split(".")[:depth]) for name in found for depth in range(2, name.count(".") + 1)}
        return (found | around) - {self.root}

    def path_to(self, module: str, world: Iterable[str]) -> list[str] | None:
        """The way by which it reaches a module of one of these other packages, itself first; None: it does not."""
        world = set(world)
        before: dict[str, str | None] = {module: None}
        waiting = [module]
        for found in waiting:  # grows meanwhile: the shortest way comes first
            outside = sorted(name for name in self.imports[found] if name.split(".")[0] in world)
            if outside:
                way: list[str] = [outside[0]]
                step: str | None = found
                while step is not None:
                    way.insert(0, step)
                    step = before[step]
                return way
            new = sorted(self.loaded(found) - set(before))
            before.update(dict.fromkeys(new, found))
            waiting += new
        return None

    def circles(self) -> list[set[str]]:
        """Modules that reach each other, largest groups only."""
        reached = {module: self._reached(module) for module in self.files}
        found: list[set[str]] = []
        for module in sorted(self.files):
            circle = {other for other in reached[module] if module in reached[other]}
            if circle and circle not in found:
                found.append(circle)
        return found

    def _reached(self, module: str) -> set[str]:
        found: set[str] = set()
        waiting = [module]
        while waiting:
            new = self.inside(waiting.pop()) - found
            found |= new
            waiting += new
        return found


def _name(file: Path, package: Path) -> str:
    parts = file.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _run_imports(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            is_negated = isinstance(node.test, ast.UnaryOp)
            for kept in node.body if is_negated else node.orelse:
                yield from _run_imports(ast.Module([kept], []))
        else:
            yield from _run_imports(node)
