"""Folds: every row is answered by a model that did not see it, and so rows are found whose label is probably wrong."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset
from scipy.special import expit, logit, softmax

from bertcls.data.labels import label_array, label_names_of
from bertcls.layout import PREDICTIONS, RESULTS
from bertcls.metrics import fit_temperature
from bertcls.modeling import MULTI_LABEL, REGRESSION
from bertcls.process import read_json
from bertcls.report.formats import as_cell

_LEAST = 1e-12  # of a probability, whose logarithm is taken


def as_folds_chose(folder: Path, folds: int) -> list[str]:
    """Options of the model trained on all rows: contrastive steps and epochs of the middle one of the folds in a
    folder, which are finished, those without such steps last."""
    chosen = [read_json(folder / f"fold-{number}" / RESULTS)["chosen"] for number in range(1, folds + 1)]
    ways = sorted((one["contrastive_steps"] == 0, one["epoch"], one["contrastive_steps"]) for one in chosen)
    _, epochs, steps = ways[folds // 2]
    return ["--num_train_epochs", f"{epochs:g}", *(["--contrastive_steps", f"{steps:.0f}"] if steps else [])]


class FoldAnswers:
    """Answers for all rows, each by the model of the fold that held it out; they are scored like a classifier's.

    A fold's logits are calibrated by the temperature that fits the rows of the other folds, in place of its own.
    `temperature` fits the answers of all folds, for the model that is trained on all rows; `folder` holds theirs,
    `dataset` all rows.

    Raises:
        FileNotFoundError: a fold is not finished.
        ValueError: a row that no fold held out.
    """

    thresholds = None

    def __init__(self, folder: Path, dataset: Dataset, *, folds: int, problem_type: str):
        paths = [folder / f"fold-{number}" / PREDICTIONS for number in range(1, folds + 1)]
        if missing := [str(path) for path in paths if not path.is_file()]:
            raise FileNotFoundError(
                f"Found no {missing[0]}; expected the answers of {folds} finished folds. Run them."
            )
        tables = [pd.read_parquet(path).assign(fold=number) for number, path in enumerate(paths)]
        table = pd.concat(tables).set_index("example_id").reindex(dataset["example_id"][:])
        if lost := int(table["fold"].isna().sum()):
            raise ValueError(
                f"Found {lost} rows that no fold in {folder} held out; expected all. Run the folds again with the "
                "same data."
            )
        names, labels = label_names_of(dataset), label_array(dataset)
        given = {name: dataset[name][:] for name in ("text", "text_pair") if name in dataset.column_names}
        if labels.ndim == 1:
            given["label"] = labels.tolist() if problem_type == REGRESSION else [names[label] for label in labels]
        if other := [name for name, cells in given.items() if table[name].tolist() != cells]:
            raise ValueError(
                f"Found another {other[0]} in the folds of {folder} than in the data; expected the same. Run them "
                "again with --overwrite_output."
            )
        self.fold_of, self.temperature = table["fold"].to_numpy().astype(int), 1.0
        if problem_type == REGRESSION:
            self.values = table["prediction"].to_numpy()[:, None]
            return
        columns = [f"probability_{name}" for name in names]
        values = table[columns].to_numpy().clip(_LEAST, 1 - _LEAST)
        to_logits, back = (logit, expit) if problem_type == MULTI_LABEL else (np.log, partial(softmax, axis=-1))
        facts = [read_json(folder / f"fold-{number}" / RESULTS) for number in range(1, folds + 1)]
        own = np.array([fact["model"]["contract"]["temperature"] for fact in facts])  # by which they were divided
        raw, self.values = to_logits(values) * own[self.fold_of, None], np.empty_like(values)
        for number in range(folds):
            held = self.fold_of == number
            self.values[held] = back(raw[held] / fit_temperature(raw[~held], labels[~held]))
        self.temperature = fit_temperature(raw, labels)

    def probabilities(self, texts: list, *, progress: bool = False) -> np.ndarray:
        """Those of all rows `[rows, num_labels]`, or values `[rows, 1]`, which are known without the texts."""
        return self.values


def rank_suspects(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Rows in the order in which their labels, class numbers `[rows]`, should be looked at again.

    By the probability `[rows, num_labels]` of the given label less that of the best other one, each beside what rows
    with that label get on average, as confident learning does (Northcutt et al., 2021).

    >>> rank_suspects(np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]]), np.array([0, 0, 1])).tolist()
    [1, 2, 0]
    """
    rows, classes = np.arange(len(labels)), range(probabilities.shape[1])
    usual = pd.Series(probabilities[rows, labels]).groupby(labels).mean().reindex(classes, fill_value=0.0)
    beside = probabilities - usual.to_numpy()
    given = beside[rows, labels]
    beside[rows, labels] = -np.inf
    return np.argsort(given - beside.max(-1), kind="stable")


def write_suspects(table: pd.DataFrame, names: list[str], folder: Path) -> int:
    """Writes `suspects.csv`: the rows that are answered otherwise than labelled, the likeliest wrong labels first.

    From a table of predictions by models that were not trained on the row; gives the number of rows in the file.
    """
    columns = [f"probability_{name}" for name in names]
    probabilities, rows = table[columns].to_numpy(), np.arange(len(table))
    labels, answers = (pd.Index(names).get_indexer(table[which]) for which in ("label", "prediction"))
    shown = table.drop(columns=columns).assign(
        probability_of_label=probabilities[rows, labels], probability_of_prediction=probabilities[rows, answers]
    )
    ranked = shown.iloc[rank_suspects(probabilities, labels)].query("label != prediction")
    ranked.map(as_cell).to_csv(folder / "suspects.csv", index=False)
    return len(ranked)
