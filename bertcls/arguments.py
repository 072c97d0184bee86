"""Command-line arguments: those of all recipes, and how they meet `TrainingArguments`."""

import argparse
import difflib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

import torch
from accelerate.utils import broadcast_object_list, str_to_bool
from transformers import HfArgumentParser, TrainingArguments

from bertcls import checkpoints
from bertcls.augmentation import check_methods
from bertcls.checkpoints import CHECKPOINTS, newest_complete, why_incomplete
from bertcls.process import LOCK, lock_folder, refuse_inside, use_cores
from bertcls.text import check_steps

_LAST = "last"  # --resume_from_checkpoint without a value


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


# Ours in place of Trainer's, each because it is faster or loses nothing.
_COMMON_DEFAULTS = {
    "eval_strategy": "epoch",
    "metric_for_best_model": "accuracy",
    "save_total_limit": 2,  # the best and the last
    "train_sampling_strategy": "group_by_length",
    "remove_unused_columns": False,  # the collator reads example_id, the sampler length
    "logging_steps": 0.05,  # share of all steps
    "logging_nan_inf_filter": False,  # which waits for the device at each step, and hides a NaN: see StopAtNonFinite
    "ddp_broadcast_buffers": False,  # no buffer changes in training
    "ddp_timeout": 30 * 24 * 3600,  # seconds: with --seeds the others wait while rank 0 reports
    "hub_private_repo": True,
}

Arguments = TypeVar("Arguments", bound=TextArguments)
Options = TypeVar("Options")


class _Parser(HfArgumentParser):
    def error(self, message: str):
        raise ValueError(f"{message} (--help lists all options)")


def parse(
    arguments_class: type[Arguments],
    argv: list[str] | None = None,
    *,
    defaults: dict,
    sample_defaults: dict | None = None,
    description: str | None = None,
    without: tuple[str, ...] = (),
) -> tuple[Arguments, TrainingArguments]:
    """Command line to arguments. What the command line says wins over the recipe's defaults, and these over the rest.

    The defaults that hang together follow what is given: saving follows evaluation, and without evaluation there is no
    choice of the best model; bf16 is on where it is native; the CPU is used where there is no accelerator.

    Args:
        arguments_class: `TextArguments`, `RecipeArguments` or a subclass.
        argv: words of the command line; `None` takes those of the process.
        defaults: of this recipe, for both classes.
        sample_defaults: on top of them with `--sample`.
        description: shown by `--help`.
        without: options that have no effect in this recipe, and are refused.

    Returns:
        the recipe's arguments, with `run_dir` set to the folder of the run, and `TrainingArguments`, whose
        `output_dir` is the folder of the checkpoints in it.

    Raises:
        ValueError: an unknown, abbreviated or contradictory option, or several GPUs in one process.
        FileExistsError: an output folder that is not empty.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = _Parser((arguments_class, TrainingArguments), description=description, allow_abbrev=False)
    for action in parser._actions:
        if action.dest == "resume_from_checkpoint":
            action.nargs, action.const = "?", _LAST
        if action.dest in without:
            action.help = argparse.SUPPRESS
    given = {word.split("=")[0].lstrip("-").replace("-", "_") for word in argv if word.startswith("--")}
    if nothing := given & set(without):
        raise ValueError(
            f"Found the option --{min(nothing)}, which has no effect in this recipe; expected it left out. Leave it "
            "out, or use recipes/csv_finetune.py."
        )
    parser.set_defaults(**_COMMON_DEFAULTS)
    parser.set_defaults(**defaults)
    if parser.parse_known_args(argv)[0].sample:
        defaults = {**defaults, **(sample_defaults or {})}
        parser.set_defaults(**defaults)
    parser.set_defaults(**_dependent_defaults(parser.parse_known_args(argv)[0], given | set(defaults)))
    args, training_args, extra = parser.parse_args_into_dataclasses(
        argv, return_remaining_strings=True, look_for_args_file=False
    )
    _refuse_unknown(parser, extra)
    _check(args, training_args, given)
    if hasattr(args, "language") and "language" not in given and {"dataset_name", "train_file"} & given:
        args.language = None  # what the recipe says is of its own data
    if training_args.push_to_hub:  # Trainer would push every save, unverified, and write the token into checkpoints
        args.hub = {
            "repo_id": training_args.hub_model_id,
            "token": training_args.hub_token,
            "private": training_args.hub_private_repo,
            "revision": training_args.hub_revision,
        }
    training_args.push_to_hub, training_args.hub_token = False, None
    if training_args.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy"):  # whose own default is "min"
        mode = "max" if training_args.greater_is_better else "min"
        training_args.lr_scheduler_kwargs = {"mode": mode} | (training_args.lr_scheduler_kwargs or {})
    training_args.label_names = ["labels", "example_ids"]
    if training_args.world_size > 1:
        if "accelerator_config" not in given:
            training_args.accelerator_config.use_seedable_sampler = False  # else length grouping drops examples
        if training_args.ddp_find_unused_parameters is None:
            training_args.ddp_find_unused_parameters = False
    if training_args.device.type == "cpu":
        use_cores(args.cpu_threads)
    _choose_output_dir(args, training_args, named="output_dir" in given)
    args.started = time.time()
    if training_args.device.type not in ("cpu", "mps"):
        torch.accelerator.reset_peak_memory_stats()  # of an earlier one of --seeds
    return args, training_args


def parse_options(arguments_class: type[Options], argv: list[str] | None = None, *, description: str) -> Options:
    """The command line of a program that trains nothing.

    Args:
        arguments_class: a dataclass of its options.
        argv: words of the command line; `None` takes those of the process.
        description: shown by `--help`.

    Raises:
        ValueError: an unknown or abbreviated option, or a value of another type.
    """
    parser = _Parser(
        arguments_class,
        description=description,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _refuse_unknown(parser, parser.parse_known_args(argv)[1])
    return parser.parse_args_into_dataclasses(argv, look_for_args_file=False)[0]


def _refuse_unknown(parser: argparse.ArgumentParser, extra: list[str]) -> None:
    if extra:
        options = [option for action in parser._actions for option in action.option_strings]
        close = difflib.get_close_matches(extra[0].split("=")[0], options, n=1)
        raise ValueError(
            f"Found the unknown option {extra[0]}; expected one that --help lists"
            + (f", such as {close[0]}." if close else ".")
        )


def parse_runs(
    arguments_class: type[Arguments], argv: list[str] | None = None, **kwargs
) -> Iterator[tuple[Arguments, TrainingArguments]]:
    """`parse`, once for each of `--seeds`: the same options, a folder `seed-N` of its own. Without it, once.

    With `--resume_from_checkpoint` the seeds that had saved nothing yet begin anew.

    Raises:
        ValueError: as `parse`, or `--seeds` with `--seed`.
    """
    argv = sys.argv[1:] if argv is None else argv
    finder = _Parser(allow_abbrev=False, add_help=False)
    finder.add_argument("--seeds", nargs="+", type=int, default=[])
    finder.add_argument("--output_dir", default=str(_unnamed_run()))
    finder.add_argument("--resume_from_checkpoint", nargs="?", const=_LAST)
    found, rest = finder.parse_known_args(argv)
    if not found.seeds:
        yield parse(arguments_class, argv, **kwargs)
        return
    if any(word.split("=")[0] == "--seed" for word in rest):
        raise ValueError("Found --seeds with --seed; expected one of them. Leave one out.")
    for seed in found.seeds:
        folder = Path(found.output_dir, f"seed-{seed}")
        words = [*rest, "--seed", str(seed), "--output_dir", str(folder)]
        if _chosen_checkpoint(found.resume_from_checkpoint) is not None:
            begun = bool(checkpoints.checkpoints_in(folder / CHECKPOINTS))
            words += ["--resume_from_checkpoint", found.resume_from_checkpoint] if begun else ["--overwrite_output"]
        yield parse(arguments_class, words, **kwargs)


def _unnamed_run() -> Path:
    """The folder of a run that `--output_dir` does not name."""
    return Path("runs") / f"{Path(sys.argv[0]).stem}-{time.strftime('%Y%m%d-%H%M%S')}"


def _dependent_defaults(first: argparse.Namespace, given: set[str]) -> dict:
    """Defaults that depend on the machine or on other options, from a first reading of the command line.

    `given` names what the command line or the recipe sets, which is left as it is.
    """
    save_strategy = getattr(first.save_strategy, "value", first.save_strategy)
    eval_strategy = getattr(first.eval_strategy, "value", first.eval_strategy)
    if "eval_strategy" not in given and "save_strategy" in given and save_strategy in ("steps", "epoch"):
        eval_strategy = save_strategy  # the best model is chosen among the saved ones
    evaluates = eval_strategy != "no"
    resumes = _chosen_checkpoint(first.resume_from_checkpoint) is not None
    result = {
        "eval_strategy": eval_strategy,
        "eval_on_start": evaluates and not resumes,  # resuming would count it for early stopping
        "restore_callback_states_from_checkpoint": resumes,
        "load_best_model_at_end": evaluates and not ("save_strategy" in given and save_strategy == "no"),
        "metric_for_best_model": first.metric_for_best_model if evaluates else None,
    }
    if (first.metric_for_best_model or "").removeprefix("eval_") in ("rmse", "mae", "perplexity"):
        result["greater_is_better"] = first.greater_is_better or False  # Trainer knows names that end in loss only
    if "save_strategy" not in given:
        result["save_strategy"] = eval_strategy if evaluates else "epoch"
    if eval_strategy == "steps":
        saved_every = first.save_steps if "save_steps" in given else None
        result["eval_steps"] = first.eval_steps or saved_every or first.logging_steps
        result["save_steps"] = saved_every or result["eval_steps"]
    on_cpu = (
        first.use_cpu
        or not torch.accelerator.is_available()
        or str_to_bool(os.environ.get("ACCELERATE_USE_CPU", "false")) == 1
    )
    result["use_cpu"] = on_cpu
    other_precision = {"bf16", "fp16"} & given or os.environ.get("ACCELERATE_MIXED_PRECISION") in ("fp16", "fp8")
    if not other_precision:
        result["bf16"] = torch.cpu._is_avx512_bf16_supported() if on_cpu else _cuda_bf16()
    return result


def _cuda_bf16() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def _check(args: TextArguments, training_args: TrainingArguments, given: set[str]) -> None:
    """Refuses what contradicts itself, before anything is read or written."""
    if training_args.n_gpu > 1:
        raise ValueError(
            f"Found {training_args.n_gpu} GPUs in one process; expected one process a GPU, since DataParallel would "
            f"cut windows and labels apart. Run: accelerate launch --multi_gpu --num_processes {training_args.n_gpu} "
            f"{' '.join(sys.argv)}"
        )
    unusable = {
        "remove_unused_columns true": training_args.remove_unused_columns,
        "batch_eval_metrics": training_args.batch_eval_metrics,
        "eval_do_concat_batches false": not training_args.eval_do_concat_batches,
        "prediction_loss_only": training_args.prediction_loss_only,
        "label_names": "label_names" in given,
    }
    for option in (option for option, found in unusable.items() if found):
        raise ValueError(
            f"Found --{option}; expected it left out, since a recipe computes its metrics from all logits, labels and "
            "example ids of the evaluation at once. Leave it out."
        )
    for option in ("bf16_full_eval", "fp16_full_eval"):
        if getattr(training_args, option):
            raise ValueError(
                f"Found --{option}; expected it left out, since the evaluation after training would round the weights "
                "that are saved. Leave it out."
            )
    if training_args.label_smoothing_factor and getattr(args, "class_weights", "none") != "none":
        raise ValueError(
            "Found --label_smoothing_factor with --class_weights; expected one of them, since smoothing ignores the "
            "weights. Leave one out."
        )
    if training_args.eval_strategy == "no" and args.early_stopping_patience and training_args.metric_for_best_model:
        raise ValueError(
            "Found --metric_for_best_model with --eval_strategy no; expected an evaluation to choose by. Use "
            "--eval_strategy epoch."
        )
    if args.overwrite_output and _chosen_checkpoint(training_args.resume_from_checkpoint) is not None:
        raise ValueError(
            "Found --overwrite_output with --resume_from_checkpoint; expected one of them, since overwriting removes "
            "the checkpoints. Leave out --overwrite_output."
        )
    args.check()
    if {"dataset_name", "train_file"} <= given:
        raise ValueError(
            "Found --dataset_name with --train_file; expected one of them. Leave one out (--validation_file and "
            "--test_file go with either)."
        )


def _choose_output_dir(args: TextArguments, training_args: TrainingArguments, *, named: bool) -> None:
    """Makes the run's folder on rank 0 and tells the other ranks."""
    answer: list = [None, None, None]
    if training_args.process_index == 0:
        try:
            answer[:2] = _make_output_dir(args, training_args, named=named)
        except (OSError, ValueError) as error:
            answer[2] = error
    if training_args.world_size > 1:
        broadcast_object_list(answer)
    args.run_dir, training_args.resume_from_checkpoint, error = answer
    if error is not None:
        raise error
    training_args.output_dir = str(Path(args.run_dir, CHECKPOINTS))
    checkpoints.under_way = Path(training_args.output_dir)


def _make_output_dir(args: TextArguments, training_args: TrainingArguments, *, named: bool) -> tuple[str, str | None]:
    """The folder of the run, locked, and the checkpoint to resume from."""
    checkpoint = _chosen_checkpoint(training_args.resume_from_checkpoint)
    if named:
        output_dir = Path(training_args.output_dir)
    elif checkpoint is None:
        output_dir = _unnamed_run()
        while output_dir.exists():  # another run of this second
            output_dir = output_dir.with_name(output_dir.name + "-2")
    elif checkpoint == _LAST:
        raise ValueError("Found --resume_from_checkpoint without a folder; give --output_dir of the run to resume.")
    elif Path(checkpoint).resolve().parent.name == CHECKPOINTS:
        output_dir = Path(checkpoint).resolve().parent.parent
    else:
        raise ValueError(
            f"Found --resume_from_checkpoint {checkpoint}, which does not lie in a folder {CHECKPOINTS} of a run. "
            "Name the folder of the run by --output_dir."
        )
    elsewhere = False
    if checkpoint == _LAST:
        newest, skipped = newest_complete(output_dir / CHECKPOINTS)
        if newest is None:
            raise FileNotFoundError(
                f"No checkpoint to resume from in {output_dir / CHECKPOINTS}; expected a folder checkpoint-N with "
                f"complete.json{', found ' if skipped else ''}{', '.join(skipped)}. Check --output_dir, or begin anew "
                "with --overwrite_output, which removes what is there."
            )
        if skipped:
            print(f"Resuming from {newest.name}; skipped {', '.join(skipped)}.")
        checkpoint = str(newest)
    elif checkpoint is not None and (why := why_incomplete(Path(checkpoint))) is not None:
        raise FileNotFoundError(
            f"No checkpoint to resume from in {checkpoint}: {why}; expected a folder checkpoint-N with complete.json, "
            "which is written last. Check the path, or give --resume_from_checkpoint without a value to take the "
            "newest whole one."
        )
    elif checkpoint is not None:
        elsewhere = Path(checkpoint).resolve().parent != (output_dir / CHECKPOINTS).resolve()
    _refuse_harm(args, output_dir)
    if checkpoint is None or elsewhere:
        _refuse_filled(args, output_dir)
    try:
        (output_dir / CHECKPOINTS).mkdir(parents=True, exist_ok=named or checkpoint is not None)
        args.lock = lock_folder(output_dir, "--output_dir")
    except OSError as error:
        raise type(error)(
            f"The output folder {output_dir} cannot be written ({error.strerror}); expected a folder of yours. Name "
            "another --output_dir."
        ) from error
    if checkpoint is None or elsewhere:  # once more: another run may just have ended
        _refuse_filled(args, output_dir)
    return str(output_dir), checkpoint


def _refuse_filled(args: TextArguments, output_dir: Path) -> None:
    filled = any(path.is_file() and path != output_dir / LOCK for path in output_dir.rglob("*"))
    if filled and not args.overwrite_output:
        raise FileExistsError(
            f"The output folder {output_dir} is not empty; expected a new or empty one. Name another --output_dir, or "
            "give --resume_from_checkpoint or --overwrite_output."
        )


def _refuse_harm(args: TextArguments, output_dir: Path) -> None:
    """Refuses an output folder in the data, and to overwrite what the run reads."""
    names = ("dataset_name", "train_file", "validation_file", "test_file")
    data = [value for name in names if (value := getattr(args, name, None))]
    refuse_inside(output_dir, data, "--output_dir")
    read = [*data, args.model_name_or_path, getattr(args, "probes", None)] if args.overwrite_output else []
    for source in [Path(value).expanduser().resolve() for value in read if value]:
        if source == output_dir.resolve() or any(
            source.is_relative_to(path.resolve()) for path in checkpoints.removed_by_overwriting(str(output_dir))
        ):
            raise ValueError(
                f"Found --overwrite_output with {source}, which is read, in the output folder {output_dir}; expected "
                "it elsewhere, since it would be removed. Name another --output_dir."
            )


def _chosen_checkpoint(value: str | None) -> str | None:
    """What `--resume_from_checkpoint` says: a folder, `_LAST`, or nothing."""
    if value is None or value.lower() in ("false", "no", "0"):
        return None
    return _LAST if value.lower() in ("true", "yes", "1", _LAST) else value
