#!/usr/bin/env python3
"""Enhance photos with trained models: files or folders in, restored photos at full size out.

Example:
    python enhance_photos.py --cv_dir outputs_darkir_384_m_cv --input photos/ --output enhanced/

Reads JPEG, PNG, TIFF (8 and 16 bit), WebP, BMP, and DNG where rawpy is installed. EXIF stays, orientation is applied,
colours become sRGB. The models' mean is written below OUTPUT under the names of the photos, with a contact sheet. The same
command again goes on with what is missing; nothing is overwritten unless asked. A photo that cannot be read is listed at
the end (exit 3).
"""

import sys

if sys.version_info < (3, 10):
    sys.stderr.write("error: Python 3.10 or newer is needed; this is " + sys.version.split()[0] + "\n")
    sys.exit(2)

from common import signals

if __name__ == "__main__":
    signals.install()  # Before torch is imported: a signal that comes during start-up must not be lost.

from pathlib import Path

from common.exits import DONE, REJECTS, guarded
from common.log import RunLog
from common.options import add_options, from_args, make_parser
from engine.enhancing.config import EnhanceConfig, settings_of, side_seen
from engine.enhancing.enhance import Enhancement, enhance_all
from engine.enhancing.sheet import write_sheet
from engine.enhancing.tasks import list_photos, refuse_clashes, shard_of
from engine.inference import make_restorers
from engine.models import fold_checkpoints, named_checkpoints, read_members
from engine.runtime import choose_device, choose_precision, describe_device


def parse_args(argv: list[str] | None):
    """Flags -> (args, EnhanceConfig, the photos of this shard, how many other files lay among them)."""
    parser = make_parser(__doc__)
    models = parser.add_argument_group("models").add_mutually_exclusive_group(required=True)
    models.add_argument("--cv_dir", type=Path, help="output folder of train_darkir_cv.py; takes every fold's best")
    models.add_argument(
        "--checkpoint", type=Path, nargs="+", help="weights files instead, one or more (.pt, .safetensors)"
    )
    photos = parser.add_argument_group("photos")
    photos.add_argument(
        "--input", type=Path, nargs="+", required=True, help="photos, or folders that are searched for photos"
    )
    photos.add_argument("--output", type=Path, required=True, help="folder of the results")
    photos.add_argument("--shard", help="i/n: only the i-th of n parts of the photos, for job arrays")
    photos.add_argument("--overwrite", action="store_true", help="make again what is there already")
    add_options(parser, EnhanceConfig, "enhancement")
    parser.add_argument_group("run").add_argument("--device", default="auto", help="auto, cuda, cpu or cuda:N")
    args = parser.parse_args(argv)
    if args.output.exists() and not args.output.is_dir():
        parser.error(f"--output {args.output} is a file, not a folder")
    tasks, others = list_photos(args.input, args.output)
    refuse_clashes(tasks, args.output)
    try:
        tasks = shard_of(tasks, args.shard)
    except ValueError as error:
        parser.error(str(error))
    return args, from_args(EnhanceConfig, args, parser), tasks, others


@guarded
def main(argv: list[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    args, config, tasks, others = parse_args(argv)
    log = RunLog()
    device = choose_device(args.device)
    # Without keep_freed_memory: strips gain little by it, and a large photo's peak would stay for all that follow.
    precision = choose_precision(device, config.mixed_precision, "auto")
    members = read_members(
        fold_checkpoints(args.cv_dir, None) if args.cv_dir else named_checkpoints(args.checkpoint), log
    )
    side = side_seen(config, members, log)
    left_out = f" ({others} other files left alone)" if others else ""
    log(f"{len(tasks)} photos{left_out}, {len(members)} models, {precision.describe()}, {describe_device(device)}")
    restorers = make_restorers(members, config.tta, precision, device)
    settings = settings_of(config, members)
    faults = enhance_all(
        tasks, Enhancement(config, settings, restorers, side, device, args.output, args.overwrite), log
    )
    sheet = write_sheet(args.output, f"Models: {', '.join(map(str, (member.path for member in members)))}.")
    log(f"{len(tasks) - len(faults)} of {len(tasks)} photos are in {args.output}; before and after: {sheet[0]}")
    for fault in faults:
        log(f"not enhanced: {fault}")
    return REJECTS if faults else DONE


if __name__ == "__main__":
    sys.exit(main())
