"""Both reports and the curves: what stands in them, that they need no network, and that nothing in a row becomes markup."""

import html
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from common import pages
from data.images import jpeg
from engine.curves import charts
from engine.report import write_cv_report, write_test_report
from engine.testing.judgement import Judgement
from engine.testing.visuals import Picture
from engine.training.tracking import write_curves
from tests.helpers.report_page import Page

METRICS = ("psnr", "ssim", "l1")
COLOUR = ("delta_e", "delta_e_p95", "clipped_percent", "crushed_percent")
CREATED = {"argv": ["script.py", "--flag"], "versions": {"python": "3.10", "torch": "2.11"}}
KNOWN = {"provenance": "known", "provenance_sources": []}
JPEG = b"\xff\xd8 not really"
JUDGED = Judgement(
    {"exposure": 0.5, "colour": 0.3, "detail": 0.2, "noise": 0.0}, (0, 0, 4), (0.0, 0.0, 0.4, 0.5), (0.5, 2.0)
)


def summary(mean):
    return {"mean": mean, "std": 0.5, "ci95": [mean - 1, mean + 1]}


def metrics(psnr):
    return {"psnr": summary(psnr), "ssim": summary(0.8), "l1": summary(0.1), **{name: summary(7.0) for name in COLOUR}}


def model(name, provenance="known"):
    return {
        "name": name, "path": f"cv/{name}.pt", "sha256": "ab" * 32, "network": "DarkIR-m (width 32)", "epoch": 9,
        "parameters": 3321638, "validation": {"psnr": 21.25}, "provenance": provenance, "provenance_sources": [],
        "validation_contaminated": False,
    }  # fmt: skip


def results(models):
    return {
        "schema_version": 1, "test_digest": "d" * 64, "n": 3, "units": 3, "photos": [{"unit": str(i)} for i in range(3)],
        "models": models, "ensemble": metrics(25.0),
        "folds": [{"model": entry["name"], **metrics(24.0)} for entry in models], "identity": metrics(14.0),
        "near_duplicates": {"mode": "refuse", "photos": [], "found": []},
        "gain": metrics(11.0), "settings": {"resolution": 384, "base_dir": None}, "created_with": CREATED,
    }  # fmt: skip


def image_rows(names, photos):
    """Rows as in per_image.csv; `photos`: src -> PSNR of the last model (the others get 1 dB less each)."""
    return [
        {"src": src, "model": name, "psnr": psnr - (len(names) - 1 - position), "ssim": 0.8, "l1": 0.1,
         "delta_e": 5.125, "delta_e_p95": 9.5, "clipped_percent": 0.25, "crushed_percent": 0.0}
        for src, psnr in photos
        for position, name in enumerate(names)
    ]  # fmt: skip


def ensemble_page(folder, photos=(("x.jpg", 20.0), ("y.jpg", 10.0), ("z.jpg", 15.0)), **changes):
    entries = changes.get("models", [model("fold_1"), model("fold_2")])
    names = ["identity", *(entry["name"] for entry in entries), *(["ensemble"] if len(entries) > 1 else [])]
    pictures = [Picture(i, (10, 8), JUDGED, JPEG, JPEG, file) for i, file in ((1, changes.get("file")), (2, None))]
    write_test_report(folder, results(entries), image_rows(names, photos), pictures)
    return Page(folder / "report.html")


def oof_rows(fold, count=4):
    return [
        {"fold": fold, "src": f"f{fold}_{i}.jpg", "psnr": 20.0 + i, "ssim": 0.8, "l1": 0.1,
         "identity_psnr": 15.0, "identity_ssim": 0.6, "identity_l1": 0.2,
         "unit": f"images/two_photos_of_a_property_of_a_long_name_{fold}_{i // 2:02d}_src.jpg"}
        for i in range(count)
    ]  # fmt: skip


def history(epochs=3):
    return [
        {"epoch": epoch, "train_loss": 1 / epoch, "val_loss": 0.5 / epoch, "val_psnr": 20.0 + epoch, "val_ssim": 0.8,
         "lr": 1e-4 / epoch, "is_best": epoch < 3, "seconds": 90.0, "skipped_steps": epoch - 1,
         "flags": ["gap_growing"] if epoch > 1 else []}
        for epoch in range(1, epochs + 1)
    ]  # fmt: skip


def oof_pictures(folder, fold, count=4):
    """Records as engine/pictures.py reads them, with files of names that an address must quote."""
    records = {}
    for i in range(count):
        path = folder / f"fold_{fold}" / "pictures" / f"#{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(Image.new("RGB", (180, 40), (i % 200, 90, 120)), 80))
        judged = {"region": [0.1, 0.2, 0.3, 0.4], "shares": JUDGED.shares, "tint": [0.5, -2.0]}
        records[f"f{fold}_{i}.jpg"] = {"path": path, "width": 180, "height": 40, **judged}
    return {fold: records}


def cv_page(folder, finished=(1, 2, 3), missing=(), pictures=None, provenance=None, count=4):
    folds = [
        {"fold": fold, "status": "finished", "best_epoch": 2, "best_psnr": 21.5, "best_ssim": 0.8, "best_l1": 0.1,
         "epochs_run": 3, "stopped_early": fold == 2, "contaminated": False, **(provenance or KNOWN)}
        for fold in finished
    ] + [{"fold": fold, "status": "missing"} for fold in missing]  # fmt: skip
    rows = [row for fold in finished for row in oof_rows(fold, count)]
    content = {
        "schema_version": 1, "created_with": CREATED, "config": {"data": {"resolution": 96}, "seed": 42},
        "contaminated": [], "folds": sorted(folds, key=lambda fold: fold["fold"]),
        **{f"best_{name}": {"mean": 21.5, "std": 0.3} if finished else None for name in METRICS},
        "oof": {"n": len(rows), "units": len(rows), **(metrics(21.5) if rows else dict.fromkeys(METRICS))},
        "identity": {"n": len(rows), **(metrics(15.0) if rows else dict.fromkeys(METRICS))},
    }  # fmt: skip
    if 0 < len(rows) < 5:
        for name in METRICS:
            content["oof"][name]["ci95"] = None
    write_cv_report(folder, content, rows, {fold: history() for fold in finished}, pictures or {})
    return Page(folder / "report.html")


def test_test_report_has_the_table_and_the_photos_worst_first(tmp_path):
    page = ensemble_page(tmp_path)
    assert page.cells("identity")[0][1:] == [
        "14.00 [13.00, 15.00]",
        "0.8000 [-0.2000, 1.8000]",
        "0.1000 [-0.9000, 1.1000]",
    ]
    assert [row[1] for row in page.cells("fold_")[:2]] == ["24.00 [23.00, 25.00]"] * 2
    assert page.cells("ensemble")[0][1] == "25.00 [24.00, 26.00]"
    assert page.cells("gain")[0][1] == "+11.00 [+10.00, +12.00]"
    photos = [row for row in page.cells("") if row[0].endswith(".jpg")]
    assert [row[0] for row in photos] == ["y.jpg", "z.jpg", "x.jpg"]
    assert photos[0][1:] == [
        "7.00", "8.00", "9.00", "10.00", "+3.00", "0.8000", "0.1000", "5.12", "9.50", "0.25", "0.00",
    ]  # fmt: skip
    for name in ("identity", "fold_1", "ensemble"):
        assert page.cells(name)[1][1:] == ["7.00 [6.00, 8.00]"] * 4, name
    assert page.cells("gain")[1][1:] == ["+7.00 [+6.00, +8.00]"] * 4
    assert "No photo got worse than the untouched photo, by PSNR; 3 of 3 got better" in page.text
    assert "exposure 50 %, colour 30 %, detail 20 %, noise 0 %" in page.text and "2.1 toward yellow" in page.text
    assert page.text.index("y.jpg") < page.text.index("z.jpg")


def test_reports_need_nothing_from_outside(tmp_path):
    for page in (ensemble_page(tmp_path), cv_page(tmp_path, pictures=oof_pictures(tmp_path, 1))):
        assert page.tags.count("script") == 1 and not {"link", "iframe", "object"} & set(page.tags)
        for address in page.addresses:
            assert address.startswith("data:image/jpeg;base64,") or (tmp_path / address).exists(), address
    assert len(page.addresses) == 4
    assert not re.search(r"https?:|url\(|@import", (tmp_path / "report.html").read_text(encoding="utf-8"))


def test_pictures_link_to_full_size_files_with_any_name(tmp_path):
    page = ensemble_page(tmp_path, file="visuals/50% #1?_comparison.jpg")
    assert "visuals/50%25%20%231%3F_comparison.jpg" in page.addresses
    assert "--save_visuals" not in page.text
    assert "--save_visuals" in ensemble_page(tmp_path).text


def test_text_of_rows_never_becomes_markup(tmp_path):
    page = ensemble_page(
        tmp_path, photos=(("<script>alert(1)</script>.jpg", 3.0), ('"><img src=x>.jpg', 2.0), ("c", 1.0))
    )
    assert page.tags.count("script") == 1 and "x" not in page.addresses
    assert "<script>alert(1)</script>.jpg" in page.text and '"><img src=x>.jpg' in page.text


def test_two_photos_with_one_src_text_stay_two(tmp_path):
    page = ensemble_page(tmp_path, photos=(("same.jpg", 3.0), ("same.jpg", 2.0), ("c.jpg", 9.0)))
    assert len(page.cells("same.jpg")) == 2


def test_provenance_is_shown(tmp_path):
    page = ensemble_page(tmp_path, models=[model("fold_1"), model("fold_2", "unknown")])
    assert "Provenance unknown." in page.text and "No model saw a test photo" not in page.text
    assert [row[5] for row in page.cells("fold_") if "DarkIR-m (width 32)" in row] == ["known", "unknown"]
    page = ensemble_page(tmp_path, models=[model("fold_1") | {"validation_contaminated": True}, model("fold_2")])
    assert "Provenance unknown." not in page.text and "No model saw a test photo" in page.text
    validation = [row[4] for row in page.cells("fold_") if "DarkIR-m (width 32)" in row]
    assert validation == ["21.25 contaminated", "21.25"]


def test_one_model_has_no_ensemble(tmp_path):
    page = ensemble_page(tmp_path, models=[model("best.pt")])
    assert "nsemble" not in page.text
    assert page.cells("best.pt")[0][1] == "24.00 [23.00, 25.00]"


def test_settings_versions_and_digests_are_shown(tmp_path):
    page = ensemble_page(tmp_path)
    assert ["resolution", "384"] in page.cells("resolution") and ["base_dir", "none given"] in page.cells("base_dir")
    for text in ("script.py --flag", "torch 2.11", "d" * 64, "ab" * 32, "3,321,638"):
        assert text in page.text


def test_cv_report_has_folds_out_of_fold_and_identity(tmp_path):
    page = cv_page(tmp_path)
    assert page.cells("out of fold")[0][1] == "21.50 [20.50, 22.50]"
    assert page.cells("identity")[0][1] == "15.00 [14.00, 16.00]"
    assert page.cells("gain")[0][1].startswith("+6.50 [+")
    assert page.cells("2")[0] == [
        "2", "4", "2 of 3 (early stop)", "21.50", "0.8000", "0.1000", "15.00", "+6.50", "3", "4.5", "known",
    ]  # fmt: skip
    assert page.cells("mean ± std")[0][3] == "21.50 ± 0.30"
    photos = [row[0] for row in page.cells("f") if row[0].endswith(".jpg")]
    assert len(photos) == 12 and photos[:4] == ["f1_0.jpg", "f2_0.jpg", "f3_0.jpg", "f1_1.jpg"]
    assert ["data.resolution", "96"] in page.cells("data.") and ["seed", "42"] in page.cells("seed")
    assert "Not finished" not in page.text
    assert "Brackets: 95 % interval over 12 independent units (of 12 photos)." in page.text
    assert "Brackets: no interval: 4 independent units (of 4 photos), too few for one." in cv_page(tmp_path, (1,)).text
    assert page.cells("gain")[0][1].startswith("+6.50 [+") and cv_page(tmp_path, (1,)).cells("gain")[0][1] == "+6.50"


def test_cv_report_shows_flags_and_changes(tmp_path):
    change = {"flag": "--extend", "epoch": 2, "update": 8, "options": {"epochs": [2, 3]}}
    page = cv_page(tmp_path, finished=(1, 2), missing=(3,), provenance={**KNOWN, "changes": [change]})
    assert [row[:3] for row in page.cells("1") if "gap_growing" in row] == [["1", "gap_growing", "2, 3"]]
    assert "--preprocess strong_aug" in page.text
    assert "Fold 2: --extend after epoch 2 (update 8): epochs 2 -> 3." in page.text


def test_cv_report_names_missing_folds_and_pictures(tmp_path):
    page = cv_page(tmp_path, finished=(1, 3), missing=(2,), pictures=oof_pictures(tmp_path, 3))
    assert "2 of 3 folds finished, 8 photos" in page.text and "Not finished yet: fold 2." in page.text
    assert page.cells("2")[0] == ["2", "missing"]
    assert "4 have no picture" in page.text and page.tags.count("figure") == 4 + 5
    assert len(page.addresses) == 4 and all(address.startswith("data:") for address in page.addresses)


def test_pictures_too_large_to_mail_are_linked(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "MAILED_BYTES", 100)
    page = cv_page(tmp_path, pictures=oof_pictures(tmp_path, 1))
    assert sorted(page.addresses) == [f"fold_1/pictures/%23{i}.jpg" for i in range(4)]


def test_curves_are_drawn_for_each_fold_with_the_level_of_its_untouched_photos(tmp_path):
    page = cv_page(tmp_path)
    assert page.tags.count("svg") == 5 and page.tags.count("polyline") == 15
    titles = ("Validation L1", "Training loss, weighted sum", "Validation PSNR", "Learning rate")
    assert all(title in page.text for title in titles)
    fold = {"fold": 1, "identity_psnr": 15.0, "identity_ssim": 0.6, "identity_l1": 0.2}
    psnr = charts({1: history()}, [fold])[0]
    (line,) = psnr["lines"]
    heights = [float(point.split(",")[1]) for point in line["points"].split()]
    assert heights == sorted(heights, reverse=True) and line["level"] > heights[0]
    assert [text for _, text in psnr["columns"]] == ["1", "3"]


def test_cv_report_shows_provenance(tmp_path):
    unknown = {"provenance": "unknown", "provenance_sources": ["published <v1>.pt"]}
    page = cv_page(tmp_path, finished=(1, 3), missing=(2,), provenance=unknown)
    assert [row[-1] for row in page.cells("1")[:1] + page.cells("3")[:1]] == ["unknown", "unknown"]
    assert (
        "Provenance unknown. Fold 1 started from published <v1>.pt; Fold 3 started from published <v1>.pt:" in page.text
    )
    assert "Provenance known" not in page.text
    page = cv_page(tmp_path)
    assert "Provenance known" in page.text and "Provenance unknown" not in page.text
    page = cv_page(tmp_path, finished=(), missing=(1,))
    assert "Provenance known" not in page.text and "Provenance unknown" not in page.text


def test_cv_report_without_any_fold(tmp_path):
    page = cv_page(tmp_path, finished=(), missing=(1, 2))
    assert "0 of 2 folds finished" in page.text and "Not finished yet: fold 1, fold 2." in page.text


def test_curves_are_a_whole_png_and_the_same_every_time(tmp_path):
    path = tmp_path / "curves.png"
    write_curves(path, history(1))
    first = path.read_bytes()
    write_curves(path, history(12))
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG" and image.width > 800
    longer = path.read_bytes()
    write_curves(path, history(12))
    assert path.read_bytes() == longer != first
    write_curves(path, [*history(11), {**history(12)[11], "changes": [{"flag": "--extend", "epoch": 11}]}])
    assert path.read_bytes() != longer, "a run that was extended shows where"
    assert [entry.name for entry in tmp_path.iterdir()] == ["curves.png"]


def test_failed_write_keeps_the_old_report(tmp_path, monkeypatch):
    ensemble_page(tmp_path)
    before = (tmp_path / "report.html").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", _no_space)
        patch.setattr("os.replace", _no_space)
        with pytest.raises(OSError, match="no space"):
            cv_page(tmp_path)
    assert (tmp_path / "report.html").read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]


def _no_space(*arguments):
    raise OSError("no space")


def test_a_fold_has_one_colour_in_all_charts():
    begun = [{"epoch": 0, "is_best": True, "val_psnr": 15.0, "train_loss": None}]
    drawn = {chart["title"]: chart["lines"] for chart in charts({1: begun, 2: history()}, [])}
    colours = {title: [(line["fold"], line["colour"]) for line in lines] for title, lines in drawn.items()}
    assert colours["Validation PSNR, dB"] == [(1, 0), (2, 1)] and colours["Learning rate"] == [(2, 1)]


def test_a_group_is_called_by_its_first_photo_and_a_photo_alone_by_nothing(tmp_path):
    """Two photos of each group of `oof_rows`, and a last one alone."""
    cv_page(tmp_path, (1,), count=5)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    found = dict(re.findall(r'data-name="(.*?)".*?data-group="(.*?)"', text))
    first, second = "f1_0.jpg and 1 more", "f1_2.jpg and 1 more"
    assert {name: json.loads(html.unescape(group)) for name, group in found.items()} == {
        "f1_0.jpg": [first], "f1_1.jpg": [first], "f1_2.jpg": [second], "f1_3.jpg": [second], "f1_4.jpg": [],
    }  # fmt: skip
