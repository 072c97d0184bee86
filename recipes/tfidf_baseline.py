"""TF-IDF with logistic regression (of numbers ridge regression) on the same splits: what an encoder has to beat.

Data: of any recipe, by its options, also several labels a text or numbers; --dataset_name 20newsgroups takes
--categories and --remove as there.
Run:  python recipes/tfidf_baseline.py --dataset_name stanfordnlp/sst2 --text_column sentence --phrases
      python recipes/tfidf_baseline.py --dataset_name 20newsgroups --remove none
      python recipes/tfidf_baseline.py --sample       (no network, seconds)

Options of training, of the report and of the card have no effect here, but for --output_dir and --seed.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from transformers import TrainingArguments

from bertcls import arrange_splits, audit_run, load_splits, run_recipe
from bertcls.arguments import NewsgroupsArguments
from bertcls.data.labels import label_array, label_names_of, problem_type_of
from bertcls.inference import texts_of
from bertcls.report.baseline import TfidfClassifier
from bertcls.report.record import write_record
from bertcls.report.scores import describe_scores, score_reported
from bertcls.report.write import write_metrics
from bertcls.training.checkpoints import clear_output

DEFAULTS = dict(
    eval_strategy="no",
    early_stopping_patience=0,
)
SAMPLE = dict(dataset_name=str(Path(__file__).parent / "sample" / "reviews"))


@dataclass
class Arguments(NewsgroupsArguments):
    analyzer: Literal["word", "char"] | None = field(
        default=None, metadata={"help": "Words and pairs of words, or of characters; none: char for Chinese."}
    )
    min_df: int = field(default=2, metadata={"help": "Texts that a word must stand in."})
    C: float = field(default=10.0, metadata={"help": "Inverse strength of the L2 penalty."})

    def check(self) -> None:
        super().check()
        if not 0 < self.C < float("inf"):
            raise ValueError(f"Found --C {self.C:g}; expected a number above 0. Correct it.")
        if self.fold is not None:
            raise ValueError("Found --folds; expected it left out: there is no epoch to choose. Give --seeds.")


def main(args: Arguments, training_args: TrainingArguments) -> dict:
    # 1. The same splits as in a recipe
    splits = load_splits(args.dataset_name, **args.of(load_splits))
    kind = problem_type_of(splits["train"])
    splits, reported_split = arrange_splits(splits, **args.of(arrange_splits))
    splits = audit_run(splits, seed=training_args.seed, **args.of(audit_run))
    train, test = splits["train"], splits["test"]

    # 2. Fit, score once, write what the recipes write
    if args.overwrite_output:
        clear_output(args.run_dir)
    classifier = TfidfClassifier(
        len(label_names_of(train)),
        problem_type=kind,
        analyzer=args.analyzer,
        cleaning=args.cleaning,
        min_df=args.min_df,
        C=args.C,
        class_weight=None if args.class_weights == "none" else "balanced",
    )
    classifier.fit(texts_of(train), label_array(train))
    if "validation" in splits:
        classifier.tune(texts_of(splits["validation"]), label_array(splits["validation"]))
    results = score_reported(classifier, test, run_dir=args.run_dir)
    results |= {"reported_split": reported_split, "seed": training_args.seed, "train_samples": len(train)}
    write_metrics({"scores": results}, run_dir=args.run_dir)
    write_record(None, run_dir=args.run_dir, started=args.started, seed=training_args.seed)
    print(describe_scores(results))
    return results


if __name__ == "__main__":
    run_recipe(main, Arguments, defaults=DEFAULTS, sample=SAMPLE, description=__doc__)
