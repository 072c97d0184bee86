"""Figures of a run, each from plain data to a PNG; drawn without a screen and without pyplot's global state."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import matplotlib.style
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from bertcls.report.statistics import wilson_interval

# Okabe and Ito (2008), told apart also by people who are colour-blind; the order keeps their brightness apart in print
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
_MARKERS = "osD^vPX"
_DASHES = ("-", "--", ":", "-.")  # lines that lie on each other are both seen
_GREY = "#6b7280"
_CJK_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "Source Han Sans SC",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Microsoft YaHei",
    "SimHei",
    "PingFang SC",
    "Hiragino Sans GB",
    "Heiti SC",
    "Noto Sans CJK JP",
    "Arial Unicode MS",
)
_NAME_LENGTH = 28  # characters of a class name on an axis
_LARGEST_SIDE = 20.0  # inches, 2,400 pixels
_SHOWN_LABELS = 40  # in the figure of shares; a longer one is a table
_WIDTH = 6.0  # inches: 720 pixels, so that 12 points are 10 pixels on a telephone of 400


def draw_curves(log_history: list[dict], path: Path) -> None:
    """Losses of training and validation, and the scores of validation, over the epochs.

    A second evaluation at one epoch is that of the chosen model, loaded again after the last step: it marks the
    epoch that it was chosen from, and is no point of the curve.

    Args:
        log_history: of the Trainer's state.
        path: the PNG.
    """
    evaluations, chosen = _evaluations(log_history)
    names = _score_names(evaluations)
    with _figure(path, _WIDTH, 6.2) as figure:
        losses, scores = figure.subplots(2, 1, sharex=True)
        training = [entry for entry in log_history if "loss" in entry]
        kinds = (training, "loss", "training"), (evaluations, "eval_loss", "validation")
        for number, (entries, key, label) in enumerate(kinds):
            if entries:
                _line(losses, entries, key, label, number=number)
        for number, name in enumerate(names):
            entries = [entry for entry in evaluations if name in entry]
            _line(scores, entries, name, name.removeprefix("eval_").replace("_", " "), number=number)
        regression = any("eval_rmse" in entry for entry in evaluations)
        losses.set(ylabel="loss (mean squared error)" if regression else "loss (nats)")
        scores.set(xlabel="epoch (passes over the training rows)", ylabel="score on validation")
        losses.tick_params(labelbottom=True)
        for axes in (losses, scores):
            if chosen is not None and axes.lines:
                axes.axvline(chosen, color=_GREY, linestyle=":", linewidth=1.2, zorder=0, label="chosen model")
            if axes.lines:
                axes.legend()
            else:
                _note(axes, "nothing was logged")
        lowest = min((entry[name] for name in names for entry in evaluations if name in entry), default=0)
        if lowest < -1:  # R squared of an untrained model can be as low as one likes
            scores.set_ylim(bottom=-1)
        losses.set_ylim(bottom=0)


def draw_before_after(scores: dict, path: Path) -> None:
    """Scores on the rows that the model was chosen by, before the first step and after the last, as bars.

    Args:
        scores: with `before_*` and `eval_*`: accuracy, precision, recall and F1; of a regression the correlations and
            R squared, whose bar ends at -1.
        path: the PNG.
    """
    names = ("accuracy", "precision_macro", "recall_macro", "f1_macro")
    if not any(f"{when}_{name}" in scores for name in names for when in ("before", "eval")):
        names = ("pearson", "spearman", "r2")
    names = [name for name in names if f"before_{name}" in scores or f"eval_{name}" in scores]
    with _figure(path, _WIDTH, 4.2) as figure:
        axes = figure.subplots()
        for number, (prefix, label, hatch) in enumerate(
            (("before", "before training", "//"), ("eval", "after", None))
        ):
            values = [scores.get(f"{prefix}_{name}", np.nan) for name in names]
            places = np.arange(len(names)) + 0.4 * (number - 0.5)
            colour = ("#b9c3cf", _COLOURS[0])[number]
            bars = axes.bar(places, np.maximum(values, -1), 0.38, color=colour, hatch=hatch, ec="white", label=label)
            axes.bar_label(bars, ["" if np.isnan(v) else f"{v:.3f}" for v in values], padding=2, fontsize=10.5)
        axes.set_xticks(range(len(names)), [name.replace("_", "\n").replace("r2", "R²") for name in names])
        axes.set(ylabel="score on validation")
        if names:
            lowest = np.nanmin([*(bar.get_height() for bar in axes.patches), 0])
            axes.set_ylim(0 if lowest >= 0 else max(-1.15, lowest - 0.15), 1.12)
            axes.axhline(0, color="black", linewidth=0.8)
            figure.legend(loc="outside upper center", ncols=2)
        else:
            _note(axes, "no score was logged")


def draw_confusion(matrix: list[list[int]], names: list[str], path: Path) -> None:
    """Counts of each true and predicted class; the colour is the share of the true class's rows.

    The colours follow the square root of the share, so that a rare confusion is seen beside a full diagonal.

    Args:
        matrix: `[true, predicted]`, rows.
        names: of the classes, in the order of their numbers.
        path: the PNG.
    """
    counts = np.asarray(matrix, dtype=np.int64)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    written, number = _written(names), len(names)
    cell = 1.15 if number <= 3 else 0.8 if number <= 10 else 0.46 if number <= 30 else 0.16
    side = min(number * cell, _LARGEST_SIDE)
    longest = max(map(len, written))
    upright = longest * 0.1 > side / number * 0.95
    margin = 0.4 + 0.1 * longest
    with _figure(path, side + margin + 1.5, side + 0.9 + (margin if upright else 0)) as figure:
        axes = figure.subplots()
        image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1), aspect="auto")
        if side / number >= 0.12:
            size = 7 if number > 30 else None
            axes.set_xticks(range(number), written, rotation=90 if upright else 0, fontsize=size)
            axes.set_yticks(range(number), written, fontsize=size)
        if number <= 30:
            for (row, column), count in np.ndenumerate(counts):
                share = shares[row, column]
                text = f"{count:,}\n{share:.1%}" if number <= 10 else str(count) if count else ""
                colour = "white" if share > 0.4 else "black"
                axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=10.5)
        axes.set(xlabel="predicted class", ylabel="true class")
        bar = figure.colorbar(image, ax=axes, format=PercentFormatter(1, 0), shrink=min(1, 5 / side), aspect=25)
        bar.set_label("share of the true class's rows")
        bar.set_ticks([0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1])


def draw_reliability(bins: list[dict], path: Path, *, decisions: bool = False) -> None:
    """How often answers of a confidence are right, with 95 % intervals, beside how often they should be; rows below.

    Args:
        bins: `low`, `high`, `rows`, `confidence` (mean) and `accuracy`; empty ones may be there or not.
        path: the PNG.
        decisions: the bins are of probabilities of labels, each label of each text, and not of answers.
    """
    bins = [row for row in bins if row["rows"]]
    with _figure(path, _WIDTH, 6.2) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        start = min((row["low"] for row in bins), default=0)
        lows, accuracies = [row["low"] for row in bins], [row["accuracy"] for row in bins]
        widths = [row["high"] - row["low"] for row in bins]
        found, ideal = ("share", "as often as it says") if decisions else ("accuracy", "as right as it is sure")
        label = f"{found} of a bin"
        bars = upper.bar(lows, accuracies, widths, align="edge", color="#cfe3f1", ec="white", label=label)
        (diagonal,) = upper.plot([start, 1], [start, 1], "--", color=_GREY, label=ideal)
        for row in bins:
            low, high = wilson_interval(round(row["accuracy"] * row["rows"]), row["rows"])
            upper.plot([row["confidence"]] * 2, [low, high], color=_COLOURS[0], linewidth=1.2)
        label = f"its 95 % interval, at the mean {'probability' if decisions else 'confidence'}"
        (points,) = upper.plot([row["confidence"] for row in bins], accuracies, "o", color=_COLOURS[0], label=label)
        counts = lower.bar(lows, [row["rows"] for row in bins], widths, align="edge", color=_COLOURS[0], ec="white")
        size = 9.5 if len(bins) <= 8 else 8
        lower.bar_label(counts, [f"{row['rows']:,}" for row in bins], padding=1, fontsize=size)
        lower.margins(y=0.25)
        called = "share that has the label" if decisions else "accuracy"
        upper.set(ylabel=called, ylim=(0, 1.02), xlim=(start, 1))
        what = "probability of a label" if decisions else "confidence: probability of the predicted class"
        lower.set(xlabel=what, ylabel="labels of texts" if decisions else "rows")
        lower.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        figure.legend(handles=[bars, points, diagonal], loc="outside upper center")


def draw_coverage(points: list[dict], path: Path) -> None:
    """Accuracy of a model that answers only its most confident rows, over the share of rows that it answers.

    Args:
        points: `threshold`, `coverage`, `accuracy`, and its interval `low` to `high`.
        path: the PNG.
    """
    distinct = {point["coverage"]: point for point in points if point["accuracy"] is not None}
    points = [distinct[share] for share in sorted(distinct)]
    with _figure(path, _WIDTH, 4.4) as figure:
        axes = figure.subplots()
        shares = [point["coverage"] for point in points]
        lows, highs = ([point[side] for point in points] for side in ("low", "high"))
        axes.fill_between(shares, lows, highs, color=_COLOURS[4], alpha=0.35, linewidth=0, label="95 % interval")
        axes.plot(shares, [point["accuracy"] for point in points], "o-", color=_COLOURS[0], label="accuracy")
        axes.set(xlabel="coverage: share of rows that are answered", ylabel="accuracy on the answered rows")
        axes.xaxis.set_major_formatter(PercentFormatter(1, 0))
        bottom, top = min([*lows, 0.95]), 1.0
        axes.set(xlim=(min([*shares, 0.95]) - 0.03, 1.03), ylim=(max(0, bottom - 0.02), top + 0.005))
        axes.legend(loc="lower left")
        shown = _apart(shares, 0.11 * (1.06 - min([*shares, 0.95])))
        above = axes.secondary_xaxis("top")
        above.set_xticks([shares[place] for place in shown], [f"{points[place]['threshold']:.3f}" for place in shown])
        above.set_xlabel("confidence to ask for (lowest that is answered)")


def draw_lengths(lengths: dict[str, list[int]], max_length: int | None, path: Path) -> None:
    """Histogram of tokens a text for each split, and where `max_length` cuts a text or begins its second window.

    Args:
        lengths: for each split the tokens of its texts. The longest 0.5 % stand in the last bar.
        max_length: tokens; `None` draws no line.
        path: the PNG.
    """
    splits = {name: np.asarray(values) for name, values in lengths.items() if len(values)}
    with _figure(path, _WIDTH, 4.4) as figure:
        axes = figure.subplots()
        top = max((int(np.quantile(values, 0.995, method="higher")) for values in splits.values()), default=1)
        width = max(1, -(-top // 40))
        edges = np.arange(0, top + 2 * width, width)
        for number, (name, values) in enumerate(splits.items()):
            weights = np.full(len(values), 1 / len(values))
            inside = np.minimum(values, edges[-1] - 0.5)
            label = f"{name}: {len(values):,} texts, median {np.median(values):.0f}"
            if max_length is not None:
                label += f", {np.mean(values > max_length):.1%} over {max_length:,}"
            axes.hist(
                inside,
                edges,
                weights=weights,
                histtype="step",
                linewidth=1.8,
                linestyle=_DASHES[number % len(_DASHES)],
                color=_COLOURS[number % len(_COLOURS)],
                label=label,
            )
        right = edges[-1]
        if max_length is not None and max_length <= 4 * top:
            axes.axvline(max_length, color=_COLOURS[5], linewidth=1.5, label=f"max_length {max_length:,}")
            right = max(right, max_length * 1.04)
        elif max_length is not None:
            axes.plot([], [], " ", label=f"max_length {max_length:,}, far to the right")
        cut = any(values.max() >= edges[-1] for values in splits.values())
        bars = f"bars of {width:,}, the last with all longer texts" if cut else f"bars of {width:,}"
        axes.set(xlabel=f"tokens a text ({bars})", ylabel="share of the split's texts", xlim=(0, right))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        figure.legend(loc="outside upper center")


def draw_shares(shares: dict[str, dict[str, float]], path: Path) -> None:
    """Share of each label in each split; of more than 40 labels the most frequent.

    Args:
        shares: for each split the shares by label, from 0 to 1; those of several labels a text add up to more.
        path: the PNG.
    """
    splits = list(shares)
    labels = list(dict.fromkeys(label for by_label in shares.values() for label in by_label))
    written = dict(zip(labels, _written(labels)))
    shown = sorted(labels, key=lambda label: -max(shares[split].get(label, 0) for split in splits))[:_SHOWN_LABELS]
    shown = [label for label in labels if label in set(shown)]
    thick = 0.8 / max(len(splits), 1)
    with _figure(path, _WIDTH, 1.5 + max(len(shown), 1) * (0.55 if len(shown) <= 6 else 0.42)) as figure:
        axes = figure.subplots()
        for number, split in enumerate(splits):
            places = np.arange(len(shown)) + thick * (number - (len(splits) - 1) / 2)
            values = [shares[split].get(label, 0) for label in shown]
            colour, hatch = _COLOURS[number % len(_COLOURS)], (None, "//", "..")[number % 3]
            bars = axes.barh(places, values, thick, color=colour, hatch=hatch, ec="white", label=split)
            if len(shown) <= 6:
                axes.bar_label(bars, [f"{value:.1%}" for value in values], padding=3, fontsize=10.5)
        axes.set_yticks(range(len(shown)), [written[label] for label in shown])
        axes.invert_yaxis()
        axes.margins(x=0.12, y=0.02)
        what = "label" if len(shown) == len(labels) else f"label, the {len(shown)} most frequent of {len(labels)}"
        axes.set(xlabel="share of the split's rows", ylabel=what, xlim=(0, None))
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        if splits:
            figure.legend(loc="outside upper center", ncols=len(splits))


@contextmanager
def _figure(path: Path, width: float, height: float) -> Iterator[Figure]:
    """A figure in inches that is saved at the end; pyplot does not know it, so there is nothing to close."""
    looks = {
        "font.family": list(_fonts()),
        "font.size": 12,
        "legend.fontsize": 11,
        "legend.frameon": False,
        "text.parse_math": False,  # a class may be called "$100 to $200"
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.constrained_layout.w_pad": 0.1,
        "figure.constrained_layout.h_pad": 0.1,
    }
    with matplotlib.style.context(["default", looks]):
        figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
        yield figure
        figure.savefig(path)


@cache
def _fonts() -> tuple[str, ...]:
    """Matplotlib's own font, and the first of those for Chinese that is installed."""
    installed = set(font_manager.get_font_names())
    return "DejaVu Sans", *[name for name in _CJK_FONTS if name in installed][:1]


@cache
def _characters() -> frozenset[int]:
    found = set()
    for name in _fonts():
        found |= set(font_manager.get_font(font_manager.findfont(name)).get_charmap())
    return frozenset(found)


def _written(names: list[str]) -> list[str]:
    """Names as they fit on an axis: one line, 28 characters; the class's number for what no font here can write.

    >>> _written(["neg", "a name that is much longer than an axis has room for", "\\U000f0000"])
    ['neg', 'a name that is much longer…', 'class 2']
    """
    written = []
    for number, name in enumerate(names):
        line = " ".join(str(name).split())
        if not line or not {ord(character) for character in line} <= _characters():
            line = f"class {number}"
        written.append(line if len(line) <= _NAME_LENGTH else line[: _NAME_LENGTH - 1].rstrip() + "…")
    return written


def _evaluations(log_history: list[dict]) -> tuple[list[dict], float | None]:
    """The evaluations on the way, and the epoch of the chosen model where it was evaluated once more at the end.

    >>> first, second = {"eval_loss": 0.4, "epoch": 1.0}, {"eval_loss": 0.5, "epoch": 2.0}
    >>> _evaluations([first, second, first | {"epoch": 2.0}])[1]
    1.0
    """
    first, again = {}, None
    for entry in log_history:
        if "eval_loss" in entry:
            if entry["epoch"] in first:
                again = entry
            else:
                first[entry["epoch"]] = entry
    if again is None:
        return list(first.values()), None
    apart = {epoch: abs(entry["eval_loss"] - again["eval_loss"]) for epoch, entry in first.items()}
    nearest = min(apart, key=apart.get)
    return list(first.values()), nearest if apart[nearest] <= 1e-3 * abs(again["eval_loss"]) else None


def _score_names(evaluations: list[dict]) -> list[str]:
    """The scores to draw of evaluations: the usual ones, or whatever there is."""
    found = list(dict.fromkeys(name for entry in evaluations for name in entry if name.startswith("eval_")))
    usual = [f"eval_{name}" for name in ("accuracy", "f1_macro", "f1_micro", "pearson", "spearman", "r2")]
    shown = [name for name in usual if name in found]
    apart = ("_loss", "_runtime", "_per_second", "_tokens", "_perplexity")
    return shown or [name for name in found if not name.endswith(apart)][: len(_COLOURS)]


def _line(axes: Axes, entries: list[dict], key: str, label: str, *, number: int) -> None:
    """A line over the epochs; with markers where there are few points, so that a single one is seen."""
    epochs, values = [entry["epoch"] for entry in entries], [entry[key] for entry in entries]
    marker = _MARKERS[number % len(_MARKERS)] if len(entries) <= 40 else None
    axes.plot(
        epochs,
        values,
        _DASHES[number % len(_DASHES)],
        color=_COLOURS[number % len(_COLOURS)],
        marker=marker,
        markersize=5,
        label=label,
    )


def _note(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, ha="center", va="center", color=_GREY, transform=axes.transAxes)


def _apart(values: list[float], distance: float) -> list[int]:
    """Places of rising values, from the last one on, that are at least `distance` apart.

    >>> _apart([0.5, 0.7, 0.8, 0.98, 1.0], 0.1)
    [0, 1, 2, 4]
    """
    shown: list[int] = []
    for place in reversed(range(len(values))):
        if not shown or values[shown[-1]] - values[place] >= distance - 1e-9:
            shown.append(place)
    return shown[::-1]
