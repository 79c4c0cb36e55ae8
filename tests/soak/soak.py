#!/usr/bin/env python3
"""Interrupts three-fold training runs at random moments and inside every step of a save; all must end as if nothing had happened.

make soak, or: python tests/soak/soak.py. Prints what was done and found; ends with 1 when anything differed, hung or was torn.
Most interrupted processes are forked from this one, which has torch and the script imported but has computed nothing (no
thread pool to inherit); some are fresh real processes. A run ends sound when every tensor and record equals the uninterrupted run.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import dataclasses
import logging
import random
import signal
import sys
import tempfile
import time
from collections import Counter, deque
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import torch

# The script imports them only when it runs; the processes forked from this one have them already.
import engine.training.summary  # noqa: F401
import engine.training.train  # noqa: F401
from tests.helpers.interruptions import MOMENTS, ROTATION
from tests.helpers.run_records import differences, run_records
from tests.soak.attempts import Attempt, Interruption, make_split_folder, torn_files

STATE = "checkpoint_last.pt"
OTHER_FILES = ("checkpoint_best.pt", "checkpoint_final.pt", "checkpoint_epoch_2.pt", "history.json", "curves.png")
OTHER_FILES += ("cv_summary.json", "oof_predictions.csv", "report.html")
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
SETTINGS = ["--model_size", "tiny", "--resolution", "16", "--batch_size", "2", "--lambda_vgg", "0"]
SETTINGS += ["--preprocess", "strong_aug", "--save_every", "2", "--early_stopping_patience", "2"]
# So high a rate that some epochs are no better than the best, and patience ends a fold.
SETTINGS += ["--lr", "5e-2", "--ema_decay", "0.3"]
PRECISIONS = {"float32": [], "float16 with a scaler": ["--mixed_precision", "--amp_dtype", "fp16"]}


def planned(options: argparse.Namespace, dice: random.Random) -> deque[Interruption]:
    """All interruptions in random order, as many of each kind as asked for."""
    writes = [
        Interruption(name=STATE, moment=moment, count=count) for count in (1, 2, 3) for moment in MOMENTS + ROTATION
    ]
    others = [
        Interruption(name=name, moment=moment)
        for name in OTHER_FILES
        for moment in ("half written", "before the rename")
    ]
    writes = dice.sample(writes, min(options.writes, len(writes))) + dice.sample(
        others, min(options.others, len(others))
    )
    kills = [Interruption(delay=dice.uniform(0, 1.6)) for _ in range(options.random)]
    kills += [Interruption(fresh=True, delay=dice.uniform(0.5, 7)) for _ in range(options.fresh)]
    signals = [
        Interruption(signals=(dice.choice(SIGNALS),), delay=dice.uniform(0, 1.6)) for _ in range(options.signals)
    ]
    for number in range(options.second_signals):
        pair = (dice.choice(SIGNALS), dice.choice(SIGNALS))
        moment = (MOMENTS + ROTATION)[number % 9]
        signals.append(Interruption(signals=pair, name=STATE, moment=moment, count=dice.choice((1, 2))))
    for _ in range(options.fresh_signals):
        signals.append(Interruption(signals=(dice.choice(SIGNALS),), fresh=True, delay=dice.uniform(1, 9)))
    everything = kills + writes + signals
    dice.shuffle(everything)
    return deque(everything)


class Soak:
    """Runs rounds until every planned interruption has happened; each round is one three-fold run that must end sound."""

    def __init__(self, work: Path, plan: deque[Interruption], dice: random.Random, options: argparse.Namespace):
        self.work, self.plan, self.dice, self.options = work, plan, dice, options
        self.split = make_split_folder(work)
        self.done: Counter[str] = Counter()
        self.faults: list[str] = []
        self.slowest_stop = 0.0
        self.rounds = 0
        self.never_came: Interruption | None = None
        self.references: dict[str, dict[str, object]] = {}

    def argv(self, output: Path, precision: str, changing: list[str]) -> list[str]:
        where = ["--data_splits_dir", str(self.split), "--output_dir", str(output)]
        return [*where, *SETTINGS, "--epochs", str(self.options.epochs), *PRECISIONS[precision], *changing]

    def make_reference(self, precision: str) -> None:
        """The run that nobody interrupts."""
        output = self.work / f"reference {precision}"
        attempt = Attempt(self.argv(output, precision, ["--num_workers", "0"]), self.work, None)
        code = attempt.end_of_process()
        if code != 0:
            raise SystemExit(f"the uninterrupted run ended with {code}:\n{attempt.errors()}")
        self.references[precision] = run_records(output)

    def round(self) -> None:
        """One run, interrupted again and again until it ends by itself; then it is compared."""
        precision = self.options.precisions[self.rounds % len(self.options.precisions)]
        if precision not in self.references:
            self.make_reference(precision)
        self.rounds += 1
        output = self.work / f"run {self.rounds}"
        saved: dict[int, int] = {}
        code = None
        while code != 0 and not self.faults:
            interruption = self.plan.popleft() if self.plan else None
            code = self.attempt(output, precision, interruption, saved)
            if code == 0 and interruption is not None:
                self.plan.appendleft(self.try_again(interruption))
        if not self.faults:
            self.compare(output, precision)

    def try_again(self, interruption: Interruption) -> Interruption:
        """What the next round begins with, when a run ended before an interruption came."""
        if interruption.delay is not None:
            return dataclasses.replace(interruption, delay=interruption.delay / 2)
        if interruption == self.never_came:
            self.faults.append(f"{interruption}: that moment never comes, so nothing is tested there")
        self.never_came = interruption
        return interruption

    def attempt(self, output: Path, precision: str, interruption: Interruption | None, saved: dict[int, int]) -> int:
        """One process of the run; notes what its end proves or breaks. Returns its exit code."""
        workers = "2" if interruption and interruption.signals else self.dice.choice(("0", "0", "2"))
        every = self.dice.choice((["--checkpoint_every_steps", "1"], ["--checkpoint_every_steps", "2"], []))
        if interruption and interruption.moment:
            every = ["--checkpoint_every_steps", "1"]
        attempt = Attempt(self.argv(output, precision, ["--num_workers", workers, *every]), self.work, interruption)
        code = attempt.end_of_process()
        wanted = {0} if interruption is None else {0, 75 if interruption.signals else -signal.SIGKILL}
        faults = attempt.faults(saved) + [f"{path} is torn" for path in torn_files(output)]
        if code not in wanted:
            faults.append(f"exit code {code}, expected one of {sorted(wanted)}: {attempt.errors()[-600:]}")
        if code != 0:
            self.done[interruption.kind] += 1
            self.done["with 2 loader processes"] += workers == "2"
            if interruption.signals:
                self.slowest_stop = max(self.slowest_stop, attempt.seconds_to_stop())
        self.faults += [f"round {self.rounds}, {interruption}: {fault}" for fault in faults]
        return code

    def compare(self, output: Path, precision: str) -> None:
        """Note every place at which a finished run differs from the uninterrupted one, and every leftover."""
        found = differences(self.references[precision], run_records(output))
        if found:
            self.faults.append(f"round {self.rounds} ({precision}) differs at {len(found)} places: {found[:5]}")
        leftovers = [str(path.relative_to(output)) for path in output.rglob(".darkir-tmp.*")]
        if leftovers:
            self.faults.append(f"round {self.rounds} left temporary files behind: {leftovers}")


def main() -> int:
    """Run the soak; 0 when nothing differed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--random", type=int, default=28, help="SIGKILLs at random moments of a forked process")
    parser.add_argument("--fresh", type=int, default=6, help="SIGKILLs at random moments of a fresh process")
    parser.add_argument("--writes", type=int, default=18, help="SIGKILLs inside a save of checkpoint_last.pt")
    parser.add_argument("--others", type=int, default=12, help="SIGKILLs inside the writing of another file")
    parser.add_argument("--signals", type=int, default=12, help="stop signals to the process group")
    parser.add_argument("--second_signals", type=int, default=9, help="two stop signals, the second during the save")
    parser.add_argument("--fresh_signals", type=int, default=5, help="stop signals to the group of a fresh process")
    parser.add_argument("--epochs", type=int, default=4, help="of every fold")
    parser.add_argument(
        "--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS), help="of the runs, in turn"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it warns of every resumed run
    started = time.monotonic()
    dice = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="soak_") as folder:
        # Processes that are killed leave their sockets here.
        os.environ["TMPDIR"] = folder
        soak = Soak(Path(folder), planned(options, dice), dice, options)
        while soak.plan and not soak.faults:
            soak.round()
    return report(soak, time.monotonic() - started)


def report(soak: Soak, seconds: float) -> int:
    """Print the figures; 1 when there is a fault."""
    kills = sum(count for kind, count in soak.done.items() if kind.startswith("killed"))
    signals = sum(count for kind, count in soak.done.items() if kind.startswith("signalled"))
    for kind, count in sorted(soak.done.items()):
        print(f"{count:5d}  {kind}")
    places = len(next(iter(soak.references.values())))
    print(f"{kills} kills and {signals} stops in {soak.rounds} three-fold runs, {seconds:.0f} s")
    print(f"Slowest stop after a signal: {soak.slowest_stop:.1f} s")
    for fault in soak.faults:
        print(f"FAULT: {fault}")
    if not soak.faults:
        print(
            f"All {soak.rounds} runs ended identical to an uninterrupted one: {places} tensors and records each; nothing torn"
        )
    return 1 if soak.faults else 0


if __name__ == "__main__":
    sys.exit(main())
