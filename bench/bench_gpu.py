"""DarkIR on a CUDA device against the literal form of the published network: time, memory and error of each variant.

  python -m bench.bench_gpu [--output_dir bench_gpu] [--minutes 5] [--tiny]

Every variant is a process of its own (bench/gpu_job.py). All get ready at the same time, the compiler's work included; then each is
timed alone. After that, epochs of train_darkir_cv.py, and the most expensive kernels of the fastest step. results.md and
results.json are written anew after every measurement, so that a run that is cut short keeps what it has.

--tiny: tiny sizes on the CPU, to try out the command where there is no GPU; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import json
import queue
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch

from bench.gpu_job import Job
from bench.measure import ROOT, machine, table
from common.files import atomic_output
from common.memory import usable_cpus
from losses.perceptual import CONVOLUTIONS
from tests.helpers.photos import write_pairs

HEADER = (
    "variant", "how", "ms", "times the reference", "allocated GB", "reserved GB", "output error", "worst gradient error",
    "ready after s",
)  # fmt: skip
KERNEL_HEADER = ("kernel", "ms a step", "calls a step")
EPOCHS = 4
READY_SHARE = 0.7  # of the time, for getting ready
VGG19 = (64, 64, 128, 128, 256, 256, 256, 256, 512, 512, 512, 512, 512)  # channels of its first 13 convolutions


def jobs(vgg: str) -> list[Job]:
    """What is measured, the reference of a group first: rows are compared with the row of the same group that has its name."""
    both = ("float32", "bf16")
    forward = [
        Job(f"{kind}, {format}", kind, precision=format, work="forward")
        for kind in ("reference", "toolkit")
        for format in both
    ]
    step = [Job(f"reference, {format}", "reference", precision=format) for format in both]
    step += [Job(f"toolkit, {format}", precision=format) for format in both]
    step += [
        Job(f"toolkit, {format}, --compile", precision=format, backend="inductor", profile=format == "bf16")
        for format in both
    ]
    step += [Job("toolkit, bf16, --compile, full objective", precision="bf16", backend="inductor", vgg=vgg)]
    large = [
        Job("reference, float32", "reference", size="l"),
        Job("toolkit, bf16, --compile", size="l", precision="bf16", backend="inductor"),
    ]
    wide = [
        Job("reference, float32", "reference", side=896, batch=2),
        Job("toolkit, bf16, --compile", side=896, batch=2, precision="bf16", backend="inductor"),
    ]
    return [*forward, *step, *large, *wide]


def main(argv: list[str] | None = None) -> int:
    """Measure and write; 2 without a CUDA device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output_dir", type=Path, default=Path("bench_gpu"), help="where results.md and results.json go"
    )
    parser.add_argument("--minutes", type=float, default=5.0, help="after which what is not done is left out")
    parser.add_argument("--only", help="variants whose name holds this, and no epochs")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes on the CPU")
    args = parser.parse_args(argv)
    if not (args.tiny or torch.cuda.is_available()):
        sys.stderr.write(
            "error: bench_gpu measures a CUDA device, and this machine has none; --tiny tries it out, make bench is for the CPU\n"
        )
        return 2
    deadline = time.monotonic() + 60 * args.minutes
    args.output_dir.mkdir(parents=True, exist_ok=True)
    results = Results(args.output_dir)
    with tempfile.TemporaryDirectory() as folder:
        vgg = write_random_vgg19(Path(folder) / "vgg19.pth", 4 if args.tiny else None)
        wanted = [job for job in jobs(str(vgg)) if args.only is None or args.only in job.name]
        if args.tiny:
            wanted = [made_tiny(job) for job in wanted]
        # The epochs need a minute of their own.
        for result in measured(wanted, deadline - (30 if args.tiny else 60)):
            results.add("steps", result)
        for flags in (
            () if args.only else (("--mixed_precision", "--compile", "on"), ("--mixed_precision", "--compile", "off"))
        ):
            results.add("epochs", epoch(Path(folder), flags[:1] if args.tiny else flags, args.tiny, deadline))
    print(results.text())
    return 0


class Results:
    """What has been measured so far, on disk after every figure."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.found: dict[str, Any] = {"conditions": conditions(), "steps": [], "epochs": []}

    def add(self, kind: str, result: dict[str, Any]) -> None:
        self.found[kind].append(result)
        for name, text in (("results.json", json.dumps(self.found, indent=1)), ("results.md", self.text())):
            with atomic_output(self.folder / name) as temporary:
                temporary.write_text(text + "\n", encoding="utf-8")

    def text(self) -> str:
        """All tables as Markdown."""
        parts = [self.found["conditions"]]
        groups: dict[tuple, list[dict[str, Any]]] = {}
        for result in self.found["steps"]:
            job = result["job"]
            groups.setdefault((job["size"], job["work"], job["batch"], job["side"]), []).append(result)
        for (size, work, batch, side), results in groups.items():
            name = "training step" if work == "step" else "forward pass"
            base = next((each.get("ms") for each in results if each["job"]["network"] == "reference"), None)
            rows = [row(result, base) for result in results]
            parts.append(f"DarkIR-{size}, {name}, batch {batch}, {side} x {side}:\n\n{table(HEADER, rows)}")
        if self.found["epochs"]:
            header = ("train_darkir_cv.py", "seconds an epoch", "images a second", "how")
            rows = [[each["flags"], *each["figures"]] for each in self.found["epochs"]]
            parts.append(f"Epochs of the script (m, batch 8, 384 x 384, L1 alone):\n\n{table(header, rows)}")
        for result in self.found["steps"]:
            if "kernels" in result:
                parts.append(f"Kernels of {result['job']['name']}:\n\n{table(KERNEL_HEADER, result['kernels'])}")
        return "\n\n".join(parts)


def conditions() -> str:
    """Device and versions, on which every figure depends."""
    if not torch.cuda.is_available():
        return f"No CUDA device: {machine()}"
    return (
        f"{torch.cuda.get_device_name()}; torch {torch.__version__}, CUDA {torch.version.cuda}, cuDNN "
        f"{torch.backends.cudnn.version()}; TF32 on in all rows of float32, as the toolkit trains; {datetime.date.today()}"
    )


def row(result: dict[str, Any], base: float | None) -> list[str]:
    """A line of a table of steps."""
    name = result["job"]["name"]
    if "failure" in result:
        return [name, f"failed: {result['failure']}", *[""] * (len(HEADER) - 2)]
    cells = [name, result["execution"], f"{result['ms']:.2f}", "" if base is None else f"{base / result['ms']:.2f}"]
    cells += [f"{result[key]:.2f}" if key in result else "not measured" for key in ("allocated_gb", "reserved_gb")]
    cells += [f"{result[key]:.1e}" for key in ("output_error", "gradient_error")]
    return [*cells, f"{result['ready_seconds']:.0f}"]


def made_tiny(job: Job) -> Job:
    """The same job for a CPU within seconds; the graph is traced, but no code made for it."""
    backend = None if job.backend is None else "eager"
    return dataclasses.replace(
        job, size="tiny", side=job.side // 16, batch=2, backend=backend, device="cpu", warm_up=1, steps=2
    )


def write_random_vgg19(path: Path, width: int | None) -> Path:
    """VGG19's convolutions at their real shapes (or `width` channels each), with random weights."""
    channels, tensors = 3, {}
    for index, real in zip(CONVOLUTIONS, VGG19, strict=True):
        out = width or real
        tensors[f"features.{index}.weight"] = torch.randn(out, channels, 3, 3) * (2 / (9 * channels)) ** 0.5
        tensors[f"features.{index}.bias"] = torch.zeros(out)
        channels = out
    torch.save(tensors, path)
    return path


def measured(wanted: list[Job], deadline: float) -> Any:
    """Yield the result of each job, a failure as one, in their order: all get ready side by side, one is measured at a time."""
    processes: list[Worker] = []
    # What is not ready in time is left out, so that the rest is measured.
    ready_by = time.monotonic() + READY_SHARE * (deadline - time.monotonic())
    try:
        for start in range(0, len(wanted), usable_cpus()):
            group = [Worker(job) for job in wanted[start : start + usable_cpus()]]
            processes += group
            for worker in group:
                worker.wait_until_ready(ready_by)
        for worker in processes:
            yield worker.result(deadline)
    finally:
        for worker in processes:
            worker.process.kill()


class Worker:
    """A process of bench/gpu_job.py and the lines that it writes."""

    def __init__(self, job: Job):
        self.job, self.failure = job, None
        words = [sys.executable, "-m", "bench.gpu_job", json.dumps(dataclasses.asdict(job))]
        pipes: dict[str, Any] = {
            "stdin": subprocess.PIPE,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
        }
        self.process = subprocess.Popen(words, cwd=ROOT, **pipes)
        self.lines: queue.Queue[str | None] = queue.Queue()
        self.errors: list[str] = []
        for stream, keep in ((self.process.stdout, self.lines.put), (self.process.stderr, self.errors.append)):
            threading.Thread(target=self._read, args=(stream, keep), daemon=True).start()

    def _read(self, stream: Any, keep: Any) -> None:
        for line in stream:
            keep(line)
        if stream is self.process.stdout:
            self.lines.put(None)

    def _line(self, deadline: float) -> str | None:
        """The next line of stdout; None when it ended or the time is up."""
        with contextlib.suppress(queue.Empty):
            return self.lines.get(timeout=max(0.0, deadline - time.monotonic()))
        self.errors.append("not done in time")
        return None

    def wait_until_ready(self, deadline: float) -> None:
        while (line := self._line(deadline)) is not None and line.strip() != "ready":
            pass
        if line is None:
            self.process.wait(5) if self.process.poll() is not None else self.process.kill()
            self.failure = (self.errors or ["ended without a word"])[-1].strip()[:120]

    def result(self, deadline: float) -> dict[str, Any]:
        """What was measured, or {"job", "failure"}."""
        if self.failure is None:
            assert self.process.stdin is not None
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
            line = self._line(deadline)
            if line is not None:
                self.process.wait(30)
                return json.loads(line)
            self.failure = (self.errors or ["ended without a word"])[-1].strip()[:120]
        return {"job": dataclasses.asdict(self.job), "failure": self.failure}


def epoch(folder: Path, flags: tuple[str, ...], tiny: bool, deadline: float) -> dict[str, Any]:
    """The last epochs of a short run of train_darkir_cv.py on photos of 640 x 480, the first one left out."""
    rows = folder / "photos" / "pairs.jsonl"
    if not rows.exists():
        write_pairs(folder / "photos", 8 if tiny else 144, width=32 if tiny else 640, height=24 if tiny else 480)
    output = folder / f"run{len(list(folder.glob('run*')))}"
    words = [
        sys.executable,
        "train_darkir_cv.py",
        "--train_jsonl",
        rows,
        "--output_dir",
        output,
        "--epochs",
        EPOCHS,
        *flags,
    ]
    words += ["--lambda_vgg", 0, "--lambda_ssim", 0, "--save_every", 0]
    words += ["--model_size", "tiny", "--resolution", 16, "--batch_size", 2] if tiny else []
    title = " ".join(flags)
    try:
        ended = subprocess.run(
            [str(word) for word in words], cwd=ROOT, capture_output=True, text=True, check=False,
            timeout=max(1.0, deadline - time.monotonic()),
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"flags": title, "figures": ["not done in time", "", ""]}
    if ended.returncode:
        return {"flags": title, "figures": [f"failed: {ended.stderr.strip()[-120:]}", "", ""]}
    history = json.loads((output / "history.json").read_text(encoding="utf-8"))[1:]
    seconds, speed = ([record[name] for record in history] for name in ("seconds", "images_per_second"))
    return {"flags": title, "figures": [f"{min(seconds):.2f}", f"{max(speed):.1f}", history[-1]["execution"]]}


if __name__ == "__main__":
    sys.exit(main())
