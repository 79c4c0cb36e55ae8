#!/usr/bin/env python3
"""What happens to real runs from outside: loader processes, photos, packs, locks, streams, other jobs; each must end as promised.

Part of make soak, or: python tests/soak/faults.py. Every fault comes at a random moment, again and again; the run must end in
seconds with its exit code and one message, leave no process, and go on from its state. Prints how often each was tried.
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))
os.environ["OMP_NUM_THREADS"] = "1"

from tests.helpers.live_runs import SECONDS, children_of, end_of, start, words_of
from tests.helpers.paths import ROOT
from tests.helpers.photos import write_pairs

# Of NFS without lockd.
NO_LOCKS = """
import errno, fcntl, os
def refuse(*arguments):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
fcntl.lockf = refuse
"""


class Fault(Exception):
    """A promise that did not hold."""


def expect(holds: object, what: str) -> None:
    if not holds:
        raise Fault(what)


def ended(process: subprocess.Popen, code: int, *words: str) -> str:
    """Wait for the end; the code and one message with `words` are what is promised."""
    found, message = end_of(process)
    expect(found == code, f"exit code {found}, not {code}: {message[-300:]}")
    expect("Traceback" not in message, f"a traceback: {message[-300:]}")
    missing = [word for word in words if word not in message]
    expect(not missing, f"the message lacks {missing}: {message[-300:]}")
    return message


def goes_on(rows: Path) -> None:
    """The state is sound: the same command continues from it."""
    log = rows.parent / "run" / "train.log"
    before = log.read_text(encoding="utf-8").count("Continuing single run at update")
    process = subprocess.Popen(words_of(rows), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 2 * SECONDS
    while log.read_text(encoding="utf-8").count("Continuing single run at update") == before:
        expect(process.poll() is None and time.monotonic() < deadline, "the run did not continue from its state")
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    ended(process, 75, "state saved")


def later(dice: random.Random) -> None:
    time.sleep(dice.uniform(0, 1.5))


def loader_killed(folder: Path, dice: random.Random) -> None:
    rows = write_pairs(folder, 6)
    process = start(rows)
    later(dice)
    os.kill(dice.choice(children_of(process.pid)), signal.SIGKILL)
    ended(process, 1, "failed: a loader process died", "--num_workers")
    goes_on(rows)


def loader_killed_in_evaluation(folder: Path, dice: random.Random) -> None:
    rows, weights = write_pairs(folder, 30, first_seed=50, width=240, height=180), trained(folder)
    flags = [
        "--test_jsonl",
        rows,
        "--output_dir",
        folder / "out",
        "--num_workers",
        "2",
        "--device",
        "cpu",
        "--batch_size",
        "1",
    ]
    words = [sys.executable, ROOT / "evaluate_darkir_test.py", "--checkpoint", weights, *flags, "--tta"]
    process = subprocess.Popen(
        [str(word) for word in words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + SECONDS
    # torch asks other programs about the machine: one child alone may be one of them.
    while len(children := children_of(process.pid)) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    expect(len(children) == 2, "the evaluation started no loader processes")
    os.kill(dice.choice(children), signal.SIGKILL)
    ended(process, 1, "failed: a loader process died")
    expect(not (folder / "out" / "test_results.json").exists(), "results of an evaluation that failed")


def trained(folder: Path) -> Path:
    """Weights of a short run."""
    rows = write_pairs(folder / "trained", 4, first_seed=20)
    subprocess.run(words_of(rows, "--epochs", "1", "--num_workers", "0"), check=True, capture_output=True)
    return folder / "trained" / "run" / "checkpoint_best.pt"


def photo_changed(act: Callable[[Path], object]) -> Callable[[Path, random.Random], None]:
    def fault(folder: Path, dice: random.Random) -> None:
        rows = write_pairs(folder, 6)
        shutil.copytree(folder / "images", folder / "kept")
        process = start(rows)
        later(dice)
        # A batch takes two of six pairs: sooner or later it meets one of them.
        for path in dice.sample(sorted((folder / "images").glob("*.png")), 4):
            act(path)
        ended(process, 2, ".png")
        shutil.copytree(folder / "kept", folder / "images", dirs_exist_ok=True)
        goes_on(rows)

    return fault


def another_photo(path: Path) -> None:
    other = next(photo for photo in sorted((path.parent.parent / "kept").iterdir()) if photo.name != path.name)
    shutil.copy(other, path)


def pack_changed(folder: Path, dice: random.Random) -> None:
    rows = write_pairs(folder, 6)
    process = start(rows, "--cache", "disk", "--epochs", "30", "--num_workers", dice.choice(["0", "2"]))
    pack = next((folder / "run").rglob("*.pack"))
    with open(pack, "r+b") as handle:
        place = dice.randrange(pack.stat().st_size)
        byte = os.pread(handle.fileno(), 1, place)
        os.pwrite(handle.fileno(), bytes([byte[0] ^ 1]), place)
    ended(process, 2, ".pack", "--overwrite")
    expect(not (folder / "run" / "checkpoint_final.pt").exists(), "a finished run of changed pixels")


def pack_cut(folder: Path, dice: random.Random) -> None:
    rows = write_pairs(folder, 6)
    process = start(rows, "--cache", "disk")
    os.truncate(next((folder / "run").rglob("*.pack")), 0)
    ended(process, 1, "failed: ")


def few_open_files(folder: Path, dice: random.Random) -> None:
    rows = write_pairs(folder, 6)
    shell = ["sh", "-c", f'ulimit -n {dice.randrange(18, 29)}; exec "$@"', "sh", *words_of(rows)]
    done = subprocess.run(shell, check=False, timeout=2 * SECONDS, capture_output=True, text=True)
    expect(done.returncode == 1 and done.stderr.startswith("failed: "), f"{done.returncode}: {done.stderr[-300:]}")
    goes_on_afresh(rows)


def goes_on_afresh(rows: Path) -> None:
    """Nothing half-written is in the way of a run that starts anew."""
    process = start(rows)
    process.send_signal(signal.SIGTERM)
    ended(process, 75, "state saved")


def small_shared_memory(folder: Path, dice: random.Random) -> None:
    rows = write_pairs(folder, 6, width=400, height=300)
    words = words_of(rows, "--resolution", "256")
    shell = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@"', "sh", *words]
    done = subprocess.run(shell, check=False, timeout=3 * SECONDS, capture_output=True, text=True)
    expect(done.returncode == 1 and "/dev/shm" in done.stderr, f"{done.returncode}: {done.stderr[-300:]}")


def stream_lost(how: str) -> Callable[[Path, random.Random], None]:
    def fault(folder: Path, dice: random.Random) -> None:
        rows = write_pairs(folder, 6)
        words = words_of(rows, "--epochs", "3", "--num_workers", dice.choice(["0", "2"]))
        done = subprocess.run(
            ["bash", "-c", f'"$@" {how}', "bash", *words], check=False, timeout=2 * SECONDS, capture_output=True
        )
        expect(b"Traceback" not in done.stderr, done.stderr[-300:].decode())
        expect((folder / "run" / "checkpoint_final.pt").exists(), f"the run did not end: {done.returncode}")

    return fault


def terminal_closed(folder: Path, dice: random.Random) -> None:
    rows = write_pairs(folder, 6)
    process = start(rows)
    later(dice)
    process.send_signal(signal.SIGHUP)
    ended(process, 75, "state saved")
    goes_on(rows)


def run_twice(shim: str | None = None) -> Callable[[Path, random.Random], None]:
    """Two trainings of one folder; with `shim`, where locks do not work."""

    def fault(folder: Path, dice: random.Random) -> None:
        rows = write_pairs(folder, 6)
        environment = dict(os.environ)
        if shim is not None:
            (folder / "sitecustomize.py").write_text(shim)
            environment["PYTHONPATH"] = str(folder)
        kept = {"env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        both = []
        for _ in range(2):
            both.append(subprocess.Popen(words_of(rows), **kept))
            time.sleep(dice.uniform(0, 0.5))
        deadline = time.monotonic() + 2 * SECONDS
        while all(process.poll() is None for process in both) and time.monotonic() < deadline:
            time.sleep(0.05)
        refused = [process for process in both if process.poll() is not None]
        for process in both:
            process.send_signal(signal.SIGTERM)
        expect(len(refused) == 1, f"{len(refused)} of two runs of one folder were refused")
        ended(refused[0], 2, "in use by process")
        other = next(process for process in both if process is not refused[0])
        expect(end_of(other)[0] == 75, "the run that owns the folder")

    return fault


def two_jobs(folder: Path, dice: random.Random) -> None:
    """Two jobs of different output folders that both find no split."""
    rows = write_pairs(folder, 9)
    settings = {"INPUT_JSONL": str(rows), "TEST_SIZE": "2", "N_FOLDS": "2", "MODEL_SIZE": "tiny", "RESOLUTION": "16"}
    settings |= {"EPOCHS": "1", "BATCH_SIZE": "2", "NUM_WORKERS": "0", "MIXED_PRECISION": "0", "DEVICE": "cpu"}
    both = []
    for name in ("one", "two"):
        environment = {
            **os.environ,
            **settings,
            "PYTHON": sys.executable,
            "OUTPUT_DIR": name,
            "RESULTS_DIR": f"results {name}",
        }
        words = ["bash", str(ROOT / "train_darkir.sh"), "--lambda_vgg", "0"]
        both.append(
            subprocess.Popen(
                words, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        )
        time.sleep(dice.uniform(0, 0.3))
    for process in both:
        out, _ = process.communicate(timeout=6 * SECONDS)
        expect(process.returncode == 0 and "===== Done" in out, f"{process.returncode}: {out[-400:]}")


def odd_file(folder: Path, dice: random.Random) -> None:
    """A FIFO, a socket or a device among the photos of a folder."""
    rows = write_pairs(folder, 6)
    kind = dice.choice(["FIFO", "socket", "device"])
    place = folder / "images" / "odd_src.png"
    if kind == "FIFO":
        os.mkfifo(place)
    elif kind == "socket":
        os.mknod(place, 0o140600)
    else:
        place.symlink_to("/dev/zero")
    shutil.copy(folder / "images" / "000_tar.png", folder / "images" / "odd_tar.png")
    script = dice.choice(["split", "audit", "enhance"])
    if script == "enhance":
        words = [
            "enhance_photos.py",
            "--checkpoint",
            trained(folder),
            "--input",
            rows.parent / "images",
            "--device",
            "cpu",
        ]
        words += ["--output", folder / "out"]
    else:
        words = ["create_data_splits.py", "--input_dir", rows.parent / "images", "--output_dir", folder / "out"]
        words += ["--test_size", "2", *(["--audit"] if script == "audit" else [])]
    done = subprocess.run(
        [sys.executable, str(ROOT / words[0]), *map(str, words[1:])],
        check=False,
        timeout=2 * SECONDS,
        capture_output=True,
    )
    told = (done.stdout + done.stderr).decode()
    # enhance_photos.py goes on with the other photos and counts this one; see its exit codes.
    expect(
        done.returncode in ((1, 2, 3) if script == "enhance" else (2,)),
        f"{script}: exit code {done.returncode}: {told[-300:]}",
    )
    expect("odd_src.png" in told and "Traceback" not in told, f"{script} does not name {kind}: {told[-300:]}")


FAULTS: dict[str, Callable[[Path, random.Random], None]] = {
    "a loader process killed in training": loader_killed,
    "a loader process killed in evaluation": loader_killed_in_evaluation,
    "photos deleted in mid-run": photo_changed(lambda path: path.unlink()),
    "photos emptied in mid-run": photo_changed(lambda path: path.write_bytes(b"")),
    "photos replaced in mid-run": photo_changed(another_photo),
    "a pack changed in mid-run": pack_changed,
    "a pack cut in mid-run": pack_cut,
    "too few open files": few_open_files,
    "stdout closed": stream_lost(">&-"),
    "stdout a full disk": stream_lost(">/dev/full"),
    "stdout read by head": stream_lost("| head -n 1"),
    "both streams a full disk": stream_lost(">/dev/full 2>&1"),
    "the terminal closed": terminal_closed,
    "two runs in one folder": run_twice(),
    "two runs in one folder without locks": run_twice(NO_LOCKS),
    "two jobs that find no split": two_jobs,
    "a FIFO, socket or device among the photos": odd_file,
}
AS_ROOT = {"a /dev/shm of 64 KiB": small_shared_memory}


def main() -> int:
    """Try every fault; 0 when all promises held."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--times", type=int, default=1, help="how often each fault is tried")
    parser.add_argument("--side_by_side", type=int, default=2, help="at a time")
    parser.add_argument("--only", help="faults whose name holds this")
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    options = parser.parse_args()
    # Started by nohup, this would hand down "ignored", which a run respects.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    faults = FAULTS if os.geteuid() else {**FAULTS, **AS_ROOT}
    faults = {name: act for name, act in faults.items() if options.only is None or options.only in name}
    started, tried, broken = time.monotonic(), Counter(), []
    with tempfile.TemporaryDirectory(prefix="faults_") as work, ThreadPoolExecutor(options.side_by_side) as pool:

        def attempt(name: str, number: int) -> None:
            folder = Path(tempfile.mkdtemp(dir=work))
            try:
                faults[name](folder, random.Random(f"{options.seed} {name} {number}"))
            except Exception as error:  # noqa: BLE001 - whatever it is, the promise did not hold
                broken.append(f"{name}: {type(error).__name__}: {error}")
            tried[name] += 1
            with contextlib.suppress(OSError):
                shutil.rmtree(folder)

        for _ in pool.map(
            attempt, *zip(*((name, number) for number in range(options.times) for name in faults), strict=True)
        ):
            pass
    for name, count in tried.items():
        print(f"{count:5d}  {name}")
    if os.geteuid():
        print(f"    0  {', '.join(AS_ROOT)} (only root can try that)")
    print(f"{tried.total()} faults from outside, {time.monotonic() - started:.0f} s: {len(broken)} broken promises")
    for line in broken:
        print(f"FAULT: {line}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
