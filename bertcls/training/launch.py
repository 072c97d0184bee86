"""From the command line to a run: options, their defaults, the folder, and one run a seed."""

import argparse
import difflib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import torch
from accelerate.utils import broadcast_object_list, str_to_bool
from transformers import HfArgumentParser, TrainingArguments

from bertcls.arguments import TextArguments
from bertcls.layout import CHECKPOINTS
from bertcls.process import LOCK, lock_folder, one_line_errors, refuse_inside, use_cores
from bertcls.training.checkpoints import (
    checkpoints_in,
    clean_up_full_disk,
    newest_complete,
    removed_by_overwriting,
    why_incomplete,
)

_LAST = "last"  # --resume_from_checkpoint without a value


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
            begun = bool(checkpoints_in(folder / CHECKPOINTS))
            words += ["--resume_from_checkpoint", found.resume_from_checkpoint] if begun else ["--overwrite_output"]
        yield parse(arguments_class, words, **kwargs)


def run_recipe(main: Callable, arguments_class: type[Arguments], argv: list[str] | None = None, **kwargs) -> None:
    """Runs a recipe as a program: its command line, once for each of `--seeds`, and one line where it is wrong.

    Args:
        main: of the recipe, called with its arguments and `TrainingArguments`.
        arguments_class: as in `parse`, and so are the others.
    """
    under_way: Path | None = None
    with one_line_errors(explain=lambda error: clean_up_full_disk(error, under_way)):
        for args, training_args in parse_runs(arguments_class, argv, **kwargs):
            under_way = Path(training_args.output_dir)
            main(args, training_args)


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
            source.is_relative_to(path.resolve()) for path in removed_by_overwriting(str(output_dir))
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
