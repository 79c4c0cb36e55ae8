"""OpenMP's waiting threads beside processes that use the same CPUs: seconds of a training step for several lengths of spinning.

  python -m bench.bench_waiting [--spins default 2000 0] [--neighbours 0 1 4] [--rounds 5]

A step of DarkIR-m on four 96 x 96 crops (forward, L1, backward, AdamW), as many threads as CPUs. Each cell is a process of its
own, because libgomp reads GOMP_SPINCOUNT when torch is imported; `default` leaves it unset, and so does `as the scripts`, under
engine/waiting.py (`asleep`: in the end its threads slept). A neighbour is a process that computes without end. The last column is
the sum of a batch restored after three steps, whose bits must not depend on how threads wait.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

NEIGHBOUR = "while True: pass"
SCRIPTS = "as the scripts"
SPINS = ("default", "20000", "2000", "300", "0", SCRIPTS)
LOOK_SECONDS = 2.0  # between the looks of engine/waiting.py, as a cell is short
LIMIT = 60.0  # seconds a cell: what takes longer ends after the steps that it has made


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spins", nargs="+", default=SPINS, help="values of GOMP_SPINCOUNT, or default")
    parser.add_argument("--neighbours", nargs="+", type=int, default=(0, 1, 4), help="busy processes beside")
    parser.add_argument("--rounds", type=int, default=5, help="timed steps a cell")
    parser.add_argument(
        "--limit", type=float, default=LIMIT, help="seconds after which a cell ends, with a step or more"
    )
    parser.add_argument("--step", choices=SPINS, help=argparse.SUPPRESS)  # the process of one cell
    args = parser.parse_args(argv)
    if args.step is not None:
        time_steps(args.rounds, args.limit, args.step == SCRIPTS)
        return
    from bench.measure import machine, table

    print(machine(), flush=True)
    rows = []
    for spin in args.spins:
        cells = [in_a_process(spin, number, args.rounds, args.limit) for number in args.neighbours]
        rows.append([spin, *(cell[0] for cell in cells), " ".join(sorted({cell[1] for cell in cells}))])
        print(rows[-1], file=sys.stderr, flush=True)
    header = ("GOMP_SPINCOUNT", *(f"{number} neighbours" for number in args.neighbours), "sum")
    print("\n" + table(header, rows))


def in_a_process(spin: str, neighbours: int, rounds: int, limit: float) -> tuple[str, str]:
    """(seconds a step: median, quartiles' distance where there are enough; sum as hex) of one cell."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    if spin.isdigit():
        environment["GOMP_SPINCOUNT"] = spin
    command = [
        sys.executable,
        "-m",
        "bench.bench_waiting",
        "--step",
        spin,
        "--rounds",
        str(rounds),
        "--limit",
        str(limit),
    ]
    busy = [subprocess.Popen([sys.executable, "-c", NEIGHBOUR]) for _ in range(neighbours)]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    seconds, loss = done.stdout.split("\t")
    return seconds, loss.strip()


def time_steps(rounds: int, limit: float, watched: bool) -> None:
    """Print the median seconds of a step and the sum of a batch restored after the third, after two steps to warm up."""
    import contextlib
    import statistics

    import torch

    from bench.bench_network import Variant, Workload, make_call, photo_sets
    from darkir import DarkIR, NetworkConfig
    from engine.runtime import keep_freed_memory
    from engine.waiting import Waiting

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    keep_freed_memory(torch.device("cpu"))
    torch.manual_seed(0)
    network = DarkIR(NetworkConfig(width=32)).to(memory_format=torch.channels_last)
    variant = Variant("ours", network, torch.channels_last)
    step, seconds, began = make_call(variant, Workload("Training step", 96, 4, True)), [], time.monotonic()
    said = lambda line: print(line, file=sys.stderr)  # noqa: E731
    watching = Waiting(torch.device("cpu"), said, period=LOOK_SECONDS) if watched else contextlib.nullcontext()
    with watching as threads:
        for number in range(2 + rounds):
            started = time.monotonic()
            step(number)
            seconds.append(time.monotonic() - started)
            if number == 2:
                with torch.inference_mode():
                    restored = variant.restore(photo_sets(96, 4)[0][0]).double().sum().item()
            if number >= 2 and time.monotonic() - began > limit:
                break
        asleep = " asleep" if threads is not None and threads.gives_way else ""
    timed = seconds[2:]
    print(f"{statistics.median(timed):.2f} ({min(timed):.2f} to {max(timed):.2f}){asleep}\t{float.hex(restored)}")


if __name__ == "__main__":
    main()
