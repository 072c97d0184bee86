"""Folds: every row is answered by a model that did not see it, and one model is trained on all of them."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset
from scipy.special import expit, logit, softmax

from bertcls.data.labels import label_array, label_names_of
from bertcls.layout import PREDICTIONS, RESULTS
from bertcls.metrics import fit_temperature
from bertcls.modeling import MULTI_LABEL, REGRESSION

_LEAST = 1e-12  # of a probability, whose logarithm is taken


def fold_folders(folder: Path) -> list[Path]:
    """The folders of the folds beside a run, in order."""
    found = [path for path in folder.glob("fold-*") if path.name.removeprefix("fold-").isdecimal()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("fold-")))


def chosen_epochs(folder: Path) -> float:
    """The median of the epochs that the folds chose, for the model that is trained on all rows.

    Args:
        folder: with the folders of the finished folds.
    """
    facts = [json.loads((fold / RESULTS).read_text()) for fold in fold_folders(folder)]
    return float(np.median([fact["chosen"]["epoch"] for fact in facts]))


class FoldAnswers:
    """Answers for all rows, each by the model of the fold that held it out; they are scored like a classifier's.

    A fold's probabilities are calibrated by the temperature that fits the rows of the other folds.

    Args:
        folder: with the folders of the finished folds.
        dataset: all rows, with `label` and `example_id`.
        problem_type: of the task.

    `temperature` fits the answers of all folds, for the model that is trained on all rows.

    Raises:
        FileNotFoundError: a fold is not finished.
        ValueError: a row that no fold held out.
    """

    thresholds = None

    def __init__(self, folder: Path, dataset: Dataset, *, problem_type: str):
        folds = fold_folders(folder)
        if missing := [fold.name for fold in folds if not (fold / PREDICTIONS).is_file()] or not folds:
            raise FileNotFoundError(
                f"Found no answers of {missing or 'any fold'} in {folder}; expected finished folds."
            )
        tables = [pd.read_parquet(fold / PREDICTIONS).assign(fold=number) for number, fold in enumerate(folds)]
        table = pd.concat(tables).set_index("example_id").reindex(dataset["example_id"][:])
        if table["fold"].isna().any():
            raise ValueError(
                f"Found {int(table['fold'].isna().sum())} rows that no fold in {folder} held out; expected all. Run "
                "the folds again with the same data."
            )
        self.fold_of, self.temperature = table["fold"].to_numpy().astype(int), 1.0
        if problem_type == REGRESSION:
            self.values = table["prediction"].to_numpy()[:, None]
            return
        names, labels = label_names_of(dataset), label_array(dataset)
        values = table[[f"probability_{name}" for name in names]].to_numpy().clip(_LEAST, 1 - _LEAST)
        raw, back = (logit(values), expit) if problem_type == MULTI_LABEL else (np.log(values), softmax_rows)
        self.values = np.empty_like(values)
        for number in range(len(folds)):
            held = self.fold_of == number
            self.values[held] = back(raw[held] / fit_temperature(raw[~held], labels[~held]))
        self.temperature = fit_temperature(raw, labels)

    def probabilities(self, texts: list, *, progress: bool = False) -> np.ndarray:
        """Those of all rows `[rows, num_labels]`, or values `[rows, 1]`."""
        if len(texts) != len(self.values):
            raise ValueError(f"Found {len(texts)} texts; expected the {len(self.values)} rows of the folds.")
        return self.values


def softmax_rows(logits: np.ndarray) -> np.ndarray:
    """Probabilities `[rows, classes]` of logits."""
    return softmax(logits, axis=-1)
