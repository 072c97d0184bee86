"""The options of the recipes: dataclasses with their defaults, what they refuse, and those of Trainer that differ."""

import inspect
import math
import os
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Literal

import torch
from accelerate.utils import str_to_bool
from transformers import Trainer, TrainingArguments, get_scheduler
from transformers.integrations import get_reporting_integration_callbacks

from bertcls.layout import NEWEST
from bertcls.text import check_steps
from bertcls.together import open_group

_REFUSED = {  # why options of Trainer cannot work here or would do nothing
    "a recipe computes its metrics from all logits, labels and example ids of the evaluation at once": (
        "remove_unused_columns batch_eval_metrics eval_do_concat_batches prediction_loss_only label_names "
        "include_for_metrics eval_use_gather_object"
    ),
    "the evaluation after training would round the weights that are saved": "bf16_full_eval fp16_full_eval",
    "--num_train_epochs 0, --eval_strategy no and --report false are what leaves a part out": "do_train do_predict",
    "the finished model alone is pushed, once it is verified": "hub_strategy hub_always_push",
    "Liger has no kernels for these encoders": "use_liger_kernel",
    "rows of the evaluation would be left out, too": "dataloader_drop_last",
    "SIGTERM saves without it": "enable_jit_checkpoint",
    "a run that goes on would see rows twice and others never": "ignore_data_skip",
    "the lengths are in the column length": "length_column_name",
    "an encoder has no cache of keys and values": "use_cache",
    "the launcher gives it": "local_rank",
}
_RANGES = {  # least and greatest value
    (0, math.inf): "num_train_epochs learning_rate weight_decay adam_epsilon max_grad_norm eval_delay "
    "neftune_noise_alpha dataloader_num_workers early_stopping_patience contrastive_steps head_learning_rate",
    (1, math.inf): "per_device_train_batch_size per_device_eval_batch_size gradient_accumulation_steps "
    "eval_accumulation_steps save_total_limit max_samples max_test_samples max_train_windows cpu_threads "
    "classifier_hidden_size",
    (0, 0.99): "attention_dropout classifier_dropout",
    (1e-9, 1): "layer_decay",
    (1e-9, math.inf): "logging_steps eval_steps save_steps",
    (0, 1): "adam_beta1 adam_beta2 label_smoothing_factor",
    (0, 2**32 - 1): "seed data_seed",
}


def _option(default, help: str):
    made = {"default_factory": default.copy} if isinstance(default, list) else {"default": default}
    return field(**made, metadata={"help": help})


@dataclass
class RunArguments(TrainingArguments):
    """`TrainingArguments` with the defaults of these recipes, each because it is faster or loses nothing.

    `None` follows from the rest: saving from evaluation, without which none is the best, 16 bits from the machine.
    """

    output_dir: str | None = _option(None, "Folder of the run; none: runs/, the program's name, date and time.")
    resume_from_checkpoint: str | None = _option(None, "Go on with a run that was stopped, or from this checkpoint.")
    push_to_hub: bool = _option(False, "Push the finished model, to a private repository.")
    num_train_epochs: float | None = _option(None, "Passes over the training rows; none: by their number.")
    eval_strategy: str | None = _option(None, "no, steps or epoch; none: as --save_strategy, else epoch.")
    save_strategy: str | None = _option(None, "no, steps, epoch or best; none: as --eval_strategy.")
    save_steps: float | None = _option(None, "Steps between saves, or their share of all; none: as --eval_steps.")
    eval_on_start: bool | None = _option(None, "Score the untrained model; none: yes, unless a run is resumed.")
    load_best_model_at_end: bool | None = _option(None, "None: yes, where models are evaluated and saved.")
    metric_for_best_model: str | None = _option(None, "None: accuracy, f1_micro of several labels, r2 of numbers.")
    restore_callback_states_from_checkpoint: bool | None = _option(None, "None: yes where a run is resumed.")
    use_cpu: bool | None = _option(None, "None: where there is no accelerator.")
    bf16: bool | None = _option(None, "Train in bf16; none: where the machine has it.")
    per_device_eval_batch_size: int = _option(128, "Texts in an evaluation step of a process.")
    save_total_limit: int | None = _option(2, "Checkpoints that are kept: the best and the last.")
    train_sampling_strategy: Literal["random", "sequential", "group_by_length", "batch_rebalance"] = _option(
        "group_by_length", "How training rows are drawn; group_by_length: texts of like length together."
    )
    remove_unused_columns: bool = _option(False, "The collator reads example_id, and the sampler length.")
    logging_steps: float = _option(0.05, "Steps between logs, or their share of all.")
    logging_nan_inf_filter: bool = _option(False, "It waits for the device at each step, and hides a NaN.")
    ddp_broadcast_buffers: bool | None = _option(False, "No buffer changes in training.")
    ddp_timeout: int = _option(600, "Seconds after which a process or a machine that is silent ends the run.")
    hub_private_repo: bool | None = _option(True, "Of a repository that is made.")
    hub_strategy: str = _option("end", "The finished model alone is pushed.")
    do_train: bool = _option(True, "Always.")
    do_eval: bool = _option(True, "False is --eval_strategy no.")
    label_names: list[str] | None = _option(["labels", "example_ids"], "What the metrics need beside the logits.")

    def __post_init__(self):
        self.epochs_by_rows = self.num_train_epochs is None and self.max_steps <= 0  # `prepare_training` sets them
        if self.num_train_epochs is None:
            self.num_train_epochs = 3.0
        resumed = str(self.resume_from_checkpoint or "no").lower()
        if resumed in ("false", "no", "0"):
            self.resume_from_checkpoint = None
        elif resumed in ("true", "yes", "1", "last"):
            self.resume_from_checkpoint = NEWEST
        resumes = self.resume_from_checkpoint is not None
        if not self.do_eval:
            self.eval_strategy = "no"
        if self.eval_strategy is None:  # the best model is chosen among the saved ones
            steps = self.eval_steps or (self.save_steps and self.save_strategy is None)
            saves = self.save_strategy if self.save_strategy in ("steps", "epoch") else None
            self.eval_strategy = saves or ("steps" if steps else "epoch")
        evaluates = self.eval_strategy != "no"
        if self.save_strategy is None:
            self.save_strategy = self.eval_strategy if evaluates else "steps" if self.save_steps else "epoch"
        if self.eval_strategy == "steps":
            self.eval_steps = self.eval_steps or self.save_steps or self.logging_steps
        self.save_steps = self.save_steps or self.eval_steps or 500
        for name, value in {
            "eval_on_start": evaluates and not resumes,  # resuming would count it for early stopping
            "load_best_model_at_end": evaluates and self.save_strategy != "no",
            "restore_callback_states_from_checkpoint": resumes,
            "use_cpu": not torch.accelerator.is_available() or str_to_bool(os.environ.get("ACCELERATE_USE_CPU", "no")),
        }.items():
            if getattr(self, name) is None:
                setattr(self, name, bool(value))
        self.metric_for_best_model = (self.metric_for_best_model or "auto") if evaluates else None
        if (self.metric_for_best_model or "").removeprefix("eval_") in ("rmse", "mae", "perplexity"):
            self.greater_is_better = self.greater_is_better or False  # Trainer knows names that end in loss only
        if self.bf16 and self.fp16:
            raise ValueError("Found --bf16 and --fp16; expected one. Leave one out.")
        if self.bf16 is None:
            other = self.fp16 or os.environ.get("ACCELERATE_MIXED_PRECISION") in ("fp16", "fp8")
            self.bf16 = not other and (torch.cpu._is_avx512_bf16_supported() if self.use_cpu else _cuda_bf16())
        if self.use_cpu:
            open_group(self.ddp_timeout_delta, self.ddp_backend)
        seedable = self.accelerator_config is not None  # as the user has it
        super().__post_init__()
        if self.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy"):  # whose own default is "min"
            mode = "max" if self.greater_is_better else "min"
            self.lr_scheduler_kwargs = {"mode": mode} | (self.lr_scheduler_kwargs or {})
        if self.world_size > 1:
            self.accelerator_config.use_seedable_sampler &= seedable  # else length grouping drops examples
            self.ddp_find_unused_parameters = bool(self.ddp_find_unused_parameters)

    def check(self, given: set[str] = frozenset()) -> None:
        """Refuses what these recipes cannot do and what would do nothing, before anything is read or written.

        Args:
            given: names of the options that the command line has; defaults may wait for another option.

        Raises:
            ValueError: what was found and expected.
        """
        _check_ranges(self)
        if "max_steps" in given and self.max_steps < 1 and self.max_steps != -1:  # Trainer's own word for none
            raise ValueError(f"Found --max_steps {self.max_steps}; expected 1 or more. Leave it out, or raise it.")
        if self.n_gpu > 1:
            raise ValueError(
                f"Found {self.n_gpu} GPUs in one process; expected one process a GPU, since DataParallel would cut "
                f"windows and labels apart. Run: accelerate launch --multi_gpu --num_processes {self.n_gpu} ..."
            )
        why_not = {name: why for why, names in _REFUSED.items() for name in names.split()}
        for one in fields(self):
            value, made = getattr(self, one.name), one.default_factory
            if one.name in why_not and value != (one.default if made is MISSING else made()):
                shown = {"True": "", "False": " false"}.get(str(value), f" {_shown(value)}")
                raise ValueError(
                    f"Found --{one.name}{shown}; expected it left out, since {why_not[one.name]}. Leave it out."
                )
        self._refuse_idle(given)
        self._refuse_unusable()

    def _refuse_idle(self, given: set[str]) -> None:
        """Refuses options that do nothing without another one."""
        evaluates, workers = self.eval_strategy != "no", self.dataloader_num_workers
        again = getattr(self, "activation_checkpointing", None) or self.gradient_checkpointing  # the older name
        schedule, trackio = self.lr_scheduler_type, "trackio" in self.report_to
        warms = schedule not in ("constant", "reduce_lr_on_plateau", "greedy")
        for needed, there, options in (
            ("--push_to_hub", self.push_to_hub, "hub_model_id hub_token hub_revision"),
            ("--report_to", self.report_to, "run_name"),
            ("--report_to trackio", trackio, "project trackio_space_id trackio_bucket_id trackio_static_space_id"),
            ("--dataloader_num_workers", workers, "dataloader_persistent_workers dataloader_multiprocessing_context"),
            ("--activation_checkpointing", again, "activation_checkpointing_kwargs gradient_checkpointing_kwargs"),
            ("--eval_strategy epoch", evaluates, "metric_for_best_model greater_is_better eval_delay eval_on_start"),
            ("--eval_strategy epoch", evaluates, "load_best_model_at_end"),
            ("--eval_strategy steps", self.eval_strategy == "steps", "eval_steps"),
            ("--save_strategy steps", self.save_strategy == "steps", "save_steps"),
            ("--save_strategy epoch", self.save_strategy != "no", "save_total_limit save_only_model"),
            ("--logging_strategy steps", self.logging_strategy == "steps", "logging_steps"),
            ("a schedule that warms up", warms, "warmup_steps"),
            ("a schedule that takes them", not schedule.startswith("constant"), "lr_scheduler_kwargs"),
            ("an --optim that takes them", not self.optim.startswith(("adamw_torch", "adafactor")), "optim_args"),
            ("an --optim that projects", self.optim.startswith(("galore", "apollo")), "optim_target_modules"),
        ):
            for option in options.split():
                value = getattr(self, option, None) or option == "metric_for_best_model"  # which is gone by now
                if option in given and value and not there:
                    raise ValueError(
                        f"Found --{option} without {needed}; expected both, since alone it does nothing. Add the "
                        "other, or leave it out."
                    )
        if getattr(self, "dataloader_in_order", True) is False and not workers:
            raise ValueError("Found --dataloader_in_order false without --dataloader_num_workers; expected both.")

    def _refuse_unusable(self) -> None:
        """Refuses packages that are missing here, and settings that the optimizer or the schedule does not take."""
        for option in ("lr_scheduler_kwargs", "activation_checkpointing_kwargs"):
            if not isinstance(value := getattr(self, option, None) or {}, dict):
                raise ValueError(f"Found --{option} {value}; expected JSON, such as '{{\"name\": 1}}'. Correct it.")
        schedule, optimizer = self.lr_scheduler_type, torch.optim.SGD([torch.zeros(1)], lr=self.learning_rate)
        for option, try_it in (
            ("report_to", lambda: [one() for one in get_reporting_integration_callbacks(self.report_to)]),
            ("optim", lambda: _check_optimizer(self)),
            ("lr_scheduler_kwargs", lambda: get_scheduler(schedule, optimizer, 1, 10, self.lr_scheduler_kwargs)),
            ("torch_compile_backend", lambda: _check_backend(self.torch_compile_backend)),
        ):
            try:
                try_it()
            except (ImportError, RuntimeError, TypeError, ValueError) as error:
                if "model" in str(error) and not isinstance(error, ImportError):  # GaLore and such are made from it
                    continue
                raise ValueError(
                    f"Found --{option} {_shown(getattr(self, option))}; expected what works here: "
                    f"{' '.join(str(error).split())}. Correct it, or install what is missing."
                ) from error


def _shown(value) -> str:
    return " ".join(value) if isinstance(value, list) else str(getattr(value, "value", value))


def _check_optimizer(args: RunArguments) -> None:
    made, options = Trainer.get_optimizer_cls_and_kwargs(args)
    if args.optim not in ("sgd", "adagrad", "rmsprop"):  # the others take the arguments that there are
        return
    told = {word.partition("=")[0].strip() for word in (args.optim_args or "").split(",")} - {""}
    if unknown := sorted(told - {*options}):
        raise ValueError(f"none that it takes is called {unknown[0]}")
    made([torch.zeros(1)], **options)


def _check_backend(name: str | None) -> None:
    if name is not None and name not in (known := torch.compiler.list_backends(exclude_tags=())):
        raise ValueError(f"one of {', '.join(known)}")


def _check_ranges(args) -> None:
    for (least, most), option in ((span, name) for span, names in _RANGES.items() for name in names.split()):
        value = getattr(args, option, None)
        if value is not None and not (least <= value <= most and value < math.inf):
            open_end = f"{least} or more" if least in (0, 1) else "above 0"
            wanted = f"{least} to {most}" if most < math.inf else open_end
            raise ValueError(f"Found --{option} {value:g}; expected {wanted}. Correct it.")


def _cuda_bf16() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


@dataclass
class TextArguments:
    """The options that all trainings share, beside those of `RunArguments`."""

    sample: bool = _option(False, "Train a small model on the texts in recipes/sample: no network, half a minute.")
    dataset_name: str | None = _option(None, "Hub id, file, folder in the Hub's layout or with a folder per class.")
    dataset_config_name: str | None = _option(None, "Configuration of the data set.")
    train_file: str | None = _option(None, "csv, tsv, json, jsonl, parquet or txt in place of a data set.")
    validation_file: str | None = _option(None, "Beside --train_file; none: held out of it.")
    encoding: str | None = _option(None, "Of the files, such as gb18030; none: detected.")
    delimiter: str | None = _option(None, "Between the cells of a csv; none: detected.")
    text_column: str | None = _option(None, "Column with the texts.")
    drop_empty: bool = _option(False, "Leave out rows with an empty text or without a label.")
    cleaning: list[str] = _option([], "Steps of bertcls.text in order, stored with the model; or none.")
    model_name_or_path: str | None = _option(None, "Encoder: Hub id or local folder.")
    from_scratch: bool = _option(False, "Start the encoder from random weights.")
    max_length: int = _option(128, "Tokens per window, special tokens included.")
    attention_dropout: float | None = _option(None, "Of attention weights; none: the encoder's. 0: a CPU is faster.")
    max_train_samples: float | None = _option(
        None, "Rows drawn from train with the seed, label shares kept; up to 1 their share."
    )
    early_stopping_patience: int = _option(3, "Evaluations without a better metric before training stops; 0: never.")
    lora_rank: int | None = _option(None, "Rank of adapters that train in place of the encoder, such as 8; none: it.")
    cpu_threads: int | None = _option(None, "Threads per process without an accelerator; none: cores by processes.")
    overwrite_output: bool = _option(False, "Write into a folder that is not empty.")
    seeds: list[int] = _option([], "One run a seed, in the folders seed-N of --output_dir.")
    train_sizes: list[float] = _option([], "One run a number (or share) of training rows, in the folders size-N.")
    run_dir: str = field(init=False, default="")  # what --output_dir names; Trainer's checkpoints lie below it
    started: float = field(init=False, default=0.0)  # when the command line was read, in seconds of time.time()
    hub: dict | None = field(init=False, default=None, repr=False)  # with --push_to_hub: arguments of push_folder
    made: bool = field(init=False, default=False)  # run_dir was not there before; on rank 0
    lock: object = field(init=False, default=None, repr=False)  # of run_dir, on rank 0
    watch: object = field(init=False, default=None, repr=False)  # of a search: a callback that follows the run

    def of(self, helper: Callable) -> dict:
        """The options that a helper takes under their names, for `helper(..., **args.of(helper))`."""
        return {name: getattr(self, name) for name in inspect.signature(helper).parameters if hasattr(self, name)}

    @property
    def data_files(self) -> list[str]:
        """The files that are named, as they were given."""
        names = ("train_file", "validation_file", "test_file", "unlabelled_file")
        return [value for name in names if (value := getattr(self, name, None))]

    def check(self) -> None:
        """Refuses values out of range, before anything is read or written.

        Raises:
            ValueError: what was found and expected.
        """
        _check_ranges(self)
        rows = getattr(self, "max_train_samples", None)
        if rows is not None and not 0 < rows <= 1 and (rows < 1 or rows % 1):
            raise ValueError(
                f"Found --max_train_samples {rows:g}; expected at least 1, or a share below it. Correct it."
            )
        for name in ("seeds", "folds", "train_sizes"):  # the command line's runs are made one by one
            if getattr(self, name, None):
                raise ValueError(
                    f"Found --{name} here; expected it on the command line, since this is one run of them. Move it."
                )
        if self.cleaning == ["none"]:
            self.cleaning = []
        check_steps(self.cleaning)

    def check_training(self, training_args: RunArguments) -> None:
        """Refuses options of training that do not go with these.

        Raises:
            ValueError: what was found and expected.
        """
        if self.overwrite_output and training_args.resume_from_checkpoint is not None:
            raise ValueError(
                "Found --overwrite_output with --resume_from_checkpoint; expected one of them, since overwriting "
                "removes the checkpoints. Leave out --overwrite_output."
            )


@dataclass
class RecipeArguments(TextArguments):
    """The options that all fine-tuning recipes share."""

    test_file: str | None = _option(None, "The rows to report; none: --validation_file, else held out of train.")
    text_pair_column: str | None = _option(None, "Column with the second texts of pairs.")
    label_column: list[str] | None = _option(None, "Column with the labels; several columns of 0 and 1: multi-label.")
    id_column: str | None = _option(None, "Column by which the report names a row; none: rows are counted from 0.")
    label_delimiter: str | None = _option(None, "Between the labels of a cell, which makes the task multi-label.")
    problem_type: Literal["single_label_classification", "multi_label_classification", "regression"] | None = _option(
        None, "None: lists of labels are multi-label, fractions a regression, all else classes."
    )
    on_leak: Literal["warn", "drop", "error"] = _option(
        "warn", "Where train texts stand in test: go on, drop them from train, or stop."
    )
    overlap: int | None = _option(None, "Tokens that neighbouring windows share; none: 5 %% of max_length.")
    truncation: Literal["none", "head", "tail", "head_tail"] = _option(
        "none", "none: read long texts whole, in windows; else which part is read."
    )
    pair_truncation: Literal["none", "longest_first", "only_first", "only_second"] = _option(
        "none", "none: the second text in windows, the first before each; else which one is cut."
    )
    train_on: Literal["documents", "windows"] = _option(
        "documents", "windows: each window of train is an example. Scores are per document."
    )
    pooling: Literal["auto", "pooler", "cls", "mean", "max"] = _option(
        "auto", "Tokens to a vector; auto: as checkpoint or run say, else pooler if there is one, else cls."
    )
    window_pooling: Literal["mean", "max", "mean_probs", "vote"] = _option("mean", "Windows to a document.")
    max_train_windows: int = _option(8, "Windows of a document used in a training step.")
    classifier_dropout: float | None = _option(None, "Dropout before the classifier; none: the encoder's.")
    classifier_hidden_size: int | None = _option(None, "Units of a hidden layer in the head; none: no such layer.")
    split: str | None = _option(None, "Join train and validation and split them anew, such as 8:1:1, stratified.")
    phrases: bool = _option(
        False, "Rows are parts of one another, as in SST-2: hold out whole texts (without --split)."
    )
    folds: int = _option(0, "Folds: each row answered by a model that did not see it, then one model of all rows.")
    fold: str | None = _option(None, "One of --folds alone, such as 2/5.")
    max_samples: int | None = _option(None, "With --split: first rows of the joined data.")
    max_test_samples: int | None = _option(None, "Rows drawn from the reported split, the same for every seed.")
    language: str | None = _option(None, "Of the texts, for the model card: en, zh, multilingual.")
    license: str | None = _option(
        None, "Of the model, for its card, in the Hub's words: apache-2.0, cc-by-4.0, other."
    )
    probes: str | None = _option(None, "File of texts to ask the model, a text a line; the answers are reported.")
    figures: bool = _option(True, "Draw the figures and the page of the report.")
    report: bool = _option(True, "Score the reported rows and report; false: leave them untouched.")
    freeze_encoder: bool = _option(False, "Train the head alone.")
    freeze_layers: int = _option(0, "Freeze the embeddings and this many lowest layers.")
    layer_decay: float = _option(1.0, "Factor on the learning rate per layer downwards.")
    head_learning_rate: float | None = _option(None, "Learning rate of the head; none: learning_rate.")
    head_init: Literal["auto", "probe", "random"] = _option(
        "auto", "probe: the head starts as a linear model on the encoder as it is; auto: where that is possible."
    )
    contrastive_steps: int | None = _option(
        None, "Steps that bring texts of one label together, before the head is fitted; none: by the rows a class."
    )
    class_weights: Literal["none", "balanced"] = _option(
        "none", "balanced: weigh classes inversely to their row counts."
    )

    def check(self) -> None:
        """As that of all trainings, and what a fine-tuning cannot do."""
        super().check()
        if isinstance(named := self.label_column, list) and len({*named}) < len(named):
            raise ValueError(f"Found --label_column {' '.join(named)}; expected different columns. Name each once.")
        if isinstance(self.label_column, list) and len(self.label_column) == 1:
            self.label_column = self.label_column[0]
        for name, why in (
            ("classifier_hidden_size", "a linear head, which alone can start as a linear model"),
            ("from_scratch", "a pretrained encoder, whose vectors tell something"),
        ):
            if self.head_init == "probe" and getattr(self, name):
                raise ValueError(f"Found --head_init probe with --{name}; expected {why}. Leave one out.")
        if self.fold is not None:
            others = {"split": self.split, "phrases true": self.phrases, "report false": not self.report}
            for name, found in (others | {"max_test_samples": self.max_test_samples}).items():
                if found:
                    raise ValueError(
                        f"Found --folds with --{name}; expected one of them: each row is held out once, alone, and "
                        "reported. Leave one out, or give --phrases false where rows are no parts of one another."
                    )
        if self.probes is not None:
            try:
                Path(self.probes).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise ValueError(
                    f"Found --probes {self.probes} ({error}); expected a text file in UTF-8 with a text a line. Check "
                    "the path, or convert it, as with iconv -f latin1 -t utf-8."
                ) from error
        if self.max_samples is not None and self.split is None:
            raise ValueError(
                "Found --max_samples without --split; it takes the first rows of train and validation joined. Add "
                "--split 8:1:1, or use --max_train_samples."
            )

    def check_training(self, training_args: RunArguments) -> None:
        """As that of all trainings, and what a fine-tuning cannot do."""
        super().check_training(training_args)
        if training_args.label_smoothing_factor and self.class_weights != "none":
            raise ValueError(
                "Found --label_smoothing_factor with --class_weights; expected one of them, since smoothing ignores "
                "the weights. Leave one out."
            )


@dataclass
class NewsgroupsArguments(RecipeArguments):
    """The options of recipes that take `--dataset_name 20newsgroups`, besides."""

    categories: list[str] = _option(
        ["alt.atheism", "soc.religion.christian", "comp.graphics", "sci.med"], "Newsgroups, or all."
    )
    remove: list[str] = _option(
        ["headers", "footers", "quotes"], "What scikit-learn takes out: headers, footers, quotes; or none."
    )
