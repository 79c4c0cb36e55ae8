"""A fold's best weights -> a small picture of each validation photo, source | output | target, for the report of all folds.

They lie in fold_K/pictures, and pictures.json there says what each shows and what is to be said of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from common import signals
from common.errors import Stopped
from common.files import write_bytes, write_json
from common.jsonl import parse_json
from data.dataset import EvaluationPairs
from data.images import jpeg
from engine.inference import Restore, to_float
from engine.testing.judgement import KINDS, judge
from engine.testing.visuals import SMALL_QUALITY, SUFFIX, strip, thumbnail, visual_names

FOLDER, RECORDS = "pictures", "pictures.json"
PANEL_WIDTH = 400  # pixels of each side
FIELDS = {"src": str, "file": str, "width": int, "height": int, "region": list, "shares": dict}


def write_pictures(run_folder: Path, frames: EvaluationPairs, restore: Restore, device: torch.device) -> None:
    """Write the pictures of the photos of `frames`, restored one by one with the best weights. Raises Stopped between photos."""
    folder = run_folder / FOLDER
    remove_pictures(run_folder)
    records = []
    for index, name in enumerate(visual_names(frames.pairs)):
        if signals.requested():
            raise Stopped(f"{signals.requested()} received; state saved, run the same command again")
        sample = frames[index]
        src, tar = (to_float(sample[side][None], device) for side in ("src", "tar"))
        restored = restore(src)
        judged, picture = judge(restored[0], tar[0]), thumbnail(strip(src[0], restored[0], tar[0]), PANEL_WIDTH)
        write_bytes(folder / name, jpeg(picture, SMALL_QUALITY))
        size = {"width": picture.width, "height": picture.height}
        told = {"region": judged.region, "shares": judged.shares, "tint": judged.tint}
        records.append({"src": frames.pairs[index].src, "file": name, **size, **told})
    write_json(folder / RECORDS, records)


def remove_pictures(run_folder: Path) -> None:
    """Remove what `write_pictures` wrote into the folder of a run, and nothing else."""
    folder = run_folder / FOLDER
    for path in [*folder.glob(f"*{SUFFIX}"), folder / RECORDS]:
        path.unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def read_pictures(run_folder: Path) -> dict[str, dict[str, Any]]:
    """src -> its record, with `path` for `file`; empty for a run of a former version, or where somebody removed some."""
    folder = run_folder / FOLDER
    try:
        records = parse_json((folder / RECORDS).read_bytes())
    except (OSError, ValueError):
        return {}
    found = {}
    for record in records if isinstance(records, list) else ():
        if not isinstance(record, dict) or any(not isinstance(record.get(key), kind) for key, kind in FIELDS.items()):
            continue
        path = folder / Path(record["file"]).name
        if path.is_file() and set(record["shares"]) == set(KINDS) and len(record["region"]) == 4:
            found[record["src"]] = {**record, "path": path}
    return found
