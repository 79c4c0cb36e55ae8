"""What must hold on a CUDA device, in four minutes: make check-gpu. Not part of make test, which needs none.

  python -m tests.gpu.check [--output_dir check_gpu] [--minutes M] [--only PART] [--tiny]

Every part is a process of its own, several at a time; check.md and check.json are written anew after each, so that a run cut
short keeps what it has. 0 when all held, 1 when something did not. --tiny: on the CPU, with tiny sizes, to try the command out.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.measure import table
from common.files import atomic_output
from common.memory import usable_cpus
from tests.helpers.paths import ROOT

# Files of the suite whose tests meet the device: they choose it by themselves, as the scripts do.
SUITE = (
    "tests/darkir",
    "tests/losses",
    "tests/engine/training",
    "tests/engine/test_whole_photo.py",
    "tests/engine/enhancing",
)
FORMATS = {
    "float32": (),
    "bf16": ("--mixed_precision", "--amp_dtype", "bf16"),
    "fp16": ("--mixed_precision", "--amp_dtype", "fp16"),
}


@dataclass(frozen=True)
class Place:
    """Where a part works: its folder, the device, and whether sizes are tiny."""

    folder: Path
    device: str
    tiny: bool

    def train(self, output: str, *flags: str, expect: int = 0, launcher: tuple[str, ...] = ()) -> str:
        """Run train_darkir_cv.py on the pairs; its output. Raises AssertionError for another exit code."""
        rows = (
            "--train_jsonl",
            self.pairs(),
            "--output_dir",
            self.folder / output,
            "--device",
            self.device,
            "--lambda_vgg",
            "0",
        )
        size = (
            "--model_size",
            "tiny",
            "--resolution",
            "32" if self.tiny else "128",
            "--batch_size",
            "4",
            "--num_workers",
            "2",
        )
        words = [*(launcher or (sys.executable,)), "train_darkir_cv.py", *rows, *size, *flags]
        # One cache of compiled code for all runs of a part.
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(self.folder / "compiler")}
        pipes = {"capture_output": True, "text": True, "check": False, "env": environment}
        ended = subprocess.run([str(word) for word in words], cwd=ROOT, **pipes)  # type: ignore[call-overload]
        text = ended.stdout + ended.stderr
        assert ended.returncode == expect, f"exit code {ended.returncode}, not {expect}: {text[-600:]}"
        return text

    def pairs(self) -> Path:
        """Sixteen pairs of smooth pictures."""
        from tests.helpers.photos import write_pairs

        rows = self.folder / "pairs.jsonl"
        return (
            rows
            if rows.exists()
            else write_pairs(self.folder, 16, width=48 if self.tiny else 200, height=40 if self.tiny else 160)
        )

    def execution(self, output: str) -> str:
        """How the last epoch of a run was run."""
        return json.loads((self.folder / output / "history.json").read_text())[-1]["execution"]


def suite(place: Place) -> str:
    """The suite's files that concern the device; the names of what fails."""
    files = SUITE[1:2] if place.tiny else SUITE
    junit = place.folder.parent / "check_gpu_junit.xml" if place.tiny else Path("check_gpu_junit.xml").absolute()
    words = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-rfE",
        "-n",
        "2" if place.tiny else "12",
        "--dist",
        "loadfile",
        f"--junitxml={junit}",
    ]
    ended = subprocess.run([*words, *files], cwd=ROOT, capture_output=True, text=True, check=False)
    counted = re.search(r"^.*\b\d+ (?:passed|failed|errors?)\b.*$", ended.stdout, re.MULTILINE)
    summary = counted[0].strip("= ") if counted else "no output"
    names = re.findall(r"^(?:FAILED|ERROR) (\S+)", ended.stdout, re.MULTILINE)
    assert ended.returncode == 0, f"{summary}; {', '.join(names[:20])}"
    return f"{summary}; every test's result in {junit.name}"


def same(one: Path, other: Path) -> int:
    """Number of tensors in two finished runs' last states; AssertionError unless every bit is the same."""
    from darkir.checkpoint_file import read_checkpoint

    states = [read_checkpoint(folder / "checkpoint_last.pt") for folder in (one, other)]
    tensors = [
        {**state["raw_params"], **{f"average {name}": tensor for name, tensor in state["params"].items()}}
        for state in states
    ]
    different = [name for name in tensors[0] if not torch.equal(tensors[0][name], tensors[1][name])]
    assert not different, f"{len(different)} of {len(tensors[0])} tensors differ, such as {different[0]}"
    return len(tensors[0])


def exact(name: str, way: str) -> Callable[[Place], str]:
    """The same run twice, and one that was stopped and continued: equal to the last bit."""

    def part(place: Place) -> str:
        if place.tiny and way == "on":
            return "not measured: the compiler takes minutes for the code of a CPU"
        flags = (*FORMATS[name], "--compile", way, "--epochs", "3")
        place.train("one", *flags)
        place.train("two", *flags)
        stopped_run(place, "stopped", flags)
        count = same(place.folder / "one", place.folder / "two")
        same(place.folder / "one", place.folder / "stopped")
        return f"{count} tensors equal, {place.execution('one')}"

    return part


def stopped_run(place: Place, output: str, flags: tuple[str, ...]) -> None:
    """A run that gets SIGUSR1 after its first epoch, and then the same command again."""
    code = (
        "import sys; sys.path.insert(0, '.'); from common import signals; signals.install()\n"
        "import os, signal\nfrom engine.training import history\nreal = history.Progress.end_epoch\n"
        "def end_epoch(self, *arguments):\n    os.kill(os.getpid(), signal.SIGUSR1)\n    return real(self, *arguments)\n"
        "history.Progress.end_epoch = end_epoch\nimport train_darkir_cv\nsys.exit(train_darkir_cv.main(sys.argv[2:]))\n"
    )
    place.train(output, *flags, expect=75, launcher=(sys.executable, "-c", code))
    place.train(output, *flags)


def one_process(place: Place) -> str:
    """torchrun with one process (NCCL on CUDA) computes what a run without it does."""
    flags = (*FORMATS["bf16"], "--compile", "off", "--epochs", "2")
    place.train("alone", *flags)
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1")
    place.train("torchrun", *flags, launcher=launcher)
    return f"{same(place.folder / 'alone', place.folder / 'torchrun')} tensors equal"


def no_room(place: Place) -> str:
    """A batch that does not fit ends with the advice, and a rerun as advised fits."""
    if place.device == "cpu":
        return "not measured: no CUDA device"
    free, _ = torch.cuda.mem_get_info()
    hog = torch.empty(max(0, free - 3 * 2**30), dtype=torch.uint8, device="cuda")
    text = place.train(
        "full", "--model_size", "m", "--resolution", "512", "--batch_size", "16", "--epochs", "1", expect=1
    )
    advised = re.search(r"--batch_size (\d+) or", text)
    assert "out of memory at --batch_size 16" in text, text[-400:]
    said = text[text.index("out of memory") :].splitlines()[0]
    if advised:
        place.train("fits", "--model_size", "m", "--resolution", "512", "--batch_size", advised[1], "--epochs", "1")
    del hog
    return said


def estimate(place: Place) -> str:
    """What a dry run counts and measures of an update's memory, beside what the update takes."""
    from bench.gpu_job import Job, image_sets, make_network, toolkit_step
    from engine.runtime import Precision
    from engine.training.updates.memory import MemoryProbe, counted_use
    from losses.config import LossConfig
    from losses.objective import Objective

    side, batch = (32, 2) if place.tiny else (256, 8)
    job = Job(
        "estimate", size="tiny" if place.tiny else "m", side=side, batch=batch, device=place.device, precision="bf16"
    )
    precision, device = Precision(place.device, torch.bfloat16), torch.device(place.device)
    network = make_network(job).to(device)
    objective = Objective(LossConfig(lambda_vgg=0, lambda_ssim=0), device)
    counted = counted_use(network, objective, precision, side, 1)  # type: ignore[arg-type]
    call, _ = toolkit_step(job, network, precision, image_sets(job, device))
    call(1)
    with MemoryProbe(device) as probe:
        call(2)
    if probe.use is None:
        return f"not measured: no CUDA device; counted {counted.per_sample / 1e6:.0f} MB a sample"
    measured, expected = probe.use.per_sample / batch, counted.per_sample
    assert abs(expected / measured - 1) < 0.15, (
        f"counted {expected / 1e6:.0f} MB a sample, measured {measured / 1e6:.0f}"
    )
    return f"counted {expected / 1e6:.0f} MB a sample, measured {measured / 1e6:.0f}"


def photo(place: Place) -> str:
    """enhance_photos.py on a photo of 24 megapixels: seconds and peak memory."""
    import numpy as np
    from PIL import Image

    import enhance_photos

    width, height = (96, 64) if place.tiny else (6000, 4000)
    small = np.random.default_rng(0).integers(30, 200, (12, 18, 3), dtype=np.uint8)
    source = place.folder / "photo_src.jpg"
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(source)
    size = "tiny" if place.tiny else "m"
    place.train("weights", "--model_size", size, "--epochs", "1")
    started = time.monotonic()
    flags = ["--checkpoint", place.folder / "weights" / "checkpoint_best.pt", "--input", source]
    words = [*flags, "--output", place.folder / "out", "--device", place.device]
    assert enhance_photos.main([str(word) for word in words]) == 0
    peak = f"{torch.cuda.max_memory_allocated() / 1e9:.1f} GB" if place.device == "cuda" else "not measured"
    return f"{width} x {height}: {time.monotonic() - started:.1f} s with reading and writing; peak {peak}"


def numbers(place: Place) -> str:
    """Network and strips against the reference in float64; TF32 off, as everything is scored."""
    from bench.measure import errors, values
    from bench.reference_darkir import make_reference
    from darkir import DarkIR, NetworkConfig
    from darkir.strips import restore_in_strips
    from engine.runtime import score_exactly

    score_exactly()
    width, side = (8, 40) if place.tiny else (32, 200)
    reference = make_reference(width).to(place.device)
    network = DarkIR(NetworkConfig(width=width)).to(place.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.load_state_dict(reference.state_dict())
    src, tar = (
        torch.rand(1, 3, side, side + 8, generator=torch.Generator().manual_seed(seed)).to(place.device)
        for seed in (0, 1)
    )
    double = reference.double()
    exact = values(double, lambda x: double(x)[0], src.double(), tar.double(), True)
    output, gradient = errors(values(network, network, src, tar, True), exact)
    assert output < 1e-5 and gradient is not None and gradient < 1e-3, (
        f"output {output:.1e}, worst gradient {gradient:.1e}"
    )
    strips = (restore_in_strips(network, src) - network(src)).abs().max().item()
    assert strips < 1e-4, f"strips differ by {strips:.1e}"
    return f"output {output:.1e}, worst gradient {gradient:.1e} from float64; strips from one pass {strips:.1e}"


PARTS: dict[str, Callable[[Place], str]] = {
    "numbers": numbers,
    "exact float32": exact("float32", "off"),
    "exact bf16": exact("bf16", "off"),
    "exact fp16": exact("fp16", "off"),
    "exact bf16, compiled": exact("bf16", "on"),
    "one process under torchrun": one_process,
    "estimate of memory": estimate,
    "out of memory": no_room,
    "photo of 24 megapixels": photo,
    "suite": suite,
}
ALONE = "out of memory"
HEADER = ("part", "held", "seconds", "what was seen")


def main(argv: list[str] | None = None) -> int:
    """Check every part; 0 when all held, 2 without a CUDA device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("check_gpu"), help="where check.md and check.json go")
    parser.add_argument(
        "--minutes", type=float, help="after which what is not done counts as not held; 4, with --tiny 12"
    )
    parser.add_argument("--only", help="parts whose name holds this")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes on the CPU")
    parser.add_argument("--part", help=argparse.SUPPRESS)  # of the processes that this one starts
    args = parser.parse_args(argv)
    device = "cpu" if args.tiny else "cuda"
    if args.part is not None:
        with tempfile.TemporaryDirectory() as folder:
            try:
                print(f"held: {PARTS[args.part](Place(Path(folder), device, args.tiny))}")
            except AssertionError as error:
                print(f"failed: {str(error)[-600:]}")
        return 0
    if not (args.tiny or torch.cuda.is_available()):
        sys.stderr.write(
            "error: check-gpu needs a CUDA device, and this machine has none; --tiny tries it out on the CPU\n"
        )
        return 2
    minutes = args.minutes or (12 if args.tiny else 4)
    deadline, rows = time.monotonic() + 60 * minutes, list[list[str]]()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    wanted = [name for name in PARTS if args.only is None or args.only in name]
    with ThreadPoolExecutor(max(1, usable_cpus() // 3)) as pool:
        # One takes all of the device's memory away: it comes last, alone.
        for names in ([name for name in wanted if name != ALONE], [name for name in wanted if name == ALONE]):
            for running in as_completed([pool.submit(checked, name, args.tiny, deadline) for name in names]):
                rows.append(running.result())
                write(args.output_dir, rows)
    print(table(HEADER, rows))
    return int(any(row[1] != "yes" for row in rows))


def checked(name: str, tiny: bool, deadline: float) -> list[str]:
    """A row of the table."""
    started = time.monotonic()
    words = [sys.executable, "-m", "tests.gpu.check", "--part", name, *(["--tiny"] if tiny else [])]
    try:
        ended = subprocess.run(
            words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=max(1.0, deadline - started)
        )
        found = re.search(r"^(held|failed): (.*)", ended.stdout, re.MULTILINE | re.DOTALL)
        held, seen = (found[1] == "held", found[2]) if found else (False, ended.stderr[-400:])
    except subprocess.TimeoutExpired:
        held, seen = False, "not done in time"
    return [
        name,
        "yes" if held else "NO",
        f"{time.monotonic() - started:.0f}",
        " ".join(seen.split()).replace("|", "/"),
    ]


def write(folder: Path, rows: list[list[str]]) -> None:
    """What is known so far."""
    found = [dict(zip(HEADER, row, strict=True)) for row in rows]
    for name, text in (("check.json", json.dumps(found, indent=1)), ("check.md", table(HEADER, rows))):
        with atomic_output(folder / name) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
