"""A distilled student beside its teacher, and beside the same student trained on the labels alone."""

import copy
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset
from transformers import TrainingArguments

from bertcls.arguments import RecipeArguments
from bertcls.data.columns import column
from bertcls.inference import Text, TextClassifier, texts_of
from bertcls.layout import CARD, CHECKPOINTS, PLAIN, PREDICTIONS
from bertcls.modeling import REGRESSION
from bertcls.process import say, warn
from bertcls.report.findings import beside_values
from bertcls.report.formats import BETTER, MEASURES, UNSURE, WORSE, format_p, format_score
from bertcls.report.scores import row_values
from bertcls.report.statistics import score_with_interval
from bertcls.together import from_rank_0
from bertcls.training.checkpoints import newest_complete
from bertcls.training.teacher import Teacher

_TIMED_TEXTS, _TIMED_ROUNDS = 256, 3  # by which the texts a second are counted


class Comparison:
    """Makes the run on the labels alone, after the student's own, and then says what each is beside the others.

    Args:
        main: of the recipe, which trains on the labels alone where its arguments say `labels_alone`.
        args: of the run. `plain_run` is `auto`, which makes it in `plain` below the folder of the run; a folder of a
            finished run, which is taken instead; or `none`.
        training_args: of the run, before anything of them is changed.

    Raises:
        FileNotFoundError: a folder without a finished run.
    """

    def __init__(self, main: Callable, args: RecipeArguments, training_args: TrainingArguments):
        self.main, self.args, self.training_args = main, copy.copy(args), copy.deepcopy(training_args)
        self.layers, self.alone, named = args.student_layers, args.labels_alone, args.plain_run
        self.makes = named == "auto" and args.report and not args.labels_alone
        self.folder = named if named not in ("auto", "none") else None
        if self.folder is not None and not Path(self.folder, PREDICTIONS).is_file():
            raise FileNotFoundError(
                f"Found no finished run in --plain_run {named}; expected a folder with {PREDICTIONS}, auto or none. "
                "Check the path."
            )
        if not self.makes:
            return
        self.folder = self.args.run_dir = str(Path(args.run_dir, PLAIN))
        self.args.labels_alone, self.args.hub, self.args.figures, self.args.probes = True, None, False, None
        args, checkpoints = self.training_args, Path(self.folder, CHECKPOINTS)
        if args.resume_from_checkpoint is not None:  # with what has been done of it
            newest = from_rank_0(lambda: str(newest_complete(checkpoints)[0] or ""))
            finished = from_rank_0(Path(self.folder, CARD).is_file)  # which is written last
            self.makes, self.args.overwrite_output = not finished, not newest
            args.resume_from_checkpoint = newest or None
            args.restore_callback_states_from_checkpoint = bool(newest)
            args.eval_on_start = not newest and args.eval_strategy != "no"
        args.output_dir = str(checkpoints)

    def train_on_labels_alone(self) -> None:
        """Makes that run, where there is one to make, as the recipe does any other."""
        if self.makes:
            say("The same student on the labels alone, to compare with (--plain_run none leaves it out):")
            Path(self.training_args.output_dir).mkdir(parents=True, exist_ok=True)
            self.args.started = time.time()
            self.main(self.args, self.training_args)

    def beside(self, teacher: Teacher, taught: Dataset) -> Callable | None:
        """`beside` of `finish_run`, of rows that `taught`: gives `distilled`, and `said`; `None` for the run on the
        labels alone."""
        if self.alone:
            return None
        unlabelled = column(taught, "label").null_count
        facts = {"rows": len(taught), "unlabelled": unlabelled, "layers": self.layers or None}

        def compare(classifier: TextClassifier, test: Dataset, table: pd.DataFrame) -> dict:
            values, models = row_values(table), [classifier, teacher.classifier]
            sizes = [
                {"parameters": sum(weight.numel() for weight in model.model.parameters()), "texts_per_second": speed}
                for model, speed in zip(models, texts_a_second(models, texts_of(test)))
            ]
            found = {"student": score_with_interval(values) | sizes[0]}
            found["teacher"] = beside_values(teacher.name, row_values(teacher.answer_table(test)), values) | sizes[1]
            if self.folder is not None:
                other = table[["example_id"]].merge(pd.read_parquet(Path(self.folder, PREDICTIONS)), how="left")
                if other["text"].equals(table["text"]):
                    found["labels_alone"] = beside_values(self.folder, row_values(other), values)
                else:
                    warn(f"The run in {self.folder} reports other rows, and is not compared; expected the same data.")
            said = describe_students(found, classifier.model.config.problem_type, len(test))
            return {"distilled": facts | found, "said": said}

        return compare


def describe_students(found: dict, kind: str, rows: int) -> str:
    """The first line of a student's report, from `score`, `outcome` and so on of each.

    >>> student = {"score": 0.89, "parameters": 12_000_000, "texts_per_second": 900.0}
    >>> teacher = student | {"score": 0.9, "p_value": 0.2, "outcome": "cannot tell"}
    >>> describe_students({"student": student, "teacher": teacher}, "single_label_classification", 872).split(") ")[1:]
    ['cannot be told from its teacher (0.900, p = 0.20, 12.0 million parameters, 900 texts/s).']
    """

    def shown(row: dict) -> str:
        parts = [format_score(row["score"], rows, error=kind == REGRESSION)]
        parts += [f"p {format_p(row['p_value'], '= ')}"] if "p_value" in row else []
        if "parameters" in row:
            parts += [f"{row['parameters'] / 1e6:,.1f} million parameters", f"{row['texts_per_second']:,.0f} texts/s"]
        return ", ".join(parts)

    clauses, verbs = [], {BETTER: "is better than", UNSURE: "cannot be told from", WORSE: "is worse than"}
    for key, name in (("teacher", "its teacher"), ("labels_alone", "the same student on the labels alone")):
        if key in found:
            clauses.append(f"{verbs[found[key]['outcome']]} {name} ({shown(found[key])})")
    return f"The student ({MEASURES[kind]} {shown(found['student'])} on this machine) {' and '.join(clauses)}."


def texts_a_second(models: list[TextClassifier], texts: list[Text]) -> list[float]:
    """Of each model, in turn on the same texts, so that other work of the machine meets all; medians."""
    drawn = np.random.default_rng(0).permutation(len(texts))[:_TIMED_TEXTS]
    texts, seconds = [texts[row] for row in drawn], np.zeros((_TIMED_ROUNDS + 1, len(models)))
    for number, row in enumerate(seconds):
        for place in range(len(models))[:: -1 if number % 2 else 1]:
            start = time.perf_counter()
            models[place].logits(texts)
            row[place] = time.perf_counter() - start
    return (len(texts) / np.median(seconds[1:], 0)).tolist()  # the first round warms up
