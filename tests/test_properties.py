"""Properties of rows, images, flags and restarts over generated input. Deterministic: the same examples in every run."""

import json
import math
import random
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import create_data_splits
from common.errors import InputError
from common.options import add_options, from_args, make_parser
from data.config import SplitConfig
from data.images import decode_bytes
from data.loader import BatchKeys, EpochPlan, Mixing
from data.manifest import read_pairs
from engine.testing.config import parse_args as parse_evaluation
from engine.training.config import parse_args as parse_training
from tests.fuzz.images import ACCEPTED, EITHER, REFUSED, plain_pixels

few, many = (
    settings(max_examples=examples, derandomize=True, database=None,
             suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
    for examples in (60, 200)
)  # fmt: skip

# ---------------------------------------------------------------- rows

text = st.text(max_size=8)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**290), 10**290)
    | st.floats(allow_nan=False, allow_infinity=False)
    | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=5,
)
fields = st.dictionaries(text.filter(lambda name: name not in ("src", "tar", "group")), values, max_size=3)
bad_lines = st.one_of(
    st.sampled_from(
        [b"[]", b"null", b"{}", b'{"src": "a_src.png"}', b'{"src": 1, "tar": 2}', b"{", b"# comment", b"\xff{}"]
    ),
    st.binary(min_size=1, max_size=20)
    .map(lambda raw: b"!" + raw.replace(b"\n", b"").replace(b"\r", b"").replace(b"\0", b"") + b"!")
    .filter(lambda raw: raw.strip()),
)


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """A folder with twelve pairs of (empty) files."""
    folder = tmp_path_factory.mktemp("names")
    for number in range(12):
        for side in ("src", "tar"):
            (folder / f"{number}_{side}.png").touch()
    return folder


@st.composite
def manifests(draw) -> tuple[bytes, list[dict], list[int]]:
    """The bytes of a JSONL, its good rows, and the numbers of its bad lines."""
    end, lines, rows, bad = draw(st.sampled_from([b"\n", b"\r\n"])), [], [], []
    for number in range(draw(st.integers(1, 12))):
        lines += [draw(st.sampled_from([b"", b"  ", b"\t"])) for _ in range(draw(st.integers(0, 2)))]
        if draw(st.integers(0, 5)) == 0:
            bad.append(len(lines) + 1)
            lines.append(draw(bad_lines))
        else:
            rows.append({"src": f"{number}_src.png", "tar": f"{number}_tar.png", **draw(fields)})
            lines.append(json.dumps(rows[-1], ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass"))
    content = end.join(lines) + draw(st.sampled_from([b"", end]))
    return draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + content, rows, bad


@many
@given(manifests())
def test_good_rows_come_back_whole_and_bad_ones_by_their_numbers(names, manifest):
    content, rows, bad = manifest
    path = names / "pairs.jsonl"
    path.write_bytes(content)
    if rows and not bad:
        assert [pair.row for pair in read_pairs(path)] == rows
        return
    with pytest.raises(InputError) as refusal:
        read_pairs(path)
    told = {int(number) for number in re.findall(r"pairs\.jsonl:(\d+): ", str(refusal.value))}
    assert told == set(bad) or not bad


@many
@given(st.binary(max_size=200))
def test_any_bytes_are_rows_or_one_refusal(names, content):
    path = names / "pairs.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"pairs\.jsonl"):
        read_pairs(path)


# ---------------------------------------------------------------- images


@few
@given(st.sampled_from(sorted(ACCEPTED)), st.integers(0, 2**32))
def test_an_odd_image_has_the_pixels_that_were_put_into_it(kind, seed):
    content, pixels = ACCEPTED[kind](random.Random(seed))
    assert np.array_equal(decode_bytes(content, "x"), pixels)


@few
@given(
    st.sampled_from(sorted(set(REFUSED) - {"too small", "another size than its partner", "turned"})),
    st.integers(0, 2**32),
)
def test_what_is_no_photo_is_refused_with_a_reason(kind, seed):
    with warnings.catch_warnings(), pytest.raises(InputError, match=r"^x: ."):
        warnings.simplefilter("ignore")
        decode_bytes(REFUSED[kind](random.Random(seed)), "x")


@many
@given(st.sampled_from(sorted(EITHER)), st.integers(0, 2**32))
def test_a_changed_image_is_refused_or_decoded_as_others_decode_it(kind, seed):
    content = EITHER[kind](random.Random(seed))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = decode_bytes(content, "x")
        except InputError as refusal:
            assert str(refusal).startswith("x: ")
            return
        wanted = plain_pixels(content)
    assert found.dtype == np.uint8 and (wanted is None or np.array_equal(found, wanted))


# ---------------------------------------------------------------- flags


def parse_split(argv: list[str]) -> SplitConfig:
    parser = make_parser(create_data_splits.__doc__)
    add_options(parser, SplitConfig, "splits")
    return from_args(SplitConfig, parser.parse_args(argv), parser)


def parse_train(argv: list[str]) -> dict:
    args, options = parse_training(argv, "")
    configs = (options.data, options.model, options.train, options.loss, options.finetune)
    return {**vars(args), **{name: value for config in configs for name, value in vars(config).items()}}


def parse_evaluate(argv: list[str]) -> dict:
    args, *configs = parse_evaluation(argv, "")
    return {**vars(args), **{name: value for config in configs for name, value in vars(config).items()}}


SCRIPTS = {
    "split": (lambda argv: vars(parse_split(argv)), ["--input_jsonl", "x.jsonl"]),
    "train": (
        parse_train,
        ["--data_splits_dir", "x", "--mixed_precision", "--mix_jsonl", "x.jsonl", "--device", "cpu"],
    ),
    "single": (parse_train, ["--train_jsonl", "x.jsonl", "--device", "cpu"]),
    "evaluate": (parse_evaluate, ["--checkpoint", "x.pt", "--test_jsonl", "x.jsonl"]),
}
FLAGS = {
    "split": ["test_size", "n_folds", "scheme", "val_ratio", "group_key", "near_duplicates", "seed"],
    "train": ["resolution", "fit", "epochs", "lr", "seed", "ema_decay", "lambda_l1", "model_size", "amp_dtype",
              "checkpoint_every_steps", "mix_ratio", "layer_decay", "preprocess", "batch_size", "device", "n_folds"],
    "single": ["val_ratio", "epochs"],
    "evaluate": ["resolution", "fit", "batch_size", "num_workers", "n_folds", "device"],
}  # fmt: skip
written = st.one_of(
    st.text(max_size=6),
    st.integers(-(10**20), 10**20).map(str),
    st.integers(-3, 400).map(str),
    st.floats().map(str),
    st.sampled_from("crop squash kfold m tiny cpu cuda fp16 none nan -inf 1e999 0x10 \u0663".split()),
)


def is_the_value(found: object, asked: str) -> bool:
    """Whether a parsed option is what the text says."""
    if isinstance(found, int):
        return found == int(asked)
    if isinstance(found, float):
        return math.isfinite(found) and found == float(asked)
    return str(found) == asked or Path(asked) == found


@many
@given(st.sampled_from(sorted(SCRIPTS)), st.data())
def test_any_text_after_a_flag_is_its_value_or_exit_2(script, data):
    parse, base = SCRIPTS[script]
    flag, asked = data.draw(st.sampled_from(FLAGS[script])), data.draw(written)
    try:
        found = parse([*base, f"--{flag}={asked}"])
    except SystemExit as ended:
        assert ended.code == 2
    except InputError as refusal:
        assert flag == "device" and "--device" in str(refusal)
    else:
        assert is_the_value(found[flag], asked)


# ---------------------------------------------------------------- restarts


@many
@given(
    st.integers(1, 30), st.integers(1, 9), st.integers(1, 3), st.integers(1, 4), st.integers(0, 5), st.integers(0, 99),
    st.data(),
)  # fmt: skip
def test_a_restart_at_any_update_sees_exactly_the_samples_that_are_left(
    pairs, batch, accumulate, epochs, foreign, seed, data
):
    mixing = Mixing(foreign, 0.5 if foreign else 0.0, epochs)
    plan = EpochPlan(pairs, batch, accumulate, mixing)
    whole = list(BatchKeys(plan, seed, epochs, 0, 0, 1))
    update = data.draw(st.integers(0, epochs * plan.updates))
    assert list(BatchKeys(plan, seed, epochs, update, 0, 1)) == whole[update * accumulate :]
    assert len(BatchKeys(plan, seed, epochs, update, 0, 1)) == len(whole) - update * accumulate
    own = {key.index for batch_keys in whole for key in batch_keys}
    assert all(len(batch_keys) == batch for batch_keys in whole) and max(own) < pairs + foreign
    if not foreign:
        assert own == set(range(pairs))
