"""Intervals against hand-computed values and a published table: over units, not over photos, and none for too few."""

import numpy as np
import pytest

from engine.intervals import (
    count_units,
    independent_difference,
    interval_words,
    paired_difference,
    paired_improvement,
    summarise,
    t_quantile,
)


def each_alone(values):
    """A unit of its own for each value."""
    return [str(number) for number in range(len(values))]


def test_interval_of_hand_computed_values():
    values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    summary = summarise(values, each_alone(values))
    assert summary["mean"] == 3.5 and summary["std"] == pytest.approx(np.sqrt(3.5))
    # Symmetric, so the t interval: 2.776 of the t table, with 6 - 2 degrees of freedom.
    reach = 2.776445 * np.sqrt(3.5 / 6)
    assert summary["ci95"] == pytest.approx([3.5 - reach, 3.5 + reach], abs=1e-5)


# Fisher and Yates, Statistical Tables: 97.5 % points, and 95 % and 99.5 % ones.
@pytest.mark.parametrize(
    ("probability", "freedom", "expected"),
    [
        (0.975, 1, 12.706205), (0.975, 2, 4.302653), (0.975, 4, 2.776445), (0.975, 9, 2.262157), (0.975, 30, 2.042272),
        (0.975, 120, 1.979930), (0.975, 10_000, 1.960201), (0.95, 5, 2.015048), (0.995, 11, 3.105807),
    ],
)  # fmt: skip
def test_quantiles_of_t_are_those_of_the_tables(probability, freedom, expected):
    assert t_quantile(probability, freedom) == pytest.approx(expected, abs=2e-6)


def test_photos_of_one_unit_count_as_one():
    means = np.array([20.0, 22.0, 23.0, 27.0, 21.0, 25.0])
    photos = np.repeat(means, 20) + np.tile(np.linspace(-1, 1, 20), 6)
    units = np.repeat(each_alone(means), 20).tolist()
    together = summarise(photos, units)
    assert together["mean"] == pytest.approx(means.mean())
    assert together["ci95"] == pytest.approx(summarise(means, each_alone(means))["ci95"])
    narrow = np.ptp(summarise(photos, each_alone(photos))["ci95"])
    assert np.ptp(together["ci95"]) > 3 * narrow
    shuffled = np.random.Generator(np.random.PCG64(1)).permutation(120)
    again = summarise(photos[shuffled], [units[place] for place in shuffled])
    assert again["ci95"] == pytest.approx(together["ci95"])


def test_a_unit_with_many_photos_weighs_as_many_and_is_counted_as_one():
    values, units = [10.0] * 8 + [20.0, 21.0, 19.0, 20.5, 22.0, 18.0, 21.0, 23.0], ["large"] * 8 + list("abcdefgh")
    summary = summarise(values, units)
    assert summary["mean"] == pytest.approx(np.mean(values))
    # Half of the weight is one unit's: 16 * 16 / (8 * 8 + 8) effective units of 9, 2.8 degrees of freedom instead of 7.
    assert summary["ci95"][1] - summary["mean"] > 6.5
    most = summarise([10.0] * 50 + values[8:], ["large"] * 50 + units[8:])
    assert most["ci95"] is None and most["mean"] == pytest.approx((500 + sum(values[8:])) / 58)
    assert interval_words(58, 9, None) == "no interval: one of 9 independent units (of 58 photos) outweighs the others"


def test_a_skew_sample_reaches_further_to_its_long_side():
    values = [1.0, 1.1, 1.2, 1.3, 1.5, 1.7, 2.0, 2.6, 3.5, 6.0]
    low, high = summarise(values, each_alone(values))["ci95"]
    assert high - np.mean(values) > 1.5 * (np.mean(values) - low)


def test_a_few_skew_units_reach_at_most_twice_as_far_as_student():
    values = [4.0, 5.0, 5.5, 4.5, 5.0, -3.0]
    found, error = summarise(values, list("abcdef")), np.std(values, ddof=1) / np.sqrt(6)
    low, high = ((side - found["mean"]) / error / t_quantile(0.975, 4.0) for side in found["ci95"])
    assert low == pytest.approx(-2.0) and 0 < high < 1  # without the limit -2.5


@pytest.mark.parametrize("units", [1, 2, 4])
def test_too_few_units_give_no_interval_however_many_photos(units):
    labels = [str(number % units) for number in range(40)]
    values = np.linspace(20, 30, 40)
    summary = summarise(values, labels)
    assert summary["ci95"] is None and summary["mean"] == pytest.approx(25) and summary["std"] > 0
    assert paired_improvement(values, 0.9 * values, labels) == {"mean": pytest.approx(10), "ci95": None}
    assert interval_words(40, units, None).startswith(f"no interval: {units} independent unit")


def test_photos_whose_unit_was_not_recorded_count_each_and_the_words_say_so():
    values = [1.0, 2.0, 4.0, 5.0, 7.0, 9.0]
    assert summarise(values, [None] * 6) == summarise(values, each_alone(values))
    mixed = ["a", "a", None, None, "b", "c"]
    named = summarise(values, ["a", "a", "d", "e", "b", "c"])
    assert summarise(values, mixed)["ci95"] == pytest.approx(named["ci95"])
    assert count_units(mixed) is None and count_units(["a", "a", "b"]) == 2
    words = "95 % interval over 6 photos (units not recorded: photos counted as independent)"
    assert interval_words(6, None, summarise(values, mixed)["ci95"]) == words


def test_one_value_has_no_spread_and_no_interval():
    assert summarise([21.5], ["a"]) == {"mean": 21.5, "std": 0.0, "ci95": None}


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_unusable_values_are_refused(values):
    with pytest.raises(ValueError, match="finite numbers are needed"):
        summarise(values, each_alone(values))
    with pytest.raises(ValueError, match="a unit for each of 2 values"):
        summarise([1.0, 2.0], ["a"])


def test_paired_difference_is_after_minus_before():
    before, after = [10.0, 20.0, 30.0, 40.0, 50.0], [11.0, 21.0, 31.0, 41.0, 51.0]
    assert paired_difference(before, after, each_alone(before)) == {"mean": 1.0, "std": 0.0, "ci95": [1.0, 1.0]}
    assert paired_difference(after, before, each_alone(before))["mean"] == -1.0
    with pytest.raises(ValueError, match="5 and 2"):
        paired_difference(before, after[:2], each_alone(before))


def test_a_difference_of_other_photos_is_by_welch():
    before, after = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [11.0, 12.0, 13.0, 14.0, 15.0, 16.0]
    found = independent_difference(before, each_alone(before), after, each_alone(after))
    reach = 2.306004 * np.sqrt(2 * 3.5 / 6)  # equal spread: twice the 4 degrees of freedom of one mean
    assert found["mean"] == pytest.approx(10) and found["ci95"] == pytest.approx([10 - reach, 10 + reach], abs=1e-5)
    wide = independent_difference(before, each_alone(before), [x * 100 for x in after], each_alone(after))
    reach = 2.776445 * np.sqrt(350**2 / 6 / 3.5)  # the wider one's own 4, nearly
    assert np.ptp(wide["ci95"]) / 2 == pytest.approx(reach, rel=1e-3)
    assert independent_difference(before, ["a"] * 6, after, each_alone(after)) == {"mean": 10.0, "ci95": None}
    assert independent_difference([1.0] * 5, list("abcde"), [3.0] * 5, list("vwxyz")) == {
        "mean": 2.0,
        "ci95": [2.0, 2.0],
    }


def test_improvement_is_of_the_ratio_of_means():
    before, after = np.array([10.0, 20.0, 30.0, 40.0, 50.0, 60.0]), np.array([9.0, 17.0, 26.0, 33.0, 44.0, 50.0])
    found = paired_improvement(before, after, each_alone(before))
    assert found["mean"] == pytest.approx(100 * (1 - 179 / 210))
    low, high = found["ci95"]
    assert low < found["mean"] < high and high - low < 7, "each photo improved by 10 to 17 %, whatever its size"
    constant = paired_improvement(np.full(6, 40.0), after, each_alone(before))
    reach = 2.776445 * after.std(ddof=1) / np.sqrt(6) / 40  # nothing but the t interval of the second mean
    middle = 1 - after.mean() / 40
    assert constant["ci95"] == pytest.approx([100 * (middle - reach), 100 * (middle + reach)], abs=1e-4)
