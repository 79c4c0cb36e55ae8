"""README.md, CONTRIBUTING.md and docs/ -> what they say holds: commands, flags, settings, paths, links, sizes.

The README's six steps run as written, on small photos with small settings. Every other command of a script goes through the
script's own main in an empty folder: what its parser refuses raises SystemExit, a missing photo or split returns 2.
"""

import contextlib
import importlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT, SAMPLE

README, MAKEFILE = ROOT / "README.md", (ROOT / "Makefile").read_text(encoding="utf-8")
TOPICS = [ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [README, *TOPICS]
SCRIPTS = sorted(path.name for path in ROOT.glob("*.py"))
WRAPPERS = sorted(path.name for path in ROOT.glob("*.sh"))
SHARED = ("slurm/settings.sh", "slurm/job.sh")  # what the wrappers source

SMALLER = {
    "create_data_splits.py": [],
    "train_darkir_cv.py": "--model_size tiny --epochs 1 --resolution 16 --batch_size 4 --num_workers 0 --lambda_vgg 0".split(),
    "evaluate_darkir_test.py": ["--num_workers", "0"],
    "enhance_photos.py": ["--max_side", "24"],
    "export_model.py": ["--num_workers", "0"],
}
STEPS = ["create_data_splits.py", *SMALLER]  # audit and split are one script's

# Programs and flags of others, which cannot be asked here.
PROGRAMS = ("squeue", "scancel", "scontrol", "tail", "module", "rsync", "nvidia-smi", "docker", "apptainer")
FLAGS_OF_OTHERS = (
    "--array --partition --account --gres --time --cpus-per-task --mem --me --signal --batch --nv --logdir"
)
FLAGS_OF_OTHERS += " --model"  # of the guide's own scripts
FLAGS_OF_OTHERS += " --shm-size --nproc_per_node --ntasks-per-node --kill-on-bad-exit"
HIDDEN_FLAGS = {"--help", "--kernels"}  # of all scripts; of old commands
MADE_BY_THE_USER = {"slurm/site.sh"}
SETTING = re.compile(r"([A-Z][A-Z0-9_]*)=(.*)", re.DOTALL)


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```bash\n(.*?)^```", text_of(page), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[list[str]]:
    """The words of every line in the page's bash blocks, comments removed."""
    lines = [shlex.split(line, comments=True) for block in blocks(page) for line in block.splitlines()]
    return [words for words in lines if words]


def outside_blocks(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", text_of(page), flags=re.DOTALL | re.MULTILINE)


STEP_COMMANDS = [words for words in commands(README) if words[0] == "python"]
OTHER_COMMANDS = [(page, words) for page in PAGES for words in commands(page) if words not in STEP_COMMANDS]


def main_of(script: str) -> Callable[[list[str]], int]:
    return importlib.import_module(script.removesuffix(".py")).main


def settings_of(*files: str) -> set[str]:
    """Environment variables that shell files give a default: the settings that they have."""
    return {name for file in files for name in re.findall(r"\$\{([A-Z0-9_]+):=", text_of(ROOT / file))}


# The six steps


def test_the_two_commands_stand_first_and_ci_runs_them():
    assert commands(README)[:2] == [["make", "demo"], ["make", "test"]]
    assert {"make demo", "make test"} <= set((ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines())


def test_the_readme_has_six_steps_with_one_command_each():
    assert [words[1] for words in STEP_COMMANDS] == STEPS
    headings = re.findall(r"^\*\*(\d)\. (\w+)", text_of(README), re.MULTILINE)
    named = [("1", "Audit"), ("2", "Split"), ("3", "Train"), ("4", "Evaluate"), ("5", "Enhance"), ("6", "Export")]
    assert headings == named


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A user's folder with half of the sample's photos."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / "photos").mkdir()
    for path in (SAMPLE / "images").glob("*_0[024]_*.jpg"):
        shutil.copy(path, folder / "photos")
    return folder


@pytest.mark.long
@pytest.mark.parametrize("words", STEP_COMMANDS, ids=lambda words: " ".join(words[1:4]))
def test_a_step_runs_as_written(desk, monkeypatch, capsys, words):
    monkeypatch.chdir(desk)
    script, *flags = words[1:]
    assert main_of(script)([*flags, *SMALLER[script]]) == 0, capsys.readouterr().err


@pytest.mark.long
def test_the_python_example_runs_on_what_the_steps_left(desk):
    example = re.search(r"```python\n(.*?)```", text_of(ROOT / "docs" / "files.md"), re.DOTALL)[1]
    code = f"import torch\nphoto = torch.rand(1, 3, 20, 30)\n{example}\nassert restored.shape == photo.shape"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=desk, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr


# All other commands


def parse(script: str, flags: list[str]) -> None:
    """Run the script where nothing is: it must get beyond its own parser, to the input that is missing."""
    assert main_of(script)(flags) == 2


def check_wrapper(settings: set[str], words: list[str]) -> None:
    program, *words = words
    wrapper = next(word for word in words if word in WRAPPERS)
    assert settings <= settings_of(wrapper, *SHARED)
    place = words.index(wrapper)
    assert place == 0 or program == "sbatch"
    # sbatch's own flags have no underscore: one that has belongs behind the wrapper's name.
    assert all(re.fullmatch(r"--[a-z-]+(=.+)?", word) for word in words[:place])
    flags = words[place + 1 :]
    if "--submit" in flags:
        assert "--submit)" in text_of(ROOT / wrapper)
        flags.remove("--submit")
    parse("train_darkir_cv.py", ["--data_splits_dir", "data_splits", *(flag for flag in flags if flag != "--help")])


def check_module(module: str, flags: list[str]) -> None:
    if module == "pip":
        assert flags[0] == "install"
        if flags[1:] == ["."]:
            assert 'packages = ["darkir"]' in text_of(ROOT / "pyproject.toml")
        else:
            assert flags[1] == "-r" and (ROOT / flags[2]).is_file()
    elif module == "pytest":
        assert (ROOT / flags[0]).exists()
    else:
        source = text_of(ROOT / f"{module.replace('.', '/')}.py")
        assert "__main__" in source
        known = set(re.findall(r'add_argument\(\s*"(--\w+)"', source))
        assert {word for word in flags if word.startswith("--")} <= known


def check_make(words: list[str]) -> None:
    for word in words:
        setting = SETTING.fullmatch(word)
        pattern = rf"^{setting[1]} \?=" if setting else rf"^{re.escape(word)}:"
        assert re.search(pattern, MAKEFILE, re.MULTILINE), f"the Makefile has no {word}"


def check_command(words: list[str]) -> None:
    settings = set()
    while words and (setting := SETTING.fullmatch(words[0])):
        settings.add(setting[1])
        words = words[1:]
    script = next((word for word in words if word in SCRIPTS), None)
    if not words:  # lines of slurm/site.sh
        assert settings <= settings_of(*WRAPPERS, *SHARED)
    elif any(word in WRAPPERS for word in words):
        check_wrapper(settings, words)
    elif script:
        parse(script, words[words.index(script) + 1 :])
    elif words[0] == "make":
        check_make(words[1:])
    elif Path(words[0]).name in ("python", "python3") and words[1] == "-m":
        check_module(words[2], words[3:])
    elif Path(words[0]).name in ("python", "python3") and words[1] == "-c":
        compile(words[2], "example", "exec")
    else:
        assert words[0] in PROGRAMS


@pytest.mark.parametrize(("page", "words"), OTHER_COMMANDS, ids=lambda value: getattr(value, "name", None))
def test_a_command_is_one_that_its_script_takes(page, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    try:
        check_command(words)
    except SystemExit:
        pytest.fail(f"{page.name}: {shlex.join(words)}: {capsys.readouterr().err}")


def test_a_wrong_command_is_noticed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wrong = [
        ["python", "train_darkir_cv.py", "--data_splits_dir", "x", "--no_such_flag"],
        ["python", "train_darkir_cv.py", "--data_splits_dir", "x", "--fold", "0"],
        ["python", "create_data_splits.py", "--input_dir", "x", "--oof", "y"],
        ["torchrun", "--nproc_per_node=4", "train_darkir_cv.py", "--data_splits_dir", "x", "--epochs", "many"],
        ["INPUT_DIR=photos", "bash", "train_darkir.sh", "--submit"],
        ["INPUTDIR=photos", "bash", "train_darkir.sh"],
        ["sbatch", "--lambda_vgg", "0", "train_darkir.sh"],
        ["make", "no_such_target"],
        ["make", "ablation", "PAIR=x"],
        ["python", "-m", "bench.resolution", "--no_such_flag"],
        ["python3", "-m", "pip", "install", "-r", "no_such_file.txt"],
        ["no_such_program"],
    ]
    for words in wrong:
        with pytest.raises((AssertionError, SystemExit)):
            check_command(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_are_bash(page):
    for block in blocks(page):
        ended = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr


def test_every_script_and_wrapper_has_an_example():
    shown = {Path(word).name for page in PAGES for words in commands(page) for word in words}
    assert {*SCRIPTS, *WRAPPERS} <= shown


# What the text names


@pytest.fixture(scope="module")
def known_flags():
    """Every flag of a script, of a benchmark and of a wrapper, and those of other programs."""
    sources = [text_of(path) for path in [*(ROOT / "bench").glob("*.py"), *map(ROOT.joinpath, WRAPPERS)]]
    found = {flag for source in sources for flag in re.findall(r"--\w+", source)}
    for script in SCRIPTS:
        page = io.StringIO()
        with contextlib.redirect_stdout(page), contextlib.suppress(SystemExit):
            main_of(script)(["--help"])
        found |= set(re.findall(r"^  (--\w+)", page.getvalue(), re.MULTILINE))
    assert {"--input_dir", "--fivek_dir", "--epochs", "--tta", "--shard", "--onnx"} <= found
    return found | HIDDEN_FLAGS | set(FLAGS_OF_OTHERS.split())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_flags_in_the_text_exist(page, known_flags):
    named = set(re.findall(r"(?<![\w-])--[a-zA-Z][\w-]*", outside_blocks(page)))
    assert named - known_flags == set()


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.name)
def test_paths_in_the_text_exist(page):
    folders = {path.name for path in ROOT.iterdir() if path.is_dir()}
    spans = [word for span in re.findall(r"`([^`\n]+)`", outside_blocks(page)) for word in span.split()]
    named = {word for word in spans if "/" in word and word.split("/")[0] in folders} - MADE_BY_THE_USER
    assert [word for word in named if not (ROOT / word).exists()] == []


def test_names_in_contributing_are_those_of_the_code():
    named = re.findall(r"`(\w+)`", outside_blocks(ROOT / "CONTRIBUTING.md"))
    files = [path for part in ("common", "data", "darkir", "engine", "losses") for path in (ROOT / part).rglob("*.*")]
    code = "\n".join(text_of(path) for path in files if path.suffix in (".py", ".html"))
    assert [name for name in named if "NAME" not in name and not re.search(rf"\b{name}\b", code)] == []


def test_the_map_shows_the_tree():
    tree = re.search(r"^```\n(create_data_splits\.py.*?)^```", text_of(README), re.DOTALL | re.MULTILINE)[1]
    named = [line.split()[0] for line in tree.splitlines()]
    assert [name for name in named if not (ROOT / name).exists()] == []
    packages = [f"{path.parent.relative_to(ROOT)}/" for path in ROOT.glob("[!.]*/__init__.py")]
    rooms = [
        f"{path.parent.relative_to(ROOT)}/"
        for part in ("data", "engine")
        for path in ROOT.glob(f"{part}/*/__init__.py")
    ]
    assert {*SCRIPTS, *WRAPPERS, *packages, *rooms, "slurm/", "bench/", "docs/"} <= set(named)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", text_of(page)):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        path = page.parent / file if file else page
        assert path.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.+)$", text_of(path), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles], target


def test_every_page_is_linked_from_the_readme():
    linked = set(re.findall(r"\]\(([^)#]+)", text_of(README)))
    assert {str(page.relative_to(ROOT)) for page in TOPICS} <= linked


def test_every_package_has_its_reason():
    lines = [line for path in ROOT.glob("requirements*.txt") for line in text_of(path).splitlines()]
    packages = {re.split(r"[<>=]", line)[0] for line in lines if line and not line.startswith(("#", "-"))}
    text = text_of(README) + text_of(ROOT / "CONTRIBUTING.md")
    assert [name for name in sorted(packages) if not re.search(rf"\b{name}\b", text)] == []


# Shape


def test_the_readme_is_short():
    assert len(README.read_bytes()) <= 10_240


@pytest.mark.parametrize("page", TOPICS, ids=lambda page: page.name)
def test_a_page_says_first_who_needs_it(page):
    title, first = [line for line in text_of(page).splitlines() if line][:2]
    assert title.startswith("# ") and first.startswith("Who needs this: ")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_table_of_figures_stands_beside_its_command(page):
    for section in re.split(r"^#+ ", text_of(page), flags=re.MULTILINE):
        if re.search(r"^\|.*\d (dB|ms|min|px|pixels|GiB)\b", section, re.MULTILINE):
            assert "```bash" in section or "| command |" in section, section.splitlines()[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_names_a_machine(page):
    assert re.findall(r"(?<![\w.$])/(?:home|root|work|tmp|mnt|opt)/\S*", text_of(page)) == []
