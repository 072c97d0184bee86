"""Figures of runs, each from plain data to a PNG; drawn without a screen and without pyplot's global state."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import cycle, zip_longest
from pathlib import Path

import matplotlib.style
import numpy as np
import pandas as pd
from cycler import cycler
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

from bertcls.report.formats import MANY_CLASSES, SCORES, format_score
from bertcls.report.statistics import wilson_interval

# Okabe and Ito (2008), told apart also by people who are colour-blind; the order keeps their brightness apart in print
_BLUE, _SKY, _RED, _GREY = "#0072B2", "#56B4E9", "#D55E00", "#6b7280"
_COLOURS = (_BLUE, "#E69F00", "#009E73", "#CC79A7", _SKY, _RED, "#000000")
_LINES = ("-", "--", ":", "-.", "-", "--", ":")  # lines that lie on each other are both seen
_CJK_FONTS = (
    "Noto Sans CJK SC, Noto Sans SC, Source Han Sans SC, WenQuanYi Micro Hei, WenQuanYi Zen Hei, Microsoft YaHei, "
    "SimHei, PingFang SC, Hiragino Sans GB, Heiti SC, Noto Sans CJK JP, Arial Unicode MS"
).split(", ")
_LOOKS = {
    "font.size": 12,
    "legend.fontsize": 11,
    "legend.frameon": False,
    "text.parse_math": False,  # a class may be called "$100 to $200"
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=_COLOURS, linestyle=_LINES, marker="osD^vPX"),
    "lines.markersize": 5,
    "figure.constrained_layout.w_pad": 0.1,
    "figure.constrained_layout.h_pad": 0.1,
}
_NAME_LENGTH = 28  # characters of a class name on an axis
_LARGEST_SIDE = 20.0  # inches, 2,400 pixels
_SHOWN_BARS = 40  # of a figure; a longer one is a table
_BARS = ("accuracy", "precision_macro", "recall_macro", "f1_macro", "pearson", "spearman", "r2")  # before and after
_CURVES = [f"eval_{name}" for name in ("accuracy", "f1_macro", "f1_micro", "pearson", "spearman", "r2")]
_NO_SCORES = ("_loss", "_runtime", "_per_second", "_tokens", "_perplexity")  # ends of what else an evaluation logs
_CONFUSED = 30  # classes in a figure of many
_TAIL = 8  # times the median length
_POINTS = 3_000  # in a figure; more would hide each other
_WIDTH = 6.0  # inches: 720 pixels, so that 12 points are 10 pixels on a telephone of 400


def draw_curves(log_history: list[dict], path: Path, *, best_step: int | None = None) -> None:
    """Losses of the training and selection rows, and the scores of the latter, over the epochs of a Trainer's log.

    A second evaluation at one epoch is that of the chosen model, loaded again after the last step, and no point of the
    curve; `best_step`, which it was saved at, is marked.
    """
    by_epoch = {entry["epoch"]: entry for entry in reversed(log_history) if "eval_loss" in entry}  # the first of each
    evaluations = list(by_epoch.values())[::-1]
    chosen = next((entry["epoch"] for entry in evaluations if best_step and entry["step"] == best_step), None)
    found = dict.fromkeys(name for entry in evaluations for name in entry if name.startswith("eval_"))
    others = [name for name in found if not name.endswith(_NO_SCORES)][: len(_COLOURS)]
    names = [name for name in _CURVES if name in found] or others
    with _figure(path, _WIDTH, 6.2, nrows=2, sharex=True) as (_, (losses, scores)):
        _line(losses, log_history, "loss", "training")
        _line(losses, evaluations, "eval_loss", "selection")
        for name in names:
            _line(scores, evaluations, name, name.removeprefix("eval_").replace("_", " "))
        losses.set(ylabel="loss (mean squared error)" if "eval_rmse" in found else "loss (nats)")
        scores.set(xlabel="epoch (passes over the training rows)", ylabel="score on the selection rows")
        losses.tick_params(labelbottom=True)
        for axes in (losses, scores):
            if not axes.lines:
                axes.text(0.5, 0.5, "nothing was logged", ha="center", color=_GREY, transform=axes.transAxes)
                continue
            if chosen is not None:
                axes.axvline(chosen, color=_GREY, linestyle=":", linewidth=1.2, zorder=0, label="chosen model")
            axes.legend()
        if scores.dataLim.y0 < -1:  # R squared of an untrained model can be as low as one likes
            scores.set_ylim(bottom=-1)
        losses.set_ylim(bottom=0)


def draw_before_after(scores: dict, path: Path, *, rows: int | None = None) -> None:
    """Bars of `before_*` and `eval_*`, the scores on the rows that the model was chosen by."""
    groups = {
        label: {SCORES[key][0]: scores[f"{prefix}_{key}"] for key in _BARS if f"{prefix}_{key}" in scores}
        for prefix, label in (("before", "before training"), ("eval", "after"))
    }
    _draw_bars(groups, path, lambda score: format_score(score, rows), xlabel="score on the selection rows", ylabel="")


def draw_confusion(matrix: list[list[int]], names: list[str], path: Path) -> None:
    """Counts `[true, predicted]` of named classes; the colour is the share of the true class's rows.

    The colours follow the square root of the share, so that a rare confusion is seen beside a full diagonal. Of more
    than 50 classes the 30 are shown that are in most of the errors.
    """
    counts, chosen = np.asarray(matrix, dtype=np.int64), np.arange(len(names))
    if len(names) > MANY_CLASSES:
        errors = counts.sum(0) + counts.sum(1) - 2 * counts.diagonal()
        chosen = np.sort(np.argsort(-errors, kind="stable")[:_CONFUSED])
    shares = (counts / np.maximum(counts.sum(1, keepdims=True), 1))[np.ix_(chosen, chosen)]
    counts, written, number = counts[np.ix_(chosen, chosen)], np.array(_written(names))[chosen], len(chosen)
    cell = 1.15 if number <= 3 else 0.8 if number <= 10 else 0.46 if number <= 30 else 0.16
    side = min(number * cell, _LARGEST_SIDE)
    length = 0.1 * max(map(len, written))  # inches of the longest name
    upright, margin = length > side / number * 0.95, 0.4 + length
    with _figure(path, side + margin + 1.5, side + 0.9 + (margin if upright else 0)) as (figure, axes):
        image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1), aspect="auto")
        size = 7 if number > 30 else None
        axes.set_xticks(range(number), written, rotation=90 if upright else 0, fontsize=size)
        axes.set_yticks(range(number), written, fontsize=size)
        if number <= 30:
            for (row, column), count in np.ndenumerate(counts):
                share = shares[row, column]
                text = f"{count:,}\n{share:.1%}" if number <= 10 else str(count) if count else ""
                colour = "white" if share > 0.4 else "black"
                axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=10.5)
        which = f" (the {number} most confused of {len(names):,})" if number < len(names) else ""
        axes.set(xlabel=f"predicted class{which}", ylabel="true class")
        bar = figure.colorbar(image, ax=axes, format=PercentFormatter(1, 0), shrink=min(1, 5 / side), aspect=25)
        bar.set_label("share of the true class's rows")
        bar.set_ticks([0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1])


def draw_reliability(bins: list[dict], path: Path, *, classes: int | None = None) -> None:
    """How often answers of a confidence are right, with 95 % intervals, beside how often they should be; rows below.

    The bins are those of `calibration_error`, of answers that are one of so many `classes`; with `None` they are of
    probabilities of labels, each label of each text, and not of answers.
    """
    keys = ("low", "high", "rows", "confidence", "accuracy")
    lows, highs, rows, means, accuracies = ([row[key] for row in bins] for key in keys)
    decisions, start = classes is None, 0.0 if classes is None else 1 / classes  # start: the lowest of confidences
    widths, intervals = np.subtract(highs, lows), [wilson_interval(round(a * n), n) for a, n in zip(accuracies, rows)]
    found, ideal = ("share", "as often as it says") if decisions else ("accuracy", "as right as it is sure")
    mean, called = ("probability", "share that has the label") if decisions else ("confidence", "accuracy")
    what = "probability of a label" if decisions else "confidence: probability of the predicted class"
    with _figure(path, _WIDTH, 6.2, nrows=2, sharex=True, height_ratios=[3, 1]) as (figure, (upper, lower)):
        looks = {"align": "edge", "ec": "white"}
        bars = upper.bar(lows, accuracies, widths, color="#cfe3f1", label=f"{found} of a bin", **looks)
        (diagonal,) = upper.plot([start, 1], [start, 1], "--", color=_GREY, marker="", label=ideal)
        upper.vlines(means, *zip(*intervals), color=_BLUE, lw=1.2)
        (points,) = upper.plot(means, accuracies, "o", color=_BLUE, label=f"its 95 % interval, at the mean {mean}")
        counts = lower.bar(lows, rows, widths, color=_BLUE, **looks)
        lower.bar_label(counts, fmt="{:,.0f}", padding=1, fontsize=9.5 if len(rows) <= 8 else 8)
        lower.margins(y=0.25)
        upper.set(ylabel=called, ylim=(0, 1.02), xlim=(start, 1))
        lower.set(xlabel=what, ylabel="labels of texts" if decisions else "rows")
        lower.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        figure.legend(handles=[bars, points, diagonal], loc="outside upper center")


def draw_coverage(points: list[dict], path: Path) -> None:
    """Accuracy of a model that answers only its most confident rows, over the share of rows that it answers."""
    rising = {round(50 * point["coverage"]): point for point in reversed(points)}.values()  # as near as labels can be
    keys = ("coverage", "accuracy", "low", "high", "threshold")
    shares, accuracies, lows, highs, thresholds = ([point[key] for point in rising] for key in keys)
    left = min([*shares, 0.95])
    with _figure(path, _WIDTH, 4.7) as (_, axes):
        axes.fill_between(shares, lows, highs, color=_SKY, alpha=0.35, linewidth=0, label="95 % interval")
        axes.plot(shares, accuracies, label="accuracy")
        axes.set(xlabel="coverage: share of rows that are answered", ylabel="accuracy on the answered rows")
        axes.xaxis.set_major_formatter(PercentFormatter(1, 0))
        axes.set(xlim=(left - 0.03, 1.03), ylim=(max(0, min([*lows, 0.95]) - 0.02), 1.005))
        axes.legend(loc="lower left")
        above = axes.secondary_xaxis("top")
        above.set_xticks(shares, map("{:.3f}".format, thresholds), rotation=90)
        above.set_xlabel("confidence to ask for (lowest that is answered)")


def draw_lengths(lengths: dict[str, list[int] | np.ndarray], max_length: int | None, path: Path) -> None:
    """Histogram of tokens a text for each split, and where `max_length` cuts a text or begins its second window.

    The longest 0.5 % stand in the last bar. Where some are over 8 times as long as most, the axis is logarithmic.
    """
    splits = {name: np.asarray(values) for name, values in lengths.items() if len(values)}
    tail = any(values.max() > _TAIL * max(np.median(values), 1) for values in splits.values())
    top = max(int(np.quantile(values, 0.995, method="higher")) for values in splits.values())
    width = max(1, -(-top // 40))
    edges = np.unique(np.geomspace(1, top + 1, 41).round()) if tail else np.arange(0, top + 2 * width, width)
    with _figure(path, _WIDTH, 4.4) as (figure, axes):
        for (name, values), dashes in zip(splits.items(), _LINES):
            label = f"{name}: {len(values):,} texts, median {np.median(values):.0f}"
            if max_length is not None:
                label += f", {np.mean(values > max_length):.1%} over {max_length:,}"
            weights, inside = np.full(len(values), 1 / len(values)), np.minimum(values, edges[-1] - 0.5)
            axes.hist(inside, edges, weights=weights, histtype="step", linewidth=1.8, linestyle=dashes, label=label)
        right = edges[-1]
        if max_length is not None and max_length <= 4 * top:
            axes.axvline(max_length, color=_RED, linewidth=1.5, label=f"max_length {max_length:,}")
            right = max(right, max_length * 1.04)
        bars = "logarithmic" if tail else f"bars of {width:,}"
        if any(values.max() >= edges[-1] for values in splits.values()):
            bars += ", the last with all longer texts"
        axes.set(xlabel=f"tokens a text ({bars})", ylabel="share of the split's texts")
        axes.set(xscale="log" if tail else "linear", xlim=(int(tail), right))
        if tail:
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        figure.legend(loc="outside upper center")


def draw_predictions(truth: np.ndarray, predictions: np.ndarray, name: str, path: Path) -> None:
    """Predicted over true numbers, a point a row, with the line where both are equal; many points lie as counts."""
    ends = [min(truth.min(), predictions.min()), max(truth.max(), predictions.max())]
    with _figure(path, _WIDTH, 5.4) as (figure, axes):
        if len(truth) > _POINTS:
            found = axes.hexbin(truth, predictions, gridsize=45, norm=PowerNorm(0.5), mincnt=1, cmap="Blues")
            figure.colorbar(found, ax=axes).set_label("rows")
        else:
            axes.plot(truth, predictions, "o", color=_BLUE, alpha=0.5, markeredgewidth=0)
        axes.plot(ends, ends, "--", color=_GREY, marker="", label="predicted as true")
        axes.set(xlabel=f"true {name}", ylabel=f"predicted {name}")
        axes.legend()


def draw_shares(shares: dict[str, dict[str, float]], path: Path) -> None:
    """Share, from 0 to 1, of each label in each split; of more than 40 labels the most frequent."""
    _draw_bars(shares, path, "{:.1%}".format, xlabel="share of the split's rows", ylabel="label")


def _draw_bars(
    groups: dict[str, dict[str, float]], path: Path, write: Callable[[float], str], *, xlabel: str, ylabel: str
) -> None:
    """A bar for each name in each group, with its number where there are few names; it ends at -1."""
    names = list(dict.fromkeys(name for values in groups.values() for name in values))
    lengths = np.array([[values.get(name, 0) for name in names] for values in groups.values()])  # [groups, names]
    shown = np.sort(np.argsort(-lengths.max(0), kind="stable")[:_SHOWN_BARS])
    few, thick = len(shown) <= 7, 0.8 / len(groups)
    with _figure(path, _WIDTH, 1.5 + max(len(shown), 2) * (0.55 if few else 0.42)) as (figure, axes):
        for place, (group, row) in enumerate(zip(groups, lengths[:, shown])):
            places = np.arange(len(shown)) + thick * (place - (len(groups) - 1) / 2)
            hatch = (None, "//", "..")[place % 3]
            bars = axes.barh(places, np.maximum(row, -1), thick, hatch=hatch, ec="white", label=group)
            if few:
                axes.bar_label(bars, list(map(write, row)), padding=3, fontsize=10.5)
        axes.set_yticks(range(len(shown)), np.array(_written(names))[shown])
        axes.invert_yaxis()
        axes.margins(x=0.12, y=0.02)
        if len(shown) < len(names):
            ylabel += f", the {len(shown)} most frequent of {len(names)}"
        lowest = max(lengths.min(), -1)
        axes.set(xlabel=xlabel, ylabel=ylabel, xlim=(lowest - 0.35 if lowest < 0 else 0, None))  # room for its number
        if "%" in write(0):
            axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        figure.legend(loc="outside upper center", ncols=len(groups))


def draw_arms(arms: list[dict], measure: str, path: Path) -> None:
    """The `mean` of each arm with its interval `low` to `high`, beside the `values` of its runs."""
    with _figure(path, 2 + 1.4 * len(arms), 4) as (_, axes):
        _error_bars(axes, range(len(arms)), arms, fmt="s", color=_BLUE, capsize=6, label="mean, 95 % interval")
        runs = [(place + 0.15, value) for place, arm in enumerate(arms) for value in arm["values"]]
        axes.plot(*zip(*runs), "o", color=_SKY, label="a run")
        axes.set(ylabel=f"{measure} on the reported split", xlim=(-0.5, len(arms) - 0.5))
        axes.set_xticks(range(len(arms)), _written([arm["name"] for arm in arms]))
        axes.legend()


def draw_growth(sizes: list[dict], path: Path) -> None:
    """The score of `read_growth` over the training rows, with its intervals, and those of simple models."""
    rows = [size["rows"] for size in sizes]
    with _figure(path, _WIDTH, 4) as (_, axes):
        _error_bars(axes, rows, sizes, capsize=5, label="this encoder, 95 % interval")
        for name in dict.fromkeys(name for size in sizes for name in size["beside"]):
            axes.plot(rows, [size["beside"].get(name, np.nan) for size in sizes], label=name)
        axes.set(xscale="log", xlabel="training rows", ylabel=f"{sizes[0]['measure']} of the reported rows")
        axes.set_xticks(rows, [f"{count:,}" for count in rows])
        axes.minorticks_off()
        axes.legend()


def draw_search(trials: list[dict], importance: dict[str, float], metric: str, path: Path, *, rising: bool) -> None:
    """The `score` of each trial that has one, by its `number` and `state`, the best so far, and what knobs weigh."""
    scored = pd.DataFrame(trials).dropna(subset="score")
    complete, pruned = (scored[scored["state"] == state] for state in ("complete", "pruned"))
    parts = {"ncols": 2, "width_ratios": [3, 2]} if importance else {}
    with _figure(path, 11 if importance else _WIDTH, 4.4, **parts) as (figure, axes):
        left, right = axes if importance else (axes, None)
        best = complete["score"].cummax() if rising else complete["score"].cummin()
        left.step(complete["number"], best, where="post", color=_GREY, marker="", linestyle="--", label="best so far")
        left.plot("number", "score", "o", data=complete, color=_BLUE, label="to its end")
        left.plot("number", "score", "v", data=pruned, color=_SKY, label="cut short")
        first = scored[scored["defaults"]]
        left.plot("number", "score", "s", data=first, color=_RED, markersize=8, label="the recipe's defaults")
        left.xaxis.set_major_locator(MaxNLocator(integer=True))
        left.set(xlabel="trial", ylabel=f"{metric.replace('_', ' ')} on the selection rows")
        figure.legend(loc="outside upper left", ncols=4)
        if right is not None:
            bars = right.barh([*importance], [*importance.values()], color=_BLUE)
            right.bar_label(bars, fmt="{:.0%}", padding=3, fontsize=10.5)
            right.invert_yaxis()
            right.margins(x=0.15)
            right.xaxis.set_major_formatter(PercentFormatter(1, 0))
            right.set(xlabel="importance")


def _error_bars(axes: Axes, places: list[int] | range, rows: list[dict], **looks) -> None:
    means, lows, highs = (np.array([row[key] for row in rows]) for key in ("mean", "low", "high"))
    axes.errorbar(places, means, [means - lows, highs - means], **looks)


def draw_arm_curves(histories: dict[str, list[list[dict]]], path: Path) -> None:
    """Loss of training and score of validation over the epochs, a colour for the runs (logs of Trainer) of an arm."""
    with _figure(path, 11, 4, ncols=2) as (_, (losses, scores)):
        for (name, logs), colour in zip(histories.items(), cycle(_COLOURS)):
            for log, label in zip_longest(logs, [name]):
                for axes, key in ((losses, "loss"), (scores, "eval_accuracy"), (scores, "eval_pearson")):
                    _line(axes, log, key, label, color=colour)
        losses.set(xlabel="epoch", ylabel="training loss", ylim=(0, None))
        scores.set(xlabel="epoch", ylabel="score on the selection rows")
        if losses.lines:
            losses.legend()


@contextmanager
def _figure(path: Path, width: float, height: float, **parts) -> Iterator[tuple[Figure, Axes | np.ndarray]]:
    """A figure in inches and its axes, saved at the end; pyplot does not know it, so there is nothing to close."""
    with matplotlib.style.context(["default", _LOOKS | {"font.family": list(_fonts())}]):
        figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
        yield figure, figure.subplots(**parts)
        figure.savefig(path)


@cache
def _fonts() -> tuple[str, ...]:
    """Matplotlib's own font, and the first of those for Chinese that is installed."""
    installed = set(font_manager.get_font_names())
    return "DejaVu Sans", *[name for name in _CJK_FONTS if name in installed][:1]


def _written(names: list[str]) -> list[str]:
    """Names as they fit on an axis: one line, 28 characters; the class's number for what no font here can write.

    >>> _written(["neg", "a name that is much longer than an axis has room for", "\\U000f0000"])
    ['neg', 'a name that is much longer…', 'class 2']
    """
    fonts = (font_manager.get_font(font_manager.findfont(name)) for name in _fonts())
    has_all = frozenset().union(*(font.get_charmap() for font in fonts)).issuperset
    lines = [" ".join(name.split()) for name in names]
    known = (line if line and has_all(map(ord, line)) else f"class {number}" for number, line in enumerate(lines))
    return [line if len(line) <= _NAME_LENGTH else line[: _NAME_LENGTH - 1].rstrip() + "…" for line in known]


def _line(axes: Axes, entries: list[dict], key: str, label: str | None, **looks) -> None:
    """A line over the epochs; with markers where there are few points, so that a single one is seen."""
    points = [(entry["epoch"], entry[key]) for entry in entries if key in entry]
    if points:
        axes.plot(*zip(*points), label=label, **({} if len(points) <= 40 else {"marker": ""}), **looks)
