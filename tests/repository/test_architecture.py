"""The arrows of the house: who may import whom."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ARROWS = {
    "metalm_proto": {"metalm_proto"},
    "metalm_service.core": {"metalm_proto", "metalm_service.core"},
    "metalm_service.config": {"metalm_proto"},
    "metalm_service.calls": {"metalm_proto"},
    "metalm_service.handler": {
        "metalm_proto",
        "metalm_service.calls",
        "metalm_service.config",
        "metalm_service.core",
        "metalm_service.fairness",
        "metalm_service.limits",
        "metalm_service.places",
    },
    "metalm_service.limits": {
        "metalm_proto",
        "metalm_service.config",
        "metalm_service.core",
    },
    "metalm_service.fairness": set(),
    "metalm_service.places": {"metalm_proto"},
    "metalm_service.metrics": {
        "metalm_proto",
        "metalm_service.calls",
        "metalm_service.handler",
        "metalm_service.sums",
    },
    "metalm_service.sums": {"metalm_service.calls"},
    "metalm_service.tracing": {
        "metalm_proto",
        "metalm_service.calls",
        "metalm_service.handler",
    },
    "metalm_service.logs": {"metalm_service.calls", "metalm_service.config"},
    "metalm_service.tokens": {"metalm_proto"},
    "metalm_service.tls": {"metalm_proto", "metalm_service.config"},
    "metalm_service.floors": {"metalm_proto", "metalm_service.core", "metalm_service.floors"},
    "metalm_service.grpc": {
        "metalm_proto",
        "metalm_service.calls",
        "metalm_service.config",
        "metalm_service.grpc",
        "metalm_service.handler",
        "metalm_service.limits",
        "metalm_service.places",
        "metalm_service.tls",
        "metalm_service.tokens",
    },
    "metalm_service.http": {
        "metalm_proto",
        "metalm_service.calls",
        "metalm_service.floors",
        "metalm_service.handler",
        "metalm_service.http",
        "metalm_service.limits",
        "metalm_service.metrics",
        "metalm_service.tokens",
    },
    "metalm_service.server": {
        "metalm_service.calls",
        "metalm_service.config",
        "metalm_service.floors",
        "metalm_service.grpc",
        "metalm_service.handler",
        "metalm_service.http",
        "metalm_service.logs",
        "metalm_service.metrics",
        "metalm_service.tracing",
        "metalm_service.tls",
        "metalm_service.tokens",
    },
    "metalm": {"metalm_proto", "metalm"},
}
LAZY = {"metalm_service"}
"""What the client may import inside a function: the generator in process, and `metalm serve`."""

CORE_OUTSIDE = {"numpy", "numba"}
"""All that the pure core may use beside the standard library."""


def modules(package: str) -> list[tuple[str, Path]]:
    spec = find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations
    root = Path(spec.submodule_search_locations[0])
    return [
        (".".join((package, *path.relative_to(root).with_suffix("").parts)), path)
        for path in sorted(root.rglob("*.py"))
        if "v1" not in path.parts
    ]


ALL = [
    pair for package in ("metalm_proto", "metalm_service", "metalm") for pair in modules(package)
]


def imports(path: Path) -> tuple[set[str], set[str]]:
    """Modules imported at the top, and inside functions."""
    tree = ast.parse(path.read_text())
    inside = {
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    top: set[str] = set()
    lazy: set[str] = set()
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        (lazy if node in inside else top).update(names)
    return top, lazy


def under(name: str, roots: set[str]) -> bool:
    return any(name == root or name.startswith(f"{root}.") for root in roots)


@pytest.mark.parametrize(("name", "path"), ALL, ids=[name for name, _ in ALL])
def test_imports_follow_the_arrows(name: str, path: Path) -> None:
    room = max((room for room in ARROWS if under(name, {room})), key=len, default=None)
    if room is None:
        assert path.name == "__init__.py", f"{name} has no place in the map: give it one in ARROWS"
        room = "metalm_proto"
    top, lazy = imports(path)
    ours = {"metalm_proto", "metalm_service", "metalm"}
    assert not {i for i in top if under(i, ours) and not under(i, ARROWS[room])}
    allowed_inside = ARROWS[room] | (LAZY if room == "metalm" else set())
    assert not {i for i in lazy if under(i, ours) and not under(i, allowed_inside)}
    if room == "metalm_service.core":
        outside = {i.partition(".")[0] for i in top | lazy} - set(sys.stdlib_module_names)
        assert outside <= CORE_OUTSIDE | {"metalm_proto", "metalm_service"}


def loaded_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*(name.partition('.')[0] for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


HEAVY = {"numba", "fastapi", "starlette", "uvicorn", "torch", "scipy", "pandas", "matplotlib"}


def test_the_client_loads_nothing_heavy() -> None:
    loaded = loaded_after(
        "import metalm, metalm.cli, metalm.transports.http, metalm.transports.grpc"
    )
    assert not loaded & (HEAVY | {"metalm_service"})


def test_the_generator_in_process_loads_no_server() -> None:
    statement = "from metalm import MetaLMClient; MetaLMClient('inprocess:').sample(L=5, seed=1)"
    # (numba loads scipy where there is one.)
    assert not loaded_after(statement) & (HEAVY - {"numba", "scipy"})


def test_nothing_happens_at_import() -> None:
    """No thread, no socket, no output."""
    code = (
        "import metalm, metalm.cli, metalm_service.server, metalm_service.core.kernel, threading, os;"
        "assert threading.active_count() == 1, threading.enumerate();"
        "assert not [f for f in os.listdir('/proc/self/fd')"
        " if os.path.exists(f'/proc/self/fd/{f}')"
        " and os.readlink(f'/proc/self/fd/{f}').startswith('socket')]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
