#!/usr/bin/env python3
"""Train DarkIR: one model per fold of a split, or one model from --train_jsonl.

Example:
    python train_darkir_cv.py --data_splits_dir data_splits --output_dir outputs_darkir_384_m_cv --mixed_precision

Reads the split that create_data_splits.py wrote. Writes OUTPUT_DIR/fold_K/ (checkpoints, history.json, curves.png, tensorboard/),
and cv_summary.json, oof_predictions.csv, report.html and train.log in OUTPUT_DIR. The same command again skips finished folds and
continues an unfinished one.
"""

import argparse
import dataclasses
import sys

if sys.version_info < (3, 10):
    sys.stderr.write("error: Python 3.10 or newer is needed; this is " + sys.version.split()[0] + "\n")
    sys.exit(2)

from data import stop

if __name__ == "__main__":
    stop.install()  # Before torch is imported: a signal that comes during start-up must not be lost.

from darkir.engine.distributed import World, join, leave, read_world
from darkir.engine.doctor import dry_run
from darkir.engine.exits import DONE, guarded
from darkir.engine.fold import train_fold
from darkir.engine.plans import cross_validation_plans, single_plan
from darkir.engine.run_config import Options
from darkir.engine.runlog import RunLog
from darkir.engine.runtime import keep_freed_memory
from darkir.engine.summary import update_summary
from darkir.engine.train_options import parse_args


@guarded
def main(argv: list[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    args, options = parse_args(argv, __doc__)
    keep_freed_memory(options.device)
    world = read_world()
    options = dataclasses.replace(options, device=join(world, options.device, options.train.batch_size))
    try:
        return run(args, options, world)
    finally:
        leave(world)


def run(args: argparse.Namespace, options: Options, world: World) -> int:
    """Train what was asked for, as one of the processes of `world`; returns the exit code."""
    log = RunLog(None if args.dry_run else args.output_dir / "train.log", silent=not world.writes)
    if args.train_jsonl is not None:
        rows = (args.train_jsonl, args.val_jsonl, args.test_jsonl, args.val_ratio, args.base_dir)
        plans = [single_plan(*rows, options, args.output_dir, log)]
    else:
        plans = cross_validation_plans(args.data_splits_dir, args.base_dir, args.output_dir, args.n_folds, options, log)
    plans = [plan for plan in plans if args.fold in (None, plan.number)]
    if args.dry_run:
        dry_run(plans, options, args.output_dir, log)
        return DONE
    for plan in plans:
        train_fold(plan, options, log, world)
        if plan.number is not None and world.writes:
            update_summary(args.output_dir, args.n_folds, log)
    return DONE


if __name__ == "__main__":
    sys.exit(main())
