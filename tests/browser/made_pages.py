"""Pages with any number of photos, made by what makes them for users, from made-up records and small pictures."""

import numpy as np
from PIL import Image

from common.log import RunLog
from data.audit.audit import audit_pairs
from data.audit.page import write_audit
from data.images import jpeg
from data.manifest import read_pairs
from engine.report import write_test_report
from engine.testing.visuals import PICTURES, Picture
from tests.engine.test_report import JUDGED, cv_page, image_rows, model, oof_pictures, results
from tests.helpers.photos import write_pairs


def evaluation_report(folder, count, name=None):
    """A report on room_1.jpg, ...: each fourth got worse than the untouched photo; all have pictures of 60 x 40 a side."""
    photos = [(name or f"room_{number}.jpg", 20.0 + (7 * number) % 13 / 3) for number in range(1, count + 1)]
    names = ["identity", "fold_1", "fold_2", "ensemble"]
    rows = image_rows(names, photos)
    for number, row in enumerate(rows):
        row["delta_e"] = 3.0 + (11 * (number // 4)) % 17 / 4
        if row["model"] == "identity" and number // 4 % 4 == 1:
            row["psnr"] = 40.0
    files = [f"visuals/{number}.jpg" for number in range(count)]
    (folder / "visuals").mkdir()
    for number, file in enumerate(files):
        (folder / file).write_bytes(strip(number))
    small = [strip(i) if i < PICTURES else None for i in range(count)]
    pictures = [Picture(i, (60, 40), JUDGED, small[i], small[i], file) for i, file in enumerate(files)]
    entries = results([model("fold_1"), model("fold_2")]) | {
        "n": count,
        "photos": [{"unit": f"room {i // 2}"} for i in range(count)],  # two photos of each
    }
    write_test_report(folder, entries, rows, pictures)
    return folder / "report.html"


def cv_report(folder, count):
    """Out-of-fold pictures of all photos, in two folds."""
    pictures = oof_pictures(folder, 1, count // 2) | oof_pictures(folder, 2, count - count // 2)
    cv_page(folder, finished=(1, 2), pictures=pictures, count=count - count // 2)
    return folder / "report.html"


def audit_page(folder, count):
    """Pairs that are all copies of each other."""
    scene = np.random.default_rng(5).integers(0, 255, (9, 12, 3), dtype=np.uint8)
    tar = np.array(Image.fromarray(scene).resize((96, 72), Image.Resampling.BICUBIC))
    rows = write_pairs(folder, count + 1, width=96, height=72)
    for pair in read_pairs(rows):
        Image.fromarray(tar).save(pair.tar_path)
        Image.fromarray((tar * 0.5).astype(np.uint8)).save(pair.src_path)
    pairs = read_pairs(rows)
    write_audit(folder / "out", audit_pairs(pairs), str(rows), RunLog())
    return folder / "out" / "audit.html"


def strip(number):
    """Three sides in one JPEG."""
    return jpeg(Image.new("RGB", (180, 40), (number % 200, 90, 120)), 80)
