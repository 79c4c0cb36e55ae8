#!/usr/bin/env python3
"""Enhance photos with trained models: files or folders in, restored photos at full size out.

Example:
    python enhance_photos.py --cv_dir outputs_darkir_384_m_cv --input photos/ --output enhanced/

Reads JPEG, PNG, TIFF (8 and 16 bit), WebP, BMP and AVIF; cameras' raw files where rawpy is installed, HEIC where pillow-heif
is. EXIF stays, orientation is applied, colours become sRGB. The models' mean is written below OUTPUT under the names of the
photos, with a contact sheet; left_out.csv there names what --input holds besides photos. The same command again goes on with
what is missing; nothing is overwritten unless asked. A photo that cannot be read is listed at the end (exit 3).
"""

import sys

from common.start import check_machine

check_machine()

from common import signals

if __name__ == "__main__":
    signals.install()  # Before torch is imported: a signal that comes during start-up must not be lost.

from common.exits import DONE, REJECTS, guarded, output_folder
from common.lists import listed_in, log_list
from common.log import RunLog
from engine.enhancing.config import parse_args


@guarded
def main(argv: list[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    args, config = parse_args(argv, __doc__)
    # Only now what imports torch: --help and a mistyped flag answer at once.
    from data.folders import report_left_out
    from engine.enhancing.enhance import Enhancement, enhance_all, settings_of, short_side_seen
    from engine.enhancing.sheet import write_sheet
    from engine.enhancing.tasks import list_photos, refuse_clashes
    from engine.inference import make_restorers
    from engine.models import read_models
    from engine.runtime import choose_device, choose_precision, describe_computing, score_exactly
    from engine.waiting import Waiting

    with listed_in(args.output):
        tasks, others = list_photos(args.input, args.output)
        refuse_clashes(tasks, args.output)
    tasks = tasks[args.shard]
    log = RunLog()
    for line in args.unused:
        log(line)
    device = choose_device(args.device)
    score_exactly()
    # Without keep_freed_memory: strips gain little by it, and a large photo's peak would stay for all that follow.
    precision = choose_precision(device, config.mixed_precision, "auto")
    models = read_models(args.cv_dir, args.checkpoint, log)
    short_side = short_side_seen(config, models, log)
    log(f"{len(tasks)} photos, {len(models)} models, {describe_computing(precision, device)}")
    restorers = make_restorers(models, config.tta, precision, device, log)
    settings = settings_of(config, models)
    run = Enhancement(config, settings, restorers, short_side, device, args.output, args.overwrite)
    with output_folder("--output", args.output), Waiting(device, log):
        report_left_out(others, args.output, log)
        faults = enhance_all(tasks, run, log)
        paths = dict.fromkeys(str(model.path) for model in models)  # an ensemble's file holds several
        sheet = write_sheet(args.output, f"Models: {', '.join(paths)}.")
    log(f"{len(tasks) - len(faults)} of {len(tasks)} photos are in {args.output}; before and after: {sheet}")
    log_list(log, [f"not enhanced: {fault}" for fault in faults], args.output / args.not_enhanced)
    return REJECTS if faults else DONE


if __name__ == "__main__":
    sys.exit(main())
