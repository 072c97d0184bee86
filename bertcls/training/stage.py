"""A short training before that of a run."""

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn
from transformers import SchedulerType, TrainingArguments


@contextmanager
def stage(
    training_args: TrainingArguments, parameters: Iterable[nn.Parameter], *, steps: int, learning_rate: float
) -> Iterator[TrainingArguments]:
    """Arguments for so many optimizer `steps`, in which `parameters` stay as they are.

    The rate rises over 6 % of them and falls to 0, whatever the schedule of the run: one that warms up for more steps
    than a stage has would train nothing. A stage is not evaluated, saved or told to others.
    """
    args = copy.deepcopy(training_args)
    args.max_steps, args.learning_rate, args.warmup_steps = steps, learning_rate, 0.06
    args.lr_scheduler_type, args.lr_scheduler_kwargs = SchedulerType.LINEAR, None
    args.eval_strategy = args.save_strategy = "no"
    args.eval_on_start = args.load_best_model_at_end = False
    args.report_to = []  # no steps of another kind among those of the run
    still = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in still:
        parameter.requires_grad_(False)
    try:
        yield args
    finally:
        for parameter in still:
            parameter.requires_grad_(True)
