"""Trainer callbacks."""

import time

import numpy as np
import psutil
import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from accelerate.utils.memory import should_reduce_batch_size
from transformers import EarlyStoppingCallback, TrainerCallback, TrainingArguments

from bertcls.checkpoints import Checkpoints
from bertcls.optim import check_rates
from bertcls.tokenization import WindowCollator


def training_callbacks(
    training_args: TrainingArguments, *, collator: WindowCollator | None = None, early_stopping_patience: int = 0
) -> list[TrainerCallback]:
    """What every training of ours runs beside Trainer's own callbacks.

    Args:
        training_args: early stopping needs its `metric_for_best_model`.
        collator: whose padding is logged.
        early_stopping_patience: evaluations without a better metric before training stops; 0: never.
    """
    callbacks = [Checkpoints(early_stopping_patience=early_stopping_patience), LongestBatchFirst(), RatesTable()]
    if collator is not None:
        callbacks.append(PaddingShare(collator))
    if early_stopping_patience and training_args.metric_for_best_model:
        callbacks.append(EarlyStoppingCallback(early_stopping_patience))
    return callbacks


class LongestBatchFirst(TrainerCallback):
    """Runs one step on the longest batch before training, then says what the run will take.

    A batch that does not fit in memory fails now and not hours later. The step changes nothing: no optimizer step is
    made, gradients are cleared, random states are put back. Skipped under FSDP and DeepSpeed, where a backward pass
    outside Trainer would disturb their own.
    """

    def on_train_begin(self, args, state, control, model=None, train_dataloader=None, **kwargs):
        # Trainer hands the sampler a lazy column, which costs seconds at every sort of an epoch.
        sampler = train_dataloader.get_sampler()
        if hasattr(sampler, "lengths"):
            sampler.lengths = list(sampler.lengths)
        if control.should_training_stop:  # a finished run, loaded to write its report
            return
        if AcceleratorState().distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
            return
        dataset = train_dataloader.dataset
        lengths = np.array(dataset["length"][:])
        size = min(state.train_batch_size or args.train_batch_size, len(dataset))  # auto_find_batch_size lowers it
        by_length = np.argsort(-lengths, kind="stable")
        middle = (len(dataset) - size) // 2
        self._step(args, model, train_dataloader.collate_fn, dataset, by_length[:size])
        typical = by_length[middle : middle + size]
        seconds = self._step(args, model, train_dataloader.collate_fn, dataset, typical)
        if args.process_index != 0:
            return
        steps = (state.max_steps - state.global_step) * args.gradient_accumulation_steps
        expected = steps * seconds * lengths.mean() / max(lengths[typical].mean(), 1)
        trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        if args.device.type == "cpu":
            used = psutil.Process().memory_info().rss
        elif args.device.type == "mps":
            used = torch.mps.driver_allocated_memory()
        else:
            used = torch.accelerator.max_memory_allocated()
        adam = 8 * trainable  # two moments in fp32
        print(
            f"Longest batch: {size} texts of up to {lengths.max()} tokens fit. Expected: {format_seconds(expected)} "
            f"for {state.max_steps - state.global_step} steps, evaluation not counted, and "
            f"{(used + adam) / 2**30:.1f} GiB of {args.device.type} memory per process."
        )

    def _step(self, args, model, collate, dataset, rows) -> float:
        """Seconds of a forward and backward pass over `rows`."""
        batch = {name: tensor.to(args.device) for name, tensor in collate([dataset[int(row)] for row in rows]).items()}
        devices = [] if args.device.type == "cpu" else [args.device.index or 0]
        model.train()
        with torch.random.fork_rng(devices, device_type=args.device.type if devices else "cuda"):
            start = time.perf_counter()
            try:
                loss = model(**batch).loss
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


class PaddingShare(TrainerCallback):
    """Adds `padding_share` to what Trainer logs of a stretch of training: padding as a share of all places in batches.

    Batches are counted when they are made, one ahead of the step or, with loader workers, more. Trackers that Trainer
    calls first do not see the value; `log_history` has it.

    Args:
        collator: counts tokens and places.
    """

    def __init__(self, collator: WindowCollator):
        self.collator = collator
        self.trained = collator.counts.clone()

    def on_train_begin(self, args, state, control, **kwargs):
        self.collator.counts.zero_()  # of the longest batch, tried before

    def on_step_end(self, args, state, control, **kwargs):
        self.trained.copy_(self.collator.counts)

    def on_log(self, args, state, control, logs=None, **kwargs):
        tokens, places = self.collator.counts.tolist()
        if places and "loss" in logs:
            logs["padding_share"] = state.log_history[-1]["padding_share"] = round(1 - tokens / places, 4)
            self.collator.counts.zero_()
            self.trained.zero_()

    def on_evaluate(self, args, state, control, **kwargs):
        self.collator.counts.copy_(self.trained)  # the batches of an evaluation do not count


class RatesTable(TrainerCallback):
    """Checks the optimizer before the first step: every trainable parameter in it once, lower layers not faster.

    Prints the table of `check_rates` where rates differ. Skipped under FSDP and DeepSpeed, whose optimizers hold
    shards.
    """

    def on_train_begin(self, args, state, control, model=None, optimizer=None, **kwargs):
        if AcceleratorState().distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
            return
        table = check_rates(model, optimizer)
        rates = {group.get("initial_lr", group["lr"]) for group in optimizer.param_groups}
        if len(rates) > 1 and args.process_index == 0:
            print(table)


def format_seconds(seconds: float) -> str:
    """Seconds for people.

    >>> format_seconds(3.2), format_seconds(125), format_seconds(7260)
    ('3 s', '2 min 5 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
