"""The one direction of imports."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest
from support.rooms import ANALYSE, ORDER

import loadtest

PACKAGE = Path(loadtest.__file__).parent

# the two halves meet only on disk, and what is pure stays pure
APART = {
    "analyse": {"wire", "measure", "targets", "asyncio_driver", "monitor", "users"},
    "memory": {"wire", "measure", "targets", "asyncio_driver", "monitor", "records"},
    "simulate": set(ORDER) - {"errors", "simulate"},
    "users": {"asyncio_driver"},
    "monitor": {"workloads", "dialects", "measure", "targets", "asyncio_driver"},
}
# folders that import each other: a run's admission is read off its steps, and the processes of a test share one board
BOTH_WAYS = {(("analyse", "server"), "queue", "timing"), (("users",), "processes", "results")}
HEAVY = {"pandas", "matplotlib", "locust", "gevent"}
FORBIDDEN = {
    **dict.fromkeys(("workloads", "dialects", "wire", "measure", "targets", "asyncio_driver", "monitor"), HEAVY),
    "analyse": {"httpx", "asyncio", "locust"},
    "memory": {"httpx", "asyncio", "locust", "pandas", "matplotlib"},
    "simulate": {"httpx", "pandas", "matplotlib", "locust"},
}


@functools.cache
def imported(path: Path) -> frozenset[str]:
    """Return every module that a file names, at its top or inside functions; what only types need is none."""
    names: set[str] = set()
    for node in ast.walk(_without_types(ast.parse(path.read_text(encoding="utf-8")))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def _without_types(tree: ast.Module) -> ast.Module:
    tree.body = [
        node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
    ]
    return tree


@functools.cache
def ours() -> tuple[tuple[Path, tuple[str, ...], tuple[str, ...]], ...]:
    """Return (file, its own module path, a module path of ours that it imports), both without `loadtest`."""
    return tuple(
        (path, path.relative_to(PACKAGE).with_suffix("").parts, tuple(name.split(".")[1:]))
        for path in PACKAGE.rglob("*.py")
        for name in imported(path)
        if name.startswith("loadtest.") and name.split(".")[1] in ORDER
    )


def test_imports_run_down_from_room_to_room() -> None:
    for path, own, other in ours():
        if own[0] in ORDER:
            assert ORDER.index(other[0]) <= ORDER.index(own[0]), f"{path} imports {other} above it"
        assert other[0] not in APART.get(own[0], set()), f"{path} imports {other}"
        assert other[0] != "cli" or own[0] in {"cli", "__main__"}, f"{path} imports the command line"


def test_inside_analyse_imports_run_down_too() -> None:
    for path, own, other in ours():
        if own[0] == other[0] == "analyse" and len(own) > 1 and len(other) > 1 and own[1] != "__init__":
            assert ANALYSE.index(other[1]) <= ANALYSE.index(own[1]), f"{path} imports {other} above it"


def test_of_two_folders_beside_each_other_only_one_imports_the_other() -> None:
    pairs = set()
    for _, own, other in ours():
        shared = next((n for n, (one, two) in enumerate(zip(own, other, strict=False)) if one != two), None)
        if shared is not None and all((PACKAGE / Path(*names[: shared + 1])).is_dir() for names in (own, other)):
            pairs.add((own[:shared], own[shared], other[shared]))
    both = {(place, *sorted((one, two))) for place, one, two in pairs if (place, two, one) in pairs}
    assert both == BOTH_WAYS


@pytest.mark.parametrize("room", FORBIDDEN)
def test_a_room_loads_nothing_that_it_has_no_use_for(room: str) -> None:
    for path in (PACKAGE / room).rglob("*.py"):
        for name in imported(path):
            assert name.partition(".")[0] not in FORBIDDEN[room], f"{path} imports {name}"


def test_public_names_are_sorted_and_exist() -> None:
    assert list(loadtest.__all__) == sorted(loadtest.__all__)
    assert all(hasattr(loadtest, name) for name in loadtest.__all__)
    assert set(loadtest.__all__) <= set(dir(loadtest))
    assert not hasattr(loadtest, "Runner")
