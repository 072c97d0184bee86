"""A head that starts where a linear model on the vectors of the frozen encoder ends."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from datasets import Dataset
from scipy.optimize import minimize_scalar
from scipy.special import logit, softmax
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold
from transformers import PreTrainedModel

from bertcls.data.columns import is_missing, numbers_in
from bertcls.data.labels import label_array
from bertcls.data.splits import draw_rows
from bertcls.inference import TextClassifier, texts_of
from bertcls.modeling import MULTI_LABEL, REGRESSION
from bertcls.tokenization import WindowCollator, batches_of

_SHARPEST = 20.0  # times the logits of logistic regression with C = 1 on vectors whose mean square is 1
_TOKENS = 4096  # padded tokens of a forward pass


@dataclass(frozen=True)
class LinearHead:
    """A linear model of vectors `[rows, hidden]`: `weight` `[num_labels, hidden]`, `bias` `[num_labels]`, float64, and
    by how much each logistic regression was sharpened."""

    weight: np.ndarray
    bias: np.ndarray
    sharpness: list[float]

    def copy_to(self, model: PreTrainedModel) -> None:
        """Puts it into the classifier of a model."""
        with torch.no_grad():
            model.classifier.weight.copy_(torch.from_numpy(self.weight))
            model.classifier.bias.copy_(torch.from_numpy(self.bias))


class FrozenEncoder:
    """The encoder as it came, with the linear model that was fitted on it: a baseline.

    Of folds it reads the mean of a text's windows, whatever the run does, and learns from the rows that it is asked.
    """

    def __init__(self, classifier: TextClassifier):
        self.classifier, self.thresholds = classifier, classifier.thresholds

    def probabilities(self, rows: Dataset, fold_of: np.ndarray | None = None) -> np.ndarray:
        """Answers `[rows, num_labels]`; with `fold_of` `[rows]` each by a linear model of the rows of other folds."""
        if fold_of is None:
            return self.classifier.probabilities(texts_of(rows))
        config, labels = self.classifier.model.config, label_array(rows)
        regression, mean, scale = config.problem_type == REGRESSION, config.label_mean, config.label_scale
        vectors = self.classifier.logits_and_vectors(texts_of(rows))[1]
        labels = (labels - mean) / scale if regression else labels
        logits, options = np.zeros((len(rows), config.num_labels)), {"class_weights": config.class_weights}
        options |= {"problem_type": config.problem_type, "num_labels": config.num_labels}
        for held in (fold_of == number for number in np.unique(fold_of)):
            head = fit_linear_head(vectors[~held], labels[~held], **options)
            logits[held] = vectors[held] @ head.weight.T + head.bias
        logits = logits * scale + mean if regression else logits
        return self.classifier.to_probabilities(logits)


@torch.inference_mode()
def vectors_of(model: PreTrainedModel, dataset: Dataset, collator: WindowCollator) -> tuple[np.ndarray, np.ndarray]:
    """What the classifier of a model reads of tokenized rows, without dropout: a vector a document, or one a window
    where these vote, float32 `[vectors, hidden]`, and the row of each `[vectors]`, ascending."""
    was_training, how = model.training, model.config.window_pooling
    model.eval()
    columns = [name for name in dataset.column_names if name in collator.padding]
    documents = dataset.select_columns(columns).to_list()
    longest = [max(map(len, document["input_ids"])) for document in documents]
    vectors: list = [None] * len(documents)
    for batch in batches_of([(1, length) for length in longest], _TOKENS):
        inputs = collator([documents[row] for row in batch])
        inputs = {name: tensor.to(model.device) for name, tensor in inputs.items()}
        output = model(**inputs, return_window_logits=True)
        ends = np.cumsum([len(documents[row]["input_ids"]) for row in batch])
        for row, part in zip(batch, np.split(output.vectors.float().cpu().numpy(), ends[:-1])):
            pooled = {"mean": part.mean, "max": part.max}.get(how)
            vectors[row] = part if pooled is None else pooled(0, keepdims=True)
    model.train(was_training)
    return np.concatenate(vectors), np.repeat(np.arange(len(vectors)), list(map(len, vectors)))


def fit_linear_head(
    vectors: np.ndarray,
    labels: np.ndarray,
    *,
    problem_type: str,
    num_labels: int,
    class_weights: list | None = None,
    sharpness: list[float] | None = None,
    texts: np.ndarray | None = None,
) -> LinearHead:
    """Logistic regression, one a label where a text has several, or ridge regression of numbers.

    Vectors are centred and divided by one common scale, which folds into the weights. The L2 penalty that is right
    most often is strong, and the probabilities are unsure then: cross-validation says how much to sharpen them, where
    no `sharpness` is given.

    From vectors `[rows, hidden]` and labels: class numbers `[rows]`, 0 and 1 `[rows, num_labels]`, or numbers in units
    of the head `[rows]`. Rows with one number of `texts` `[rows]` are windows of one text, and stay together.

    >>> head = fit_linear_head(np.array([[0.0], [1.0]] * 9), np.array([0, 1] * 9), problem_type="", num_labels=2)
    >>> head.weight.shape, bool(head.weight[1] > head.weight[0])
    ((2, 1), True)
    """
    centre = vectors.mean(0, dtype=np.float64)
    centred = vectors - centre
    scale = max(float(np.sqrt(np.square(centred).sum(1).mean())), 1e-12)
    unit, weights = centred / scale, np.asarray(class_weights or [1.0] * num_labels)
    texts = np.arange(len(unit)) if texts is None else texts
    if problem_type == REGRESSION:
        fitted = RidgeCV(np.logspace(-3, 3, 13)).fit(unit, labels)
        coefficients, bias, found = np.atleast_2d(fitted.coef_), np.atleast_1d(fitted.intercept_), []
    elif problem_type == MULTI_LABEL:
        columns = zip(labels.T, weights, sharpness or [None] * num_labels)
        fits = [
            _logistic(unit, column, weight * column + 1 - column, texts, sharp) for column, weight, sharp in columns
        ]
        rows, ends, found = zip(*fits)
        coefficients, bias = np.concatenate(rows), np.concatenate(ends)
    else:
        seen = np.unique(labels)
        fitted, ends, *found = _logistic(unit, labels, weights[labels], texts, sharpness and sharpness[0])
        if len(seen) == 2:  # of two classes: logits that differ by it
            fitted, ends = np.concatenate([-fitted, fitted]) / 2, np.concatenate([-ends, ends]) / 2
        lowest = (unit @ fitted.T + ends).min() - 3  # of a class that no row has: the least probable one
        coefficients, bias = np.zeros((num_labels, unit.shape[1])), np.full(num_labels, lowest)
        coefficients[seen], bias[seen] = fitted, ends
    weight = coefficients / scale
    return LinearHead(weight, bias - weight @ centre, [*found])


def _logistic(
    unit: np.ndarray, labels: np.ndarray, weights: np.ndarray, texts: np.ndarray, sharpness: float | None
) -> tuple[np.ndarray, np.ndarray, float]:
    """Coefficients `[1 or classes, hidden]` and intercepts: as sharp as given or as held-out texts make likely."""
    first = np.unique(texts, return_index=True)[1]  # a row of each text
    seen, counts = np.unique(labels[first], return_counts=True)
    if len(seen) == 1:  # a label that all rows have, or none
        share = (np.clip(labels, 0, 1).sum() + 1) / (len(labels) + 2)
        return np.zeros((1, unit.shape[1])), logit([share]), 1.0
    model = LogisticRegression(max_iter=2000)
    if sharpness is None and (counts > 1).sum() > 1:
        often = first[np.isin(labels[first], seen[counts > 1])]  # a class's only text is never held out
        logits = np.full((len(labels), len(seen)), np.nan)  # of models that did not see the text
        folds = StratifiedKFold(min(5, counts[counts > 1].min()), shuffle=True, random_state=0)
        for _, held in folds.split(often, labels[often]):
            held = np.isin(texts, texts[often[held]])
            found = model.fit(unit[~held], labels[~held], weights[~held]).decision_function(unit[held])
            logits[held] = found if found.ndim == 2 else np.stack([-found, found], -1) / 2
        known = ~np.isnan(logits[:, 0])
        loss = partial(log_loss, labels[known], labels=seen, sample_weight=weights[known])
        sharpness = minimize_scalar(lambda times: loss(softmax(times * logits[known], -1)), bounds=(1.0, _SHARPEST)).x
    model.fit(unit, labels, weights)
    sharpness = 1.0 if sharpness is None else float(sharpness)
    return sharpness * model.coef_, sharpness * model.intercept_, sharpness


def start_head(
    model: PreTrainedModel,
    dataset: Dataset,
    collator: WindowCollator,
    *,
    before: LinearHead | None = None,
    rows: int = 2048,
    seed: int = 42,
) -> LinearHead:
    """Fits a linear model on the vectors of the encoder as it is, of at most `rows` rows, and copies it into the head.

    Linear probing before fine-tuning keeps what the encoder knows (Kumar et al., 2022). Where the encoder has learnt
    these rows meanwhile, held-out ones tell nothing any more: the head is sharpened by the root of what the one
    `before` was, which is what measurement supports (benchmarks/README.md).
    """
    dataset = dataset.select(np.flatnonzero(~is_missing(dataset, "label")))  # a student has others, too
    if len(dataset) > 10 * rows and model.config.problem_type == MULTI_LABEL:  # to stratify sets of labels takes long
        dataset = dataset.select(np.random.default_rng(seed).choice(len(dataset), 10 * rows, replace=False))
    dataset = draw_rows(dataset, max(rows, model.config.num_labels), seed=seed)
    labels, known = label_array(dataset), "example_id" in dataset.column_names
    texts = numbers_in(dataset, "example_id") if known else np.arange(len(labels))
    vectors, row_of = vectors_of(model, dataset, collator)
    config = model.config
    if config.problem_type == REGRESSION:
        labels = (labels - config.label_mean) / config.label_scale
    head = fit_linear_head(
        vectors,
        labels[row_of],
        problem_type=config.problem_type,
        num_labels=config.num_labels,
        class_weights=config.class_weights,
        sharpness=None if before is None else [value**0.5 for value in before.sharpness],
        texts=texts[row_of],
    )
    head.copy_to(model)
    return head
