#!/usr/bin/env python3
"""Export one trained model as a .safetensors file that says what it is, with a model card beside it.

Example:
    python export_model.py --cv_dir outputs_darkir_384_m_cv --output model.safetensors

Offers every fold's best weights and the average of the folds' weights, each with its scores: a fold on the validation photos
that it did not learn from, all of them on test photos (--test_jsonl, or those of the split that the run recorded). Without
--choose, the fold with the best validation PSNR is exported. --checkpoint of the other scripts takes the file.
"""

import sys

if sys.version_info < (3, 10):
    sys.stderr.write("error: Python 3.10 or newer is needed; this is " + sys.version.split()[0] + "\n")
    sys.exit(2)

from common import signals

if __name__ == "__main__":
    signals.install()  # Before torch is imported: a signal that comes during start-up must not be lost.

import os
from pathlib import Path

from common.exits import DONE, guarded
from common.log import RunLog
from common.options import make_parser
from data.fingerprint import set_digest
from engine.exporting.artefact import write_artefact
from engine.exporting.candidates import candidates_of, log_scores, read_folds, score_on_test, validation_summaries
from engine.exporting.choose import BEST_FOLD, Chosen, choose, find_test_pairs, warnings_about
from engine.exporting.onnx_export import refuse_without_packages
from engine.models import refuse_leaks
from engine.runtime import choose_device, describe_device, keep_freed_memory
from engine.testing.results import summary_of


def parse_args(argv: list[str] | None):
    """Flags -> args, with `card`, the model card's path, beside them."""
    parser = make_parser(__doc__)
    model = parser.add_argument_group("model")
    model.add_argument("--cv_dir", type=Path, required=True, help="output folder of train_darkir_cv.py, all folds done")
    model.add_argument(
        "--choose",
        default=BEST_FOLD,
        help="best: the fold with the highest validation PSNR; fold_K: that fold; average: the mean of the folds' weights",
    )
    photos = parser.add_argument_group("photos")
    photos.add_argument("--test_jsonl", type=Path, help="test pairs; default: those of the split that the run recorded")
    photos.add_argument("--base_dir", type=Path, help="folder that relative paths start from; default: as recorded")
    photos.add_argument("--num_workers", type=int, default=4, help="loader processes (0: load in the main process)")
    files = parser.add_argument_group("files")
    files.add_argument("--output", type=Path, required=True, help="NAME.safetensors; the model card becomes NAME.md")
    files.add_argument(
        "--onnx", type=Path, help="also write NAME.onnx and check it (needs onnx, onnxscript, onnxruntime)"
    )
    files.add_argument("--overwrite", action="store_true", help="replace files that are there already")
    parser.add_argument_group("run").add_argument("--device", default="auto", help="auto, cuda, cpu or cuda:N")
    args = parser.parse_args(argv)
    args.card = args.output.with_suffix(".md")
    for flag, path, suffix in (("--output", args.output, ".safetensors"), ("--onnx", args.onnx, ".onnx")):
        if path is not None and (reason := _no_place(path, suffix)):
            parser.error(f"{flag} {path}: {reason}")
    there = [path for path in (args.output, args.card, args.onnx) if path is not None and path.exists()]
    if there and not args.overwrite:
        parser.error(f"{', '.join(map(str, there))} exists; choose another --output, or replace it with --overwrite")
    if args.num_workers < 0:
        parser.error(f"--num_workers {args.num_workers}: must be 0 or more")
    return args


def _no_place(path: Path, suffix: str) -> str | None:
    """Why no file can be written as `path`: told before hours of scoring, not after."""
    if path.suffix != suffix:
        return f"the name must end in {suffix}"
    if str(path).encode("utf-8", "ignore").decode("utf-8") != str(path):
        return "the name is not UTF-8, which the model card is"
    if path.is_dir() or path.with_suffix(".md").is_dir():
        return "there is a folder of that name, or of the model card's"
    nearest = next(folder for folder in path.absolute().parents if folder.exists())
    if not nearest.is_dir():
        return f"{nearest} is a file, not a folder"
    return None if os.access(nearest, os.W_OK) else f"{nearest} cannot be written to"


@guarded
def main(argv: list[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    args = parse_args(argv)
    log = RunLog()
    device = choose_device(args.device)
    keep_freed_memory(device)
    if args.onnx is not None:
        refuse_without_packages()
    members = read_folds(args.cv_dir, log)
    candidates = candidates_of(args.cv_dir, members)
    pairs = find_test_pairs(args.test_jsonl, args.base_dir, members, log)
    refuse_leaks(members, pairs, log)
    validation = validation_summaries(candidates)
    candidate, reason = choose(candidates, args.choose, validation, scored=bool(pairs))
    if pairs:
        log(f"Scoring {len(candidates)} candidates on {len(pairs)} test photos, float32, {describe_device(device)}")
    records = score_on_test(candidates, pairs, device, args.num_workers)
    test = {name: summary_of(rows) for name, rows in records.items()}
    log_scores(candidates, validation, test, len(pairs), log)
    log(f"Exported: {candidate.name} ({reason})")
    warnings = warnings_about(candidate, validation, test)
    for warning in warnings:
        log(f"⚠️  {warning}")
    digest = set_digest([pair.row for pair in pairs]) if pairs else None
    chosen = Chosen(candidate, reason, warnings, validation, test, len(pairs), digest)
    write_artefact(chosen, args.output, args.card, args.onnx, log)
    return DONE


if __name__ == "__main__":
    sys.exit(main())
