#!/usr/bin/env python3
"""Score trained DarkIR models on test photos: each alone, their ensemble, and the untouched photo as baseline.

Example:
    python evaluate_darkir_test.py --cv_dir outputs_darkir_384_m_cv --test_jsonl data_splits/test.jsonl --save_visuals

Writes test_results.json, per_image.csv, report.html and, with --save_visuals, visuals/ in OUTPUT_DIR. The ensemble is
the mean of the models' clamped outputs. A model that saw one of the test photos is refused. --baseline sets the result
against that of another evaluation of the same photos.
"""

import sys

if sys.version_info < (3, 10):
    sys.stderr.write("error: Python 3.10 or newer is needed; this is " + sys.version.split()[0] + "\n")
    sys.exit(2)

from common import signals

if __name__ == "__main__":
    signals.install()  # Before torch is imported: a signal that comes during start-up must not be lost.

from pathlib import Path

from common.exits import DONE, guarded
from common.files import FolderLock, remove_stale_temporaries
from common.log import RunLog
from common.options import add_options, from_args, make_parser
from darkir.architectures import MODEL_SIZES
from data.dataset import EvaluationPairs
from data.fingerprint import fingerprint_pairs
from data.loader import equal_size_batches, evaluation_loader
from data.manifest import read_pairs
from engine.inference import make_restorers, score_all
from engine.models import fold_checkpoints, named_checkpoints, read_members, refuse_contradictions, refuse_leaks
from engine.report import write_test_report
from engine.runtime import choose_device, choose_precision, describe_device, keep_freed_memory
from engine.testing.baseline import BaselineConfig, read_baseline
from engine.testing.comparison import compare, comparison_lines
from engine.testing.config import EvaluationConfig, settle
from engine.testing.results import build_results, describe_settings, per_image_rows, result_table, write_results
from engine.testing.visuals import Pictures


def parse_args(argv: list[str] | None):
    """Flags -> (args, EvaluationConfig, BaselineConfig)."""
    parser = make_parser(__doc__)
    models = parser.add_argument_group("models")
    source = models.add_mutually_exclusive_group(required=True)
    source.add_argument("--cv_dir", type=Path, help="output folder of train_darkir_cv.py; takes every fold's best")
    source.add_argument("--checkpoint", type=Path, nargs="+", help="weights files to evaluate instead, one or more")
    models.add_argument("--arch", choices=MODEL_SIZES, help="refuse models of another architecture")
    models.add_argument("--model_size", choices=MODEL_SIZES["darkir"], help="refuse models of another size")
    models.add_argument("--n_folds", type=int, help="refuse another number of models")
    photos = parser.add_argument_group("photos")
    photos.add_argument("--test_jsonl", type=Path, required=True, help="test pairs, one JSON object a line")
    photos.add_argument("--base_dir", type=Path, help="folder that relative paths start from; default: as recorded")
    add_options(parser, EvaluationConfig, "evaluation")
    add_options(parser, BaselineConfig, "comparison")
    run = parser.add_argument_group("run")
    run.add_argument("--output_dir", type=Path, default=Path("test_results"), help="folder of the results")
    run.add_argument("--device", default="auto", help="auto, cuda, cpu or cuda:N")
    args = parser.parse_args(argv)
    if args.checkpoint and args.n_folds not in (None, len(args.checkpoint)):
        parser.error(f"--n_folds {args.n_folds}, but --checkpoint names {len(args.checkpoint)} files")
    if args.output_dir.exists() and not args.output_dir.is_dir():
        parser.error(f"--output_dir {args.output_dir} is a file, not a folder")
    return args, from_args(EvaluationConfig, args, parser), from_args(BaselineConfig, args, parser)


@guarded
def main(argv: list[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    args, config, compared_with = parse_args(argv)
    log = RunLog()
    device = choose_device(args.device)
    keep_freed_memory(device)
    precision = choose_precision(device, config.mixed_precision, "auto")
    paths = fold_checkpoints(args.cv_dir, args.n_folds) if args.cv_dir else named_checkpoints(args.checkpoint)
    members = read_members(paths, log)
    refuse_contradictions(members, args.arch, args.model_size)
    config = settle(config, members, log)
    pairs = fingerprint_pairs(read_pairs(args.test_jsonl, args.base_dir, warn=log))
    refuse_leaks(members, pairs, log)
    baseline = read_baseline(compared_with, pairs, args.output_dir)
    dataset = EvaluationPairs(pairs, config.resolution, config.fit)
    frames = f"--resolution {config.resolution} --fit {config.fit}"
    log(f"Scoring {len(pairs)} photos, {frames}, {precision.describe()}, {describe_device(device)}")
    with FolderLock(args.output_dir), Pictures(args.output_dir, pairs, config.save_visuals) as pictures:
        remove_stale_temporaries(args.output_dir)
        batches = equal_size_batches(dataset, config.batch_size)
        loader = evaluation_loader(dataset, batches, config.num_workers, device.type == "cuda")
        records = score_all(make_restorers(members, config.tta, precision, device), loader, pairs, device, pictures.add)
        settings = describe_settings(config, args.test_jsonl, args.base_dir, precision.describe(), device.type)
        results, rows = build_results(members, records, pairs, settings), per_image_rows(records)
        if baseline is not None:
            results["comparison"] = compare(results, rows, baseline)
        pictures.publish()
        write_results(args.output_dir, results, rows)
        write_test_report(args.output_dir, results, rows, pictures.thumbnails())
    for line in [*result_table(results), *comparison_lines(results)]:
        log(line)
    log(f"{len(pairs)} photos, mean and 95 % bootstrap interval; open {args.output_dir / 'report.html'}")
    return DONE


if __name__ == "__main__":
    sys.exit(main())
