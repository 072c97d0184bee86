"""Intervals, tests and calibration: how far the scores of a run can be relied on."""

import math
from statistics import NormalDist

import numpy as np
from scipy.stats import binom, t


def score_with_interval(values: np.ndarray) -> dict:
    """`score`, the mean, and its 95 % interval `low` to `high`: Wilson's of bools, Student's of distances.

    One distance has no interval: `None`.

    >>> score_with_interval(np.array([True, True]))["low"].__round__(3)
    0.342
    """
    low, high = None, None
    if values.dtype == bool:
        low, high = wilson_interval(int(values.sum()), len(values))
    elif len(values) > 1:
        low, high = mean_interval(values)
        low = max(low, 0.0)  # of a distance
    return {"score": float(values.mean()), "low": low, "high": high}


def accuracy_interval(
    right: np.ndarray, *, minus: np.ndarray | None = None, confidence: float = 0.95
) -> tuple[float, float]:
    """Interval of an arm's accuracy, or of how much it is above another's.

    Holds for other examples, the same ones for both arms (paired), and for other seeds, where an arm has several runs;
    runs of both arms are taken to vary alike. The variances of both add up, with Satterthwaite's degrees of freedom:
    where seeds are most of the noise, it is Student's t interval of the runs. Of lone runs it says nothing about other
    seeds.

    Args:
        right: `[runs, examples]`, 1.0 where a run is right.
        minus: of the other arm, `[its runs, examples]`.
        confidence: of the interval.

    Raises:
        ValueError: a single example.

    >>> accuracy_interval(np.ones((1, 50)), minus=np.zeros((1, 50)))
    (1.0, 1.0)
    """
    if right.shape[1] < 2:
        raise ValueError(f"Found {right.shape[1]} example; expected at least 2 for an interval. Report more rows.")
    arms = [right] if minus is None else [right, minus]
    difference = right.mean(0) - (0.0 if minus is None else minus.mean(0))
    examples, runs = len(difference), sum(len(arm) - 1 for arm in arms)  # runs: degrees of freedom
    variance = difference.var(ddof=1) / examples  # squared standard error, of other examples
    parts = [(variance, examples - 1)]
    if runs:
        off = [arm - arm.mean(0) for arm in arms]  # a run from the mean of its arm, at each example
        size = sum(1 / len(arm) for arm in arms) / runs
        of_runs = size * sum((rows.mean(1) ** 2).sum() for rows in off)
        of_luck = size * sum(rows.var(1, ddof=1).sum() for rows in off) / examples  # with single examples: in both
        variance += max(of_runs - of_luck, 0)
        parts.append((of_runs, runs))
    middle = float(difference.mean())
    if variance == 0:
        return middle, middle
    freedom = variance**2 / sum(part**2 / degrees for part, degrees in parts)
    width = float(t.ppf((1 + confidence) / 2, freedom) * variance**0.5)
    return max(middle - width, 0.0 if minus is None else -1.0), min(middle + width, 1.0)


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a share such as an accuracy (Wilson, 1927), right also near 0 and 1 and for few trials.

    Raises:
        ValueError: no trial.

    >>> [round(bound, 3) for bound in wilson_interval(90, 100)]
    [0.826, 0.945]
    """
    if trials < 1:
        raise ValueError(f"An interval needs at least one trial, found {trials}.")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / trials
    centre = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    return max(centre - half, 0.0), min(centre + half, 1.0)


def correlation_interval(correlation: float, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a Pearson correlation by Fisher's transformation; -1 to 1 for fewer than 4 trials.

    >>> [round(bound, 3) for bound in correlation_interval(0.8, 103)]
    [0.718, 0.86]
    """
    if trials < 4:
        return -1.0, 1.0
    half = NormalDist().inv_cdf(0.5 + confidence / 2) / math.sqrt(trials - 3)
    centre = math.atanh(min(max(correlation, -1 + 1e-12), 1 - 1e-12))
    return math.tanh(centre - half), math.tanh(centre + half)


def mean_interval(values: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a mean by Student's t, of two values or more.

    >>> [round(bound, 3) for bound in mean_interval(np.array([1.0, 2.0, 3.0, 4.0]))]
    [0.446, 4.554]
    """
    half = t.ppf(0.5 + confidence / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def calibration(confidence: np.ndarray, right: np.ndarray, bins: int = 15) -> tuple[float, list[dict]]:
    """Expected calibration error (Naeini et al., 2015), and its bins.

    Args:
        confidence: probabilities `[answers]`.
        right: `[answers]`, whether what had the probability is true.
        bins: of equal width, from 0 to 1.

    Returns:
        the mean over answers of |accuracy - confidence| of their bin; and of each bin that has answers `low`, `high`,
        `rows`, `confidence` and `accuracy`.

    >>> error, found = calibration(np.array([0.9, 0.8]), np.array([True, False]), bins=1)
    >>> round(error, 3), found[0]["rows"], found[0]["accuracy"]
    (0.35, 2, 0.5)
    """
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    found = [
        {
            "low": number / bins,
            "high": (number + 1) / bins,
            "rows": int((place == number).sum()),
            "confidence": float(confidence[place == number].mean()),
            "accuracy": float(right[place == number].mean()),
        }
        for number in np.unique(place).tolist()
    ]
    return sum(row["rows"] * abs(row["accuracy"] - row["confidence"]) for row in found) / len(right), found


def coverage(confidence: np.ndarray, right: np.ndarray) -> list[dict]:
    """What a model reaches that may abstain: accuracy on the most confident rows.

    Args:
        confidence: `[examples]`, of the answer.
        right: `[examples]`, whether it is.

    Returns:
        for each share of rows to be answered `threshold` (the confidence to ask for), `coverage` (the share that
        reaches it), `accuracy` of these, and its 95 % interval `low` to `high`.

    >>> points = coverage(np.array([0.9, 0.8, 0.7, 0.6]), np.array([1, 1, 1, 0]))
    >>> [(point["threshold"], point["coverage"], point["accuracy"]) for point in points][-1]
    (0.8, 0.5, 1.0)
    """
    points = []
    for share in (1.0, 0.95, 0.9, 0.8, 0.7, 0.5):
        threshold = float(np.sort(confidence)[::-1][max(math.ceil(share * len(confidence)) - 1, 0)])
        answered = confidence >= threshold
        hits, rows = int(right[answered].sum()), int(answered.sum())
        low, high = wilson_interval(hits, rows)
        point = {"threshold": threshold, "coverage": rows / len(confidence), "accuracy": hits / rows}
        points.append(point | {"low": low, "high": high})
    return points


def mcnemar(one: np.ndarray, other: np.ndarray) -> float:
    """Exact two-sided p-value (McNemar, 1947) that two runs err equally often, from 0 and 1 `[examples]` each.

    Only examples that one gets right and the other wrong say anything; under equality each falls either way with
    probability one half.

    >>> round(mcnemar(np.array([1] * 8 + [0]), np.array([0] * 8 + [1])), 4)
    0.0391
    """
    wins, losses = int(((one == 1) & (other == 0)).sum()), int(((one == 0) & (other == 1)).sum())
    trials, fewer = wins + losses, min(wins, losses)
    return min(1.0, 2 * float(binom.cdf(fewer, trials, 0.5)))


def paired_permutation(one: np.ndarray, other: np.ndarray, draws: int = 9_999) -> float:
    """How often the means of two models' scores of the same rows would differ this much if the models were alike.

    The models are swapped at random in each row, `draws` times; all ways of it for up to 13 rows. 1 for one row, which
    tells nothing.

    >>> paired_permutation(np.array([1.0, 2.0, 3.0]), np.array([2.0, 3.0, 4.0]))  # 2 of 8 ways
    0.25
    """
    differences, draw = one - other, np.random.default_rng(0)
    found, size = abs(differences.sum()) * (1 - 1e-12), len(differences)
    if size <= 13:
        swaps = np.arange(2**size)[:, None] >> np.arange(size) & 1
        return float((np.abs(differences.sum() - 2 * swaps @ differences) >= found).mean())
    as_far = 0
    for start in range(0, draws, 100):
        swaps = draw.random((min(100, draws - start), size)) < 0.5
        as_far += int((np.abs(differences.sum() - 2 * swaps @ differences) >= found).sum())
    return (1 + as_far) / (1 + draws)
