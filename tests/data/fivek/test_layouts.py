"""Every layout of FiveK that was found on disk: which files become pairs, by names and folders alone."""

import pytest

from common.errors import InputError
from common.files import write_jsonl
from data.fivek.config import FivekConfig
from data.fivek.find import parse_file_name
from data.fivek.match import find_photos
from tests.helpers.fivek_folder import put

STEM = "a0196-2004-01-25 13-34-10 CRW_3079"
OTHER = "a0532-jmacdscf0021 (1)"
LAYOUTS = {
    "guide": ("input/{}.jpg", "output_expert_C/{}.jpg"),
    "guide, other names": ("photos_original/{}.png", "photos_expert_C/{}.png"),
    "guide, more names": ("source/{}.jpg", "ExpertC/{}.jpg"),
    "guide, inputs": ("inputs/{}.jpg", "expert_C/{}.jpg"),
    "fivek_transfer": ("input/{}.jpg", "expertC/{}.jpg"),
    "tar and downloads": ("raw_photos/HQa1to700/photos/{}.dng", "tiff16_c/{}.tif"),
    "zeroed inputs": ("tiff16_inputAsShotZeroed/{}.tif", "tiff16_c/{}.tif"),
    "yuukicammy": ("MITAboveFiveK/raw/Canon_EOS_5D/{}.dng", "MITAboveFiveK/processed/tiff16_c/{}.tif"),
    "Retinexformer": ("FiveK/train/input/{}.jpg", "FiveK/train/target/{}.jpg"),
    "DPE": ("input/{}_input.png", "output/{}_gt.png"),
    "CURL": ("input/{}.png", "output/{}_output.png"),
    "DeepLPF": ("input/{}.png", "output/{}.tif_GT.png"),
    "Distort-and-Recover": ("train/raw/{}.jpg", "train/target/{}.jpg"),
    "UEGAN": ("Original/{}.jpg", "Expert C/{}.jpg"),
    "home-made, letters": ("raw/{}.dng", "c/{}.tif"),
    "home-made, output": ("input/{}.dng", "output/{}.tif"),
    "home-made, fivek_c": ("raw/{}.DNG", "fivek_c/{}.TIFF"),
    "Lightroom collection": ("(default) Input with ExpertC minus1.5/{}.tif", "Expert C/{}.tif"),
    "flat, our own names": ("images/{}_src.jpg", "images/{}_tar.jpg"),
    "flat, expert's letter": ("{}.dng", "{}_C.tif"),
}


def find(folder, **options):
    return find_photos(FivekConfig(fivek_dir=str(folder), output_dir=str(folder / "out"), **options))


def matched(found) -> list[tuple[str, str, str]]:
    return [(pair.key, pair.input.path, pair.target.path) for pair in found.pairs]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_recognised(tmp_path, layout):
    names = LAYOUTS[layout]
    for stem in (STEM, OTHER):
        for name in names:
            put(tmp_path, name.format(stem))
    wanted = [("a0196", *(name.format(STEM) for name in names)), ("a0532", *(name.format(OTHER) for name in names))]
    found = find(tmp_path)
    assert matched(found) == wanted and found.leftovers == []


def test_the_480p_layout_matches_by_id_alone_and_refuses_xyz(tmp_path):
    for name in ("input/JPG/480p/a1629.jpg", "expertC/JPG/480p/a1629.jpg"):
        put(tmp_path, name)
    xyz = "input/PNG/480p_16bits_XYZ_WB/a1629.png"
    put(tmp_path, xyz)
    put(tmp_path, "train_input.txt", b"a1629\n")
    found = find(tmp_path)
    assert [pair.key for pair in found.pairs] == ["a1629"]
    left = [(row.input, row.status) for row in found.leftovers]
    assert left == [(xyz, "rejected"), ("train_input.txt", "ignored")]
    assert "XYZ" in found.leftovers[0].reason


def test_a_pairs_jsonl_decides_for_the_files_that_it_lists(tmp_path):
    for name in ("one/kitchen.jpg", "two/kitchen.jpg", "one/hall.jpg", "two/hall_after.jpg"):
        put(tmp_path, name)
    write_jsonl(
        tmp_path / "pairs.jsonl",
        [
            {"input": "one/kitchen.jpg", "target": "two/kitchen.jpg"},
            {"input": "./one/hall.jpg", "target": "two/hall_after.jpg"},
        ],
    )
    assert matched(find(tmp_path)) == [
        ("hall", "one/hall.jpg", "two/hall_after.jpg"),
        ("kitchen", "one/kitchen.jpg", "two/kitchen.jpg"),
    ]
    write_jsonl(
        tmp_path / "pairs.jsonl", [{"input": "one/kitchen.jpg"}, {"input": "one/no.jpg", "target": "two/hall.jpg"}]
    )
    with pytest.raises(InputError, match=r"(?s)pairs.jsonl:1: needs.*pairs.jsonl:2: input one/no.jpg does not exist"):
        find(tmp_path)


def test_experts_are_told_apart_and_chosen(tmp_path):
    for expert in "abcde":
        put(tmp_path, f"{expert}/{STEM}.tif")
    put(tmp_path, f"raw/{STEM}.dng")
    assert [pair.target.path for pair in find(tmp_path, expert="E").pairs] == [f"e/{STEM}.tif"]
    assert find(tmp_path).other_experts == 4


def test_names_with_percent_escapes_case_and_unicode_forms_match(tmp_path):
    put(tmp_path, "input/a0196-2004%2D01 K%C3%BCche.JPG")
    put(tmp_path, "expertC/A0196-2004-01 Ku\u0308che.tif")
    assert [pair.key for pair in find(tmp_path).pairs] == ["a0196"]


@pytest.mark.parametrize(
    ("stem", "key", "name"),
    [
        ("a1373-MB_20041213_002 copy", "a1373", "mb_20041213_002 copy"),
        ("a0001-ddd", "a0001", "ddd"),
        ("a0001-x.dng", "a0001", "x"),
        ("a0001-x.tif_GT", "a0001", "x"),
        ("a1629", "a1629", None),
        ("a16290", "a16290", None),
        ("kitchen_a", "kitchen_a", None),
        ("kitchen_src", "kitchen", None),
        ("_src", "_src", None),
        ("a%2Fb", "a%2fb", None),
    ],
)
def test_the_key_is_the_id_or_the_whole_name(stem, key, name):
    """`rstrip('.dng')`, which some scripts use, would eat the last letters of `a0001-ddd`."""
    parsed = parse_file_name(stem)
    assert (parsed.key, parsed.name) == (key, name)


def test_one_id_with_two_camera_names_is_a_conflict(tmp_path):
    put(tmp_path, "input/a0001-DSC_0152.jpg")
    put(tmp_path, "expertC/a0001-DSC_0153.jpg")
    found = find(tmp_path)
    assert found.pairs == [] and "name conflict" in found.leftovers[0].reason
    assert (found.leftovers[0].input, found.leftovers[0].target) == (
        "input/a0001-DSC_0152.jpg",
        "expertC/a0001-DSC_0153.jpg",
    )


def test_a_photo_twice_on_one_side_is_an_error_until_prefer_decides(tmp_path):
    for name in ("raw_photos/a0001-x.dng", "input/a0001-x.tif", "expertC/a0001-x.jpg", "expertC/more/a0001-x.png"):
        put(tmp_path, name)
    with pytest.raises(InputError) as caught:
        find(tmp_path)
    message = str(caught.value)
    assert "2 input files: input/a0001-x.tif, raw_photos/a0001-x.dng" in message
    assert "2 target files: expertC/a0001-x.jpg, expertC/more/a0001-x.png" in message and "--prefer" in message
    with pytest.raises(InputError, match="2 target files"):
        find(tmp_path, prefer="dng")
    found = find(tmp_path, prefer=".tif, PNG")
    assert matched(found) == [("a0001", "input/a0001-x.tif", "expertC/more/a0001-x.png")]
    assert sorted((row.status, row.input or row.target) for row in found.leftovers) == [
        ("ignored", "expertC/a0001-x.jpg"),
        ("ignored", "raw_photos/a0001-x.dng"),
    ]


def test_what_is_no_photo_is_ignored_with_its_reason(tmp_path):
    for name in ("input/a0001-x.jpg", "expertC/a0001-x.jpg", "input/._a0001-x.jpg", "thumbs/a0001-x.jpg"):
        put(tmp_path, name)
    put(tmp_path, "expertC/a0002-x.tif/notes.txt")
    put(tmp_path, ".cache/input/a0009-x.jpg")
    put(tmp_path, "raw_photos/fivek.lrcat")
    (tmp_path / "input" / "a0003-x.jpg").symlink_to("nowhere.jpg")
    found = find(tmp_path)
    reasons = {row.input: (row.status, row.reason) for row in found.leftovers}
    assert reasons.keys() == {
        *("input/._a0001-x.jpg", "thumbs/a0001-x.jpg", "expertC/a0002-x.tif", "input/a0003-x.jpg"),
        *("expertC/a0002-x.tif/notes.txt", ".cache/", "raw_photos/fivek.lrcat"),
    }
    assert "AppleDouble" in reasons["input/._a0001-x.jpg"][1]
    assert "neither its name nor a folder" in reasons["thumbs/a0001-x.jpg"][1]
    assert "a folder, not an image" in reasons["expertC/a0002-x.tif"][1]
    assert "leads nowhere" in reasons["input/a0003-x.jpg"][1] and reasons["input/a0003-x.jpg"][0] == "rejected"


def test_names_that_no_row_could_hold_are_refused(tmp_path):
    put(tmp_path, "input/a0001-x.jpg")
    put(tmp_path, "expertC/a0001-x.jpg")
    put(tmp_path, f"input/{'n' * 230}.jpg")
    (tmp_path / "input" / "a0002-\udcff.jpg").write_bytes(b"x")
    reasons = {row.input: row.reason for row in find(tmp_path).leftovers}
    assert "more than 200 bytes" in reasons[f"input/{'n' * 230}.jpg"]
    assert "not UTF-8" in reasons["input/a0002-\\xff.jpg"]


def test_linked_folders_are_entered_once_and_the_output_never(tmp_path):
    put(tmp_path, "store/a0001-x.dng")
    put(tmp_path, "fivek/tiff16_c/a0001-x.tif")
    (tmp_path / "fivek" / "raw_photos").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "loop").symlink_to(tmp_path / "fivek")
    put(tmp_path, "fivek/out/images/a0007_src.jpg")
    put(tmp_path, "fivek/out/images/a0007_tar.jpg")
    assert [pair.key for pair in find(tmp_path / "fivek").pairs] == ["a0001"]


def test_output_must_not_hold_the_sources(tmp_path):
    put(tmp_path, "fivek/input/a0001.jpg")
    for output in (tmp_path, tmp_path / "fivek"):
        with pytest.raises(InputError, match="--output_dir .* holds --fivek_dir"):
            find_photos(FivekConfig(fivek_dir=str(tmp_path / "fivek"), output_dir=str(output)))
    with pytest.raises(InputError, match="--fivek_dir .* is missing"):
        find(tmp_path / "none")


def test_licences_are_read_from_the_two_lists(tmp_path):
    for number in (1, 2, 3):
        put(tmp_path, f"input/a000{number}-x.jpg")
        put(tmp_path, f"expertC/a000{number}-x.jpg")
    put(tmp_path, "filesAdobe.txt", b"a0001-x\r\n\r\n")
    put(tmp_path, "filesAdobeMIT.txt", b"a0002-x\n")
    assert find(tmp_path).licences == {"a0001": "LicenseAdobe", "a0002": "LicenseAdobeMIT", "a0003": "unknown"}
