#!/usr/bin/env python3
"""Pairs of photos -> a test set and K folds without leakage, proved from the written files.

Photos that look the same, share an image or have the same `group` stay on one side. A rerun decodes only new images.

  ./create_data_splits.py --input_jsonl photos/pairs.jsonl --output_dir data_splits
  ./create_data_splits.py --input_dir photos --test_size 10 --n_folds 3
  ./create_data_splits.py --input_dir photos --audit
  ./create_data_splits.py --input_dir photos --output_dir data_splits --check

Writes test.jsonl, fold_K/train.jsonl, fold_K/val.jsonl and split_metadata.json, and left_out.csv with what --input_dir holds
besides pairs. With --audit it makes no split, but lists
the pairs that look wrong, worst first: audit.html to look at, audit.jsonl to pick the lines for --drop from.
Exit codes: 0 done, 1 a failure of ours or of the machine, 2 the input is wrong, 75 stopped by a signal.
"""

import sys

from common.start import check_machine

check_machine()

from pathlib import Path

from common import signals

if __name__ == "__main__":
    signals.install()

from common.exits import DONE, flagged, guarded, output_folder
from common.log import RunLog
from common.options import add_options, from_args, make_parser
from data.config import AuditConfig, SplitConfig


@guarded
def main(argv: list[str] | None = None) -> int:
    """Read, then audit, or fingerprint, split, write and prove; see the module's docstring."""
    parser = make_parser(__doc__)
    add_options(parser, SplitConfig, "splits")
    add_options(parser, AuditConfig, "audit")
    parser.add_argument_group("check").add_argument(
        "--check",
        action="store_true",
        help="write nothing: exit 2 unless the split in --output_dir is of these photos, --test_size, --n_folds and --seed",
    )
    args = parser.parse_args(argv)
    if args.check and args.audit:
        parser.error("--check writes nothing, --audit writes a page: name one of them")
    config, wanted = from_args(SplitConfig, args, parser), from_args(AuditConfig, args, parser)
    # Only now what is heavy: --help and a mistyped flag answer at once.
    from common.lists import listed_in
    from common.locks import FolderLock
    from data.audit.audit import audit_pairs, report_audit
    from data.fingerprint import fingerprint_pairs
    from data.folders import report_left_out
    from data.splits.files import split_metadata, write_split_folder
    from data.splits.split import make_split, refuse_repeated_sources
    from data.splits.steps import (
        find_near_duplicates,
        leave_out,
        read_input,
        refuse_other_split,
        report_plan,
        report_written,
        reusable_pairs,
        unused_options,
    )

    if wanted.audit:
        from data.audit.page import write_audit  # pages need jinja2, a split does not

    log = RunLog()
    for line in unused_options(config, wanted.audit, args.check, parser.given):
        log(line)
    with listed_in(None if args.check else config.output_dir):
        pairs, base_dir, left_out = read_input(config, log, keep_repeated=wanted.audit)
        pairs, dropped = leave_out(pairs, config, log)
    if wanted.audit:
        with listed_in(config.output_dir):
            audit = audit_pairs(pairs, wanted.oof, duplicates=config.near_duplicates != "off")
        report_audit(audit, log)
        source = config.input_jsonl or config.input_dir
        assert source is not None  # SplitConfig requires one of the two
        with output_folder("--output_dir", config.output_dir):
            write_audit(config.output_dir, audit, source, log)
            report_left_out(left_out, Path(config.output_dir), log)
        return DONE
    if args.check:
        with flagged("--output_dir", config.output_dir):
            refuse_other_split(pairs, base_dir, config, log)
        return DONE
    with listed_in(config.output_dir):
        pairs = fingerprint_pairs(pairs, known=reusable_pairs(config, base_dir, dropped, log))
        refuse_repeated_sources(pairs)
    near = find_near_duplicates(pairs, config, log)
    split = make_split(pairs, near if config.near_duplicates == "group" else [], config)
    report_plan(pairs, split, config, log)
    words = list(sys.argv[1:] if argv is None else argv)
    metadata = split_metadata(config, words, base_dir, pairs, near, split, dropped)
    with output_folder("--output_dir", config.output_dir), FolderLock(config.output_dir, log):
        is_new = write_split_folder(Path(config.output_dir), base_dir, pairs, split, metadata)
        report_left_out(left_out, Path(config.output_dir), log)
    report_written(is_new, config, log)
    return DONE


if __name__ == "__main__":
    sys.exit(main())
