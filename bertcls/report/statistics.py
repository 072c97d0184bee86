"""Intervals, tests and calibration: how far the scores of a run can be relied on."""

import math

import numpy as np
import pandas as pd
from scipy.stats import binomtest, permutation_test, sem, t, ttest_1samp

_PERMUTED_ROWS = 1_000  # beyond, permutations take minutes, and Student's test says the same
_PERMUTED_NUMBERS = 2_000_000  # of a batch, which bounds memory


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson, 1927)."""
    return tuple(map(float, binomtest(successes, trials).proportion_ci(method="wilson")))


def score_with_interval(values: np.ndarray) -> dict:
    """`score`, the mean, and its 95 % interval `low` to `high`: Wilson's of bools, Student's of two or more distances.

    >>> score_with_interval(np.array([True, True]))["low"].__round__(3)
    0.342
    """
    low, high, mean = None, None, float(values.mean())
    if values.dtype == bool:
        low, high = wilson_interval(int(values.sum()), len(values))
    elif len(values) > 1:
        half = float(t.ppf(0.975, len(values) - 1) * sem(values))
        low, high = max(mean - half, 0.0), mean + half  # a distance is never below 0
    return {"score": mean, "low": low, "high": high}


def mean_interval(
    values: np.ndarray, *, minus: np.ndarray | None = None, confidence: float = 0.95
) -> tuple[float, float]:
    """Interval of the mean of an arm's values, or of how much it is above another's; both `[runs, examples]`.

    Holds for other examples (paired), and for other seeds, where an arm has several runs, taken to vary alike in both.
    The two variances add up, with Satterthwaite's degrees of freedom: where seeds are most of the noise, it is
    Student's t interval of the runs. Of lone runs it says nothing about other seeds.
    """
    if values.shape[1] < 2:
        raise ValueError(f"Found {values.shape[1]} example; expected at least 2 for an interval. Report more rows.")
    arms = [values] if minus is None else [values, minus]
    difference = values.mean(0) - (0.0 if minus is None else minus.mean(0))
    examples, runs = len(difference), sum(len(arm) - 1 for arm in arms)  # runs: degrees of freedom
    variance = of_examples = sem(difference) ** 2
    of_runs = 0.0
    if runs:
        off = [arm - arm.mean(0) for arm in arms]  # a run from the mean of its arm, at each example
        size = sum(1 / len(arm) for arm in arms) / runs
        of_runs = size * sum((rows.mean(1) ** 2).sum() for rows in off)
        of_luck = size * sum(rows.var(1, ddof=1).sum() for rows in off) / examples  # with single examples: in both
        variance += max(of_runs - of_luck, 0)
    middle = float(difference.mean())
    if variance == 0:
        return middle, middle
    freedom = variance**2 / (of_examples**2 / (examples - 1) + of_runs**2 / max(runs, 1))
    freedom = max(freedom, min(max(runs, 1), examples - 1))  # what was subtracted makes it no less sure than either
    width = float(t.ppf((1 + confidence) / 2, freedom) * variance**0.5)
    top = 1.0 if all(np.isin(arm, (0, 1)).all() for arm in arms) else math.inf  # of shares
    return max(middle - width, 0.0 if minus is None else -top), min(middle + width, top)


def paired_p_value(one: np.ndarray, other: np.ndarray) -> float:
    """How often the means of two models' values `[rows]` of the same rows would differ this much by chance.

    Of bools McNemar's exact test (1947); of numbers the models are swapped at random in each row, in all ways for up
    to 13 rows; of many rows it is Student's paired test. One row tells nothing: 1.

    >>> paired_p_value(np.array([1.0, 2.0, 3.0]), np.array([2.0, 3.0, 4.0]))  # 2 of 8 ways
    0.25
    """
    if one.dtype == bool:
        wins, losses = int((one & ~other).sum()), int((other & ~one).sum())
        return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
    differences, size = one - other, len(one)
    if size < 2 or not differences.any():
        return 1.0
    if size > _PERMUTED_ROWS:
        return float(ttest_1samp(differences, 0).pvalue)
    options = {"permutation_type": "samples", "batch": _PERMUTED_NUMBERS // size, "rng": 0}
    return float(permutation_test((differences,), np.mean, **options).pvalue)


def calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int = 15) -> tuple[float, list[dict]]:
    """Expected calibration error of probabilities `[answers]` (Naeini et al., 2015), and its bins of equal width.

    >>> error, found = calibration_error(np.array([0.9, 0.8]), np.array([True, False]), bins=1)
    >>> round(error, 3), found[0]["rows"], found[0]["accuracy"]
    (0.35, 2, 0.5)
    """
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    grouped = pd.DataFrame({"confidence": confidence, "accuracy": right}).groupby([place / bins, (place + 1) / bins])
    found = grouped.mean().assign(rows=grouped.size()).reset_index(names=["low", "high"]).to_dict("records")
    return sum(row["rows"] * abs(row["accuracy"] - row["confidence"]) for row in found) / len(right), found


def accuracy_by_coverage(confidence: np.ndarray, right: np.ndarray) -> list[dict]:
    """Accuracy of the surest answers, for some shares of all: `coverage` with the `threshold` that gives it."""
    points, falling = [], np.sort(confidence)[::-1]
    for share in (1.0, 0.95, 0.9, 0.8, 0.7, 0.5):
        threshold = float(falling[math.ceil(share * len(confidence)) - 1])
        answered = confidence >= threshold
        found = score_with_interval(right[answered])
        point = {"threshold": threshold, "coverage": float(answered.mean()), "accuracy": found.pop("score")}
        points.append(point | found)
    return points
