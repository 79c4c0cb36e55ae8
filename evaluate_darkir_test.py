#!/usr/bin/env python3
"""Score trained DarkIR models on test photos: each alone, their ensemble, and the untouched photo as baseline.

Example:
    python evaluate_darkir_test.py --cv_dir outputs_darkir_384_m_cv --test_jsonl data_splits/test.jsonl --save_visuals

Writes test_results.json, per_image.csv, report.html and, with --save_visuals, visuals/ in OUTPUT_DIR. The ensemble is
the mean of the models' clamped outputs. A model that saw one of the test photos, or one
that looks like it, is refused. --baseline sets the result
against that of another evaluation of the same photos.
"""

import sys

from common.start import check_machine

check_machine()

from common import signals

if __name__ == "__main__":
    signals.install()  # Before torch is imported: a signal that comes during start-up must not be lost.

from common.exits import DONE, flagged, guarded, output_folder
from common.files import remove_stale_temporaries
from common.lists import listed_in
from common.locks import FolderLock
from common.log import RunLog
from engine.testing.config import parse_args


@guarded
def main(argv: list[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    args, config, compared_with = parse_args(argv, __doc__)
    # Only now what imports torch: --help and a mistyped flag answer at once.
    from data.dataset import EvaluationPairs
    from data.fingerprint import fingerprint_pairs
    from data.loader import equal_size_batches, evaluation_loader
    from data.manifest import find_group_key, read_pairs
    from data.units import describe_units, refuse_unknown_group_key, unit_names
    from engine.inference import make_restorers, score_all
    from engine.intervals import interval_words
    from engine.lpips_metric import read_lpips, refuse_small_frames
    from engine.models import names_of, read_models, refuse_leaks
    from engine.provenance import settle_near_duplicates
    from engine.report import write_test_report
    from engine.runtime import choose_device, choose_precision, describe_computing, keep_freed_memory, score_exactly
    from engine.testing.baseline import read_baseline
    from engine.testing.comparison import compare, comparison_lines
    from engine.testing.results import build_results, contamination_lines, per_image_rows, result_table, write_results
    from engine.testing.settings import describe_settings, refuse_contradictions, settle_frames
    from engine.testing.visuals import VisualsFolder
    from engine.waiting import Waiting

    log = RunLog()
    if args.test_assumed:
        log(f"Test pairs: {args.test_jsonl}, which is here (no --test_jsonl)")
    device = choose_device(args.device)
    score_exactly()
    keep_freed_memory(device)
    precision = choose_precision(device, config.mixed_precision, "auto")
    lpips = read_lpips(config.lpips_weights, device)
    models = read_models(args.cv_dir, args.checkpoint, log, args.n_folds)
    refuse_contradictions(models, args.arch, args.model_size)
    config = settle_frames(config, models, log)
    assert config.resolution is not None and config.fit is not None  # settled
    with flagged("--test_jsonl", args.test_jsonl), flagged("--base_dir", args.base_dir), listed_in(args.output_dir):
        pairs = read_pairs(args.test_jsonl, args.base_dir, group_key=args.group_key, warn=log)
        if args.group_key is not None:
            refuse_unknown_group_key(args.group_key, pairs)
        pairs = fingerprint_pairs(pairs)
    refuse_small_frames(lpips, pairs, config)
    near_duplicates = settle_near_duplicates(args.near_duplicates, args.test_jsonl.parent)
    with listed_in(args.output_dir):
        alike = refuse_leaks(models, pairs, near_duplicates, log)
    units = unit_names(pairs)
    baseline = read_baseline(compared_with, pairs, args.output_dir)
    dataset = EvaluationPairs(pairs, config.resolution, config.fit)
    frames = f"--resolution {config.resolution} --fit {config.fit}"
    log(f"Scoring {len(pairs)} photos, {frames}, {describe_computing(precision, device)}")
    log(describe_units(pairs, units, args.group_key or find_group_key(args.test_jsonl)))
    visuals = VisualsFolder(args.output_dir, pairs, config.save_visuals != "off")
    place = args.output_dir
    with output_folder("--output_dir", place), FolderLock(place, log), visuals, Waiting(device, log):
        remove_stale_temporaries(args.output_dir)
        batches = equal_size_batches(dataset, config.batch_size)
        loader = evaluation_loader(dataset, batches, config.num_workers, device.type == "cuda")
        restorers = make_restorers(models, config.tta, precision, device, log)
        records = score_all(restorers, loader, pairs, device, visuals.add, lpips)
        measured = (precision.describe(), device.type, lpips.describe() if lpips else None)
        settings = describe_settings(config, args.test_jsonl, args.base_dir, *measured)
        results, rows = build_results(models, records, pairs, units, settings), per_image_rows(records)
        results["near_duplicates"] = {"mode": near_duplicates, "photos": names_of(alike), "found": alike}
        if baseline is not None:
            results["comparison"] = compare(results, rows, baseline, units)
        if config.save_visuals == "full":
            visuals.add_native(restorers, device, log)
        visuals.publish()
        write_results(args.output_dir, results, rows)
        write_test_report(args.output_dir, results, rows, visuals.pictures())
    for line in [*result_table(results), *contamination_lines(results), *comparison_lines(results)]:
        log(line)
    brackets = interval_words(results["n"], results["units"], results["ensemble"]["psnr"]["ci95"])
    log(f"Means; {brackets}; open {args.output_dir / 'report.html'}")
    return DONE


if __name__ == "__main__":
    sys.exit(main())
