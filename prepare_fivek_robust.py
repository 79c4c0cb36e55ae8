#!/usr/bin/env python3
"""MIT-Adobe FiveK as people have it on disk -> paired sRGB images, train.jsonl and val.jsonl for pre-training.

Finds inputs (DNG, TIFF, JPEG, PNG) and one expert's renditions by id in any known layout. Colours are converted exactly,
both images of a pair leave with one size, and what does not show one photo is rejected with its reason. A rerun of the
same command continues, and makes nothing twice.

  ./prepare_fivek_robust.py --fivek_dir fivek_dataset --output_dir fivek_processed --expert C
  ./prepare_fivek_robust.py --fivek_dir fivek_dataset --output_dir trial --limit 50
  ./prepare_fivek_robust.py --output_dir fivek_processed --check

Writes images/KEY_src.jpg and KEY_tar.jpg, train.jsonl, val.jsonl, rejected.csv, dataset_metadata.json; meta/ holds a
record of every pair. DNG inputs need rawpy: pip install -r requirements-fivek.txt
Exit codes: 0 done, 1 a failure of ours or of the machine, 2 the input is wrong or nothing usable was found, 3 finished
with more rejected pairs than --max_reject allows, 75 stopped by a signal.
"""

import sys

from common.start import check_machine

check_machine()

from common import signals
from common.workers import use_one_thread

if __name__ == "__main__":
    signals.install()
    use_one_thread()

from common.exits import DONE, REJECTS, flagged, guarded, output_folder
from common.log import RunLog
from common.options import add_options, from_args, make_parser
from data.fivek.config import FivekConfig


@guarded
def main(argv: list[str] | None = None) -> int:
    """Find, make, split and write; see the module's docstring."""
    parser = make_parser(__doc__)
    add_options(parser, FivekConfig, "FiveK")
    parser.add_argument_group("check").add_argument(
        "--check",
        action="store_true",
        help="only compare the options with those of the pairs in --output_dir; write nothing",
    )
    args = parser.parse_args(argv)
    config = from_args(FivekConfig, args, parser)
    # Only now what is heavy: --help and a mistyped flag answer at once.
    from common.lists import listed_in
    from common.locks import FolderLock
    from data.fivek.dataset import refuse_other_options, write_dataset
    from data.fivek.match import find_photos
    from data.fivek.prepare import prepare_pairs, report_dataset, report_found

    log = RunLog()
    for name in sorted(parser.given & {"val_ratio", "split_by", "seed"}):
        if config.val_list is not None:
            log(f"Note: --{name} is not used: --val_list says which pairs validate")
    if args.check:
        with flagged("--output_dir", config.output_dir):
            refuse_other_options(config)
        log(f"--check: {config.output_dir} was made with these options")
        return DONE
    place = config.output_dir
    with flagged("--fivek_dir", config.fivek_dir), output_folder("--output_dir", place), listed_in(place):
        found = find_photos(config)
        report_found(config, found, log)
        with FolderLock(config.output_dir, log):
            records = prepare_pairs(config, found, log)
            metadata = write_dataset(config, found, records)
    return DONE if report_dataset(config, metadata, records, log) else REJECTS


if __name__ == "__main__":
    sys.exit(main())
