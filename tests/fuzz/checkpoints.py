"""Bad and odd checkpoints for make fuzz: torn, mutated, malicious, or sound files of something else."""

import csv
import io
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from darkir.errors import ModelError
from darkir.weights import read_weights
from tests.fuzz.case import Case
from tests.helpers.hostile import ACCEPTED, REFUSED, with_dilation, zip_bomb
from tests.helpers.malicious import malicious, saved
from tests.helpers.train_runs import SMALLEST

Content = dict


def flip_bits(dice: random.Random, content: bytes) -> bytes:
    """The content with one bit, or eight, changed."""
    changed = bytearray(content)
    for _ in range(dice.choice([1, 1, 1, 8])):
        changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
    return bytes(changed)


def _rezipped(dice: random.Random, content: bytes) -> bytes:
    """Sound checksums around a changed pickle, or around entries that are lost, cut, exchanged."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    pickled = next(name for name in entries if name.endswith("data.pkl"))
    what = dice.choice(["pickle"] * 6 + ["lost", "cut", "exchanged"])
    victim = pickled if what == "pickle" else dice.choice(list(entries))
    if what == "pickle":
        changed = bytearray(entries[pickled])
        for _ in range(dice.choice([1, 1, 2, 5])):
            changed[dice.randrange(len(changed))] = dice.randrange(256)
        entries[pickled] = bytes(changed)
    elif what == "lost":
        del entries[victim]
    elif what == "cut":
        entries[victim] = entries[victim][: len(entries[victim]) // 2]
    else:
        entries[victim] = dice.choice(list(entries.values()))
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return stream.getvalue()


def _changed_weights(dice: random.Random, content: Content) -> Content:
    """Sound files with the wrong weights."""
    params = dict(content["params"])
    name = dice.choice([name for name, tensor in params.items() if tensor.numel() > 1])
    tensor = params[name].clone(memory_format=torch.contiguous_format)
    value = dice.choice([float("nan"), float("inf"), -float("inf")])
    broken = tensor.clone()
    broken.view(-1)[dice.randrange(tensor.numel())] = value
    choices = {
        "missing": {key: item for key, item in params.items() if key != name},
        "unexpected": {**params, "head.weight": tensor},
        "not finite": {**params, name: broken},
        "reshaped": {**params, name: tensor[None]},
        "complex": {**params, name: tensor.to(torch.complex64)},
        "sparse": {**params, name: tensor.to_sparse()},
        "text": {**params, name: "weights"},
        "numbers": {**params, name: tensor.tolist()},
        "number as name": {**params, 5: tensor},
        "another network": {"conv.weight": torch.zeros(4, 3, 3, 3), "conv.bias": torch.zeros(4)},
        "another width in one place": {**params, "intro.weight": torch.zeros(16, 3, 3, 3)},
        "nothing": {},
    }
    return {**content, "params": dice.choice(list(choices.values()))}


JUNK = (
    None,
    0,
    -1,
    1e308,
    float("nan"),
    True,
    "",
    "text",
    [],
    [1],
    {},
    {"a": 1},
    {"own": 5},
    (1, 2),
    torch.zeros(2),
    [None],
)


def _junk_beside(dice: random.Random, content: Content) -> Content:
    """Sound weights, and nonsense where the file says what it is and saw, at any depth."""
    changed = dict(content)
    names = [name for name in content if name != "params"]
    for _ in range(dice.choice([1, 1, 3])):
        place, name = changed, dice.choice(names)
        while isinstance(place.get(name), dict) and place[name] and dice.random() < 0.6:
            place[name] = dict(place[name])
            place, name = place[name], dice.choice(list(place[name]))
        if dice.random() < 0.25:
            place.pop(name, None)
        else:
            place[name] = dice.choice(JUNK)
    return changed


# kind -> what makes the file's bytes from the content and the bytes of a sound file, and what it may end with
KINDS: dict[str, tuple[Callable[[random.Random, Content, bytes], bytes], tuple[int, ...]]] = {
    "cut": (lambda dice, content, sound: sound[: dice.randrange(len(sound))], (2,)),
    "bits flipped": (lambda dice, content, sound: flip_bits(dice, sound), (0, 2)),
    "other entries, sound checksums": (lambda dice, content, sound: _rezipped(dice, sound), (0, 2)),
    "wrong weights": (lambda dice, content, sound: saved(_changed_weights(dice, content)), (2,)),
    "nonsense beside the weights": (lambda dice, content, sound: saved(_junk_beside(dice, content)), (0, 2)),
    "legacy form, cut": (lambda dice, content, sound: cut(dice, saved(content, "legacy")), (2,)),
    "no checkpoint": (
        lambda dice, content, sound: dice.choice(
            [
                b"",
                b"<html>",
                b"version https://git-lfs",
                dice.randbytes(100),
                b"\x80\x02" + dice.randbytes(50),
                b"PK\x03\x04",
            ]
        ),
        (2,),
    ),
    "something else": (
        lambda dice, content, sound: saved(dice.choice(JUNK), dice.choice(["zip", "legacy", "raw"])),
        (2,),
    ),
    "claims more than it holds": (lambda dice, content, sound: saved(dice.choice([*REFUSED.values()])(content)), (2,)),
    "odd records": (lambda dice, content, sound: saved(dice.choice([*ACCEPTED.values()])(content)), (0,)),
    "unpacks to a terabyte": (lambda dice, content, sound: zip_bomb(), (2,)),
    # Other starting weights are taken for the tensors alone: the network is the one that the flags name.
    "dilations of a giant": (
        lambda dice, content, sound: saved(with_dilation(content, dice.choice([1000, 10**9, 10**30]))),
        (0, 2),
    ),
    "sound, as a control": (lambda dice, content, sound: sound, (0,)),
}


def cut(dice: random.Random, content: bytes) -> bytes:
    """All but the end."""
    return content[: dice.randrange(len(content) - 1)]


def checkpoint_cases(world: Path, count: int, dice: random.Random, folders) -> list[Case]:
    """`count` cases; the file is evaluated, started from, resumed from, or found as the state of an unfinished run."""
    weights, state = (torch.load(world / name, weights_only=True) for name in ("weights.pt", "state.pt"))
    sound = {name: (world / name).read_bytes() for name in ("weights.pt", "state.pt")}
    kinds = [*KINDS, "malicious", "malicious"]
    cases = []
    for number in range(count):
        kind, use = kinds[number % len(kinds)], dice.choice(["evaluate"] * 4 + ["start", "resume", "found", "found"])
        folder = next(folders)
        name = "weights.pt" if use in ("evaluate", "start") else "state.pt"
        content = weights if name == "weights.pt" else state
        forbidden = None
        if kind == "malicious":
            forbidden, codes = folder / "proof", (2,)
            made = malicious(dice, content, forbidden)
        else:
            make, codes = KINDS[kind]
            made = make(dice, content, sound[name])
        if kind == "wrong weights" and use == "found":
            codes = (0, 2)  # the raw weights of a state are sound: `params` holds their average
        cases.append(_case(world, folder, use, made, f"checkpoint: {kind}", codes, forbidden))
    return cases


def _case(world: Path, folder: Path, use: str, made: bytes, kind: str, codes: tuple[int, ...], forbidden) -> Case:
    path = folder / "file.pt"
    output = ["--output_dir", str(folder / "out")]
    train = ["--train_jsonl", str(world / "own" / "train.jsonl"), *output, *SMALLEST, "--dry_run"]
    if use == "evaluate":
        path.write_bytes(made)
        rows = ["--test_jsonl", str(world / "base" / "pairs.jsonl"), *output, "--device", "cpu"]
        argv = ["--checkpoint", str(path), *rows, "--num_workers", "0"]
        case = Case(kind, "evaluate", argv, folder, codes, ("file.pt",), forbidden=forbidden)
        # With sound checksums around exchanged tensors it is another sound file; nothing in it could tell.
        case.accepted = _evaluation_check(world, same_weights="sound checksums" not in kind)
        return case
    if use == "found":
        (folder / "out").mkdir()
        (folder / "out" / "checkpoint_last.pt").write_bytes(made)
        return Case(kind, "train", train, folder, codes, (str(folder / "out"),), forbidden=forbidden)
    path.write_bytes(made)
    flag = "--pretrained_path" if use == "start" else "--resume"
    # The weights are those of the pairs that they start to learn from.
    return Case(
        kind,
        "train",
        [*train, flag, str(path), "--allow_seen_validation"],
        folder,
        codes,
        ("file.pt",),
        forbidden=forbidden,
    )


def _evaluation_check(world: Path, same_weights: bool) -> Callable[[Case], str | None]:
    def check(case: Case) -> str | None:
        try:
            params, sound = (read_weights(path).params for path in (case.folder / "file.pt", world / "weights.pt"))
        except ModelError as error:
            return f"accepted, but {error}"
        if same_weights and any(not torch.equal(params[name], sound[name]) for name in sound):
            return "other weights than those of the sound file"
        with open(case.output / "per_image.csv", newline="", encoding="utf-8") as handle:
            rows = [row for row in csv.DictReader(handle) if row["model"] == "identity"]
        wanted = [_identity_psnr(path) for path in sorted((world / "base" / "images").glob("*_src.png"))]
        found = sorted(float(row["psnr"]) for row in rows)
        return None if np.allclose(found, sorted(wanted), atol=1e-3) else "other photos than those of the rows"

    return check


def _identity_psnr(src: Path) -> float:
    images = (
        np.asarray(Image.open(path), np.float64) / 255
        for path in (src, src.with_name(src.name.replace("_src", "_tar")))
    )
    return float(-10 * np.log10(np.mean(np.square(np.subtract(*images)))))
