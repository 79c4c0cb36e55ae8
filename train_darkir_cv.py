#!/usr/bin/env python3
"""Train DarkIR: one model per fold of a split, or one model from --train_jsonl.

Example:
    python train_darkir_cv.py --data_splits_dir data_splits --output_dir outputs_darkir_384_m_cv --mixed_precision

Reads the split that create_data_splits.py wrote. Writes OUTPUT_DIR/fold_K/ (checkpoints, history.json, curves.png, tensorboard/),
and cv_summary.json, oof_predictions.csv, report.html and train.log in OUTPUT_DIR. The same command again skips finished folds and
continues an unfinished one.
"""

import sys

from common.start import check_machine

check_machine()

from common import signals

if __name__ == "__main__":
    signals.install()  # Before torch is imported: a signal that comes during start-up must not be lost.

from common.exits import DONE, guarded, output_folder
from common.lists import listed_in
from common.log import RunLog
from engine.training.config import parse_args


@guarded
def main(argv: list[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    args, options = parse_args(argv, __doc__)
    # Only now what imports torch: --help and a mistyped flag answer at once.
    from engine.distributed import joined
    from engine.runtime import choose_device, keep_freed_memory, score_exactly
    from engine.training.dry_run import dry_run
    from engine.training.plans import cross_validation_plans, single_plan, with_vgg_digest
    from engine.training.resume import refuse_to_extend_unfinished, settle_resume
    from engine.training.run import unused_flags
    from engine.training.summary import update_summary
    from engine.training.train import train_fold
    from engine.training.updates.execution import keep_compiled_code
    from engine.waiting import Waiting

    device = choose_device(args.device)
    score_exactly()
    keep_compiled_code(args.output_dir / "cache")
    keep_freed_memory(device)
    with joined(device, options.train.batch_size) as (world, device):
        log = RunLog(None if args.dry_run else args.output_dir / "train.log", silent=not world.writes)
        lists = None if args.dry_run else args.output_dir
        with output_folder("--output_dir", args.output_dir), listed_in(lists), Waiting(device, log):
            if args.kernels is not None:
                log("--kernels plain has no effect any more: there is one way to compute")
            options = with_vgg_digest(settle_resume(options, log))
            if args.train_jsonl is not None:
                plans = [single_plan(args, options, log)]
            else:
                plans = cross_validation_plans(args, options, log)
            for line in unused_flags(args, options):
                log(line)
            if args.dry_run:
                dry_run(plans, options, device, args.output_dir, log)
                return DONE
            refuse_to_extend_unfinished(plans, options)
            for plan in plans:
                train_fold(plan, options, device, world, log)
                if plan.folds is not None and world.writes:
                    update_summary(args.output_dir, plan.folds, log)
    return DONE


if __name__ == "__main__":
    sys.exit(main())
