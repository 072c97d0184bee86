"""The end of a fine-tuning run: what is fitted on the validation rows, and the way from the trained model to its
report."""

from accelerate import PartialState
from datasets import Dataset, DatasetDict
from transformers import Trainer

from bertcls.data.labels import label_array
from bertcls.hub import push_folder, verify_saved
from bertcls.inference import TextClassifier, texts_of
from bertcls.metrics import fit_temperature, tune_thresholds
from bertcls.modeling import MULTI_LABEL, REGRESSION
from bertcls.report.write import describe_report, write_report

_COMPARED = 64  # texts on which the saved model must answer as the trained one


def calibrate(classifier: TextClassifier, validation: Dataset) -> None:
    """Fits the temperature of a classifier, and of several labels their thresholds, and keeps them in its `config`.

    Nothing is fitted of a regression. With a temperature a probability of 0.8 is right about 8 times in 10; the
    thresholds are tuned at the probabilities that it gives.

    Args:
        classifier: that was trained.
        validation: rows with raw `text` and `label`; not the reported ones.
    """
    config = classifier.model.config
    if config.problem_type == REGRESSION:
        return
    logits, labels = classifier.logits(texts_of(validation)), label_array(validation)
    config.temperature = fit_temperature(logits, labels)
    if config.problem_type == MULTI_LABEL:
        config.thresholds = tune_thresholds(classifier.to_probabilities(logits), labels)


def finish_run(
    trainer: Trainer,
    classifier: TextClassifier,
    splits: DatasetDict,
    *,
    results: dict,
    run_dir: str,
    hub: dict | None,
    **report,
) -> dict:
    """Saves the model, loads it afresh, scores the reported split with what was loaded, and pushes it where asked.

    On the first process; the others return at once.

    Args:
        trainer: that trained.
        classifier: its model, calibrated.
        splits: train, validation and test with raw `text` and `label`.
        results: what is known by now: `train_*`, `before_*` and `eval_*`.
        run_dir: folder of the run.
        hub: arguments of `push_folder`; `None` pushes nothing.
        **report: further arguments of `write_report`.

    Returns:
        all scores of the run; on other processes `results`.

    Raises:
        ValueError: the saved model answers otherwise than the trained one.
        ConnectionError: it could not be pushed; the folder is whole.
    """
    if not trainer.is_world_process_zero():
        return results
    say, progress = PartialState().print, not trainer.args.disable_tqdm
    classifier.save_pretrained(run_dir)
    texts = texts_of(splits["test"])[:_COMPARED]
    loaded = verify_saved(run_dir, classifier, texts, new_process=hub is not None)
    facts = write_report(trainer, loaded, splits, results=results, run_dir=run_dir, progress=progress, **report)
    say(describe_report(facts, run_dir=run_dir))
    if hub is not None:
        say(push_folder(run_dir, **hub))
    return facts["scores"]
