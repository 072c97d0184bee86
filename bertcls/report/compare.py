"""Paired statistics between the prediction files of runs on the same examples."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from bertcls.layout import PREDICTIONS, RECORD, RESULTS
from bertcls.report.statistics import accuracy_interval, mcnemar


@dataclass(frozen=True)
class Arm:
    """One way of training: a run, or the runs of several seeds.

    Args:
        name: that tells it from others.
        results: the scores of each run's `metrics.json`.
        records: `run.json` of each run, empty where it has none.
        table: `example_id`, `text` and `label` of the reported examples, the same in all runs.
        right: `[runs, examples]`, 1.0 where the prediction is the label (of several labels: all of them).
    """

    name: str
    results: list[dict]
    records: list[dict]
    table: pd.DataFrame
    right: np.ndarray


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

    Args:
        folder: of the run, or with their folders.
        name: of the arm; `None`: that of the folder.

    Raises:
        FileNotFoundError: no prediction file in it.
        ValueError: runs on different examples, or of numbers.
    """
    found = sorted(Path(folder).glob(PREDICTIONS)) or sorted(Path(folder).glob(f"*/{PREDICTIONS}"))
    if not found:
        raise FileNotFoundError(
            f"No {PREDICTIONS} in {folder} or the folders in it; expected a finished run. Check the path."
        )
    tables = [pd.read_parquet(path) for path in found]
    for path, table in zip(found[1:], tables[1:]):
        check_same_examples(tables[0], table, str(found[0].parents[1]), str(path.parents[1]))
    if pd.api.types.is_float_dtype(tables[0]["label"]):
        raise ValueError(f"{folder} holds a regression; expected classes, whose predictions are right or wrong.")
    order = tables[0]["example_id"]
    tables = [table.set_index("example_id").loc[order] for table in tables]
    right = [[_key(a) == _key(b) for a, b in zip(table["label"], table["prediction"])] for table in tables]
    folders = [path.parents[1] for path in found]
    results = [json.loads((folder / RESULTS).read_text())["scores"] for folder in folders]
    records = [folder / RECORD for folder in folders]
    records = [json.loads(path.read_text()) if path.is_file() else {} for path in records]
    columns = [name for name in ("text", "text_pair", "label") if name in tables[0]]
    table, right = tables[0][columns].reset_index(), np.array(right, dtype=np.float64)
    return Arm(name or Path(folder).resolve().name, results, records, table, right)


def _key(label) -> str | tuple:
    return label if isinstance(label, str) else tuple(label)


def check_same_examples(one: pd.DataFrame, other: pd.DataFrame, name: str, other_name: str) -> None:
    """Refuses to compare scores of different examples.

    Raises:
        ValueError: other ids, texts or labels.
    """
    one, other = (table.sort_values("example_id", ignore_index=True) for table in (one, other))
    same_ids = one["example_id"].equals(other["example_id"])
    differing = None
    if same_ids:
        texts, others = (table.get("text_pair", table["text"]) for table in (one, other))
        differing = next(
            (
                row
                for row in range(len(one))
                if one["text"][row] != other["text"][row]
                or texts[row] != others[row]
                or _key(one["label"][row]) != _key(other["label"][row])
            ),
            None,
        )
    if not same_ids or differing is not None:
        common = len({*one["example_id"]} & {*other["example_id"]})
        what = f"{len(one)} and {len(other)} examples, {common} in common"
        if same_ids:
            what = f"example {one['example_id'][differing]} has another text or label"
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
    first, level = arms[0], 0.05 / (len(arms) - 1)
    rows = []
    for arm in arms[1:]:
        check_same_examples(first.table, arm.table, first.name, arm.name)
        order = pd.Index(arm.table["example_id"]).get_indexer(first.table["example_id"])
        right = arm.right[:, order]
        low, high = accuracy_interval(right, minus=first.right, confidence=1 - level)
        p_value = mcnemar(first.right[0], right[0]) if len(first.right) == len(right) == 1 else None
        differs = p_value < level if p_value is not None else not low <= 0 <= high
        rows.append(
            {
                "name": arm.name,
                "difference": float(right.mean() - first.right.mean()),
                "low": low,
                "high": high,
                "p_value": p_value,
                "differs": bool(differs),
            }
        )
    return rows


def verdict(arms: list[Arm], rows: list[dict]) -> str:
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
