"""What a run says while it trains: a line an epoch, and bars only where something takes long."""

import functools
import logging
import re
import sys

import huggingface_hub.utils
from tqdm.auto import tqdm
from transformers import PrinterCallback, ProgressCallback
from transformers.utils.logging import disable_progress_bar

_LONG = 5  # seconds, after which a bar of datasets appears
_SCORES = ("accuracy", "f1_micro", "r2", "masked_accuracy")  # what people know, beside the metric that chooses
_IDLE_WARNINGS = re.compile(
    r"do not match the ones in the `trainer_state.json`"  # shares of all steps, which are numbers there
    r"|longer than the specified maximum"  # windows are cut afterwards
)


def quiet(*, data: bool = True) -> None:
    """Silences bars of loading and saving weights, those of datasets while they are short, and idle warnings.

    Without `data` datasets is left alone, which takes a while to import.
    """
    disable_progress_bar()
    huggingface_hub.utils.enable_progress_bars()  # the line above turns off those of downloads, too
    if not data:
        return
    import datasets

    if not isinstance(vars(datasets.utils.tqdm)["__init__"], functools.partialmethod):
        datasets.utils.tqdm.__init__ = functools.partialmethod(datasets.utils.tqdm.__init__, delay=_LONG)
        for name in ("transformers.trainer", "transformers.trainer_utils", "transformers.tokenization_utils_base"):
            logging.getLogger(name).addFilter(lambda record: not _IDLE_WARNINGS.search(record.getMessage()))


class EpochLines(ProgressCallback):
    """Prints an aligned line an evaluation, or an epoch where there is none; bars are shown on a terminal alone."""

    def on_init_end(self, args, state, control, **kwargs):
        from transformers import trainer  # not at the top: who labels one text waits for it

        trainer.DEFAULT_PROGRESS_CALLBACK = ProgressCallback
        trainer.PrinterCallback = PrinterCallback

    def on_train_begin(self, args, state, control, **kwargs):
        hidden = args.disable_tqdm or not sys.stderr.isatty() or not state.is_world_process_zero
        self.training_bar = tqdm(total=state.max_steps, dynamic_ncols=True, leave=False, disable=hidden)
        self.current_step = self.logged_until = state.global_step
        self.losses: list[tuple[int, float]] = []  # since the last line: steps, and their mean
        self.scores: list[str] | None = None  # columns; none before the header

    def on_prediction_step(self, args, state, control, **kwargs):
        if self.training_bar is not None and not self.training_bar.disable:
            super().on_prediction_step(args, state, control, **kwargs)

    def on_epoch_end(self, args, state, control, **kwargs):
        control.should_log = control.should_log or args.logging_strategy != "no"  # so that its line has a loss

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" not in logs or not state.is_world_process_zero:
            return
        self.losses.append((state.global_step - self.logged_until, logs["loss"]))
        self.logged_until = state.global_step
        if args.eval_strategy == "no" and state.epoch == int(state.epoch):
            self._print(args, state, {})

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        super().on_evaluate(args, state, control, **kwargs)
        if self.training_bar is not None and state.is_world_process_zero:
            self._print(args, state, metrics)

    def _print(self, args, state, metrics: dict) -> None:
        chosen_by = (args.metric_for_best_model or "").removeprefix("eval_")
        if self.scores is None:
            wanted = [chosen_by, *(_SCORES if chosen_by not in _SCORES else ())]
            self.scores = [name for name in wanted if f"eval_{name}" in metrics and name != "loss"]
            names = ["epoch", "train loss", *(["validation loss"] if metrics else []), *self.scores]
            tqdm.write("  ".join(names).replace("_", " "))
        steps = sum(number for number, _ in self.losses)
        loss = sum(number * loss for number, loss in self.losses) / steps if steps else None
        cells = [f"{round(state.epoch or 0, 2):5g}", " " * 10 if loss is None else f"{loss:10.4f}"]
        cells += [f"{metrics['eval_loss']:15.4f}"] if metrics else []
        cells += [f"{metrics[f'eval_{name}']:{max(len(name), 6)}.4f}" for name in self.scores]
        score, best = metrics.get(f"eval_{chosen_by}"), state.best_metric
        if score is not None and state.global_step:
            better = best is None or (score > best if args.greater_is_better else score < best)
            cells += ["best"] if better else []
        tqdm.write("  ".join(cells).rstrip())
        self.losses = []


def use_epoch_lines() -> None:
    """Gives the Trainer that is made next `EpochLines` for its own progress, as transformers itself does in notebooks.

    Trainer adds its own, which prints each log as a dict, after all that it is given, and has no option for it.
    """
    from transformers import trainer

    if trainer.DEFAULT_PROGRESS_CALLBACK is ProgressCallback:  # else a notebook's table
        trainer.DEFAULT_PROGRESS_CALLBACK = trainer.PrinterCallback = EpochLines
