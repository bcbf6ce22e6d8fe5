"""Rules about the code itself."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests import ROOT

PACKAGES = {
    "hyperdraw": ROOT / "client" / "hyperdraw",
    "models": ROOT / "models",
    "training": ROOT / "training",
    "service": ROOT / "service",
}
FORBIDDEN = {
    "hyperdraw": {"models", "training", "service"},
    "models": {"training", "service", "hyperdraw"},
    "training": {"service", "hyperdraw"},
    "service": {"training", "hyperdraw"},
}
ROOMS: dict[str, dict[str, set[str]]] = {
    "models": {
        "schema": set(),
        "noise": set(),
        "device": set(),
        "meta": set(),
        "memory": set(),
        "precision": {"targets"},
        "processors": set(),
        "files": set(),
        "foreign_files": set(),
        "targets": {"schema"},
        "inputs": {"noise", "schema"},
        "backbones": {"foreign_files", "inputs", "schema"},
        "tasks": {"schema"},
        "samplers": {"noise", "schema", "targets"},
        "predictions": {"inputs", "noise", "precision", "samplers", "schema", "targets", "tasks"},
        "feedback": {"predictions", "tasks"},
        "stored_tensors": set(),
        "checkpoint_files": {"files", "foreign_files", "meta", "stored_tensors"},
        "sequences": {"checkpoint_files", "device", "inputs", "meta", "noise", "schema", "stored_tensors", "tasks"},
        "checkpoint": {
            "backbones",
            "checkpoint_files",
            "inputs",
            "predictions",
            "samplers",
            "schema",
            "stored_tensors",
            "targets",
            "tasks",
        },
        "examples": {"checkpoint_files", "foreign_files", "inputs", "schema"},
        "model": {
            "backbones",
            "checkpoint",
            "checkpoint_files",
            "examples",
            "inputs",
            "noise",
            "precision",
            "predictions",
            "targets",
            "tasks",
        },
    },
    "service": {
        "names": set(),
        "admission": set(),
        "errors": {"admission", "names"},
        "checkpoint_files": {"names"},
        "engine": {"admission"},
        "decoding": {"admission"},
        "monitoring": {"engine"},
        "sizes": {"engine"},
        "versions": {"checkpoint_files", "engine", "errors", "names"},
        "load_queue": {"errors"},
        "loader": {"checkpoint_files", "engine", "sizes", "versions"},
        "catalog": {"checkpoint_files", "engine", "errors", "loader", "load_queue", "names", "versions"},
        "settings": {"catalog", "engine"},
        "recording": set(),
        "feedback": {"engine"},
        "shadow": {"engine"},
        "operation": {
            "admission",
            "catalog",
            "engine",
            "errors",
            "feedback",
            "monitoring",
            "names",
            "recording",
            "settings",
            "shadow",
        },
        "parts": {
            "catalog",
            "decoding",
            "engine",
            "feedback",
            "monitoring",
            "operation",
            "recording",
            "settings",
            "shadow",
        },
        "api": {
            "catalog",
            "engine",
            "errors",
            "feedback",
            "monitoring",
            "names",
            "operation",
            "parts",
            "recording",
            "settings",
            "versions",
        },
        "open_inference": {"api", "engine", "errors", "names", "operation", "settings"},
        "openai": {"api", "engine", "errors", "names", "operation"},
        "destinations": {"catalog", "feedback", "operation", "recording", "settings"},
        "app": {
            "admission",
            "api",
            "catalog",
            "decoding",
            "destinations",
            "engine",
            "errors",
            "monitoring",
            "open_inference",
            "openai",
            "operation",
            "parts",
            "recording",
            "settings",
            "shadow",
        },
        "__main__": {"app", "catalog", "decoding", "open_inference", "operation", "settings"},
        "ray_serve": {"app", "settings"},
    },
    "training": {
        "denormals": set(),
        "tensors": set(),
        "progress": set(),
        "objectives": set(),
        "imports": {"progress"},
        "backbones": {"progress"},
        "data": {"progress"},
        "recipes": {"data", "objectives"},
        "evaluation": {"data", "objectives", "progress", "tensors"},
        "report": {"data", "denormals", "evaluation", "progress"},
        "runs": {
            "data",
            "denormals",
            "evaluation",
            "imports",
            "objectives",
            "progress",
            "recipes",
            "report",
            "tensors",
        },
        "sequences": {"data", "denormals", "evaluation", "progress", "runs"},
        "studies": {"data", "denormals", "evaluation", "progress", "recipes", "report", "runs"},
        "translation": {"data", "denormals", "progress", "runs", "tensors"},
        "options": {"data", "recipes"},
        "endings": {"data", "imports", "progress", "runs"},
        "drift_command": {"endings", "options", "progress", "studies"},
        "near_foreign_command": {"endings", "options", "progress", "recipes", "studies"},
        "backbone_command": {"backbones", "endings", "options", "progress"},
        "images_command": {
            "backbones",
            "data",
            "endings",
            "evaluation",
            "options",
            "progress",
            "recipes",
            "report",
            "runs",
        },
        "certify_command": {"endings", "evaluation", "options", "progress", "runs"},
        "table_command": {"data", "endings", "options", "progress", "recipes", "report", "runs", "studies"},
        "sequence_checks": {"data", "endings", "options", "progress", "sequences"},
        "sequence_command": {"data", "endings", "options", "progress", "sequences"},
        "import_command": {"endings", "imports", "options", "progress", "report", "runs"},
        "translate_command": {"endings", "options", "progress", "translation"},
        "__main__": {
            "backbone_command",
            "certify_command",
            "drift_command",
            "endings",
            "evaluation",
            "images_command",
            "import_command",
            "near_foreign_command",
            "objectives",
            "options",
            "progress",
            "recipes",
            "runs",
            "sequence_checks",
            "sequence_command",
            "studies",
            "table_command",
            "translate_command",
        },
    },
}
"""What each folder or file of a package may import of the same package, in an order without circles."""
FILES = [path for folder in PACKAGES.values() for path in sorted(folder.rglob("*.py"))]


@cache
def imports(path: Path) -> frozenset[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(found)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_import_direction(path: Path) -> None:
    package = next(name for name, folder in PACKAGES.items() if path.is_relative_to(folder))
    assert not {name.split(".")[0] for name in imports(path)} & FORBIDDEN[package]


@pytest.mark.parametrize("package", ROOMS)
def test_the_order_of_rooms(package: str) -> None:
    rooms, folder = ROOMS[package], PACKAGES[package]
    list(TopologicalSorter(rooms).static_order())  # raises at a circle
    found: dict[str, set[str]] = {}
    for path in folder.rglob("*.py"):
        room = path.relative_to(folder).with_suffix("").parts[0]
        inner = {name.split(".")[1] for name in imports(path) if name.startswith(f"{package}.")}
        found[room] = found.get(room, set()) | inner - {room}
    assert found.pop("__init__") == set()
    assert found == rooms


def test_no_protocol_imports_routes_of_another() -> None:
    """A module of routes has a `router`; only the app knows it."""
    service = PACKAGES["service"]
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in service.rglob("*.py")}
    routes = {name for name, path in modules.items() if re.search(r"^router = APIRouter", path.read_text(), re.M)}
    assert len(routes) >= 7
    importers = {name for name, path in modules.items() if imports(path) & routes}
    assert importers == {"service.app"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("package", ROOMS)
def test_no_module_needs_itself(package: str) -> None:
    folder = PACKAGES[package]
    modules = {
        ".".join((package, *path.relative_to(folder).with_suffix("").parts)): path for path in folder.rglob("*.py")
    }
    list(TopologicalSorter({name: imports(path) & modules.keys() for name, path in modules.items()}).static_order())


@pytest.mark.parametrize("path", sorted(PACKAGES["hyperdraw"].rglob("*.py")), ids=lambda path: path.name)
def test_the_client_imports_large_packages_only_inside_functions(path: Path) -> None:
    def at_import(node: ast.AST) -> Iterator[ast.AST]:
        """What is carried out when the module is imported."""
        for child in ast.iter_child_nodes(node):
            checked = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
            if not checked and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                yield child
                yield from at_import(child)

    carried_out = [ast.unparse(node) for node in at_import(ast.parse(path.read_text()))]
    assert not [line for line in carried_out if re.match(r"(import|from) (torch|pandas|PIL|pyarrow)\b", line)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_pickled(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports(path)} & {"pickle", "cloudpickle", "dill", "joblib", "shelve"}
    source = path.read_text().replace("np.load(path, allow_pickle=False)", "")
    for call in ("torch.load(", "torch.save(", "np.load("):
        assert call not in source


@pytest.mark.parametrize("package", PACKAGES)
def test_no_grab_bags(package: str) -> None:
    names = {path.stem for path in PACKAGES[package].rglob("*.py")}
    assert not names & {"utils", "util", "helpers", "common", "misc", "base", "manager"}


@pytest.mark.parametrize(
    ("package", "folder", "extras"),
    [
        ("hyperdraw", "client", ["parquet", "photographs"]),
        ("models", "", ["serve", "backbone"]),
        ("models", "", ["train", "backbone"]),
        ("service", "", ["serve", "grpc", "ray", "redis"]),
        ("training", "", ["train", "backbones", "translation"]),
    ],
)
def test_packages_need_only_what_their_extras_install(package: str, folder: str, extras: list[str]) -> None:
    project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]
    optional = project.get("optional-dependencies", {})
    wanted = [*project["dependencies"], *(requirement for extra in extras for requirement in optional[extra])]
    installed = {re.split(r"[<>=\[]", requirement)[0] for requirement in wanted}
    providers = {
        "PIL": "pillow",
        "fastapi_offline": "fastapi-offline",
        "google": "protobuf",
        "grpc": "grpcio",
        "opentelemetry": "opentelemetry-sdk",
        "prometheus_client": "prometheus-client",
        "pydantic_settings": "pydantic-settings",
        "sklearn": "scikit-learn",
        "typing_extensions": "pydantic",
    }
    roots = {name.split(".")[0] for path in PACKAGES[package].rglob("*.py") for name in imports(path)}
    if package == "hyperdraw":
        roots -= {"torch", "pandas"}  # only where somebody has their tensors and frames
    foreign = roots - sys.stdlib_module_names - FORBIDDEN.keys()
    needed = {providers.get(name, name) for name in foreign}
    assert needed <= installed
    assert package != "hyperdraw" or needed == installed  # nothing that the client could do without
