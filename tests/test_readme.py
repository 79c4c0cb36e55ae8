"""Every command in the README runs, in the order in which it stands there; settings are made small, nothing else is changed."""

import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from tests.helpers.fivek_tree import build_tree
from tests.helpers.paths import ROOT
from tests.helpers.photos import write_pairs

# Elsewhere: make test is what runs this, CI runs make demo, and its environment installs the requirements. VGG19's weights
# cannot be fetched without internet. The wrappers run in test_wrappers.py and, with Slurm's commands, in make test-slurm.
RUN_ELSEWHERE = ("make demo", "make test", "python3 -m pip install", "python -c")
RUN_ELSEWHERE += ("INPUT_DIR=photos", "squeue", "tail -f", "scancel")
SMALLER = {
    "create_data_splits.py": [],
    "train_darkir_cv.py": "--model_size tiny --epochs 1 --resolution 32 --num_workers 0 --lambda_vgg 0".split(),
    "evaluate_darkir_test.py": ["--num_workers", "0"],
    "export_model.py": ["--num_workers", "0"],
    "enhance_photos.py": ["--max_side", "24"],
    "prepare_fivek_robust.py": ["--min_resolution", "64", "--val_ratio", "0.3", "--workers", "1"],
}


def commands() -> list[str]:
    """The lines of the README's bash blocks, comments removed."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    lines = [shlex.join(shlex.split(line, comments=True)) for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


def scripts() -> list[str]:
    return [line for line in commands() if not line.startswith(RUN_ELSEWHERE)]


def test_the_two_commands_stand_first_and_exist():
    assert commands()[:2] == ["make demo", "make test"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "\ndemo:" in makefile and "\ntest:" in makefile
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "make demo" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_every_script_has_an_example():
    shown = {shlex.split(line)[1] for line in scripts()}
    assert {path.name for path in ROOT.glob("*.py")} <= shown | {"setup.py"}


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A user's folder: photos of the sample, and a small FiveK of other pictures."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / "photos").mkdir()
    for path in sorted((ROOT / "data" / "sample" / "images").iterdir())[:48]:
        shutil.copy(path, folder / "photos")
    build_tree(
        write_pairs(folder / "other", 8, first_seed=900, width=96, height=80), folder / "fivek_dataset", dng_every=0
    )
    return folder


@pytest.mark.parametrize("line", scripts(), ids=lambda line: line.split()[1])
def test_a_script_command_runs_as_written(desk, line):
    interpreter, script, *flags = shlex.split(line)
    assert interpreter == "python"
    command = [sys.executable, ROOT / script, *flags, *SMALLER[script]]
    ended = subprocess.run(command, cwd=desk, capture_output=True, text=True, check=False, timeout=240)
    assert ended.returncode == 0, ended.stderr


def test_the_python_example_runs_on_what_the_commands_left(desk):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    example = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    code = f"import torch\nphoto = torch.rand(1, 3, 20, 30)\n{example}\nassert restored.shape == photo.shape"
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=desk, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
