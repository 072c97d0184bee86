"""Trainer callbacks."""

import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from accelerate.utils.memory import should_reduce_batch_size
from torch.distributed.tensor import DTensor
from transformers import EarlyStoppingCallback, TrainerCallback, TrainingArguments
from transformers.utils.import_utils import enable_tf32

from bertcls.data.columns import numbers_in
from bertcls.layout import START
from bertcls.optim import check_rates
from bertcls.process import say
from bertcls.report.formats import format_duration
from bertcls.training.adapters import MergeAdapters
from bertcls.training.checkpoints import Checkpoints, sampler_of
from bertcls.training.console import use_epoch_lines
from bertcls.training.cpu import FastOnCpu


def training_callbacks(
    training_args: TrainingArguments,
    *,
    loss: Callable | None = None,
    early_stopping_patience: int = 0,
    overwrite_output: bool = False,
    layer_decay: float = 1.0,
    head_learning_rate: float | None = None,
    lora_rank: int | None = None,
    watch: TrainerCallback | None = None,
    **compared,
) -> list[TrainerCallback]:
    """What every training of ours runs beside Trainer's own callbacks, and `EpochLines` for its progress.

    `loss` is the `compute_loss_func` of the Trainer, where it has one; `early_stopping_patience` are evaluations
    without a better metric before training stops (0: never); `overwrite_output` removes what an earlier run left in
    the folder, once data and model are loaded; a resumed run must share the other settings, and those in `compared`.
    `watch` is the callback of a search, after all others.
    """
    use_epoch_lines()
    compared |= {"layer_decay": layer_decay, "head_learning_rate": head_learning_rate, "lora_rank": lora_rank}
    callbacks = [
        Checkpoints(overwrite=overwrite_output, early_stopping_patience=early_stopping_patience, **compared),
        FastOnCpu(),
        Tf32InTraining(),
        LongestBatchFirst(loss),
        RatesTable(),
        StopAtNonFinite(),
        ChooseEpoch(),
        MergeAdapters(),
    ]
    if early_stopping_patience and training_args.eval_strategy != "no":
        callbacks.append(EarlyStoppingCallback(early_stopping_patience))
    return callbacks if watch is None else [*callbacks, watch]


def _sharded() -> bool:
    return AcceleratorState().distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)


def score_to_beat(start: float, metric: str, rows: int) -> float:
    """The score that an epoch has to reach for the untouched start to be left.

    By accuracy the start has to be better by more than the standard error of these rows: with a few hundred it often
    is by chance, and up to three points worse on others (benchmarks/README.md).

    >>> score_to_beat(0.84, "eval_accuracy", 200).__round__(3)
    0.814
    """
    if metric.removeprefix("eval_") != "accuracy":
        return start
    return start - math.sqrt(max(start * (1 - start), 0.0) / rows)


class ChooseEpoch(TrainerCallback):
    """Makes a start by a linear model a candidate, and lets the loss decide between equals.

    Trainer compares scores alone, so that the first of several epochs with one score wins. What it logs stays as it
    is. Not under FSDP and DeepSpeed, whose weights are shards.
    """

    def __init__(self):
        self.in_training = False

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.in_training, self.start = True, None  # score of the model before its first step
        told = getattr(model, "linear_start", None) is not None and args.eval_on_start and args.load_best_model_at_end
        if told and not _sharded() and args.should_save:
            model.save_pretrained(Path(args.output_dir, START))

    def on_evaluate(self, args, state, control, metrics=None, eval_dataloader=None, **kwargs):
        key = args.metric_for_best_model
        if not self.in_training or key is None:
            return
        key = f"eval_{key.removeprefix('eval_')}"
        if args.greater_is_better and key in metrics:
            loss = metrics.get("eval_calibrated_loss", metrics["eval_loss"])
            metrics[key] += 1e-6 / (1 + max(loss, 0.0))
        if state.global_step == 0 and (score := metrics.get(key)) is not None:
            self.start = score_to_beat(score, key, len(eval_dataloader.dataset))

    def on_epoch_begin(self, args, state, control, **kwargs):
        if self.start is not None and Path(args.output_dir, START).is_dir():
            state.best_metric, state.best_model_checkpoint = self.start, str(Path(args.output_dir, START))
        self.start = None

    def on_save(self, args, state, control, **kwargs):
        if args.should_save and Path(state.best_model_checkpoint or START).name != START:  # it has been beaten
            shutil.rmtree(Path(args.output_dir, START), ignore_errors=True)

    def on_train_end(self, args, state, control, **kwargs):
        self.in_training = False


class Tf32InTraining(TrainerCallback):
    """Gives fp32 products torch's own precision again when training ends.

    `--tf32` and `--torch_compile` set another one for the process, with which the report would have other scores than
    predict.py and the service.
    """

    def on_train_end(self, args, state, control, **kwargs):
        if args.tf32 is not None or args.torch_compile:
            torch.backends.fp32_precision = "none"  # as in a new process
            enable_tf32.cache_clear()  # else it would do nothing for the next of --seeds


class LongestBatchFirst(TrainerCallback):
    """Runs one step on the longest batch before training, then says what the run will take.

    What is said includes the evaluations, once the first one of the run told how long they take. A batch that does not
    fit in memory fails now and not hours later. The step changes nothing: no optimizer step is made, gradients are
    cleared, random states are put back. Skipped under FSDP and DeepSpeed, where a backward pass outside Trainer would
    disturb their own.
    """

    def __init__(self, loss: Callable | None = None):
        self.loss = loss  # of the Trainer; none: that of the model
        self.said: Callable[[float], str] | None = None  # waits for the seconds of an evaluation

    def on_train_begin(self, args, state, control, model=None, train_dataloader=None, **kwargs):
        sampler = sampler_of(train_dataloader)
        if hasattr(sampler, "lengths"):
            sampler.lengths = list(sampler.lengths)  # a lazy column where a map came after that of `tokenize_splits`
        if control.should_training_stop or state.max_steps == 0 or _sharded():  # a finished run; few rows; shards
            return
        dataset = train_dataloader.dataset
        lengths = numbers_in(dataset, "length")
        size = min(state.train_batch_size or args.train_batch_size, len(dataset))  # auto_find_batch_size lowers it
        by_length = np.argsort(-lengths, kind="stable")
        middle = (len(dataset) - size) // 2
        self._step(args, model, train_dataloader.collate_fn, dataset, by_length[:size])
        drawn = np.random.default_rng(0).permutation(len(dataset))[:size]  # of all lengths, padded to the longest
        typical = by_length[middle : middle + size] if hasattr(sampler, "lengths") else drawn
        seconds = self._step(args, model, train_dataloader.collate_fn, dataset, typical)
        left = state.max_steps - state.global_step
        expected = left * args.gradient_accumulation_steps * seconds * lengths.mean() / max(lengths[typical].mean(), 1)
        trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        if args.device.type == "cpu":
            used = psutil.Process().memory_info().rss
        elif args.device.type == "mps":
            used = torch.mps.driver_allocated_memory()
        else:
            used = torch.accelerator.max_memory_allocated()
        memory = f"{(used + 8 * trainable) / 2**30:.1f} GiB of {args.device.type} memory per process"  # Adam's moments
        epoch = max(len(train_dataloader) // args.gradient_accumulation_steps, 1)
        rounds = 1 + math.ceil(left / (state.eval_steps if args.eval_strategy == "steps" else epoch))
        self.said = lambda evaluation: (
            f"Longest batch: {size} texts of up to {lengths.max()} tokens fit. Expected: at most "
            f"{format_duration(expected + rounds * evaluation)} for {left} steps"
            f"{' and the evaluations' if evaluation else ''}, and {memory}."
        )
        runtimes = [entry["eval_runtime"] for entry in state.log_history if "eval_runtime" in entry]
        if runtimes or not args.eval_on_start:
            self.on_evaluate(args, state, control, {"eval_runtime": runtimes[-1] if runtimes else 0.0})

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        if self.said is not None:
            say(self.said(metrics.get("eval_runtime", 0.0)))
        self.said = None

    def _step(self, args, model, collate, dataset, rows) -> float:
        """Seconds of a forward and backward pass over `rows`."""
        batch = {name: tensor.to(args.device) for name, tensor in collate([dataset[int(row)] for row in rows]).items()}
        devices = [] if args.device.type == "cpu" else [args.device.index or 0]
        model.train()
        with torch.random.fork_rng(devices, device_type=args.device.type if devices else "cuda"):
            start = time.perf_counter()
            try:
                labels = None if self.loss is None else batch.pop("labels")
                outputs = model(**batch)
                loss = outputs.loss if self.loss is None else self.loss(outputs, labels)
                loss.backward()
            except RuntimeError as error:
                if args.auto_find_batch_size or not should_reduce_batch_size(error):
                    raise
                raise ValueError(
                    f"The longest batch, {len(rows)} texts in {tuple(batch['input_ids'].shape)} tokens, does not fit "
                    f"in the memory of {args.device}. Lower --per_device_train_batch_size and raise "
                    "--gradient_accumulation_steps by the same factor, or lower --max_length."
                ) from error
            loss = float(loss.detach())  # waits for the device
            seconds = time.perf_counter() - start
        model.zero_grad()
        if not np.isfinite(loss):
            raise ValueError(
                f"The loss of the longest batch is {loss} before training, expected a finite number. Check the "
                "model's weights, or train without --fp16."
            )
        return seconds


class StopAtNonFinite(TrainerCallback):
    """Stops a run whose loss, gradients or weights are NaN or infinite, before they reach a checkpoint.

    Reads the loss and the norm of the gradients where Trainer logs them, and the weights before each save and
    evaluation, so that no step waits for the device. Needs `logging_nan_inf_filter=False`: Trainer's default logs a
    mean of other losses in place of a NaN. Under fp16, whose scaler skips a step with infinite gradients and goes on,
    they do not count.
    """

    def on_train_begin(self, args, state, control, **kwargs):
        self.last_finite = state.global_step

    def on_log(self, args, state, control, logs=None, **kwargs):
        loss = logs.get("loss", logs.get("train_loss"))
        if loss is None:
            return
        scaled = AcceleratorState().mixed_precision == "fp16"
        for what, value in (("loss", loss), ("norm of the gradients", 0.0 if scaled else logs.get("grad_norm", 0.0))):
            if not np.isfinite(value):
                self._stop(f"The {what} is {value}", state.global_step)
        self.last_finite = state.global_step

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if control.should_save or control.should_evaluate:
            weights = [weight.to_local() if isinstance(weight, DTensor) else weight for weight in model.parameters()]
            if not torch.stack([weight.detach().isfinite().all() for weight in weights]).all():
                self._stop("Found weights that are not finite", state.global_step)

    on_epoch_end = on_step_end  # where saves and evaluations of an epoch are asked for

    def _stop(self, found: str, step: int) -> None:
        first = min(self.last_finite + 1, step)
        since = f"step {step}" if first == step else f"one of the steps {first} to {step}"
        raise ValueError(
            f"{found} since {since}; expected finite numbers. Lower --learning_rate, raise --warmup_steps, or train "
            "without --fp16; --debug underflow_overflow names the layer where it begins."
        )


class RatesTable(TrainerCallback):
    """Checks the optimizer before the first step: every trainable parameter in it once, lower layers not faster.

    Prints the table of `check_rates` where rates differ. Skipped under FSDP and DeepSpeed, whose optimizers hold
    shards.
    """

    def on_train_begin(self, args, state, control, model=None, optimizer=None, **kwargs):
        if _sharded():
            return
        table = check_rates(model, optimizer)
        rates = {group.get("initial_lr", group["lr"]) for group in optimizer.param_groups}
        if len(rates) > 1:
            say(table)
