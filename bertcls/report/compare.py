"""Paired statistics between the prediction files of runs on the same examples."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from bertcls.layout import CHECKPOINTS, PREDICTIONS, RECORD, RESULTS
from bertcls.report.scores import as_key, row_values
from bertcls.report.statistics import accuracy_interval, paired_p_value


@dataclass(frozen=True)
class Arm:
    """One way of training: a run, or the runs of several seeds."""

    name: str  # that tells it from others
    results: list[dict]  # the scores of each run's metrics.json
    records: list[dict]  # run.json of each run, empty where it has none
    logs: list[list[dict]]  # of the Trainer of each run, empty where its checkpoints are gone
    table: pd.DataFrame  # example_id, text and label of the reported examples, the same in all runs
    right: np.ndarray  # [runs, examples], 1.0 where the prediction is right


def load_arms(folders: list[str]) -> list[Arm]:
    """Reads runs, named by as much of the ends of their paths as tells them apart; see `load_arm`."""
    paths = [Path(folder).resolve() for folder in folders]
    for length in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-length:]) for path in paths]
        if len({*names}) == len({*paths}):
            break
    return [load_arm(folder, name) for folder, name in zip(folders, names)]


def load_arm(folder: str, name: str | None = None) -> Arm:
    """Reads a run, or a folder with the runs of several seeds.

    Raises:
        FileNotFoundError: no prediction file in it.
        ValueError: runs on different examples, or of numbers.
    """
    found = sorted(Path(folder).glob(PREDICTIONS)) or sorted(Path(folder).glob(f"*/{PREDICTIONS}"))
    if not found:
        raise FileNotFoundError(
            f"No {PREDICTIONS} in {folder} or the folders in it; expected a finished run. Check the path."
        )
    runs, tables = [path.parents[1] for path in found], [pd.read_parquet(path) for path in found]
    for run, table in zip(runs[1:], tables[1:]):
        check_same_examples(tables[0], table, str(runs[0]), str(run))
    if pd.api.types.is_float_dtype(tables[0]["label"]):
        raise ValueError(f"{folder} holds a regression; expected classes, whose predictions are right or wrong.")
    order = tables[0]["example_id"]
    tables = [table.set_index("example_id").loc[order] for table in tables]
    right = [row_values(table).astype(float) for table in tables]
    results = [json.loads((run / RESULTS).read_text(encoding="utf-8"))["scores"] for run in runs]
    records = [json.loads(path.read_text()) if (path := run / RECORD).is_file() else {} for run in runs]
    table = tables[0].filter(["text", "text_pair", "label"]).reset_index()
    logs = [_log_of(run) for run in runs]
    return Arm(name or Path(folder).resolve().name, results, records, logs, table, np.array(right))


def _log_of(run: Path) -> list[dict]:
    states = sorted(run.glob(f"{CHECKPOINTS}/checkpoint-*/trainer_state.json"), key=lambda path: path.stat().st_mtime)
    return json.loads(states[-1].read_text())["log_history"] if states else []


def check_same_examples(one: pd.DataFrame, other: pd.DataFrame, name: str, other_name: str) -> None:
    """Refuses to compare scores of different examples.

    Raises:
        ValueError: other ids, texts or labels.
    """
    one, other = (
        table.sort_values("example_id", ignore_index=True).filter(["example_id", "text", "text_pair", "label"])
        for table in (one, other)
    )
    what = f"{len(one)} and {len(other)} examples, {one['example_id'].isin(other['example_id']).sum()} in common"
    same = one["example_id"].equals(other["example_id"])
    if same:
        one, other = (table.assign(label=table["label"].map(as_key)) for table in (one, other))
        differs = (one != other.reindex(columns=one.columns)).any(axis=1)
        what, same = f"example {one['example_id'][differs.argmax()]} has another text or label", not differs.any()
    if not same:
        raise ValueError(
            f"Found runs on different examples in {name} and {other_name} ({what}); expected the same reported split. "
            "Run both on the same data with the same --split."
        )


def compare_arms(arms: list[Arm]) -> list[dict]:
    """Each arm beside the first: difference of the mean accuracies, its interval, and whether these data can tell.

    With one run each the p-value is McNemar's exact one, which says nothing about other seeds; with several it is left
    out and the interval decides. With more than two arms intervals and levels are Bonferroni's, so that all statements
    together hold at 95 %.

    Raises:
        ValueError: arms on different examples, or fewer than two.
    """
    if len(arms) < 2:
        raise ValueError(f"Found {len(arms)} run; expected at least two to compare. Name another folder.")
    first, level, rows = arms[0], 0.05 / (len(arms) - 1), []
    for arm in arms[1:]:
        check_same_examples(first.table, arm.table, first.name, arm.name)
        right = arm.right[:, pd.Index(arm.table["example_id"]).get_indexer(first.table["example_id"])]
        low, high = accuracy_interval(right, minus=first.right, confidence=1 - level)
        lone = len(first.right) == len(right) == 1
        p_value = paired_p_value(first.right[0] == 1, right[0] == 1) if lone else None
        row = {"name": arm.name, "difference": float(right.mean() - first.right.mean()), "low": low, "high": high}
        rows.append(row | {"p_value": p_value, "differs": p_value < level if lone else not low <= 0 <= high})
    return rows


def describe_differences(arms: list[Arm], rows: list[dict]) -> str:
    """One sentence for each arm beside the first."""
    sentences = []
    for row in rows:
        points = f"{100 * row['difference']:+.1f} points ({100 * row['low']:+.1f} to {100 * row['high']:+.1f})"
        better, worse = (row["name"], arms[0].name) if row["difference"] > 0 else (arms[0].name, row["name"])
        if row["differs"]:
            sentences.append(f"{better} is better than {worse}: {row['name']} has {points}.")
        else:
            sentences.append(f"These data cannot tell {row['name']} from {arms[0].name}: {points}.")
    if any(row["differs"] and row["p_value"] is not None for row in rows):
        sentences.append("That is of these runs: what another seed changes is seen with several (--seeds 1 2 3).")
    return " ".join(sentences)
