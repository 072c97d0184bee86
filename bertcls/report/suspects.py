"""Rows whose label is probably wrong, by the answers of models that did not see them."""

from pathlib import Path

import numpy as np
import pandas as pd

_SUSPECTS = "suspects.csv"


def rank_suspects(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Rows in the order in which their labels should be looked at again.

    By the probability of the given label less that of the best other one, each beside what rows with that label get
    on average, as confident learning does (Northcutt et al., 2021).

    Args:
        probabilities: `[rows, num_labels]`, of models that were not trained on the row.
        labels: class numbers `[rows]`.

    >>> rank_suspects(np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]]), np.array([0, 0, 1])).tolist()
    [1, 2, 0]
    """
    rows = np.arange(len(labels))
    usual = np.array([probabilities[labels == number, number].mean() for number in range(probabilities.shape[1])])
    beside = probabilities - np.nan_to_num(usual) + usual[np.isfinite(usual)].max(initial=0.0)
    given = beside[rows, labels]
    others = beside.copy()
    others[rows, labels] = -np.inf
    return np.argsort(given - others.max(-1), kind="stable")


def write_suspects(table: pd.DataFrame, names: list[str], folder: Path) -> int:
    """Writes `suspects.csv`: the rows that are answered otherwise than labelled, the likeliest wrong labels first.

    Args:
        table: of predictions, with `label`, `prediction` and `probability_<name>`.
        names: of the classes.
        folder: of the report.

    Returns:
        the number of rows in it.
    """
    number = {name: place for place, name in enumerate(names)}
    probabilities = table[[f"probability_{name}" for name in names]].to_numpy()
    order = rank_suspects(probabilities, table["label"].map(number).to_numpy())
    ranked = table.iloc[order]
    ranked = ranked[ranked["label"] != ranked["prediction"]]
    kept = [name for name in ranked.columns if not name.startswith("probability_")]
    own, answered = (
        [row[f"probability_{row[which]}"] for _, row in ranked.iterrows()] for which in ("label", "prediction")
    )
    ranked[kept].assign(probability_of_label=own, probability_of_prediction=answered).to_csv(
        folder / _SUSPECTS, index=False
    )
    return len(ranked)
