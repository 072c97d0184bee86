"""Would more labels help: the score by the number of training rows, beside that of simple models."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from bertcls.layout import PREDICTIONS, RESULTS
from bertcls.report.scores import row_values
from bertcls.report.statistics import mean_interval, score_with_interval

SIZES = "size-*"  # folders of the runs of --train_sizes


def read_growth(folder: str) -> list[dict]:
    """A row a size, ascending: `rows` of train, the score of the encoder, `mean` with `low` and `high`, and of others.

    `beside` has the score of every baseline. Runs of several seeds are averaged, and those of folds taken together.

    Args:
        folder: of a run with `--train_sizes`.

    Raises:
        FileNotFoundError: fewer than two finished sizes.
    """
    found = []
    for size in Path(folder).glob(SIZES):
        runs = sorted({path.parents[1] for pattern in ("", "*/") for path in size.glob(pattern + PREDICTIONS)})
        if runs:
            found.append(_size_of(runs))
    if len(found) < 2:
        raise FileNotFoundError(
            f"Found {len(found)} finished sizes in {folder}; expected two or more. Wait for the rest."
        )
    return sorted(found, key=lambda row: row["rows"])


def _size_of(runs: list[Path]) -> dict:
    facts = [json.loads((run / RESULTS).read_text(encoding="utf-8")) for run in runs]
    tables = [pd.read_parquet(run / PREDICTIONS).sort_values("example_id", ignore_index=True) for run in runs]
    values = [row_values(table) for table in tables]
    if all(run.name.startswith("fold-") for run in runs):
        values = [np.concatenate(values)]
    if len(values) == 1:
        interval = score_with_interval(values[0])
        low, high = interval["low"], interval["high"]
    else:
        low, high = mean_interval(np.array(values, dtype=float))
    names = dict.fromkeys(row["name"].partition(" (")[0] for one in facts for row in one["baselines"])
    scores = {
        name: [row["score"] for one in facts for row in one["baselines"] if row["name"].partition(" (")[0] == name]
        for name in names
    }
    rows = round(np.mean([one["task"]["rows"]["train"] for one in facts]))
    means = {name: float(np.mean(found)) for name, found in scores.items()}
    measure = facts[0]["measure"]
    values = np.array(values, dtype=float)
    return {"rows": rows, "mean": float(values.mean()), "low": low, "high": high, "beside": means} | {
        "measure": measure,
        "values": values,
    }


def describe_growth(sizes: list[dict]) -> str:
    """One sentence: what the last rows have brought, and so whether more are likely to help.

    >>> rows = [{"rows": 9 * n, "measure": "accuracy", "values": np.full((1, 9), n - 1.0)} for n in (1, 2)]
    >>> describe_growth(rows)
    'From 9 to 18 training rows the accuracy rose by 1 (1 to 1): more labels are likely to help.'
    """
    before, last = sizes[-2:]
    low, high = mean_interval(last["values"], minus=before["values"])
    change, error = float(last["values"].mean() - before["values"].mean()), "error" in last["measure"]
    better = high < 0 if error else low > 0
    worse = low > 0 if error else high < 0
    how = "more labels are likely to help" if better else "these rows cannot tell whether more labels help"
    how = "more labels like these do not help" if worse else how
    return (
        f"From {before['rows']:,} to {last['rows']:,} training rows the {last['measure']} "
        f"{'rose' if change > 0 else 'fell'} by {abs(change):.3g} ({low:.3g} to {high:.3g}): {how}."
    )
