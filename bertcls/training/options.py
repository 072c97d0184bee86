"""How a command line is read: help in groups, hints for what is unknown, defaults that go with their data."""

import argparse
import difflib
import textwrap
from dataclasses import fields
from pathlib import Path
from typing import TypeVar

from transformers import HfArgumentParser, TrainingArguments
from transformers.hf_argparser import string_to_bool

from bertcls.layout import NEWEST
from bertcls.process import OptionParser, say
from bertcls.training.console import quiet

Options = TypeVar("Options")
ADAPTERS_RATE = 1e-3  # of --lora_rank without a --learning_rate; `benchmarks/adapters.py` compares others
_OF_THE_DATA = (  # what describes a data set
    "dataset_name dataset_config_name text_column text_pair_column label_column id_column label_delimiter "
    "problem_type phrases encoding delimiter split max_samples language probes"
).split()
_GROUPS = {  # of --help; what is in none of them is the program's own
    "your data": "train_file validation_file test_file dataset_name dataset_config_name text_column label_column "
    "text_pair_column id_column label_delimiter problem_type max_train_samples max_test_samples encoding delimiter "
    "cleaning split max_samples phrases drop_empty on_leak",
    "the encoder and its head": "model_name_or_path pooling class_weights freeze_encoder freeze_layers lora_rank "
    "layer_decay head_learning_rate head_init contrastive_steps classifier_dropout classifier_hidden_size "
    "attention_dropout from_scratch",
    "length": "max_length max_train_windows overlap truncation pair_truncation window_pooling train_on",
    "the run": "sample output_dir overwrite_output resume_from_checkpoint seed seeds folds fold train_sizes report "
    "figures probes language license cpu_threads",
    "training": "learning_rate num_train_epochs per_device_train_batch_size lr_scheduler_type warmup_steps "
    "metric_for_best_model early_stopping_patience eval_strategy eval_steps bf16 push_to_hub hub_model_id",
}
_MEANT = (  # what options of other programs are called here
    "dataset_name: dataset data hub_id; train_file: train data_file csv input file; split: test_size val_size; "
    "validation_file: dev_file eval_file valid_file; text_column: text sentence text_field text_column_name; "
    "text_pair_column: text_pair sentence2 pair; label_column: label labels target label_column_name; "
    "model_name_or_path: model model_name checkpoint encoder bert pretrained; overlap: stride doc_stride; "
    "max_length: max_len max_seq_len max_seq_length seq_len maxlen; classifier_dropout: dropout; "
    "layer_decay: llrd lr_decay; class_weights: class_weight weighted; learning_rate: lr; weight_decay: wd; "
    "num_train_epochs: epochs epoch num_epochs n_epochs; warmup_steps: warmup_ratio warmup warmup_proportion; "
    "per_device_train_batch_size: batch_size batch bs train_batch_size; lr_scheduler_type: scheduler lr_scheduler; "
    "per_device_eval_batch_size: eval_batch_size test_batch_size; use_cpu: no_cuda cpu; lora_rank: lora lora_r peft; "
    "gradient_accumulation_steps: accumulation grad_accum accumulate_grad_batches; bf16 false: fp32; bf16: amp; "
    "resume_from_checkpoint: resume; train_sampling_strategy group_by_length: group_by_length; "
    "eval_strategy: evaluation_strategy; early_stopping_patience: patience early_stopping; "
    "overwrite_output: overwrite_output_dir overwrite; output_dir: output out save_dir; "
    "seed: random_state random_seed; report_to: logger wandb tensorboard logging_dir"
)


class Parser(HfArgumentParser):
    """Of a program of ours: what is wrong raises `ValueError`, and `--help` lists the options in groups."""

    def __init__(self, *args, **options):
        super().__init__(*args, allow_abbrev=False, **options)
        self.undefaulted = {action.dest: action.default for action in self._actions}
        trains = any(issubclass(kind, TrainingArguments) for kind in self.dataclass_types)
        self.groups = _GROUPS if trains else {}
        if trains:
            self.add_argument("--help_all", action="store_true", default=argparse.SUPPRESS)
        for action in self._actions:
            if action.dest == "resume_from_checkpoint":
                action.nargs, action.const = "?", NEWEST
            elif action.type is string_to_bool:  # also where None is the default
                action.nargs, action.const = "?", True

    error = OptionParser.error

    def parse_known_args(self, args=None, namespace=None):
        found, rest = super().parse_known_args(args, namespace)
        for name, value in vars(found).items():
            if value == "" and name not in ("text", "text_pair") and self.get_default(name) != "":
                raise ValueError(f"Found an empty --{name}; expected a value. Leave it out, or give one.")
        return found, rest

    def format_help(self) -> str:
        known = {action.dest: action for action in reversed(self._actions)}  # the first of a name, not its --no_ form
        groups = {title: names.split() for title, names in self.groups.items()}
        listed = {"help", "help_all"}.union(*groups.values())
        listed |= {one.name for one in fields(TrainingArguments)} if groups else set()
        rest = [name for name in reversed(known) if name not in listed]
        lines = [self.description or ""]
        for title, names in {**groups, "this program": rest}.items():
            actions = [known[name] for name in names if name in known]
            lines += ["", f"{title}:"] if actions else []
            for action in actions:
                default = " ".join(map(str, action.default)) if isinstance(action.default, list) else action.default
                said = [action.help or "", f"One of {', '.join(action.choices)}." if action.choices else ""]
                said += [] if default in (None, False, "") else [f"({getattr(default, 'value', default)})"]
                name, margin = f"  {action.option_strings[0]} ".ljust(34), " " * 34
                text = " ".join(" ".join(said).replace("%%", "%").split())
                lines += textwrap.wrap(text, 119, initial_indent=name, subsequent_indent=margin) or [name]
        lines += ["", "--help_all lists those of Trainer, too."] if self.groups else []
        return "\n".join([*lines, ""])

    def refuse_unknown(self, words: list[str]) -> None:
        """Refuses words that no option takes, with the option that was meant.

        Raises:
            ValueError: the first of them.
        """
        if not words:
            return
        options = [option for action in self._actions for option in action.option_strings]
        name, meant = words[0].split("=")[0], dict(pair.split(": ") for pair in _MEANT.split("; "))
        theirs = name.removeprefix("--").replace("-", "_")
        close = [f"--{ours}" for ours, names in meant.items() if name[:1] == "-" and theirs in names.split()]
        close = [option for option in close if option.split()[0] in options]
        close = close or difflib.get_close_matches(name, options, n=1)
        hint = f", such as {close[0]}." if close else "."
        raise ValueError(f"Found the unknown option {words[0] or repr('')}; expected one that --help lists{hint}")

    def _check_values(self, settings: dict) -> None:
        """What argparse checks of words, of a recipe's own values, too."""
        known = {action.dest: action for action in self._actions}
        for name, value in settings.items():
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f", such as {close[0]}." if close else "."
                raise ValueError(f"Found {name} among the recipe's values; expected an option of --help_all{hint}")
            choices, values = known[name].choices, value if isinstance(value, list | tuple) else [value]
            if choices and (wrong := [one for one in values if one is not None and one not in choices]):
                expected = ", ".join(map(str, choices))
                raise ValueError(f"Found {name}={wrong[0]!r} among the recipe's values; expected one of {expected}.")

    def set_recipe_defaults(self, argv: list[str], given: set[str], defaults: dict, sample: dict) -> None:
        """Takes a recipe's defaults, and those of its sample with `--sample`.

        What describes the data goes with the data: other ones leave it out. With another encoder than the sample's,
        the sample is its data alone, since its rates fit its encoder. With `--from_scratch` what the sample has under
        `scratch` comes on top of it.
        """
        self.set_defaults(**defaults)
        if "help_all" in given:
            self.groups = {}
            self.parse_known_args(["--help"])
        first, settings = self.parse_known_args(argv)[0], dict(defaults)
        if first.sample:
            scratch = sample.get("scratch", {}) if first.from_scratch else {}
            sample = {name: value for name, value in {**sample, **scratch}.items() if name != "scratch"}
            if "dataset_name" in sample:  # whose files and columns are its own
                others = {"train_file", "validation_file", "test_file", *_OF_THE_DATA}
                others &= {*settings} - {"language", "phrases", "probes"}
                settings |= {name: self.undefaulted.get(name) for name in others}
            own = Path(sample.get("model_name_or_path", "")).resolve()
            other = "model_name_or_path" in given and Path(first.model_name_or_path).resolve() != own
            settings |= {name: value for name, value in sample.items() if name in _OF_THE_DATA or not other}
        if {"dataset_name", "train_file"} & given:
            names = [settings.get(name) for name in ("dataset_name", "dataset_config_name", "train_file")]
            described = {Path(name).name.lower() for name in names if name}
            found = first.dataset_name if "dataset_name" in given else first.train_file
            if described and Path(found).name.lower() not in described:
                others = {*_OF_THE_DATA, "validation_file", "test_file"} & {*settings}
                settings |= {name: self.undefaulted.get(name) for name in others}
            settings["train_file" if "dataset_name" in given else "dataset_name"] = None
        if "num_train_epochs" in given and settings.get("max_steps", -1) > 0:  # of DEFAULTS, which would win
            settings["max_steps"] = -1
        both = "lora_rank" not in given and "learning_rate" in settings  # DEFAULTS have, beside one another
        if (first.lora_rank or 0) > 0 and "learning_rate" not in given and not both:
            settings["learning_rate"] = ADAPTERS_RATE
            say(f"Adapters: the learning rate is {ADAPTERS_RATE:g} (--learning_rate gives another).")
        self._check_values(settings)
        self.set_defaults(**settings)


def parse_options(arguments_class: type[Options], argv: list[str] | None = None, *, description: str) -> Options:
    """The command line (`None`: that of the process) of a program that trains nothing, as a dataclass of its options.

    Raises:
        ValueError: an unknown or abbreviated option, or a value of another type.
    """
    parser = Parser(arguments_class, description=description)
    parser.refuse_unknown(parser.parse_known_args(argv)[1])
    args = parser.parse_args_into_dataclasses(argv, look_for_args_file=False)[0]
    quiet(data=getattr(args, "dataset_name", None) is not None)
    return args
