"""What a search wants of a recipe: its plan, its knobs with their ranges, and runs cut to what a score needs."""

import contextlib
import importlib.util
import logging
import math
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, get_type_hints

import torch
from accelerate.utils.memory import clear_device_cache
from datasets import DatasetDict
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments

from bertcls.arguments import RecipeArguments
from bertcls.backends import require
from bertcls.layout import STUDY
from bertcls.modeling import REGRESSION
from bertcls.optim import encoder_parts
from bertcls.process import LOCK, file_digest, lock_folder
from bertcls.together import start_pulse, staying_together
from bertcls.training.callbacks import score_to_beat
from bertcls.training.checkpoints import describe_rows
from bertcls.training.launch import parse

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


class TrialEnds(Exception):
    """All that a search wants of a run is known."""


class Watch(TrainerCallback):
    """Follows a run of a search: its plan, its scores on the rows to choose by, and its end before any report.

    Args:
        metric: that counts; `None` asks for the plan alone, and nothing is trained.
        greater_is_better: of it.
        last: the last epoch counts, and not the best one.
        keep_going: is told the best score after each epoch, and its number; `False` cuts the run short.
    """

    def __init__(
        self,
        metric: str | None = None,
        *,
        greater_is_better: bool = True,
        last: bool = False,
        keep_going: Callable[[float, int], bool] | None = None,
    ):
        self.metric, self.sign, self.last, self.keep_going = metric, 1 if greater_is_better else -1, last, keep_going
        self.plan: dict = {}
        self.args: RecipeArguments | None = None
        self.scores: dict[str, float] = {}  # `eval_*` of the epoch that counts
        self.to_beat = 0.0  # its score, or less where it is the start
        self.epochs, self.training, self.pruned = 0, False, False

    def on_plan(self, model: PreTrainedModel, args: TrainingArguments, splits: DatasetDict, can_probe: bool) -> bool:
        """Keeps what `prepare_training` is about to do; gives whether that is all that is wanted."""
        rows = {name: len(split) for name, split in splits.items()}
        content = {} if self.metric else describe_rows(splits["train"])  # once, before the trials
        self.plan = {
            "rows": rows,
            "made_of": {"rows": rows, "encoder": model.start_digest, "processes": args.world_size} | content,
            "parameters": model.encoder.num_parameters(),
            "kind": model.config.problem_type,
            "trains_encoder": any(parameter.requires_grad for parameter in model.encoder.parameters()),
            "layered": _is_layered(model.encoder),
            "can_probe": can_probe,
            "metric": args.metric_for_best_model and args.metric_for_best_model.removeprefix("eval_"),
            "greater_is_better": args.greater_is_better is not False,
            "last": not args.load_best_model_at_end,
            "learning_rate": args.learning_rate,
            "num_train_epochs": args.num_train_epochs,
            "per_device_train_batch_size": args.per_device_train_batch_size,
            "pooling": model.config.pooling,
            "contrastive_steps": model.contrastive_steps,
            "classifier_dropout": float(model.dropout.p),
        }
        return self.metric is None

    def on_init_end(self, args, state, control, **kwargs):
        if self.metric is None:
            args.max_steps, args.num_train_epochs, args.eval_on_start = -1, 0.0, False

    def on_train_begin(self, args, state, control, **kwargs):
        self.training = True

    def on_epoch_begin(self, args, state, control, **kwargs):
        if state.global_step == 0 and self.scores:  # early stopping begins with it, as elsewhere
            state.best_metric = self.to_beat

    def on_evaluate(self, args, state, control, metrics=None, model=None, eval_dataloader=None, **kwargs):
        if not self.training:
            self.scores = dict(metrics)
            raise TrialEnds
        if self.last or (state.global_step == 0 and getattr(model, "linear_start", None) is None):
            return  # else the start is a candidate, too
        score = metrics[f"eval_{self.metric}"]
        if not self.scores or self.sign * (score - self.to_beat) > 0:
            self.scores, self.to_beat = dict(metrics), score
        if state.global_step == 0:
            self.to_beat = score_to_beat(score, self.metric, len(eval_dataloader.dataset))
            return
        self.epochs += 1
        asks = self.keep_going is not None and state.global_step < state.max_steps
        if asks and not self.keep_going(self.scores[f"eval_{self.metric}"], self.epochs):
            self.pruned = control.should_training_stop = True

    def on_train_end(self, args, state, control, **kwargs):
        self.training = False
        if self.metric is None or self.scores:
            raise TrialEnds


def _is_layered(encoder: PreTrainedModel) -> bool:
    try:
        return bool(encoder_parts(encoder))
    except ValueError:
        return False


def load_recipe(path: str) -> ModuleType:
    """The module of a fine-tuning recipe, with the class of its options as `arguments`, and what tells an edit.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another program.
    """
    if not Path(path).is_file() or Path(path).suffix != ".py":
        raise FileNotFoundError(f"No recipe found at {path}; expected one such as recipes/sst2_finetune.py. Check it.")
    spec = importlib.util.spec_from_file_location(f"recipe_{Path(path).stem}", path)
    recipe = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    hints = get_type_hints(getattr(recipe, "main", load_recipe))
    if hasattr(hints.get("args"), "teacher"):
        raise ValueError(f"Found {path}, whose students have a teacher; expected a recipe of labels. Search that one.")
    recipe.arguments, recipe.version = hints.get("args"), f"{Path(path).name} {file_digest(Path(path))}"
    trains = hasattr(recipe, "DEFAULTS") and "training_args" in hints and isinstance(recipe.arguments, type)
    if not trains or not issubclass(recipe.arguments, RecipeArguments):
        raise ValueError(
            f"Found {path} without DEFAULTS and main(args, training_args) of fine-tuning; expected a recipe such as "
            "recipes/csv_finetune.py, or a copy of it. Name another one."
        )
    return recipe


@contextlib.contextmanager
def search_folder(folder: Path) -> Iterator[Path]:
    """Locks the folder of a search, removes it where nothing was written, and gives one in it for what runs now."""
    require("optuna", what="A search")
    scratch = folder / "trial"
    if os.environ.get("RANK", "0") != "0":
        with staying_together():
            yield scratch
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock = lock_folder(folder, "--output_dir")
    try:
        if not (folder / STUDY).exists() and any(path.name != LOCK for path in folder.iterdir()):
            raise FileExistsError(
                f"The folder {folder} is not empty, and holds no search; expected a new one, or one to go on with. "
                "Name another --output_dir."
            )
        shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed
        try:
            with staying_together():
                yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    finally:
        lock.release()
        if not any(path.name != LOCK for path in folder.iterdir()):
            shutil.rmtree(folder)


def watched_run(
    recipe: ModuleType,
    words: list[str],
    watch: Watch,
    *,
    folder: Path,
    fold: str | None = None,
    log: Path | None = None,
) -> None:
    """Runs a recipe until its `watch` knows enough, before it reads a reported row; what it wrote is removed.

    `words` are its command line, `fold` is as in `arrange_splits`; what it prints goes to `log`, where there is one.

    Raises:
        ValueError: as the recipe, or one that hands no `watch` on.
    """
    clear_device_cache(garbage_collection=True)  # of the run before
    handler, args = signal.getsignal(signal.SIGTERM), None
    words = [*words, "--report", "false", "--push_to_hub", "false", "--output_dir", str(folder)]
    told = {"defaults": recipe.DEFAULTS, "sample": getattr(recipe, "SAMPLE", None)}
    log = None if log is None else log if os.environ.get("RANK", "0") == "0" else os.devnull
    try:
        with contextlib.nullcontext() if log is None else _printing_to(log):
            args, training_args = parse(recipe.arguments, words, **told)
            args.watch, args.fold, watch.args = watch, fold, args
            if watch.metric is not None:  # no weights are kept
                training_args.save_strategy = training_args.save_strategy.__class__("no")
                training_args.load_best_model_at_end = False
            start_pulse(training_args.ddp_timeout_delta)
            recipe.main(args, training_args)
    except TrialEnds:
        if watch.plan or watch.metric is not None:
            return
    except torch.OutOfMemoryError as error:
        if os.environ.get("WORLD_SIZE", "1") != "1":  # others may wait for this process
            raise
        raise ValueError(f"Found too little memory; expected room for a batch. {str(error).splitlines()[0]}") from None
    finally:
        signal.signal(signal.SIGTERM, handler)  # a run that an error ended had its own
        if args is not None and args.lock is not None:
            args.lock.release()
            shutil.rmtree(folder, ignore_errors=True)
    raise ValueError(
        "Found a recipe that ended without telling its score; expected rows to choose by, and a main that gives "
        "**args.of(...) to prepare_training and training_callbacks. Compare it with recipes/csv_finetune.py."
    )


@contextlib.contextmanager
def _printing_to(log: Path) -> Iterator[None]:
    logger = logging.getLogger("transformers.trainer_callback")  # early stopping misses the best model, saved nowhere
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with open(log, "a", encoding="utf-8") as file, contextlib.redirect_stdout(file):
            yield
    finally:
        logger.setLevel(level)


def judge(
    run: Callable,
    words: list[str],
    *,
    metric: str,
    greater_is_better: bool,
    last: bool,
    folds: int,
    keep_going: Callable,
) -> tuple[float, dict[str, float], bool]:
    """Runs a trial: its score, all its scores, and whether it was cut short; with folds their means.

    `run` is `watched_run` with all but the words, the watch and the fold; the rest is as of `Watch`. Each of `folds`
    parts of the rows that are not reported judges a run on the others; then the last epoch counts, which no row chose,
    and `keep_going` is told the mean after each.
    """
    scores: list[dict] = []
    words = [*words, "--early_stopping_patience", "0"] if folds else words
    for number in range(1, max(folds, 1) + 1):
        watch = Watch(
            metric,
            greater_is_better=greater_is_better,
            last=last or folds > 0,
            keep_going=None if folds else keep_going,
        )
        run(words, watch, fold=f"validation-{number}/{folds}" if folds else None)
        scores.append(watch.scores)
        means = {name: sum(one[name] for one in scores) / number for name in scores[0]}
        if watch.pruned or (number < folds and not keep_going(means[f"eval_{metric}"], number)):
            return means[f"eval_{metric}"], means, True
    return means[f"eval_{metric}"], means, False


def make_knobs(plan: dict, args: RecipeArguments, given: set[str]) -> dict[str, tuple[object, "BaseDistribution"]]:
    """Of each knob that is not given what the recipe itself takes, and the range to search.

    The highest learning rate falls with the root of the encoder's size: 1e-4 for 100 million parameters. Epochs go
    from half to twice as many as the recipe takes, with few rows from none to 10; batches have at most an eighth of
    the rows. Left out is a knob that `args` lack, or that is `given` in the command line; `plan` is as `Watch` has it.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    def between(low: float, high: float, value: float, **options) -> "BaseDistribution":
        kind = IntDistribution if isinstance(value, int) else FloatDistribution
        return kind(min(low, value), max(high, value), **options)

    def one_of(*values) -> "BaseDistribution":
        return CategoricalDistribution(sorted({*values}))

    rate, batch = 1e-4 * math.sqrt(1e8 / plan["parameters"]), plan["per_device_train_batch_size"]
    rate = rate if args.lora_rank is None else 5 * plan["learning_rate"]  # whose size does not tell of adapters
    epochs, most = round(plan["num_train_epochs"]), max(plan["rows"]["train"] // 8, 8)
    few_and_many = (max(epochs // 2, 1), 2 * epochs) if epochs else (0, 10)
    found = {  # another one, such as --lora_rank, is a line here
        "learning_rate": (plan["learning_rate"], between(rate / 20, rate, plan["learning_rate"], log=True)),
        "num_train_epochs": (epochs, between(*few_and_many, epochs)),
        "per_device_train_batch_size": (batch, one_of(batch, *(size for size in (8, 16, 32, 64) if size <= most))),
        "pooling": (plan["pooling"], one_of(plan["pooling"], "cls", "mean", "max")),
        "classifier_dropout": (plan["classifier_dropout"], between(0.0, 0.5, plan["classifier_dropout"])),
    }
    if plan["can_probe"] and epochs:  # a random head needs epochs
        found["head_init"] = ("probe", one_of("probe", "random"))
    if plan["trains_encoder"] and plan["layered"]:
        found["layer_decay"] = (float(args.layer_decay), between(0.7, 1.0, float(args.layer_decay)))
    if plan["trains_encoder"] and plan["kind"] != REGRESSION:
        steps = plan["contrastive_steps"]
        found["contrastive_steps"] = (steps, between(0, max(60, 2 * steps), steps))
    others = {"num_train_epochs"} if "max_steps" in given else set()
    known = {*vars(args), "learning_rate", "num_train_epochs", "per_device_train_batch_size"}
    return {name: both for name, both in found.items() if name in known - given - others}


def as_words(knobs: dict, contrastive_steps: int = 0) -> list[str]:
    """Knobs as options of a command line, with the digits with which they are tried.

    Where epochs are given a recipe has no contrastive stage of its own, so that its steps are named with them.

    >>> as_words({"learning_rate": 0.000123456, "pooling": "mean"})
    ['--learning_rate', '0.000123', '--pooling', 'mean']
    """
    if contrastive_steps and "num_train_epochs" in knobs:
        knobs = {"contrastive_steps": contrastive_steps} | knobs
    return [
        word
        for name, value in knobs.items()
        for word in (f"--{name}", f"{value:.3g}" if isinstance(value, float) else str(value))
    ]
