"""The end of a fine-tuning run: what is fitted on the validation rows, and the way from the trained model to its
report."""

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from datasets import Dataset, DatasetDict
from transformers import Trainer

from bertcls.data.labels import label_array
from bertcls.hub import COMPARED, push_folder, verify_saved
from bertcls.inference import TextClassifier, texts_of
from bertcls.layout import FOLDS, START
from bertcls.metrics import fit_temperature, tune_thresholds
from bertcls.modeling import MULTI_LABEL, REGRESSION, BertClsForSequenceClassification
from bertcls.process import say
from bertcls.together import finishing

if TYPE_CHECKING:
    from bertcls.training.head_start import FrozenEncoder


def calibrate(classifier: TextClassifier, validation: Dataset) -> None:
    """Fits the temperature of a classifier, and of several labels their thresholds, and keeps them in its `config`.

    Nothing is fitted of a regression. With a temperature a probability of 0.8 is right about 8 times in 10; the
    thresholds are tuned at the probabilities that it gives.
    """
    config = classifier.model.config
    if config.problem_type == REGRESSION:
        return
    logits, labels = classifier.logits(texts_of(validation)), label_array(validation)
    config.temperature = fit_temperature(logits, labels)
    if config.problem_type == MULTI_LABEL:
        config.thresholds = tune_thresholds(classifier.to_probabilities(logits), labels)


@finishing()
def finish_run(
    trainer: Trainer,
    splits: DatasetDict,
    results: dict,
    *,
    run_dir: str,
    reported_split: str = "test",
    report: bool = True,
    fold: str | None = None,
    own: dict[str, Callable] | None = None,
    model_name_or_path: str = "",
    from_scratch: bool = False,
    dataset_name: str | None = None,
    dataset_config_name: str | None = None,
    data_files: list[str] | None = None,
    started: float | None = None,
    language: str | None = None,
    license: str | None = None,
    label_column: str | None = None,
    probes: str | None = None,
    figures: bool = True,
    beside: Callable | None = None,
    hub: dict | None = None,
) -> dict:
    """Calibrates and saves the model, loads it afresh, scores the reported rows with that, and pushes where asked.

    On the first process; the others return at once.

    Args:
        trainer: that trained.
        splits: train, validation and test with raw `text` and `label`.
        results: what is known by now: `train_*` and `eval_*`.
        run_dir: folder of the run.
        reported_split: the name that the test rows have in the source.
        report: `False` leaves the reported rows untouched, for a search or a curve.
        fold: as in `arrange_splits`; the final model's temperature, and without test rows its scores, are the folds'.
        own: further metrics, as in `make_compute_metrics`.
        model_name_or_path, from_scratch, dataset_name, dataset_config_name, data_files: what the run was made from.
        started: when it began, in seconds of `time.time()`; `None`: now.
        language, license: for the model card.
        label_column: what the numbers of a regression are called in the report.
        probes: file for `run_probes`.
        figures: draw the figures and the page.
        beside: as in `write_report`.
        hub: arguments of `push_folder`; `None` pushes nothing.

    Returns:
        all scores of the run; on other processes `results`.

    Raises:
        ValueError: the saved model answers otherwise than the trained one.
        ConnectionError: it could not be pushed; the folder is whole.
    """
    from bertcls.report.folds import FoldAnswers  # figures and statistics, which --help does without
    from bertcls.report.scores import scores_before
    from bertcls.report.write import describe_report, write_metrics, write_report

    classifier = TextClassifier.from_trainer(trainer)  # under FSDP all processes give their part
    if not trainer.is_world_process_zero():
        return results
    results, chosen = scores_before(trainer.state.log_history) | results, chosen_epoch(trainer)
    kind, answers = classifier.model.config.problem_type, None
    if "validation" in splits:
        calibrate(classifier, splits["validation"])
    elif fold is not None and fold.startswith("final"):
        rows, count = splits["test" if reported_split == FOLDS else "train"], int(fold.partition("/")[2])
        answers = FoldAnswers(Path(run_dir).parent, rows, folds=count, problem_type=kind)
        classifier.model.config.temperature = answers.temperature
    elif kind != REGRESSION:
        say(f"No rows to calibrate by: the temperature stays 1{', thresholds 0.5' * (kind == MULTI_LABEL)}.")
    classifier.save_pretrained(run_dir)
    some = splits["test" if report else "train"]
    texts = texts_of(some.select(range(min(len(some), COMPARED))))
    loaded = verify_saved(run_dir, classifier, texts, new_process=hub is not None)
    if report:
        facts = write_report(
            trainer,
            loaded,
            splits,
            results | {"reported_split": reported_split},
            run_dir=run_dir,
            started=started or time.time(),
            chosen=chosen,
            answers=answers,
            as_it_came=None if from_scratch else encoder_as_it_came(trainer, classifier, splits, model_name_or_path),
            encoder=model_name_or_path,
            from_scratch=from_scratch,
            source={"dataset": dataset_name, "config": dataset_config_name, "files": data_files or []},
            language=language,
            license=license,
            label_column=label_column,
            own=own,
            probes=probes,
            draw=figures,
            beside=beside,
        )
        say(describe_report(facts, run_dir=run_dir, texts=texts_of(splits["train"].select(range(1)))))
    else:
        facts = {"scores": results, "chosen": chosen}
        write_metrics(facts, run_dir=run_dir)
        say(chosen["said"])
        say(f"The model is in {run_dir}; the reported rows were left untouched.")
    if hub is not None:
        say(push_folder(run_dir, **hub))
    return facts["scores"]


def chosen_epoch(trainer: Trainer) -> dict:
    """Which epoch a trained model is of: `epoch` of `of`, training `stopped_after`, its `steps` of those `made`, and
    what `said` so.

    `by` is the metric that chose it, `None` for the last one; epoch 0 is the start. `texts` were read in
    training, with repetitions.
    """
    state, args = trainer.state, trainer.args
    kept = Path((args.load_best_model_at_end and state.best_model_checkpoint) or "").name
    steps = 0 if kept == START else int(kept.rpartition("-")[2] or state.global_step)
    an_epoch = state.global_step / state.epoch if state.epoch else 1.0
    found = {
        "epoch": round(steps / an_epoch, 2),
        "of": round(state.max_steps / an_epoch, 2),
        "stopped_after": round(state.epoch or 0.0, 2),
        "steps": steps,
        "made": state.global_step,
        "by": args.metric_for_best_model if kept else None,
        "contrastive_steps": getattr(trainer.model, "contrastive_steps", 0),
        "linear": hasattr(trainer.model, "linear_start"),  # the head that it started with
    }
    found["texts"] = state.global_step * trainer.get_total_train_batch_size(args)
    found["texts"] += getattr(trainer.model, "contrastive_texts", 0)
    ended = f"Training stopped after epoch {found['stopped_after']:g} of {found['of']:g}"
    if found["stopped_after"] == 0:
        done = [f"{found['contrastive_steps']} contrastive steps"] if found["contrastive_steps"] else []
        done += ["a linear head"] if found["linear"] else []
        said = f"No epoch was trained: {' and '.join(done) or 'the model is as it started'}."
    elif not kept:
        said = f"{ended}; the last one is taken."
    else:
        what, by = f"epoch {found['epoch']:g}" if steps else "the start", found["by"].removeprefix("eval_")
        said = f"{ended}; {what} is taken, by the {by.replace('_', ' ')} of the selection rows."
        before = [entry[f"eval_{by}"] for entry in state.log_history if entry["step"] == 0 and f"eval_{by}" in entry]
        if steps and by == "accuracy" and before and before[0] > state.best_metric:
            said = f"{said[:-1]} (the start had {before[0]:.3f}, no better beyond noise)."
    return found | {"said": said}


def encoder_as_it_came(
    trainer: Trainer, classifier: TextClassifier, splits: DatasetDict, name_or_path: str
) -> "FrozenEncoder | None":
    """The untrained encoder with the linear model that was fitted on it, its thresholds tuned as those of the trained
    one; `None` where there was none."""
    from bertcls.training.head_start import FrozenEncoder  # scikit-learn

    head = getattr(trainer.model, "linear_start", None)
    if head is None:
        return None
    model = copy.deepcopy(classifier.model)
    config = model.config
    config.temperature, config.thresholds = 1.0, None
    options = {"num_labels": config.num_labels, "pooling": config.pooling}
    model.encoder = BertClsForSequenceClassification.from_encoder(name_or_path, **options).encoder
    head.copy_to(model)
    found = TextClassifier(model, classifier.tokenizer, device=classifier.device)
    if config.problem_type == MULTI_LABEL and "validation" in splits:
        calibrate(found, splits["validation"])
    return FrozenEncoder(found)
