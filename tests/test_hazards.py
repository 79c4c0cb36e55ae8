"""What can go wrong outside the code: hostile and broken checkpoints, clocks, locks, disks, locales, odd names, late signals."""

import ast
import errno
import json
import os
import random
import signal
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
import torch

import create_data_splits
import evaluate_darkir_test
import train_darkir_cv
from darkir.engine import checkpoint
from darkir.errors import ModelError
from darkir.weights import read_checkpoint
from data import files, stop
from data.files import write_jsonl
from tests.malicious import Malicious, malicious, saved
from tests.photos import write_pairs

ROOT = Path(__file__).resolve().parent.parent
SMALL = ["--model_size", "tiny", "--resolution", "16", "--batch_size", "2", "--num_workers", "0", "--lambda_vgg", "0"]
SMALL += ["--epochs", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Eight pairs: four for training, two for validation, two that nothing has seen."""
    folder = tmp_path_factory.mktemp("photos")
    rows = [json.loads(line) for line in write_pairs(folder, 8, first_seed=400).read_text().splitlines()]
    for name, part in (("train", rows[:4]), ("val", rows[4:6]), ("test", rows[6:])):
        write_jsonl(folder / f"{name}.jsonl", part)
    return folder


@pytest.fixture(scope="module")
def finished(photos, tmp_path_factory):
    """A finished run on them."""
    output = tmp_path_factory.mktemp("run")
    assert train(photos, output) == 0
    return output


@pytest.fixture
def stopped(photos, tmp_path, monkeypatch):
    """A run that was stopped after its first update; its state is the only one."""
    with monkeypatch.context() as patch:
        patch.setattr(stop, "requested", lambda: "SIGTERM")
        assert train(photos, tmp_path / "run") == 75
    return tmp_path / "run"


def train(photos, output, *flags, rows="train.jsonl"):
    argv = ["--train_jsonl", photos / rows, "--output_dir", output, *SMALL, *flags]
    return train_darkir_cv.main([str(argument) for argument in argv])


def evaluate(weights, rows, output, *flags):
    argv = ["--checkpoint", weights, "--test_jsonl", rows, "--output_dir", output, "--num_workers", 0, *flags]
    return evaluate_darkir_test.main([str(argument) for argument in argv])


# ---------------------------------------------------------------- checkpoints


@pytest.fixture(params=["by default", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1"])
def loading(request, monkeypatch):
    """The environment in which torch.load would run code when it is not told otherwise, too."""
    if "=" in request.param:
        monkeypatch.setenv(*request.param.split("="))


@pytest.mark.parametrize("kind", ["zip", "legacy", "raw"])
def test_a_malicious_checkpoint_runs_no_code_wherever_it_is_planted(photos, finished, tmp_path, capsys, loading, kind):
    proof, evil = tmp_path / "proof", tmp_path / "evil.pt"
    content = dict(read_checkpoint(finished / "checkpoint_best.pt")) if kind != "raw" else {"params": {}}
    evil.write_bytes(saved({**content, "epoch": Malicious(proof, random.Random(1))}, kind))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "checkpoint_last.pt").write_bytes(evil.read_bytes())
    runs = {
        "evaluated": lambda: evaluate(evil, photos / "test.jsonl", tmp_path / "results"),
        "started from": lambda: train(photos, tmp_path / "new", "--pretrained_path", evil),
        "resumed from": lambda: train(photos, tmp_path / "new", "--resume", evil),
        "found as a state": lambda: train(photos, tmp_path / "out"),
        "loss weights": lambda: train(photos, tmp_path / "new", "--lambda_vgg", "1", "--vgg_weights", evil),
    }
    for place, run in runs.items():
        assert run() == 2, place
        message = capsys.readouterr().err
        assert "Traceback" not in message and (".pt" in message), place
        assert not proof.exists(), place
    if kind != "raw":
        torch.load(evil, weights_only=False)
        assert proof.exists(), "the planted code works where it is allowed to"


def test_code_hidden_anywhere_in_a_checkpoint_is_refused(finished, tmp_path):
    content = read_checkpoint(finished / "checkpoint_last.pt")
    for seed in range(40):
        (tmp_path / "evil.pt").write_bytes(malicious(random.Random(seed), content, tmp_path / "proof"))
        with pytest.raises(ModelError, match=r"evil\.pt: "):
            read_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "proof").exists()


def test_no_flipped_bit_of_a_checkpoint_is_ever_loaded(finished, tmp_path):
    sound = (finished / "checkpoint_best.pt").read_bytes()
    params, dice, refused = read_checkpoint(finished / "checkpoint_best.pt")["params"], random.Random(3), 0
    for _ in range(300):
        content = bytearray(sound)
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
        (tmp_path / "flipped.pt").write_bytes(content)
        try:
            found = read_checkpoint(tmp_path / "flipped.pt")["params"]
        except ModelError:
            refused += 1
            continue
        # The flip lies in the zip's own padding or dates.
        assert found.keys() == params.keys() and all(torch.equal(found[name], params[name]) for name in params)
    assert refused >= 285


def test_a_broken_final_file_is_made_again_from_the_state(photos, finished, tmp_path, capsys):
    for name in ("checkpoint_final.pt", "checkpoint_last.pt", "checkpoint_best.pt"):
        (tmp_path / name).write_bytes((finished / name).read_bytes())
    (tmp_path / "checkpoint_final.pt").write_bytes((finished / "checkpoint_final.pt").read_bytes()[:9000])
    assert train(photos, tmp_path) == 0
    assert "checkpoint_final.pt: torn or damaged" in capsys.readouterr().out
    one, other = (read_checkpoint(folder / "checkpoint_final.pt") for folder in (tmp_path, finished))
    assert one["scores"] == other["scores"] and one["finished"] == other["finished"]
    (tmp_path / "checkpoint_final.pt").write_bytes(b"torn")
    (tmp_path / "checkpoint_last.pt").unlink()
    assert train(photos, tmp_path) == 2
    assert "no state to make it from" in capsys.readouterr().err


def spoil(content, name):
    """A state in which one part is not what it should be."""
    progress, optimizer = content["progress"], content["optimizer"]
    first = next(iter(optimizer["state"]))
    return {
        "not finite": {
            **content,
            "raw_params": {**content["raw_params"], "intro.bias": torch.full((8,), float("nan"))},
        },
        "tensor lost": {**content, "raw_params": dict(list(content["raw_params"].items())[1:])},
        "moments of another network": {
            **content,
            "optimizer": {**optimizer, "state": {**optimizer["state"], first: {"exp_avg": torch.zeros(3, 5)}}},
        },
        "no moments": {**content, "optimizer": {}},
        "random state": {**content, "rng": torch.zeros(3)},
        "position": {**content, "progress": {**progress, "step": 5}},
        "history": {**content, "progress": {**progress, "history": ["an epoch"]}},
        "progress of another version": {**content, "progress": {**progress, "new": 1}},
        "another version": {**content, "schema_version": 2},
    }[name]


@pytest.mark.parametrize(
    "name", ["not finite", "tensor lost", "moments of another network", "no moments", "random state", "position", "history",
             "progress of another version", "another version"],
)  # fmt: skip
def test_a_state_that_does_not_fit_is_refused_whole(photos, stopped, capsys, name):
    path = stopped / "checkpoint_last.pt"
    path.write_bytes(saved(spoil(read_checkpoint(path), name)))
    before = path.read_bytes()
    assert train(photos, stopped) == 2
    message = capsys.readouterr().err
    assert "checkpoint_last.pt" in message and "--overwrite" in message and path.read_bytes() == before


def test_the_newest_state_is_chosen_by_name_and_number_not_by_the_clock(stopped, photos, tmp_path, capsys):
    last = (stopped / "checkpoint_last.pt").read_bytes()
    names = ["checkpoint_last.pt", "checkpoint_last.prev.pt", "checkpoint_epoch_10.pt", "checkpoint_epoch_9.pt"]
    for age, name in enumerate(names):
        (stopped / name).write_bytes(last)
        os.utime(stopped / name, (2e9 + age, 2e9 + age))
    assert [path.name for path in checkpoint.state_files(stopped)] == names
    (stopped / "checkpoint_last.pt").write_bytes(b"torn")
    (stopped / "checkpoint_last.prev.pt").write_bytes(b"torn, too")
    assert train(photos, stopped, "--dry_run") == 0
    out = capsys.readouterr().out
    assert "continuing from checkpoint_epoch_10.pt" in out and out.count("not a checkpoint") == 2


# ---------------------------------------------------------------- signals, locks, disks


@pytest.mark.parametrize("number", stop.SIGNALS)
def test_a_signal_during_pythons_own_shutdown_does_not_hide_the_exit_code(number):
    code = f"""
import os, sys
from data import stop
stop.install()
from darkir.engine.exits import guarded
class Late:
    def __del__(self, kill=os.kill, own=os.getpid()): kill(own, {int(number)})
late = Late()
sys.exit(guarded(lambda argv: 75)())
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 75


def test_the_lock_of_a_dead_process_is_taken_over_and_said(photos, tmp_path, capsys):
    hold = f"from data.files import FolderLock\nwith FolderLock({str(tmp_path / 'run')!r}): print(flush=True), input()"
    with subprocess.Popen(
        [sys.executable, "-c", hold], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as owner:
        owner.stdout.readline()
        assert train(photos, tmp_path / "run") == 2
        assert f"in use by process {owner.pid}" in capsys.readouterr().err
        owner.send_signal(signal.SIGKILL)
    assert train(photos, tmp_path / "run") == 0
    assert f"taking over {tmp_path / 'run'} from process {owner.pid}, which died" in capsys.readouterr().out


def test_leftovers_of_a_killed_split_are_cleared(photos, tmp_path):
    for place in (tmp_path / "s" / "test.tmp.1.jsonl", tmp_path / "s" / "fold_2" / "val.tmp.1.jsonl"):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("half")
    argv = ["--input_jsonl", photos / "pairs.jsonl", "--test_size", 2, "--output_dir", tmp_path / "s"]
    assert create_data_splits.main([str(word) for word in argv]) == 0
    assert not list(tmp_path.rglob("*.tmp.*"))


def test_an_output_folder_in_which_nothing_can_be_written_is_one_message(photos, capsys):
    assert train(photos, Path("/proc/none/run")) == 1
    message = capsys.readouterr().err
    assert message.startswith("failed: ") and "/proc/none" in message and message.count("\n") == 1


def test_a_folder_that_refuses_fsync_is_no_failure_but_a_broken_disk_is(tmp_path, monkeypatch):
    real = os.fsync

    def fails_for_folders(code):
        def fsync(handle):
            if Path(f"/proc/self/fd/{handle}").resolve().is_dir():
                raise OSError(code, os.strerror(code))
            real(handle)

        return fsync

    monkeypatch.setattr(os, "fsync", fails_for_folders(errno.EINVAL))
    files.write_text(tmp_path / "a.txt", "whole")
    assert (tmp_path / "a.txt").read_text() == "whole"
    monkeypatch.setattr(os, "fsync", fails_for_folders(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        files.write_text(tmp_path / "a.txt", "other")


# ---------------------------------------------------------------- names, locales, links


@pytest.fixture
def odd_names(photos, tmp_path):
    """Photos in a folder with spaces, and letters that no ASCII terminal can show."""
    folder = tmp_path / "\u00fcber \u4e2d\u6587 \U0001f600"
    folder.mkdir()
    rows = [json.loads(line) for line in (photos / "pairs.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows[:5]):
        for side in ("src", "tar"):
            name = f"photo {number} caf\u00e9_{side}.png"
            (folder / name).write_bytes((photos / row[side]).read_bytes())
            row[side] = name
    write_jsonl(folder / "train.jsonl", rows[:3])
    write_jsonl(folder / "val.jsonl", rows[3:5])
    return folder


def test_unicode_names_and_spaces_survive_a_bare_terminal(odd_names):
    command = [sys.executable, ROOT / "train_darkir_cv.py", "--train_jsonl", odd_names / "train.jsonl", *SMALL]
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))}
    output = odd_names / "run"
    bare |= {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    ended = subprocess.run([*command, "--output_dir", output], env=bare, capture_output=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert (
        "\U0001f3c6 BEST" in (output / "train.log").read_text(encoding="utf-8") and b"\\U0001f3c6 BEST" in ended.stdout
    )


def test_a_locale_that_cannot_name_the_files_is_told(odd_names):
    command = [sys.executable, ROOT / "create_data_splits.py", "--input_jsonl", odd_names / "train.jsonl"]
    ascii_only = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ended = subprocess.run(
        [*command, "--output_dir", odd_names / "s"], env=ascii_only, capture_output=True, check=False
    )
    assert ended.returncode == 2 and ended.stderr.count(b"set LC_ALL=C.UTF-8") == 6 and b"Traceback" not in ended.stderr


def test_the_other_unicode_form_of_a_name_is_suggested_not_taken(photos, tmp_path, capsys):
    decomposed = unicodedata.normalize("NFD", "caf\u00e9.png")
    (tmp_path / decomposed).write_bytes((photos / "images" / "400_src.png").read_bytes())
    (tmp_path / "tar.png").write_bytes((photos / "images" / "400_tar.png").read_bytes())
    write_jsonl(tmp_path / "train.jsonl", [{"src": unicodedata.normalize("NFC", decomposed), "tar": "tar.png"}])
    assert train(tmp_path, tmp_path / "run") == 2
    assert "train.jsonl:1: " in (message := capsys.readouterr().err) and "Unicode form NFD" in message


def test_links_work_and_a_link_to_itself_is_named(photos, tmp_path, capsys):
    (tmp_path / "data").symlink_to(photos)
    write_jsonl(
        tmp_path / "train.jsonl", [json.loads(line) for line in (photos / "train.jsonl").read_text().splitlines()]
    )
    assert train(tmp_path / "data", tmp_path / "run", "--val_jsonl", tmp_path / "data" / "val.jsonl", "--dry_run") == 0
    (tmp_path / "loop.png").symlink_to("loop.png")
    write_jsonl(tmp_path / "loop.jsonl", [{"src": "loop.png", "tar": "loop.png"}])
    capsys.readouterr()
    assert train(tmp_path, tmp_path / "run", rows="loop.jsonl") == 2
    message = capsys.readouterr().err
    assert "loop.jsonl:1: " in message and "loop.png" in message and "Traceback" not in message


def test_nothing_is_written_beside_the_photos(photos, finished, tmp_path):
    def everything():
        return {path: path.stat().st_mtime_ns for path in [photos, *photos.rglob("*")]}

    before = everything()
    assert train(photos, tmp_path / "run") == 0
    assert evaluate(finished / "checkpoint_best.pt", photos / "test.jsonl", tmp_path / "results") == 0
    argv = ["--input_jsonl", photos / "pairs.jsonl", "--test_size", 2, "--output_dir", tmp_path / "s"]
    assert create_data_splits.main([str(word) for word in argv]) == 0
    assert everything() == before


LONG = "x" * 10**6


@pytest.mark.parametrize("row", [{"src": LONG, "tar": "y"}, {LONG: 1}, {f"k{number}": 1 for number in range(10**5)}])
def test_a_line_of_megabytes_gives_a_short_message(tmp_path, capsys, row):
    write_jsonl(tmp_path / "train.jsonl", [row])
    assert train(tmp_path, tmp_path / "run") == 2
    message = capsys.readouterr().err
    assert "train.jsonl:1: " in message and len(message) < 2000


@pytest.mark.parametrize(
    "flags",
    [
        ["--seed", "9" * 30],
        ["--batch_size", "1000000000"],
        ["--accumulate_steps", "9" * 30],
        ["--resolution", "1000000000"],
        ["--val_ratio", "1.5"],
        ["--pretrained_path", "x" * 300],
        ["--output_dir", "y/" * 3000],
        ["--output_dir", "/dev/null/run"],
    ],
)
def test_absurd_values_end_with_exit_2(photos, tmp_path, capsys, flags):
    try:
        code = train(photos, tmp_path / "run", *flags)
    except SystemExit as ended:
        code = ended.code
    message = capsys.readouterr().err
    assert code == 2 and "error: " in message and "Traceback" not in message
    assert not list((tmp_path / "run").glob("*.pt"))


def test_images_are_decoded_by_one_library_only():
    sources = [
        *ROOT.glob("*.py"),
        *(path for part in ("darkir", "data", "losses") for path in (ROOT / part).rglob("*.py")),
    ]
    names = {node.module if isinstance(node, ast.ImportFrom) else alias.name
             for path in sources for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
             if isinstance(node, (ast.Import, ast.ImportFrom)) for alias in node.names}  # fmt: skip
    assert "PIL" in names and not {
        name for name in names if name and name.startswith(("torchvision.io", "cv2", "imageio"))
    }
