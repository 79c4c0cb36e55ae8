"""Imports go one way: scripts -> engine -> {data, losses, darkir}, all but darkir -> common; start-up modules stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

SCRIPTS = sorted(path.stem for path in ROOT.glob("*.py"))
ALLOWED = {
    "common": {"common"},
    "data": {"data", "common"},
    "losses": {"losses", "common"},
    "darkir": {"darkir"},
    "engine": {"engine", "darkir", "data", "losses", "common"},
}

# The exit codes of all errors stand in one place, and darkir, which stands alone, has an error of its own.
EXCEPTION = ("common/exits.py", "darkir.errors.ModelError")


def area(module: str) -> str:
    """The package that a dotted module name belongs to."""
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
    return sorted(path for package in ALLOWED for path in (ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("path", package_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_packages_import_only_downwards(path):
    here = area(".".join(path.relative_to(ROOT).with_suffix("").parts))
    for module in imported_modules(path):
        there = area(module)
        assert there not in SCRIPTS, f"{path} imports the script {there}"
        if (str(path.relative_to(ROOT)), module) == EXCEPTION:
            continue
        if there in ALLOWED:
            assert there in ALLOWED[here], f"{path}: {here} must not import {module}"


@pytest.mark.parametrize(
    "module", ["data", "common.signals", "common.files", "losses", "darkir", "common.options", "engine", "common.exits"]
)
def test_start_up_modules_do_not_import_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


HELP = """
import contextlib, runpy, sys
sys.argv = sys.argv[1:]
with contextlib.suppress(SystemExit):
    runpy.run_path(sys.argv[0], run_name="__main__")
sys.exit("torch" in sys.modules)
"""


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_answers_without_torch(script):
    command = [sys.executable, "-c", HELP, f"{script}.py", "--help"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 0 and "usage" in ended.stdout, ended.stderr
