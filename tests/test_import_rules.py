"""Imports go one way: scripts -> darkir.engine -> {data, losses, darkir}; package __init__s and start-up modules stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted(path.stem for path in ROOT.glob("*.py"))
ALLOWED = {
    "data": {"data"},
    "losses": {"losses"},
    "darkir": {"darkir"},
    "darkir.engine": {"darkir.engine", "darkir", "data", "losses"},
}


def area(module: str) -> str:
    """The part of the project that a dotted module name belongs to."""
    if module == "darkir.engine" or module.startswith("darkir.engine."):
        return "darkir.engine"
    return module.split(".")[0]


def imported_modules(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def package_files() -> list[Path]:
    return sorted(path for package in ("data", "losses", "darkir") for path in (ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("path", package_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_packages_import_only_downwards(path):
    here = area(".".join(path.relative_to(ROOT).with_suffix("").parts))
    for module in imported_modules(path):
        there = area(module)
        assert there not in SCRIPTS, f"{path} imports the script {there}"
        if there in ALLOWED:
            assert there in ALLOWED[here], f"{path}: {here} must not import {module}"


@pytest.mark.parametrize(
    "module", ["data", "data.stop", "data.files", "losses", "darkir", "darkir.options", "darkir.engine.exits"]
)
def test_start_up_modules_do_not_import_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
