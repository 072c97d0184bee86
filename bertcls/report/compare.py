"""Finished runs beside one another: paired on the same examples, or by their number of training rows."""

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from pandas.api.types import is_float_dtype
from scipy.stats import mode

from bertcls.layout import CHECKPOINTS, PREDICTIONS, RECORD, RESULTS
from bertcls.modeling import REGRESSION, SINGLE_LABEL
from bertcls.process import read_json
from bertcls.report.formats import MEASURES, UNSURE, outcome
from bertcls.report.scores import row_values
from bertcls.report.statistics import mean_interval, paired_p_value, score_with_interval

SIZES = "size-*"  # folders of the runs of --train_sizes
_NO_OPTIONS = ("seed", "seeds", "output_dir", "overwrite_output", "temperature", "thresholds")  # of a way of training
_STATES = f"{CHECKPOINTS}/checkpoint-*/trainer_state.json"
_SHOWN_TEXTS = 20


@dataclass(frozen=True)
class Arm:
    """One way of training: a run, or the runs of several seeds."""

    name: str  # that tells it from others
    facts: list[dict]  # metrics.json of each run
    records: list[dict]  # run.json of each run, empty where it has none
    logs: list[list[dict]]  # of the Trainer of each run, empty where its checkpoints are gone
    options: dict[str, str]  # that all its runs share
    table: pd.DataFrame  # example_id, text, label and prediction (the most frequent one) of the reported examples
    values: np.ndarray  # [runs, examples], 1.0 where the prediction is right; of numbers how far off it is

    @property
    def regression(self) -> bool:
        return is_float_dtype(self.table["label"])

    def interval(self) -> tuple[float, float]:
        """95 % interval of the mean: for other examples, and for other seeds where it has several runs."""
        alike = (self.values == self.values[0]).all()  # seeds that answer alike tell no more than one
        if not alike or self.values.shape[1] < 2:
            return mean_interval(self.values)
        found = score_with_interval(self.values[0] if self.regression else self.values[0] == 1)
        return found["low"], found["high"]


def load_arms(folders: list[str]) -> list[Arm]:
    """Reads runs, named by as much of the ends of their paths as tells them apart; see `load_arm`."""
    paths = [Path(folder).resolve() for folder in folders]
    for length in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-length:]) for path in paths]
        if len({*names}) == len({*paths}):
            break
    return [load_arm(folder, name) for folder, name in zip(folders, names)]


def load_arm(folder: str, name: str | None = None, seeds: list[int] | None = None) -> Arm:
    """Reads a run, or a folder with the runs of several seeds, or of `seeds`; folds, which share no example, are one.

    Raises:
        FileNotFoundError: no prediction file in it.
        ValueError: runs on different examples.
    """
    places = (PREDICTIONS, f"final/{PREDICTIONS}", f"*/{PREDICTIONS}")  # a run, that of --folds, one a seed
    found = next(filter(None, (sorted(Path(folder).glob(place)) for place in places)), [])
    found = [path for path in found if not seeds or path.parts[-3] in {f"seed-{seed}" for seed in seeds}]
    if not found:
        raise FileNotFoundError(
            f"No {PREDICTIONS} in {folder} or the folders in it; expected a finished run. Check the path."
        )
    runs, tables = [path.parents[1] for path in found], [pd.read_parquet(path) for path in found]
    tables = [pd.concat(tables)] if all(run.name.startswith("fold-") for run in runs) else tables
    tables = [table.sort_values("example_id", ignore_index=True) for table in tables]
    values = [row_values(table).astype(float) for table in tables]
    tables = [table.assign(**table[["label", "prediction"]].map(_written)) for table in tables]
    for run, table in zip(runs[1:], tables[1:]):
        _check_same_examples(tables[0], table, str(runs[0]), str(run))
    table, answers = tables[0].filter(["example_id", "text", "text_pair", "label"]), [t["prediction"] for t in tables]
    answers = pd.concat(answers, axis=1)
    table["prediction"] = answers.mean(axis=1) if is_float_dtype(table["label"]) else _most_frequent(answers)
    facts = [read_json(run / RESULTS) for run in runs]
    if not all(run.name.startswith("fold-") for run in runs):
        encoders = sorted({str(one.get("model", {}).get("encoder")) for one in facts})
        used = [one["scores"].get("seed") for one in facts]
        if len(encoders) > 1 or any(used.count(seed) > 1 for seed in used if seed is not None):
            found = f"Found runs of {' and '.join(encoders) if len(encoders) > 1 else 'one seed'} in {folder}"
            raise ValueError(f"{found}; expected those of one way, by several seeds. Name each run by itself.")
    records = [read_json(path) if (path := run / RECORD).is_file() else {} for run in runs]
    options = [_options(*both) for both in zip(facts, records)]
    states = [max(run.glob(_STATES), key=lambda path: path.stat().st_mtime, default=None) for run in runs]
    return Arm(
        name=name or Path(folder).resolve().name,
        facts=facts,
        records=records,
        logs=[json.loads(state.read_text())["log_history"] if state else [] for state in states],
        options={key: value for key, value in options[0].items() if all(one.get(key) == value for one in options)},
        table=table,
        values=np.array(values),
    )


def _most_frequent(answers: pd.DataFrame) -> np.ndarray:
    """Of the answers of each row, `[rows]`; of several the first in their order."""
    codes, names = pd.factorize(answers.to_numpy().ravel(), sort=True)
    return np.asarray(names)[mode(codes.reshape(answers.shape), axis=1).mode]


def _written(answer: str | float | np.ndarray) -> str | float:
    return answer if isinstance(answer, str | float) else ", ".join(answer) or "no label"


def _options(facts: dict, record: dict) -> dict[str, str]:
    """What a run was told, and how it read that, apart from what training found."""
    said = " ".join(record.get("command", [])).split(" --")[1:]
    parts = (part.replace("=", " ", 1).partition(" ") for part in said)
    found = {flag.replace("-", "_"): value or "true" for flag, _, value in parts}
    model = facts.get("model", {})
    found |= model.get("contract", {}) | facts.get("arguments", {})
    found |= {key: model[key] for key in ("encoder", "pooling") if key in model} | facts.get("source", {})
    found |= {key: record[key] for key in ("device", "precision", "processes", "git_commit") if key in record}
    found |= {f"version of {name}": number for name, number in record.get("versions", {}).items()}
    return {key: str(value) for key, value in found.items() if key not in _NO_OPTIONS}


def _check_same_examples(one: pd.DataFrame, other: pd.DataFrame, name: str, other_name: str) -> None:
    """Refuses to compare scores of different examples: of tables sorted by `example_id`."""
    if one["example_id"].equals(other["example_id"]):
        parts = one.filter(["text", "text_pair", "label"])
        differs = (parts != other.reindex(columns=parts.columns)).any(axis=1)
        if not differs.any():
            return
        what = f"example {one['example_id'][differs.argmax()]} has another text or label"
    else:
        shared = one["example_id"].isin(other["example_id"]).sum()
        what = f"{len(one)} and {len(other)} examples, {shared} in common"
    raise ValueError(
        f"Found runs on different examples in {name} and {other_name} ({what}); expected the same reported split. "
        "Run both on the same data with the same --split."
    )


def compare_arms(arms: list[Arm]) -> list[dict]:
    """Each arm beside the first: the difference of the means, its interval, and whether it is better or worse.

    Means are of the accuracy, or of the absolute error. With one run each the p-value is that of `paired_p_value`,
    which says nothing about other seeds; with several it is left out and the interval decides. With more than two arms
    intervals and levels are Bonferroni's, so that all statements together hold at 95 %. `options` are those that
    differ, and `changed` the first of `answers_changed` texts that got another answer (of numbers those that moved
    most).

    Raises:
        ValueError: arms on different examples.
    """
    first, level, rows = arms[0], 0.05 / max(len(arms) - 1, 1), []
    for arm in arms[1:]:
        _check_same_examples(first.table, arm.table, first.name, arm.name)
        low, high = mean_interval(arm.values, minus=first.values, confidence=1 - level)
        difference, p_value = float(arm.values.mean() - first.values.mean()), None
        if len(first.values) == len(arm.values) == 1:
            p_value = paired_p_value(*(v[0] if arm.regression else v[0] == 1 for v in (first.values, arm.values)))
        decides = p_value if p_value is not None else 1.0 if low <= 0 <= high else 0.0
        both = {key: [one.options.get(key) for one in (first, arm)] for key in first.options | arm.options}
        before, after = first.table["prediction"], arm.table["prediction"]
        moved = (after - before).abs() if arm.regression else (after != before).astype(int)
        order = moved[moved > 0].sort_values(ascending=False, kind="stable").index
        shown = first.table.assign(other_prediction=after).loc[order[:_SHOWN_TEXTS]]
        row = {"name": arm.name, "difference": difference, "low": low, "high": high, "p_value": p_value}
        row["outcome"] = outcome(-difference if arm.regression else difference, decides, level=level)
        row["options"] = {key: values for key, values in both.items() if values[0] != values[1]}
        rows.append(row | {"answers_changed": len(order), "changed": shown.to_dict("records")})
    return rows


def describe_differences(arms: list[Arm], rows: list[dict]) -> str:
    """One sentence for each arm beside the first."""
    sentences, first = [], arms[0]
    for row in rows:
        ends = [row[key] for key in ("difference", "low", "high")]
        middle, low, high = (f"{end:+.3g}" if first.regression else f"{100 * end:+.1f}" for end in ends)
        by = f"{middle} {'in mean absolute error' if first.regression else 'points'} ({low} to {high})"
        told = f"{row['name']} is {row['outcome']} than {first.name}"
        told = f"These data cannot tell {row['name']} from {first.name}" if row["outcome"] == UNSURE else told
        sentences.append(f"{told}: {by}.")
    if any(row["outcome"] != UNSURE and row["p_value"] is not None for row in rows):
        sentences.append("That is of these runs: what another seed changes is seen with several (--seeds 1 2 3).")
    return " ".join(sentences)


def describe_choice(
    first: tuple[dict, Arm], best: tuple[dict, Arm], metric: str, greater_is_better: bool, *, trials: int, folds: int
) -> dict:
    """How much better the best of `trials` looked on the rows that chose it than it is, with a sentence, `said`.

    Args:
        first, best: the scores `eval_*` of a trial, and its runs on rows that no trial has seen.
        metric: that chose; where the runs have none of it, the accuracy or the mean absolute error is told.
        greater_is_better: of it.
        folds: that judged; 0: the runs have scores on the rows that chose, too, with seeds of their own.
    """
    both, name = (first, best), metric
    if not all(f"test_{metric}" in one["scores"] for _, arm in both for one in arm.facts):
        name = "mae" if first[1].regression else "accuracy"  # the metric is one of training alone
    sign = -1 if name == "mae" or (name == metric and not greater_is_better) else 1
    chose = [float(scores[f"eval_{name}"]) for scores, _ in both]
    unseen = [float(np.mean([one["scores"][f"test_{name}"] for one in arm.facts])) for _, arm in both]
    flattered = sign * ((chose[1] - unseen[1]) - (chose[0] - unseen[0]))
    said = (
        f"{best[1].name.capitalize()} had {name.replace('_', ' ')} {chose[1]:.4f} on the rows that chose it and "
        f"{unseen[1]:.4f} on rows that no trial has seen ({unseen[1] - chose[1]:+.4f}); {first[1].name} had "
        f"{chose[0]:.4f} and {unseen[0]:.4f} ({unseen[0] - chose[0]:+.4f}). "
    )
    how = f"flattered it by {flattered:.4f}" if flattered > 0 else "did not flatter it"
    said += f"So to be the best of {trials} {how}, as far as single runs tell."
    if first[1] is best[1]:
        said = f"The best of {trials} is {first[1].name}: {name.replace('_', ' ')} {chose[0]:.4f} and {unseen[0]:.4f}."
    again = [one["scores"].get(f"eval_{name}") for one in best[1].facts]
    if not folds and None not in again:
        said += f" Trained anew it has {np.mean(again):.4f} on the rows that chose it."
    said += "" if name == metric else f" The trials were judged by {metric.replace('_', ' ')}."
    return {"metric": name, "chose": chose, "unseen": unseen, "flattered": flattered, "said": said}


def read_growth(folder: str) -> list[dict]:
    """A row a size of `--train_sizes`, ascending: `rows` of train, the encoder's `mean` with `low` and `high`.

    `beside` has the mean score of every baseline, `measure` what all of them are, and `values` those of the `Arm`.

    Raises:
        FileNotFoundError: fewer than two finished sizes.
    """
    found = []
    for arm in [load_arm(str(path)) for path in Path(folder).glob(SIZES) if any(path.rglob(PREDICTIONS))]:
        low, high = arm.interval()
        simple = defaultdict(list)
        for row in (row for one in arm.facts for row in one.get("baselines", [])):
            name = row["name"].partition(" (")[0]
            simple["one answer always" if name.startswith("always answering ") else name].append(row["score"])
        means = {name: float(np.mean(scores)) for name, scores in simple.items()}
        rows = round(np.mean([one["scores"]["train_samples"] for one in arm.facts]))
        row = {"rows": rows, "mean": float(arm.values.mean()), "low": low, "high": high, "beside": means}
        measure = arm.facts[0].get("measure", MEASURES[REGRESSION if arm.regression else SINGLE_LABEL])
        found.append(row | {"measure": measure, "values": arm.values})
    if len({row["rows"] for row in found}) < 2:  # a size beyond all rows is that of all
        raise FileNotFoundError(
            f"Found {len(found)} finished sizes in {folder}; expected two or more. Wait for the rest."
        )
    return sorted({row["rows"]: row for row in found}.values(), key=lambda row: row["rows"])


def describe_growth(sizes: list[dict]) -> str:
    """One sentence: what the last rows have brought, and so whether more are likely to help.

    >>> rows = [{"rows": 9 * n, "measure": "accuracy", "values": np.full((1, 9), n - 1.0)} for n in (1, 2)]
    >>> describe_growth(rows)
    'From 9 to 18 training rows the accuracy rose by 1 (1 to 1): more labels are likely to help.'
    """
    before, last = sizes[-2:]
    low, high = mean_interval(last["values"], minus=before["values"])
    change = float(last["values"].mean() - before["values"].mean())
    how = "these rows cannot tell whether more labels help"
    if low > 0 or high < 0:
        better = (low > 0) != ("error" in last["measure"])  # of an error less is better
        how = "more labels are likely to help" if better else "more labels like these do not help"
    return (
        f"From {before['rows']:,} to {last['rows']:,} training rows the {last['measure']} "
        f"{'rose' if change > 0 else 'fell'} by {abs(change):.3g} ({low:.3g} to {high:.3g}): {how}."
    )
