"""containers/: both recipes build one environment, from the requirements. No daemon is needed: their steps are read, not run."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

DOCKERFILE, RECIPE = ROOT / "containers" / "Dockerfile", ROOT / "containers" / "darkir.def"
OLDEST = ROOT / "requirements-oldest.txt"


def docker_steps():
    """The commands of RUN, with the build argument as Apptainer writes it, so that both can be compared."""
    lines = DOCKERFILE.read_text(encoding="utf-8").splitlines()
    return [
        line.removeprefix("RUN ").replace("$CONSTRAINTS", "{{ CONSTRAINTS }}")
        for line in lines
        if line.startswith("RUN ")
    ]


def apptainer_steps():
    """The commands of %post."""
    section = re.search(r"^%post\n(.*?)^%", RECIPE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)[1]
    return [line.strip() for line in section.splitlines() if line.strip()]


def packages(name):
    """Package -> what is asked of its version, of a requirements file and those that it names."""
    found = {}
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("-r "):
            found |= packages(line.removeprefix("-r "))
        elif line and not line.startswith("#"):
            package, version = re.fullmatch(r"([\w-]+)([<>=].*)", line).groups()
            found[package] = version
    return found


def test_both_recipes_do_the_same():
    assert docker_steps() == apptainer_steps() and len(docker_steps()) == 3
    texts = [path.read_text(encoding="utf-8") for path in (DOCKERFILE, RECIPE)]
    images = [re.search(r"^(?:FROM|From:) (\S+)$", text, re.MULTILINE)[1] for text in texts]
    defaults = [re.search(r"^(?:ARG|   ) ?CONSTRAINTS=(\S+)$", text, re.MULTILINE)[1] for text in texts]
    assert images[0] == images[1] and defaults == ["requirements.txt"] * 2
    assert all("DARKIR_HOME=/opt/darkir" in text for text in texts)


@pytest.mark.parametrize("path", [DOCKERFILE, RECIPE], ids=lambda path: path.name)
def test_what_a_recipe_names_is_there(path):
    text = path.read_text(encoding="utf-8")
    for name in re.findall(r"(?<![\w*-])(requirements[\w-]*\.txt|\w+\.py|containers/[\w.]+)", text):
        assert (ROOT / name).is_file(), name
    for module in re.search(r'python3 -c "import ([^"]+)"', text)[1].split(", "):
        assert importlib.util.find_spec(module) is not None, f"{module} is in no requirements file"


def test_the_one_file_image_takes_the_toolkit_and_nothing_beside_it():
    section = re.search(r"^%files\n(.*?)\n\n", RECIPE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)[1]
    sources, places = zip(*(line.split() for line in section.splitlines()), strict=True)
    assert set(places) == {"/opt/darkir/"} and all(any(ROOT.glob(name)) for name in sources)
    packages_here = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    folders = {name for name in sources if (ROOT / name).is_dir()}
    assert folders == packages_here | {"slurm"} and {"*.py", "*.sh", "requirements*.txt"} <= set(sources)


def test_the_steps_are_sound_shell():
    program = shutil.which("shellcheck") or str(Path(sys.executable).with_name("shellcheck"))
    script = "#!/bin/sh\nset -e\n" + "\n".join(docker_steps()).replace("{{ CONSTRAINTS }}", "requirements.txt") + "\n"
    ended = subprocess.run([program, "-"], input=script, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout


def test_the_oldest_versions_are_those_that_the_requirements_allow():
    wanted = packages("requirements-fivek.txt") | packages("requirements-heif.txt")
    oldest = packages(OLDEST.name)
    assert oldest.keys() == wanted.keys()
    for package, version in oldest.items():
        floor = re.match(r">=([\d.]+)", wanted[package])[1]
        assert re.fullmatch(rf"=={re.escape(floor)}(\.\d+)*", version), f"{package}: {version}, but {wanted[package]}"
    torch = re.search(r'"torch([^"]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))[1]
    assert torch == wanted["torch"], "the package darkir asks for the same"
