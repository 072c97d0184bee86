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

from bertcls import (
    RecipeArguments,
    TfidfClassifier,
    arrange_splits,
    audit_run,
    clear_output,
    describe_scores,
    draw_rows,
    label_array,
    label_names_of,
    load_newsgroups,
    load_splits,
    one_line_errors,
    parse,
    problem_type_of,
    score_reported,
    texts_of,
    write_metrics,
    write_record,
)

# ------------------------------------------------------------------------------------------------ what to edit
DEFAULTS = dict(
    categories=["alt.atheism", "soc.religion.christian", "comp.graphics", "sci.med"],
    remove=["headers", "footers", "quotes"],
    eval_strategy="no",
    early_stopping_patience=0,
)
SAMPLE_DEFAULTS = dict(dataset_name=str(Path(__file__).parent / "sample" / "reviews"))
CLASS_WEIGHT = {"none": None, "balanced": "balanced"}  # in scikit-learn's words
SPLIT_SEED = 42  # as in the recipes: the same rows
# -------------------------------------------------------------------------------------------------------------


@dataclass
class Arguments(RecipeArguments):
    categories: list[str] = field(default_factory=list, metadata={"help": "Newsgroups, or all."})
    remove: list[str] = field(
        default_factory=list, metadata={"help": "What scikit-learn takes out: headers, footers, quotes; or none."}
    )
    analyzer: Literal["word", "char"] | None = field(
        default=None, metadata={"help": "Words and pairs of words, or of characters; none: char for Chinese."}
    )
    min_df: int = field(default=2, metadata={"help": "Texts that a word must stand in."})
    C: float = field(default=10.0, metadata={"help": "Inverse strength of the L2 penalty."})


def main(args: Arguments, training_args: TrainingArguments) -> dict:
    # 1. The same splits as in a recipe
    source = args.source
    if source["source"] == "20newsgroups":
        source["source"] = load_newsgroups(args.categories, args.remove)
    splits = load_splits(**source)
    kind = problem_type_of(splits["train"])
    splits, reported_split = arrange_splits(splits, seed=SPLIT_SEED, **args.arrangement)
    splits = audit_run(splits, training_args=training_args, **args.audit)
    train = draw_rows(splits["train"], args.max_train_samples, seed=training_args.seed)
    test = draw_rows(splits["test"], args.max_test_samples, seed=SPLIT_SEED)

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
        class_weight=CLASS_WEIGHT[args.class_weights],
    )
    classifier.fit(texts_of(train), label_array(train))
    classifier.tune(texts_of(splits["validation"]), label_array(splits["validation"]))
    results = score_reported(classifier, test, run_dir=args.run_dir)
    results |= {"reported_split": reported_split, "seed": training_args.seed, "train_samples": len(train)}
    write_metrics({"scores": results}, run_dir=args.run_dir)
    write_record(None, run_dir=args.run_dir, started=args.started, seed=training_args.seed)
    print(describe_scores(results))
    return results


if __name__ == "__main__":
    with one_line_errors():
        main(*parse(Arguments, defaults=DEFAULTS, sample_defaults=SAMPLE_DEFAULTS, description=__doc__))
