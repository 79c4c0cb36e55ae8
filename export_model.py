#!/usr/bin/env python3
"""Export a trained model, or an ensemble, as one .safetensors file that says what it is, with a model card beside it.

Example:
    python export_model.py --cv_dir outputs_darkir_384_m_cv --output model.safetensors

Offers every fold's best weights, the average of the folds' weights, and the ensemble of all folds' networks in one file, each with
its scores: a fold on the validation photos that it did not learn from, all of them on test photos (--test_jsonl, or those of the
split that the run recorded). Without --choose, the best fold is exported: on the test photos, or by validation where those are of
fewer than five units. --checkpoint of the other scripts takes the file.
"""

import sys

from common.start import check_machine

check_machine()

from pathlib import Path

from common import signals

if __name__ == "__main__":
    signals.install()  # Before torch is imported: a signal that comes during start-up must not be lost.

from common.exits import DONE, flagged, guarded
from common.lists import listed_in
from common.log import RunLog
from engine.exporting.config import parse_args


@guarded
def main(argv: list[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    args = parse_args(argv, __doc__)
    # Only now what imports torch: --help and a mistyped flag answer at once.
    from data.fingerprint import set_digest
    from data.units import unit_names
    from engine.exporting.artefact import write_artefact
    from engine.exporting.candidates import (
        candidates_of,
        contaminated_scores,
        log_scores,
        read_folds,
        score_on_test,
        validation_summaries,
    )
    from engine.exporting.choose import Chosen, choose, find_test_pairs, refuse_unknown_choice, warnings_about
    from engine.exporting.onnx_export import refuse_without_packages
    from engine.exporting.ranking import better_than, rank_folds
    from engine.models import names_of, refuse_leaks
    from engine.provenance import settle_near_duplicates
    from engine.runtime import Precision, choose_device, describe_computing, keep_freed_memory, score_exactly
    from engine.testing.results import summary_of
    from engine.waiting import Waiting

    log = RunLog()
    device = choose_device(args.device)
    score_exactly()
    keep_freed_memory(device)
    if args.onnx is not None:
        refuse_without_packages()
    models = read_folds(args.cv_dir, log)
    with flagged("--cv_dir", args.cv_dir):
        candidates = candidates_of(args.cv_dir, models, log)
    with flagged("--test_jsonl", args.test_jsonl), listed_in(args.output.parent):
        pairs = find_test_pairs(args.test_jsonl, args.base_dir, args.group_key, models, log)
    near_duplicates = settle_near_duplicates(args.near_duplicates, Path(pairs[0].file).parent if pairs else None)
    with listed_in(args.output.parent):
        alike = refuse_leaks(models, pairs, near_duplicates, log)
    units = unit_names(pairs)
    validation = validation_summaries(candidates)
    refuse_unknown_choice(candidates, args.choose, scored=bool(pairs))
    if pairs:
        computing = describe_computing(Precision(device.type, None), device)
        log(f"Scoring {len(candidates)} candidates on {len(pairs)} test photos, {computing}")
    with Waiting(device, log):
        records = score_on_test(candidates, pairs, device, args.num_workers, log)
    test = {name: summary_of(rows, units) for name, rows in records.items()}
    log_scores(candidates, validation, test, units, log)
    ranking = rank_folds(candidates, records, units)
    candidate, reason = choose(candidates, args.choose, ranking)
    advice = better_than(candidate.name, records, units)
    for line in (ranking.words(), *advice):
        log(line)
    log(f"Exported: {candidate.name} ({reason})")
    warnings = [
        *contaminated_scores(candidates),
        *warnings_about(candidate, ranking.order[0], validation, test, names_of(alike)),
    ]
    for warning in warnings:
        log(f"⚠️  {warning}")
    digest = set_digest([pair.row for pair in pairs]) if pairs else None
    chosen = Chosen(candidate, reason, warnings, validation, test, len(pairs), len(set(units)), digest, ranking, advice)
    with flagged("--output", args.output), flagged("--onnx", args.onnx):
        write_artefact(chosen, args.output, args.card, args.onnx, log)
    return DONE


if __name__ == "__main__":
    sys.exit(main())
