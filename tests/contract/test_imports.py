"""Which module may import which: the rules of the house, read from the sources.

The way of a request goes downward (command line, app, service, engine, scheduler, cells); nothing imports upward or
in a circle, client and server meet in the contract alone, and each outside library is used in the places meant for it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

from tests.tools import ROOT

PACKAGES = {
    "cellserve": ROOT / "proto" / "cellserve",
    "cellserve_server": ROOT / "server" / "cellserve_server",
    "cellserve_client": ROOT / "client" / "cellserve_client",
}
LINEAR_ALGEBRA = {"dot", "vdot", "inner", "outer", "matmul", "einsum", "tensordot", "linalg", "matvec", "vecmat"}
# Where the server meets grpc: the RPCs, what stands around them, other replicas, start and stop, and the health probe.
GRPC_MODULES = {
    "app",
    "edge.interceptors",
    "edge.model_service",
    "edge.peer_service",
    "edge.service",
    "healthcheck",
    "keeping.peers",
    "security.tls",
}
# The server's floors from the top to the ground; nothing imports from a floor above its own. What is not listed, such
# as settings and metrics, is used on several.
FLOORS = ("cli", "app", "edge", "tracing", "keeping", "engine", "sessions", "models", "stores", "cells")


@dataclass(frozen=True)
class Import:
    """One import: the module's full name, and whether it happens when the importing module is loaded."""

    module: str
    at_load: bool


@dataclass(frozen=True)
class Source:
    """A Python file of ours."""

    name: str
    tree: ast.Module

    @property
    def package(self) -> str:
        return self.name.partition(".")[0]

    @property
    def part(self) -> str:
        """The module or subpackage right below the package: ``engine``, ``cells``; empty for the package itself."""
        return self.name.removeprefix(self.package).removeprefix(".").partition(".")[0]

    @cached_property
    def imports(self) -> tuple[Import, ...]:
        """Its imports but those for type checkers alone. Relative ones are an error of ruff's, not looked at."""
        return tuple(_imports_in(self.tree.body, at_load=True))


def read_sources(package: str) -> list[Source]:
    """The files of a package, without the generated ones."""
    folder = PACKAGES[package]
    found = []
    for path in sorted(folder.rglob("*.py")):
        if not path.stem.endswith(("_pb2", "_pb2_grpc")):
            name = module_name(package, path.relative_to(folder))
            found.append(Source(name, ast.parse(path.read_text(encoding="utf-8"), str(path))))
    return found


def module_name(package: str, path: Path) -> str:
    return ".".join((package, *path.with_suffix("").parts)).removesuffix(".__init__")


MODULES = {
    module_name(package, path.relative_to(folder))
    for package, folder in PACKAGES.items()
    for path in folder.rglob("*.py")
}


def _imports_in(nodes: Iterable[ast.AST], at_load: bool) -> Iterator[Import]:
    for child in nodes:
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, at_load) for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module:
            # What is imported from a package of ours may be one of its modules; then it is the module that counts.
            for alias in child.names:
                full = f"{child.module}.{alias.name}"
                yield Import(full if full in MODULES else child.module, at_load)
        elif isinstance(child, ast.If) and _is_for_type_checkers(child.test):
            yield from _imports_in(child.orelse, at_load)
        else:
            inside_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _imports_in(ast.iter_child_nodes(child), at_load and not inside_function)


def _is_for_type_checkers(test: ast.expr) -> bool:
    names = (getattr(node, "id", getattr(node, "attr", "")) for node in ast.walk(test))
    return "TYPE_CHECKING" in names


def top_level(module: str) -> str:
    return module.partition(".")[0]


def part_of_server(module: str) -> str:
    return module.removeprefix("cellserve_server.").partition(".")[0] if module.startswith("cellserve_server.") else ""


ALL = [source for package in PACKAGES for source in read_sources(package)]


def sources(package: str) -> list[Source]:
    """Those of them that are a package's."""
    return [source for source in ALL if source.package == package]


SERVER = sources("cellserve_server")


def test_the_packages_are_there() -> None:
    assert {source.package for source in ALL} == set(PACKAGES)


@pytest.mark.parametrize(
    ("package", "others"),
    [
        ("cellserve", {"cellserve_server", "cellserve_client"}),
        ("cellserve_server", {"cellserve_client"}),
        ("cellserve_client", {"cellserve_server"}),
    ],
)
def test_client_and_server_depend_on_the_contract_alone(package: str, others: set[str]) -> None:
    wrong = [
        f"{source.name} imports {item.module}"
        for source in sources(package)
        for item in source.imports
        if top_level(item.module) in others
    ]
    assert not wrong


def test_only_service_level_modules_import_grpc() -> None:
    users = {
        source.name.removeprefix("cellserve_server.")
        for source in SERVER
        for item in source.imports
        if top_level(item.module) in {"grpc", "grpc_health", "grpc_reflection", "grpc_status"}
    }
    assert users <= GRPC_MODULES


@pytest.mark.parametrize(("driver", "module"), [("redis", "redis_link"), ("hiredis", "redis_link")])
def test_a_stores_driver_is_imported_in_one_file_alone_and_not_at_load(driver: str, module: str) -> None:
    users = {
        (source.name, item.at_load) for source in SERVER for item in source.imports if top_level(item.module) == driver
    }
    assert users == ({(f"cellserve_server.stores.{module}", False)} if module else set())


def test_sqlite_is_met_in_its_stores_files_alone() -> None:
    users = {source.name for source in SERVER for item in source.imports if top_level(item.module) == "sqlite3"}
    assert users
    assert all(name.startswith("cellserve_server.stores.sqlite") for name in users)


def test_opentelemetry_is_met_in_tracing_alone_which_nobody_imports_at_load() -> None:
    users = {source.name for source in ALL for item in source.imports if top_level(item.module) == "opentelemetry"}
    tracing = {name for name in MODULES if name.startswith(("cellserve_server.tracing.", "cellserve_client.tracing"))}
    assert users
    assert users <= tracing
    at_load = [
        f"{source.name} imports {item.module}"
        for source in ALL
        for item in source.imports
        if item.at_load and item.module in tracing and source.name not in tracing
    ]
    assert at_load == ["cellserve_server.app imports cellserve_server.tracing.opening"]
    (opening,) = (source for source in SERVER if source.name == "cellserve_server.tracing.opening")
    assert {top_level(item.module) for item in opening.imports if item.at_load} <= sys.stdlib_module_names | {
        "cellserve_server"
    }


def test_the_scheduler_imports_the_standard_library_only() -> None:
    (scheduler,) = (source for source in SERVER if source.name == "cellserve_server.engine.scheduler")
    assert {top_level(item.module) for item in scheduler.imports} <= sys.stdlib_module_names


def linear_algebra(tree: ast.AST) -> list[str]:
    """What a file does that belongs into ``cells/``: products of matrices and vectors."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.MatMult):
            found.append(f"line {node.lineno}: @")
        elif isinstance(node, ast.Attribute) and (
            node.attr == "dot" or (node.attr in LINEAR_ALGEBRA and ast.unparse(node.value) in {"np", "numpy"})
        ):
            found.append(f"line {node.lineno}: {node.attr}")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("numpy"):
            found += [f"line {node.lineno}: {item.name}" for item in node.names if item.name in LINEAR_ALGEBRA]
    return found


def test_only_cells_does_linear_algebra() -> None:
    outside = [source for source in ALL if not source.name.startswith("cellserve_server.cells")]
    assert not {source.name: found for source in outside if (found := linear_algebra(source.tree))}


def test_linear_algebra_is_found_where_it_is() -> None:
    text = "a @ b\na @= b\nnp.dot(a, b)\na.dot(b)\nnp.linalg.norm(a)\nfrom numpy import einsum\na * b\nnp.add(a, b)"
    assert len(linear_algebra(ast.parse(text))) == 6
    cells = [source for source in SERVER if source.part == "cells"]
    assert any(linear_algebra(source.tree) for source in cells)


def test_no_module_imports_from_a_floor_above() -> None:
    floor = {part: number for number, part in enumerate(FLOORS)}
    wrong = [
        f"{source.name} imports {item.module}"
        for source in SERVER
        for item in source.imports
        if source.part in floor and floor.get(part_of_server(item.module), len(FLOORS)) < floor[source.part]
    ]
    assert not wrong


def test_only_the_top_imports_the_edge_the_inspector_and_the_app() -> None:
    allowed = {"app": {"cli"}, "edge": {"app"}, "inspector": {"app"}}
    wrong = [
        f"{source.name} imports {item.module}"
        for source in SERVER
        for item in source.imports
        if (imported := part_of_server(item.module)) in allowed and source.part not in {imported, *allowed[imported]}
    ]
    assert not wrong


def test_every_floor_is_there() -> None:
    assert set(FLOORS) <= {source.part for source in SERVER}


def test_the_clients_library_needs_no_more_than_it_declares() -> None:
    declared = {"cellserve", "cellserve_client", "grpc", "google", "numpy"} | sys.stdlib_module_names
    wrong = [
        f"{source.name} imports {item.module}"
        for source in sources("cellserve_client")
        for item in source.imports
        if source.part not in {"cli", "load", "server_metrics", "top", "tracing"}
        and top_level(item.module) not in declared
    ]
    assert not wrong, "only the command line, what it alone uses, and tracing may use what the extras bring"


def circle(graph: dict[str, set[str]]) -> list[str]:
    """A circle in a graph, the first node repeated at the end; empty when there is none."""
    done: set[str] = set()

    def search(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        for neighbour in sorted(graph[node]):
            if found := search(neighbour, [*path, node]):
                return found
        done.add(node)
        return []

    return next((found for node in sorted(graph) if (found := search(node, []))), [])


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_imports_itself_in_a_circle(package: str) -> None:
    names = {source.name for source in sources(package)}
    graph = {
        # A package's __init__ gathers its modules, which may import one another, but not it.
        source.name: {item.module for item in source.imports if item.at_load and item.module in names} - {source.name}
        for source in sources(package)
    }
    assert circle(graph) == []


def test_circles_are_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_imports_are_read_as_they_run() -> None:
    text = (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import a\nelse:\n    import b\n"
        "def f():\n    import c\nclass D:\n    from d import e\n"
    )
    found = set(Source("x", ast.parse(text)).imports)
    assert found == {Import("typing", True), Import("b", True), Import("c", False), Import("d", True)}
    assert set(Source("x", ast.parse("from cellserve import cells, nothing")).imports) == {
        Import("cellserve.cells", True),
        Import("cellserve", True),
    }
