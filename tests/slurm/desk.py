"""A user's folder on the cluster: submits the wrappers there with tiny settings, waits for jobs, reads logs."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.helpers.run_records import differences, run_records
from tests.slurm.cluster import Cluster

ROOT = Path(__file__).resolve().parent.parent.parent
SETTINGS = {
    "PYTHON": sys.executable,
    "INPUT_JSONL": str(ROOT / "data" / "sample" / "pairs.jsonl"),
    "TEST_SIZE": "6",
    "MODEL_SIZE": "tiny",
    "RESOLUTION": "32",
    "EPOCHS": "2",
    "BATCH_SIZE": "8",
    "LR": "1e-3",
    "NUM_WORKERS": "0",
    "MIXED_PRECISION": "0",
    "OMP_NUM_THREADS": "1",
    "DEVICE": "cpu",
    "OUTPUT_DIR": "outputs",
}
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "PREEMPTED", "NODE_FAIL", "OUT_OF_MEMORY")


class Desk:
    """`folder` has a space in its name: wrappers quote what they are given."""

    def __init__(self, cluster: Cluster, folder: Path):
        self.cluster, self.folder = cluster, folder
        self.held: dict[str, float] = {}
        folder.mkdir(parents=True)

    def environment(self, **settings: str) -> dict[str, str]:
        kept = {name: value for name, value in self.cluster.environment.items() if not name.startswith("SLURM_ARRAY")}
        return {**kept, **SETTINGS, **settings}

    def submit(
        self, *options: str, script: str = "train_darkir.sh", arguments: tuple[str, ...] = (), **settings: str
    ) -> str:
        """sbatch OPTIONS SCRIPT, by a relative path, as people do; the job's id."""
        path = os.path.relpath(ROOT / script, self.folder)
        words = ["sbatch", "--parsable", *options, path, "--lambda_vgg", "0", *arguments]
        return self.cluster.command(*words, cwd=self.folder, env=self.environment(**settings)).strip()

    def facts(self, job: str) -> dict[str, str]:
        """What `scontrol show job` says, by field."""
        text = self.cluster.command("scontrol", "--oneliner", "show", "job", job)
        return dict(word.split("=", 1) for word in text.splitlines()[0].split() if "=" in word)

    def state(self, job: str) -> str:
        return self.facts(job)["JobState"]

    def log(self, job: str) -> str:
        """The text of darkir_cv_<job id>.out, or of darkir_cv_<array>_<task>.out."""
        path = self.folder / f"darkir_cv_{job}.out"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def wait_for(self, what: Callable[[], object], job: str, seconds: float = 120) -> None:
        """Wait until `what` holds; ends Slurm's two minutes of delay after a requeue, which nothing here waits for."""
        deadline = time.monotonic() + seconds
        while not what():
            if time.monotonic() > deadline:
                raise AssertionError(f"job {job} after {seconds:.0f} s: {self.facts(job)}\n{self.log(job)}")
            self.release_requeued()
            time.sleep(0.3)

    def release_requeued(self) -> None:
        lines = self.cluster.command("squeue", "--noheader", "--array", "--format=%i %S %r").splitlines()
        held = [line for line in lines if line.endswith(" BeginTime")]
        self.held = {line: self.held.get(line, time.monotonic()) for line in held}
        for line, since in self.held.items():
            # A start in the second of the requeue fails: "Job credential revoked".
            if time.monotonic() - since > 2.5:
                self.cluster.command("scontrol", "update", f"JobId={line.split()[0]}", "StartTime=now", check=False)

    def wait_for_end(self, *jobs: str, seconds: float = 120) -> list[str]:
        """The states in which the jobs ended; a requeue is no end."""
        for job in jobs:
            self.wait_for(lambda job=job: self.state(job) in ENDED, job, seconds)
        return [self.state(job) for job in jobs]

    def wait_for_training(self, job: str, text: str = "Self-test passed") -> None:
        """Until updates are being made."""
        self.wait_for(lambda: text in self.log(job), job)

    def restarts(self, job: str) -> int:
        return int(self.facts(job)["Restarts"])

    def evaluations(self) -> int:
        """How often the test photos were scored, over all logs."""
        logs = [path for path in self.folder.glob("darkir_cv_*.out") if not path.is_symlink()]
        return sum(len(re.findall("^Scoring ", path.read_text(encoding="utf-8"), re.MULTILINE)) for path in logs)

    def differences(self, other: Desk) -> list[str]:
        """Tensors and records in which the outputs of two desks differ; each desk has its own split folder."""
        found = differences(run_records(self.folder / "outputs"), run_records(other.folder / "outputs"))
        return [name for name in found if not name.endswith("/split/folder")]


def slow_python(folder: Path, seconds: float) -> dict[str, str]:
    """Settings under which every update of a job's first life is followed by a pause."""
    program = folder / "slow python"
    if not program.exists():
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{ROOT}/tests/slurm/slow.py" "$@"\n')
        program.chmod(0o755)
    return {"PYTHON": str(program), "SLOW_SECONDS": str(seconds)}
