"""Which of our modules imports which: `python -m testing.import_graph [CHECKOUT]` prints a summary.

The graph comes from the source alone, so it works for any commit's checkout. Imports within
functions and under TYPE_CHECKING count like all others. `import a.b.c` counts as an import of that module
alone, although it also runs `a/__init__.py`.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UNSHIPPED = ("benchmarks", "deploy", "testing", "tests", "tools")
"""Folders of code beside the distributions; those are the folders with a `src`."""


@dataclass(frozen=True)
class ImportGraph:
    """`imports` maps each module to the names that it imports, ours and others."""

    imports: dict[str, frozenset[str]]

    @classmethod
    def read(cls, root: Path = ROOT, unshipped: Iterable[str] = UNSHIPPED) -> ImportGraph:
        """Of the distributions below `root`, and of its folders of code that is not shipped."""
        places = [source for source in sorted(root.glob("*/src")) if source.is_dir()]
        files = {_name(path, source): path for source in places for path in source.rglob("*.py")}
        for folder in unshipped:
            files |= {_name(path, root): path for path in (root / folder).rglob("*.py")}
        return cls({name: frozenset(_imported(path, name)) for name, path in sorted(files.items())})

    def within(self, package: str) -> ImportGraph:
        """The part of the graph inside one package."""
        names = {name for name in self.imports if name == package or name.startswith(f"{package}.")}
        return ImportGraph({name: self.imports[name] for name in sorted(names)})

    @cached_property
    def edges(self) -> dict[str, list[str]]:
        """Each module and the modules of ours that it imports."""
        return {
            name: sorted({found for each in imported if (found := self._module(each)) and found != name})
            for name, imported in self.imports.items()
        }

    def _module(self, name: str) -> str | None:
        """The module that `name` is, or is an attribute of; None if it is not ours."""
        while name and name not in self.imports:
            name = name.rpartition(".")[0]
        return name or None

    @cached_property
    def circles(self) -> list[list[str]]:
        """Groups of modules each of which needs all others of its group (strongly connected components)."""
        return [group for group in self._groups if len(group) > 1]

    @cached_property
    def longest_chain(self) -> list[str]:
        """The longest path along imports; a circle on it counts with all its modules."""
        group_of = {name: index for index, group in enumerate(self._groups) for name in group}
        longest: list[list[str]] = []
        for index, group in enumerate(self._groups):  # what a group imports comes before it
            below = {group_of[target] for name in group for target in self.edges[name]} - {index}
            longest.append(group + max((longest[each] for each in below), key=len, default=[]))
        return max(longest, key=len, default=[])

    @cached_property
    def _groups(self) -> list[list[str]]:
        """Tarjan's strongly connected components: what a component imports comes before it."""
        groups: list[list[str]] = []
        order: dict[str, int] = {}
        low: dict[str, int] = {}
        stack: list[str] = []

        def visit(name: str) -> None:
            order[name] = low[name] = len(order)
            stack.append(name)
            for target in self.edges[name]:
                if target not in order:
                    visit(target)
                    low[name] = min(low[name], low[target])
                elif target in stack:
                    low[name] = min(low[name], order[target])
            if low[name] == order[name]:
                at = stack.index(name)
                groups.append(stack[at:])
                del stack[at:]

        for name in self.edges:
            if name not in order:
                visit(name)
        return groups


def _name(path: Path, source: Path) -> str:
    parts = path.relative_to(source).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(path: Path, module: str) -> Iterator[str]:
    """Names with their modules: `from a import b` is `a.b`, which may be a module or an attribute of one."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: -(node.level - 1) or None] if node.level else []
            prefix = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{prefix}.{alias.name}" for alias in node.names)


def main(arguments: list[str]) -> None:
    graph = ImportGraph.read(Path(arguments[0]) if arguments else ROOT, unshipped=())
    print(f"{len(graph.imports)} modules in the distributions, {len(graph.circles)} import circles")
    for circle in graph.circles:
        print("  " + ", ".join(circle))
    print("longest chains of imports:")
    for package in sorted({name.partition(".")[0] for name in graph.imports}):
        part = graph.within(package)
        print(f"  {len(part.longest_chain):2} of {len(part.imports):2} modules within {package}")
    print(f"  {len(graph.longest_chain):2} modules over all: {' -> '.join(graph.longest_chain)}")


if __name__ == "__main__":
    main(sys.argv[1:])
