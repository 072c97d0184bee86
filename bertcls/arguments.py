"""Command-line arguments: those of all recipes, and how they meet `TrainingArguments`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bertcls.data.augmentation import check_methods
from bertcls.text import check_steps


@dataclass
class TextArguments:
    """The flags that all trainings share, beside all of `TrainingArguments`."""

    sample: bool = field(
        default=False, metadata={"help": "Train a tiny model on the texts in recipes/sample: no network, one minute."}
    )
    dataset_name: str | None = field(
        default=None,
        metadata={"help": "Hub id, a file, a folder in the Hub's layout, or one with a folder per class."},
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of the data set."})
    train_file: str | None = field(
        default=None, metadata={"help": "csv, tsv, json, jsonl, parquet or txt in place of a data set."}
    )
    validation_file: str | None = field(default=None, metadata={"help": "Beside --train_file; none: held out of it."})
    encoding: str | None = field(default=None, metadata={"help": "Of the files, such as gb18030; none: detected."})
    delimiter: str | None = field(default=None, metadata={"help": "Between the cells of a csv; none: detected."})
    text_column: str | None = field(default=None, metadata={"help": "Column with the texts."})
    cleaning: list[str] = field(
        default_factory=list, metadata={"help": "Steps of bertcls.text in order, stored with the model; or none."}
    )
    model_name_or_path: str | None = field(default=None, metadata={"help": "Encoder: Hub id or local folder."})
    from_scratch: bool = field(default=False, metadata={"help": "Start the encoder from random weights."})
    max_length: int = field(default=128, metadata={"help": "Tokens per window, special tokens included."})
    attention_dropout: float | None = field(
        default=None,
        metadata={"help": "Dropout of attention weights; none: the encoder's. With 0 a CPU is faster on long texts."},
    )
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Rows drawn from train with the seed, label shares kept."}
    )
    early_stopping_patience: int = field(
        default=3,
        metadata={"help": "Evaluations without a better metric before training stops; 0: never."},
    )
    debug_nonfinite: bool = field(
        default=False, metadata={"help": "Look at every step, which is slower, and name where NaN or infinity begins."}
    )
    cpu_threads: int | None = field(
        default=None, metadata={"help": "Threads per process without an accelerator; none: cores by processes."}
    )
    overwrite_output: bool = field(default=False, metadata={"help": "Write into a folder that is not empty."})
    seeds: list[int] = field(
        default_factory=list, metadata={"help": "One run a seed, in the folders seed-N of --output_dir."}
    )
    run_dir: str = field(init=False, default="")  # what --output_dir names; Trainer's checkpoints lie below it
    started: float = field(init=False, default=0.0)  # when the command line was read, in seconds of time.time()
    hub: dict | None = field(init=False, default=None, repr=False)  # with --push_to_hub: arguments of push_folder
    lock: object = field(init=False, default=None, repr=False)  # of run_dir, on rank 0

    @property
    def source(self) -> dict:
        """The arguments of `bertcls.load_splits`."""
        names = ("train_file", "validation_file", "encoding", "delimiter", "text_column")
        return {"source": None if self.train_file else self.dataset_name, "config_name": self.dataset_config_name} | {
            name: getattr(self, name) for name in names
        }

    @property
    def training(self) -> dict:
        """The arguments of `bertcls.training_callbacks` that the command line gives."""
        return {
            "early_stopping_patience": self.early_stopping_patience,
            "debug_nonfinite": self.debug_nonfinite,
        }

    def check(self) -> None:
        """Refuses values out of range, before anything is read or written.

        Raises:
            ValueError: what was found and expected.
        """
        if self.early_stopping_patience < 0:
            raise ValueError(
                f"Found --early_stopping_patience {self.early_stopping_patience}; expected 0 (never) or more. "
                "Raise it."
            )
        for name in ("max_samples", "max_train_samples", "max_test_samples", "max_train_windows", "cpu_threads"):
            if (number := getattr(self, name, None)) is not None and number < 1:
                raise ValueError(f"Found --{name} {number}; expected at least 1. Raise it.")
        if self.seeds:
            raise ValueError("Found --seeds here; expected --seed, since this program makes one run. Use --seed.")
        if self.cleaning == ["none"]:
            self.cleaning = []
        check_steps(self.cleaning)


@dataclass
class RecipeArguments(TextArguments):
    """The flags that all fine-tuning recipes share."""

    test_file: str | None = field(default=None, metadata={"help": "Beside --train_file; none: held out of it."})
    text_pair_column: str | None = field(default=None, metadata={"help": "Column with the second texts of pairs."})
    label_column: str | None = field(default=None, metadata={"help": "Column with the labels."})
    label_delimiter: str | None = field(
        default=None, metadata={"help": "Between the labels of a cell, which makes the task multi-label."}
    )
    problem_type: Literal["single_label_classification", "multi_label_classification", "regression"] | None = field(
        default=None,
        metadata={"help": "None: lists of labels are multi-label, fractions a regression, all else classes."},
    )
    on_leak: Literal["warn", "drop", "error"] = field(
        default="warn",
        metadata={"help": "Where train texts stand in test: go on, drop them from train, or stop."},
    )
    augment: list[str] = field(
        default_factory=list,
        metadata={"help": "Altered copies of training rows: swap, delete, typo, contrast, sentiment."},
    )
    overlap: int | None = field(
        default=None, metadata={"help": "Tokens that neighbouring windows share; none: 20 %% of max_length."}
    )
    truncation: Literal["none", "head", "tail", "head_tail"] = field(
        default="none", metadata={"help": "none: read long texts whole, in windows; else which part is read."}
    )
    pair_truncation: Literal["none", "longest_first", "only_first", "only_second"] = field(
        default="none",
        metadata={"help": "none: the second text in windows, the first before each; else which one is cut."},
    )
    train_on: Literal["documents", "windows"] = field(
        default="documents",
        metadata={"help": "windows: each window of train is an example. Scores are per document."},
    )
    pooling: Literal["auto", "pooler", "cls", "mean", "max"] = field(
        default="auto", metadata={"help": "Tokens to a vector; auto: pooler where the checkpoint has one, else cls."}
    )
    window_pooling: Literal["mean", "max", "mean_probs", "vote"] = field(
        default="mean", metadata={"help": "Windows to a document."}
    )
    max_train_windows: int = field(default=8, metadata={"help": "Windows of a document used in a training step."})
    classifier_dropout: float | None = field(
        default=None, metadata={"help": "Dropout before the classifier; none: the encoder's."}
    )
    classifier_hidden_size: int | None = field(
        default=None, metadata={"help": "Units of a hidden layer in the head; none: no such layer."}
    )
    split: str | None = field(
        default=None, metadata={"help": "Join train and validation and split them anew, such as 8:1:1, stratified."}
    )
    phrases: bool = field(
        default=False,
        metadata={"help": "Rows are parts of one another, as in SST-2: hold out whole texts (without --split)."},
    )
    max_samples: int | None = field(default=None, metadata={"help": "With --split: first rows of the joined data."})
    max_test_samples: int | None = field(
        default=None, metadata={"help": "Rows drawn from the reported split, the same for every seed."}
    )
    language: str | None = field(
        default=None, metadata={"help": "Of the texts, for the model card: en, zh, multilingual."}
    )
    license: str | None = field(
        default=None,
        metadata={"help": "Of the model, for its card, in the Hub's words: apache-2.0, cc-by-4.0, other."},
    )
    probes: str | None = field(
        default=None, metadata={"help": "File of texts to ask the model, a text a line; the answers are reported."}
    )
    figures: bool = field(default=True, metadata={"help": "Draw the figures and the page of the report."})
    freeze_encoder: bool = field(default=False, metadata={"help": "Train the head alone."})
    freeze_layers: int = field(default=0, metadata={"help": "Freeze the embeddings and this many lowest layers."})
    layer_decay: float = field(default=1.0, metadata={"help": "Factor on the learning rate per layer downwards."})
    head_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the head; none: learning_rate."}
    )
    class_weights: Literal["none", "balanced"] = field(
        default="none", metadata={"help": "balanced: weigh classes inversely to their row counts."}
    )

    @property
    def source(self) -> dict:
        """The arguments of `bertcls.load_splits`."""
        names = ("test_file", "text_pair_column", "label_column", "label_delimiter", "problem_type")
        return super().source | {name: getattr(self, name) for name in names}

    @property
    def arrangement(self) -> dict:
        """The arguments of `bertcls.arrange_splits` that the command line gives."""
        return {"ratio": self.split, "max_samples": self.max_samples, "phrases": self.phrases}

    @property
    def audit(self) -> dict:
        """The arguments of `bertcls.audit_run` that the command line gives."""
        return {"max_length": self.max_length, "run_dir": self.run_dir, "on_leak": self.on_leak}

    @property
    def head(self) -> dict:
        """The arguments of `BertClsForSequenceClassification.from_encoder` that the command line gives."""
        names = ("from_scratch", "pooling", "window_pooling", "max_train_windows", "attention_dropout")
        return {name: getattr(self, name) for name in (*names, "classifier_dropout", "classifier_hidden_size")}

    @property
    def training(self) -> dict:
        """The arguments of `bertcls.training_callbacks` that the command line gives."""
        return super().training | {"layer_decay": self.layer_decay, "head_learning_rate": self.head_learning_rate}

    @property
    def report(self) -> dict:
        """The arguments of `bertcls.finish_run` that the command line gives."""
        files = [name for name in (self.train_file, self.validation_file, self.test_file) if name]
        dataset = None if self.train_file else self.dataset_name
        return {
            "run_dir": self.run_dir,
            "started": self.started,
            "encoder": self.model_name_or_path,
            "from_scratch": self.from_scratch,
            "source": {"dataset": dataset, "config": self.dataset_config_name, "files": files},
            "probes": self.probes,
            "figures": self.figures,
            "language": self.language,
            "license": self.license,
            "hub": self.hub,
        }

    def check(self) -> None:
        """Refuses values out of range and what contradicts itself, before anything is read or written.

        Raises:
            ValueError: what was found and expected.
        """
        super().check()
        check_methods(self.augment)
        if self.probes is not None and not Path(self.probes).is_file():
            raise ValueError(f"Found --probes {self.probes}; expected a text file with a text a line. Check the path.")
        if self.max_samples is not None and self.split is None:
            raise ValueError(
                "Found --max_samples without --split; it takes the first rows of train and validation joined. Add "
                "--split 8:1:1, or use --max_train_samples."
            )
