"""A teacher: any trained classifier, its labels found by their names, that answers all texts once, before training."""

import inspect
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from datasets import Dataset, DatasetDict, concatenate_datasets
from datasets.fingerprint import Hasher
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from bertcls.data.columns import key_digests
from bertcls.data.labels import label_names_of, problem_type_of
from bertcls.data.load import load_splits
from bertcls.data.tables import file_format
from bertcls.inference import TEXTS_AT_A_TIME, TextClassifier, texts_of
from bertcls.modeling import (
    REGRESSION,
    SINGLE_LABEL,
    BertClsConfig,
    WindowClassifierOutput,
    load_config,
    readable_weights,
)
from bertcls.optim import encoder_parts
from bertcls.process import say
from bertcls.report.scores import answer_table
from bertcls.text import own_steps
from bertcls.together import first_of_cache
from bertcls.tokenization import load_tokenizer

ANSWERS, VECTOR = "teacher_logits", "teacher_vector"  # columns of taught rows


@dataclass(frozen=True)
class Teacher:
    """A trained classifier whose answers are learnt."""

    classifier: TextClassifier  # of one of our folders, or around a stock model
    name: str
    columns: list[int]  # of its answers, in the order of the labels of the data
    digest: str  # of its weights, tokenizer and contract

    def answer_table(self, dataset: Dataset) -> pd.DataFrame:
        """As that of `bertcls.report.scores`, by its own temperature and thresholds."""
        thresholds, columns = self.classifier.thresholds, self.columns
        probabilities = self.classifier.probabilities(texts_of(dataset))[:, columns]
        return answer_table(dataset, probabilities, thresholds and [thresholds[number] for number in columns])[0]


class _StockModel(nn.Module):
    """A stock sequence classifier, called like ours: a window's logits are its vector, their mean is the text's."""

    def __init__(self, model: PreTrainedModel, config: BertClsConfig):
        super().__init__()
        self.model, self.config = model, config
        self.names = {*inspect.signature(model.forward).parameters}  # DistilBERT's has no token types

    def forward(self, **inputs: torch.Tensor) -> WindowClassifierOutput:
        inputs = {name: tensor for name, tensor in inputs.items() if name in self.names}
        return WindowClassifierOutput(vectors=self.model(**inputs).logits.float())  # [num_windows, num_labels]

    def from_vectors(self, vectors: torch.Tensor, counts: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.stack([rows.mean(0) for rows in vectors.split(counts)]), vectors


def load_teacher(
    name_or_path: str, train: Dataset, *, student_layers: list[int] | None = None, match_vectors: str = "none"
) -> Teacher:
    """The teacher of rows like these, its labels found by their names.

    Args:
        name_or_path: a folder that a recipe saved, or a stock sequence classifier; its copy on the Hub, too.
        train: labelled rows.
        student_layers: that a student is to begin with.
        match_vectors: as in `DistillationLoss`; a stock classifier gives none.

    Raises:
        FileNotFoundError: no such model, or none of its tokenizer.
        ValueError: a model of another task, of other labels, without a classifier or without such layers.
    """
    kind, names, pairs = problem_type_of(train), label_names_of(train), "text_pair" in train.column_names
    try:
        ours = load_config(name_or_path).model_type == "bertcls"
    except FileNotFoundError as error:
        make = "python recipes/sst2_finetune.py --sample --from_scratch --output_dir runs/sample-teacher"
        raise FileNotFoundError(f"{error} The teacher is trained first; that of --sample by: {make}") from error
    classifier = TextClassifier.from_pretrained(name_or_path) if ours else _stock_classifier(name_or_path, pairs)
    config = classifier.model.config
    found, own = config.problem_type or SINGLE_LABEL, classifier.label_names
    if found != kind or kind == REGRESSION and config.num_labels != 1:
        raise ValueError(
            f"Found a teacher for {found} in {name_or_path} and data for {kind}; expected the same. Give another "
            "--teacher, or the labels that it was trained on."
        )
    if kind != REGRESSION and {*own} != {*names}:
        raise ValueError(
            f"Found the labels {', '.join(own[:10])} of the teacher {name_or_path}; expected {', '.join(names[:10])} "
            "as in the data, in any order. Give another --teacher, or correct id2label in its config.json."
        )
    if (config.pair_truncation is not None) != pairs:
        raise ValueError(
            f"Found a teacher {name_or_path} that reads {'single texts' if pairs else 'pairs'}; expected one for "
            f"{'pairs' if pairs else 'single texts'}, as the data are. Give another --teacher or --text_pair_column."
        )
    if match_vectors != "none" and not ours:
        raise ValueError(
            f"Found --match_vectors {match_vectors} with the stock classifier {name_or_path}; expected a folder that "
            "a recipe saved, whose vectors are known. Leave it out."
        )
    if student_layers:
        encoder = classifier.model.encoder if ours else classifier.model.model.base_model
        count = encoder_parts(encoder).num_layers
        if {*student_layers} - {*range(count)} or sorted({*student_layers}) != student_layers:
            raise ValueError(
                f"Found --student_layers {' '.join(map(str, student_layers))}; expected different ones of 0 to "
                f"{count - 1}, the layers of {name_or_path}, in their order. Correct them."
            )
    contract = {name: value for name, value in config.to_dict().items() if name not in ("_name_or_path", "dtype")}
    weights = [Hasher.hash(weight.cpu().numpy()) for weight in classifier.model.state_dict().values()]
    digest = Hasher.hash([contract, weights, Hasher.hash(classifier.tokenizer)])
    columns = [0] if kind == REGRESSION else [own.index(name) for name in names]
    return Teacher(classifier, name_or_path, columns, digest)


def _stock_classifier(name_or_path: str, pairs: bool) -> TextClassifier:
    tokenizer, config = load_tokenizer(name_or_path), load_config(name_or_path)
    with readable_weights(name_or_path):
        model, info = AutoModelForSequenceClassification.from_pretrained(
            name_or_path, config=config, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
        )
    if info["missing_keys"]:
        raise ValueError(
            f"Found no weights {', '.join(sorted(info['missing_keys'])[:3])} in {name_or_path}; expected a trained "
            "classifier as the teacher. Fine-tune it first, or give another --teacher."
        )
    kind = config.problem_type or (REGRESSION if config.num_labels == 1 else SINGLE_LABEL)
    contract = {"max_length": min(tokenizer.model_max_length, 512), "pair_truncation": "none" if pairs else None}
    ours = BertClsConfig(encoder=config, id2label=config.id2label, problem_type=kind, cleaning=[], **contract)
    return TextClassifier(_StockModel(model, ours), tokenizer)


def teach(
    splits: DatasetDict,
    unlabelled: Dataset | None,
    by: Teacher,
    *,
    unlabelled_file: str | None = None,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
    drop_empty: bool = False,
    match_vectors: str = "none",
) -> DatasetDict:
    """Rows of train with what the teacher answers, and behind them those without a label, whose label is null.

    The teacher reads raw text by its own contract, all windows of it, once: in a cached map, whose fingerprint is that
    of its weights and contract. An unlabelled text that stands in validation or test is left out.

    Args:
        splits: train, and validation and test with raw text.
        unlabelled: rows of train without a label.
        by: the teacher.
        unlabelled_file: more texts: a file, folder or Hub id; of a data set the split `unsupervised`, or else train.
        text_column, text_pair_column, encoding, delimiter, drop_empty: of these, as in `load_splits`.
        match_vectors: as in `DistillationLoss`.

    Returns:
        train with the columns `teacher_logits` (raw), and where they are matched `teacher_vector`; validation.
    """
    parts = [] if unlabelled is None else [unlabelled]
    if unlabelled_file is not None:
        options = {"text_pair_column": text_pair_column, "encoding": encoding, "delimiter": delimiter}
        options["text_column"] = None if file_format(unlabelled_file) == ".txt" else text_column  # which has one alone
        options |= {"labelled": False, "train_split": None, "drop_empty": drop_empty}
        rows = load_splits(unlabelled_file, **options)["train"]
        ids = -1 - np.arange(len(rows))  # no other row has them
        parts.append(rows.remove_columns("example_id").add_column("example_id", ids))
    names = [name for name in ("text", "text_pair", "example_id") if name in splits["train"].column_names]
    train = splits["train"].select_columns([*names, "label"])
    if parts:
        rows = concatenate_datasets([part.select_columns(names) for part in parts])
        kept = np.ones(len(rows), bool)
        for name in {"validation", "test"} & {*splits}:
            kept &= ~np.isin(key_digests(rows)[0], key_digests(splits[name])[0])
        kept = np.flatnonzero(kept)
        left = f"; {len(rows) - len(kept):,} that stand in other splits are left out" * (len(kept) < len(rows))
        say(f"{len(kept):,} texts without a label{left}")
        empty = pa.nulls(len(kept), train.data.schema.field("label").type)
        rows = rows.select(kept).add_column("label", empty, feature=train.features["label"])
        train = concatenate_datasets([train, rows])

    def answer(batch: dict[str, list]) -> dict:
        texts = list(zip(batch["text"], batch["text_pair"])) if "text_pair" in batch else batch["text"]
        logits, vectors = by.classifier.logits_and_vectors(texts)
        return {ANSWERS: logits[:, by.columns]} | ({} if match_vectors == "none" else {VECTOR: vectors})

    fingerprint = Hasher.hash([train._fingerprint, by.digest, by.columns, match_vectors == "none"])
    with first_of_cache():
        train = train.map(
            answer,
            batched=True,
            batch_size=TEXTS_AT_A_TIME,
            new_fingerprint=fingerprint,
            load_from_cache_file=False if own_steps(by.classifier.model.config.cleaning) else None,
            desc="The teacher answers",
        )
    return DatasetDict({"train": train} | {name: splits[name] for name in ("validation",) if name in splits})
