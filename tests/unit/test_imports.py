"""The import rules of the distributions, on the graph of all our modules."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from testing.import_graph import UNSHIPPED, ImportGraph

MAY_IMPORT = {
    "clip_preprocess": set(),
    "clip_client": {"clip_preprocess"},
    "clip_serving": {"clip_preprocess", "clip_client"},
    "clip_export": {"clip_preprocess", "clip_serving"},
    "clip_profile": {"clip_preprocess", "clip_client", "clip_serving"},
    "clip_search": {"clip_preprocess", "clip_client"},
    "clip_batch": {"clip_preprocess", "clip_client"},
}
"""Downwards only. The distributions above may also import what these import."""
ONLY_FROM = {
    ("clip_client", "clip_preprocess"): "clip_client.decode",
    ("clip_serving", "clip_client"): "clip_serving.server",
}
"""What only an extra installs is imported only by the part that the extra is for."""


@pytest.fixture(scope="module")
def graph() -> ImportGraph:
    return ImportGraph.read()


def package(module: str) -> str:
    return module.partition(".")[0]


def edges(graph: ImportGraph) -> Iterator[tuple[str, str]]:
    for module, targets in graph.edges.items():
        for target in targets:
            yield module, target


def within(module: str, part: str) -> bool:
    return module == part or module.startswith(f"{part}.")


def test_every_distribution_has_its_rule(graph: ImportGraph) -> None:
    assert {package(name) for name in graph.imports} - set(UNSHIPPED) == MAY_IMPORT.keys()


def test_no_import_cycles(graph: ImportGraph) -> None:
    assert graph.circles == []


def test_distributions_import_downwards_only(graph: ImportGraph) -> None:
    wrong = [
        (module, target)
        for module, target in edges(graph)
        if package(module) in MAY_IMPORT
        and package(target) != package(module)
        and package(target) not in MAY_IMPORT[package(module)]
    ]
    assert wrong == []


@pytest.mark.parametrize(("importer", "imported"), ONLY_FROM)
def test_an_extra_is_imported_only_where_it_is_needed(
    graph: ImportGraph, importer: str, imported: str
) -> None:
    part = ONLY_FROM[importer, imported]
    wrong = [
        (module, target)
        for module, target in edges(graph)
        if package(module) == importer and package(target) == imported and not within(module, part)
    ]
    assert wrong == []


def test_only_triton_models_import_tritons_python_module(graph: ImportGraph) -> None:
    users = [
        module
        for module, imported in graph.imports.items()
        if package(module) in MAY_IMPORT
        and any(name.startswith("triton_python_backend_utils") for name in imported)
    ]
    assert users
    assert all(within(module, "clip_serving.triton_models") for module in users), users


def test_unshipped_code_imports_no_tests_and_testing_only_the_distributions(graph: ImportGraph) -> None:
    wrong = [
        (module, target)
        for module, target in edges(graph)
        if (package(target) == "tests" and package(module) != "tests")
        or (package(module) == "testing" and package(target) in {"benchmarks", "tools", "deploy"})
    ]
    assert wrong == []


def test_no_test_imports_another_test(graph: ImportGraph) -> None:
    """What tests share is in testing/, or in a module of their folder that has no tests."""
    wrong = [
        (module, target)
        for module, target in edges(graph)
        if package(target) == "tests" and target.rpartition(".")[2].startswith("test_")
    ]
    assert wrong == []


# --- the graph itself ------------------------------------------------------------------------------


def tree(root: Path, **files: str) -> ImportGraph:
    for name, text in files.items():
        path = root / "dist" / "src" / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return ImportGraph.read(root, unshipped=())


def test_a_cycle_is_found_wherever_its_imports_are(tmp_path: Path) -> None:
    graph = tree(
        tmp_path,
        a__top="from a.middle import f",
        a__middle="def f():\n    from . import low",
        a__low="from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import a.middle",
        b__other="import a.top, numpy",
    )
    assert [sorted(circle) for circle in graph.circles] == [["a.low", "a.middle"]]
    assert graph.longest_chain[:2] == ["b.other", "a.top"]
    assert len(graph.longest_chain) == 4
    assert graph.within("a").longest_chain[0] == "a.top"


def test_names_are_found_in_their_modules(tmp_path: Path) -> None:
    graph = tree(
        tmp_path,
        a__x="from a.y import name\nfrom a import z\nfrom .deep import thing as other\nimport os.path",
        a__y="name = 1",
        a__z="",
        a__deep__thing="from ..y import name\nfrom ... import nothing",
    )
    assert graph.edges["a.x"] == ["a.deep.thing", "a.y", "a.z"]
    assert graph.edges["a.deep.thing"] == ["a.y"]
    assert graph.imports["a.x"] >= {"os.path", "a.y.name"}
    assert graph.circles == []
