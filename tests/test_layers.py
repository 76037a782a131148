"""What may import what: docs/architecture.md's layers, no circles, and what a bundle's run has to do without."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"himix_edge": "himix_edge", "export": "himix_edge.export", "runtimes": "himix_edge.runtimes"}
# from below to above; a package imports its own layer and those below. What is not named is at the bottom.
LAYERS = (
    {"model", "checkpoints", "runtimes", "data"},
    {"export", "training", "evaluation", "bench", "distillation", "serving", "hf"},
    {"cli", "__main__"},
)


@cache
def modules() -> dict[str, Path]:
    """Every module by its name as it is imported; what only looks like one (a board's stand-ins) too."""
    found = {}
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join((package, *parts)).removesuffix(".__init__")] = path
    return found


@cache
def imports() -> dict[str, frozenset[str]]:
    """Module -> those of ours that it imports, at the top or in a function; not what only a type checker reads."""
    return {name: frozenset(_imported(ast.parse(path.read_text(encoding="utf-8")))) - {name}
            for name, path in modules().items()}  # fmt: skip


def _imported(tree):
    for node in tree.body if isinstance(tree, ast.Module) else ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from (name for other in node.orelse for name in _imported(other))
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules())
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield from [name for name in (whole, node.module) if name in modules()][:1]
        else:
            yield from _imported(node)


def circles(graph: dict[str, frozenset[str]]) -> list[list[str]]:
    """The sets of modules that reach each other (Tarjan, SIAM J. Comput. 1972), largest first."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    path: list[str] = []
    found = []

    def visit(name):
        order[name] = lowest[name] = len(order)
        path.append(name)
        for other in sorted(graph.get(name, ())):
            if other not in order:
                visit(other)
                lowest[name] = min(lowest[name], lowest[other])
            elif other in path:
                lowest[name] = min(lowest[name], order[other])
        if lowest[name] == order[name]:
            place = path.index(name)
            if len(path) - place > 1:
                found.append(sorted(path[place:]))
            del path[place:]

    for name in sorted(graph):
        if name not in order:
            visit(name)
    return sorted(found, key=len, reverse=True)


def layer_of(module: str) -> int:
    """0 at the bottom."""
    part = module.split(".")[1] if "." in module else ""
    return next((number for number, names in enumerate(LAYERS, 1) if part in names), 0)


def test_what_finds_circles_finds_them():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": {"d"}, "f": {"a"}}
    assert circles({name: frozenset(others) for name, others in graph.items()}) == [["a", "b", "c"], ["d", "e"]]
    code = """
def f():
    try:
        from himix_edge import errors
    except ImportError:
        pass
if TYPE_CHECKING:
    import himix_edge.cli
"""
    assert list(_imported(ast.parse(code))) == ["himix_edge.errors"]
    assert layer_of("himix_edge.errors") == 0
    assert layer_of("himix_edge.cli.run") == 3
    assert "himix_edge.runtimes.session" in imports()["himix_edge.runtimes.opening"]


def test_no_module_imports_itself_over_others():
    assert circles(imports()) == []


def test_no_package_imports_itself_over_others():
    """The same for packages right below himix_edge; the modules at the bottom are one each."""

    def package(name):
        return ".".join(name.split(".")[:2])

    graph: dict[str, set[str]] = {}
    for name, others in imports().items():
        graph.setdefault(package(name), set()).update(package(other) for other in others)
    graph.pop("himix_edge", None)
    assert circles({name: frozenset(others - {name}) for name, others in graph.items()}) == []


def test_imports_go_down_only():
    up = [f"{name} imports {other}" for name, others in imports().items() for other in sorted(others)
          if layer_of(other) > layer_of(name)]  # fmt: skip
    assert up == []


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_a_bundle_runs_without_torch_and_without_exporters(target, layers_bundles):
    """Opened and asked in a process of its own."""
    code = """
import sys
from pathlib import Path
from himix_edge.runtimes import open_bundle
from himix_edge.runtimes.selftest import self_test
folder = Path(sys.argv[1])
session = open_bundle(folder)
assert self_test(folder, session)["passed"]
heavy = {"torch", "onnx", "onnxscript", "torchao", "transformers", "coremltools", "executorch"}
print(sorted(heavy & sys.modules.keys()), sorted(name for name in sys.modules if name.startswith("himix_edge.export")))
"""
    command = [sys.executable, "-c", code, str(layers_bundles[target])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "[] []\n", done.stderr


@pytest.fixture(scope="module")
def layers_bundles(tmp_path_factory, tiny_checkpoint, tiny_bundle):
    """The tiny model for ONNX Runtime and for OpenVINO."""
    from himix_edge.export.pipeline import ExportRequest, export, plan

    out = tmp_path_factory.mktemp("layers") / "tiny-openvino"
    export(plan(ExportRequest(str(tiny_checkpoint), "openvino", "int8", out)))
    return {"onnx": tiny_bundle, "openvino": out}


def test_records_of_runtimes_need_no_runtime():
    code = """
import sys
from himix_edge.runtimes.registry import all_runtimes
names = {module.partition(".")[0] for runtime in all_runtimes() for module in runtime.modules}
print(len(names) >= 5, sorted(names & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True []\n"
