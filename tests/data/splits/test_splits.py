"""Sizes, components and determinism of splits, without any image."""

import random
from pathlib import Path

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from common.errors import InputError
from data.config import SplitConfig
from data.lookalikes import NearDuplicate
from data.manifest import Pair
from data.splits.drawing import SubsetSums, never_drawn, smallest_total_with
from data.splits.split import components_of, make_split, refuse_repeated_sources


def fake_pair(number: int, group: str | None = None, **row) -> Pair:
    digests = {
        f"{role}_{kind}": f"{role} {kind} {number}" for role in ("src", "tar") for kind in ("sha256", "file_sha256")
    }
    src = f"{number}_src.jpg"
    return Pair(src, f"{number}_tar.jpg", group, {**digests, **row}, "pairs.jsonl", number + 1, Path(src), Path(src))


def fake_pairs(group_sizes: list[int]) -> list[Pair]:
    """Pairs in groups of these sizes; size 1 without a group name."""
    pairs = []
    for group, size in enumerate(group_sizes):
        pairs += [fake_pair(len(pairs) + offset, f"g{group}" if size > 1 else None) for offset in range(size)]
    return pairs


def config(**options) -> SplitConfig:
    return SplitConfig(input_jsonl="pairs.jsonl", **options)


def sizes(split) -> list[tuple[int, int]]:
    return [(len(fold.train), len(fold.val)) for fold in split.folds]


def names(pairs: list[Pair], rows: list[int]) -> set[str]:
    return {pairs[row].src for row in rows}


def assert_sound(split, pairs: list[Pair], disjoint_validation: bool = True) -> None:
    everything = set(range(len(pairs)))
    assert split.test
    for fold in split.folds:
        assert fold.train and fold.val
        assert sorted(split.test + fold.train + fold.val) == sorted(everything)
        for part in (split.test, fold.train, fold.val):
            groups = {pairs[row].group for row in part} - {None}
            assert not groups & {pairs[row].group for row in everything - set(part)}
    if disjoint_validation:
        assert sorted(row for fold in split.folds for row in fold.val) == sorted(everything - set(split.test))


def test_464_pairs_give_the_sizes_of_the_design():
    split = make_split(fake_pairs([1] * 464), [], config())
    assert len(split.test) == 10 and sizes(split) == [(303, 151), (303, 151), (302, 152)]
    assert_sound(split, fake_pairs([1] * 464))


@pytest.mark.parametrize(
    "group_sizes",
    [[3] * 100 + [1] * 164, [2] * 232, [40, 30, 20, 10, 7, 5, 3, 3] + [1] * 346, [5] * 90 + [1] * 14],
    ids=["threes", "twos", "mixed", "fives"],
)
def test_sizes_stay_exact_whenever_groups_allow_it(group_sizes):
    pairs = fake_pairs(group_sizes)
    for seed in range(8):
        split = make_split(pairs, [], config(seed=seed))
        wanted = [(303, 151), (303, 151), (302, 152)] if 1 in group_sizes else [(304, 150), (302, 152), (302, 152)]
        assert len(split.test) == 10
        assert_sound(split, pairs)
        assert sizes(split) == wanted or (1 not in group_sizes and sorted(sizes(split)) == sorted(wanted))


def test_exactly_divisible_groups_are_partitioned_exactly():
    pairs = fake_pairs([7, 7, 5, 5, 5, 4, 4, 4, 4, 3, 2])
    for seed in range(20):
        split = make_split(pairs, [], config(test_size=5, seed=seed))
        assert len(split.test) == 5 and [val for _, val in sizes(split)] == [15, 15, 15]


def test_a_hidden_exact_partition_is_found():
    rng = random.Random(0)
    for _ in range(40):
        n_folds, size, group_sizes = rng.choice([2, 3, 4, 5]), rng.randint(6, 40), []
        for left in [rng.randint(2, 10), *[size] * n_folds]:
            while left:
                group_sizes.append(min(left, rng.choice([1, 2, 3, 4, 5, 6, 8, 12])))
                left -= group_sizes[-1]
        test_size = sum(group_sizes) - n_folds * size
        split = make_split(
            fake_pairs(group_sizes), [], config(test_size=test_size, n_folds=n_folds, seed=rng.randint(0, 99))
        )
        assert len(split.test) == test_size and [val for _, val in sizes(split)] == [size] * n_folds


def test_otherwise_sizes_are_nearest_and_ties_go_upwards():
    pairs = fake_pairs([20] * 12)
    split = make_split(pairs, [], config())
    assert len(split.test) == 20 and [val for _, val in sizes(split)] == [80, 80, 60]
    assert split.wanted_test == 10 and split.wanted_val == [73, 73, 74]
    assert len(make_split(fake_pairs([4] * 10), [], config(test_size=6, n_folds=2)).test) == 8, "6 lies between 4 and 8"
    assert len(make_split(fake_pairs([4] * 10), [], config(test_size=5, n_folds=2)).test) == 4


def test_one_large_group_does_not_empty_a_set():
    pairs = fake_pairs([200, 1, 1, 1])
    for seed in range(5):
        split = make_split(pairs, [], config(seed=seed, test_size=100))
        assert_sound(split, pairs)


def test_shuffle_draws_folds_independently():
    pairs = fake_pairs([1] * 110)
    split = make_split(pairs, [], config(scheme="shuffle", n_folds=4, val_ratio=0.25))
    assert sizes(split) == [(75, 25)] * 4 and len({tuple(fold.val) for fold in split.folds}) == 4
    assert_sound(split, pairs, disjoint_validation=False)


def test_one_fold_uses_the_validation_ratio():
    assert sizes(make_split(fake_pairs([1] * 464), [], config(n_folds=1))) == [(409, 45)]
    assert sizes(make_split(fake_pairs([1] * 12), [], config(n_folds=1, test_size=1, val_ratio=0.01))) == [(10, 1)]


def test_the_order_of_rows_changes_nothing_and_the_seed_everything():
    pairs = fake_pairs([3] * 30 + [1] * 60)
    first = make_split(pairs, [], config())
    shuffled = random.Random(0).sample(pairs, len(pairs))
    second = make_split(shuffled, [], config())
    assert names(pairs, first.test) == names(shuffled, second.test)
    assert [names(pairs, fold.val) for fold in first.folds] == [names(shuffled, fold.val) for fold in second.folds]
    tests = {tuple(make_split(pairs, [], config(seed=seed)).test) for seed in range(20)}
    assert len(tests) == 20


def test_the_split_of_a_seed_is_pinned():
    """Whoever changes the drawing moves everybody's test set: that needs a reason and a note."""
    split = make_split(fake_pairs([1] * 30), [], config(test_size=5, n_folds=2))
    assert split.test == [7, 15, 19, 20, 29]


def test_the_decoder_does_not_move_the_test_set():
    pairs = fake_pairs([1] * 40)
    other = [fake_pair(number, src_sha256=f"x{number}", tar_sha256=f"y{number}") for number in range(40)]
    assert make_split(pairs, [], config()).test == make_split(other, [], config()).test


def test_every_row_has_its_turn_in_the_test_set():
    pairs = fake_pairs([3] * 5 + [1] * 15)
    counts = [0] * 30
    for seed in range(300):
        for row in make_split(pairs, [], config(seed=seed, test_size=6)).test:
            counts[row] += 1
    assert min(counts) >= 30 and max(counts) <= 100, "each is drawn 60 times on average"


def components(pairs: list[Pair], near=()) -> set[frozenset[int]]:
    return {frozenset(rows) for rows in components_of(pairs, list(near)) if len(rows) > 1}


def test_what_stays_together():
    pairs = [fake_pair(number, {0: "a", 3: "a"}.get(number)) for number in range(10)]
    assert components(pairs) == {frozenset({0, 3})}
    assert components(pairs, [NearDuplicate(3, 5, 0, 0)]) == {frozenset({0, 3, 5})}
    pairs[6].row["tar_sha256"] = pairs[5].row["tar_sha256"]
    pairs[8].row["src_sha256"] = pairs[7].row["tar_sha256"]
    pairs[9].row["tar_file_sha256"] = pairs[1].row["tar_file_sha256"]
    assert components(pairs) == {frozenset(rows) for rows in ({0, 3}, {5, 6}, {7, 8}, {1, 9})}


def test_one_src_under_two_names_is_refused_with_both():
    pairs = [fake_pair(0), fake_pair(1), fake_pair(2, src_sha256="src sha256 0"), fake_pair(3)]
    with pytest.raises(InputError) as caught:
        refuse_repeated_sources(pairs)
    message = str(caught.value)
    assert "pairs.jsonl:3: 2_src.jpg has the same content as 0_src.jpg (pairs.jsonl:1)" in message


@pytest.mark.parametrize(
    ("group_sizes", "options", "reason"),
    [
        ([1] * 10, {}, "leaves nothing to train on"),
        ([5, 5, 5], {"test_size": 5}, "at least 4"),
        ([10, 10], {"n_folds": 1, "test_size": 5}, "at least 3"),
        ([30, 1], {"scheme": "shuffle", "test_size": 1}, "at least 3"),
    ],
)
def test_too_few_pairs_or_groups_are_refused(group_sizes, options, reason):
    with pytest.raises(InputError, match=reason):
        make_split(fake_pairs(group_sizes), [], config(**options))


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"test_size": 0}, "--test_size"),
        ({"n_folds": 0}, "--n_folds"),
        ({"val_ratio": 0.0}, "--val_ratio"),
        ({"val_ratio": 1.0}, "--val_ratio"),
        ({"group_key": "src"}, "--group_key"),
        ({"input_dir": "photos"}, "--input_jsonl or --input_dir"),
    ],
)
def test_wrong_options_name_their_flag(options, flag):
    with pytest.raises(ValueError, match=flag):
        config(**options)
    with pytest.raises(ValueError, match="--base_dir"):
        SplitConfig(input_dir="photos", base_dir="photos")


@settings(max_examples=30)
@example(group_sizes=[1, 1, 1, 3, 4, 4, 5, 7], test_size=18, n_folds=4, seed=0)  # 18 only as 7 + 4 + 4 + 3
@given(st.lists(st.integers(1, 9), min_size=5, max_size=25), st.integers(1, 30), st.integers(2, 4), st.integers(0, 9))
def test_any_groups_give_sound_splits_with_a_test_set_of_the_nearest_size(group_sizes, test_size, n_folds, seed):
    pairs = fake_pairs(group_sizes)
    assume(test_size < len(pairs))
    split = make_split(pairs, [], config(test_size=test_size, n_folds=n_folds, seed=seed))
    assert_sound(split, pairs)
    fewest = {0: 0}  # total -> the fewest groups that make it
    for size in group_sizes:
        for total, count in list(fewest.items()):
            fewest[total + size] = min(count + 1, fewest.get(total + size, len(group_sizes)))
    possible = [total for total, count in fewest.items() if total and count <= len(group_sizes) - n_folds]
    assert len(split.test) == min(possible, key=lambda total: (abs(total - test_size), -total))


@settings(max_examples=100)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=9))
def test_subset_sums_agree_with_trying_all_subsets(group_sizes):
    sums = SubsetSums({size: group_sizes.count(size) for size in group_sizes})
    every = {0}
    for size in group_sizes:
        every |= {total + size for total in every}
    assert set(sums.nearest(7)) == every - {0, sum(group_sizes)}
    fewest = {0: 0}
    for size in group_sizes:
        for total, count in list(fewest.items()):
            fewest[total + size] = min(count + 1, fewest.get(total + size, len(group_sizes)))
    for total in every:
        for counts in (sums.pick(total, lambda size: f"{size * 77777777:08x}"[:8]), sums.pick_fewest(total)):
            assert sum(size * count for size, count in counts.items()) == total
            assert all(0 <= count <= group_sizes.count(size) for size, count in counts.items())
        assert sum(counts.values()) == fewest[total]


def test_units_that_no_seed_can_draw_are_known_and_what_helps_them_does():
    counts = {1: 40, 5: 10, 20: 2}
    pairs = fake_pairs([size for size, count in counts.items() for _ in range(count)])

    def tested(size: int) -> set[str | None]:
        splits = [make_split(pairs, [], config(test_size=size, seed=seed)) for seed in range(12)]
        return {pairs[row].group for split in splits for row in split.test} & {"g50", "g51"}

    assert never_drawn(counts, 10) == [20] and tested(10) == set()
    assert smallest_total_with(counts, [20], 11, 65) == 20 and tested(20)
    # Not too large, but nothing goes with it: 8 is 4 + 4 alone.
    assert never_drawn({4: 10, 7: 1}, 8) == [7] and smallest_total_with({4: 10, 7: 1}, [7], 9, 23) == 11
    assert smallest_total_with({3: 2, 60: 1}, [60], 4, 33) is None
