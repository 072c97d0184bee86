"""What a run leaves behind beside the model."""

import json
from pathlib import Path

import numpy as np
from datasets import Dataset

from bertcls.inference import TextClassifier
from bertcls.metrics import ClassificationMetric, wilson_interval

RESULTS, PREDICTIONS = "all_results.json", "predictions.parquet"


def score_reported(classifier: TextClassifier, dataset: Dataset, *, run_dir: str, progress: bool = False) -> dict:
    """Scores the reported rows from their raw text, and writes `predictions.parquet`, the source of these scores.

    The file has the columns `example_id`, `text`, `label` and `prediction` (names), and `probability_<name>` for every
    class.

    Args:
        classifier: loaded from the saved folder.
        dataset: rows with raw `text`, `label` and `example_id`.
        run_dir: where the file goes.
        progress: show a progress bar.

    Returns:
        `test_*`: the scores of `ClassificationMetric`, and the 95 % interval of the accuracy.
    """
    probabilities = classifier.probabilities(dataset["text"][:], progress=progress)  # [rows, num_labels]
    names = np.array(dataset.features["label"].names)
    predictions, labels = probabilities.argmax(-1), np.array(dataset["label"][:])
    table = dataset.select_columns(["example_id", "text"]).to_pandas()
    table["label"], table["prediction"] = names[labels], names[predictions]
    for number, name in enumerate(names):
        table[f"probability_{name}"] = probabilities[:, number]
    table.to_parquet(Path(run_dir, PREDICTIONS), index=False)
    scores = ClassificationMetric(names.tolist()).compute(predictions=predictions, references=labels)
    low, high = wilson_interval(int((predictions == labels).sum()), len(labels))
    scores |= {"accuracy_low": low, "accuracy_high": high, "samples": len(labels)}
    return {f"test_{name}": value for name, value in scores.items()}


def write_results(results: dict, *, run_dir: str) -> str:
    """Writes all scores of a run to `all_results.json`.

    Returns:
        what to tell the user: the score, where the model is, and how to use it.
    """
    Path(run_dir, RESULTS).write_text(json.dumps(results, indent=2) + "\n")
    return (
        f"{results['reported_split']} accuracy {results['test_accuracy']:.4f} (95 % interval "
        f"{results['test_accuracy_low']:.4f} to {results['test_accuracy_high']:.4f}, {results['test_samples']} rows), "
        f"F1 macro {results['test_f1_macro']:.4f}\nThe model is in {run_dir}. Use it:\n"
        f'  python -c "from bertcls import TextClassifier; '
        f"print(TextClassifier.from_pretrained('{Path(run_dir).as_posix()}').predict('A film that ends well.'))\""
    )
