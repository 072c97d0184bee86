"""Fine-tune a BERT encoder on your own files: the template to copy. Classes, several labels a text, or numbers.

Data: csv, tsv, json, jsonl, parquet or txt, compressed or not, or a folder with a folder per class. What is missing of
validation and test is held out of train. Lists in the label column, or --label_delimiter, make the task multi-label;
labels with fractions make it a regression.
Run:  accelerate launch recipes/csv_finetune.py --train_file mine.csv --text_column headline --label_column topic
      accelerate launch recipes/csv_finetune.py --train_file mine.csv --label_delimiter ";"      (several labels)
      accelerate launch recipes/csv_finetune.py --sample       (no network, a tiny model, 15 s on two cores)

To copy it for a task of yours, edit the four places marked EDIT; every value there is also an option.
"""

from pathlib import Path

from accelerate import PartialState
from transformers import Trainer, TrainingArguments, set_seed

from bertcls import (
    BertClsForSequenceClassification,
    RecipeArguments,
    TextClassifier,
    WindowCollator,
    arrange_splits,
    audit_run,
    augment,
    balanced_class_weights,
    best_metric,
    calibrate,
    check_window,
    clear_output,
    describe_windows,
    draw_rows,
    explode_windows,
    finish_run,
    freeze,
    label_array,
    label_names_of,
    layerwise_optimizer,
    load_splits,
    load_tokenizer,
    make_compute_metrics,
    problem_type_of,
    run_recipe,
    scores_before,
    tokenize_splits,
    training_callbacks,
)

DEFAULTS = dict(
    # EDIT 1: your data. Columns that are not named are looked for: text, sentence, content, review; label, labels.
    train_file=None,  # "mine.csv"; or dataset_name="owner/name" of the Hub
    text_column=None,
    text_pair_column=None,  # for pairs of texts
    label_column=None,
    class_weights="none",  # "balanced" where rare classes matter as much as frequent ones
    # EDIT 2: the encoder, and how much of a text it reads at once; longer texts are read in several windows.
    model_name_or_path="google-bert/bert-base-uncased",
    max_length=128,  # tokens; the audit says how many texts are longer
    max_train_windows=8,
    # EDIT 3: cleaning steps of bertcls.text, in order; they are stored with the model.
    cleaning=["strip_tags", "unescape_entities", "collapse_blanks"],
    # EDIT 4: training.
    metric_for_best_model="auto",  # accuracy, f1_micro of several labels, or r2 of numbers
    learning_rate=5e-5,  # 2e-5 to 5e-5 for BERT; 1e-4 for small encoders
    num_train_epochs=3,
    per_device_train_batch_size=32,
    per_device_eval_batch_size=128,
    warmup_steps=0.06,  # share of all steps
    weight_decay=0.01,
)
SAMPLE = Path(__file__).parent / "sample"
SAMPLE_DEFAULTS = dict(
    dataset_name=str(SAMPLE / "reviews"),
    model_name_or_path=str(SAMPLE / "tiny-bert"),
    from_scratch=True,
    pooling="mean",
    classifier_dropout=0.5,
    early_stopping_patience=5,
    max_length=64,
    learning_rate=1e-3,
    num_train_epochs=12,
    logging_steps=1 / 12,
)
SPLIT_SEED = 42  # the same held-out rows for every training seed


def main(args: RecipeArguments, training_args: TrainingArguments) -> dict:
    say = PartialState().print  # rank 0 only
    set_seed(training_args.seed)  # before the head gets its random weights

    # 1. Load: columns text, [text_pair,] label, example_id
    splits = load_splits(**args.source)
    kind, names = problem_type_of(splits["train"]), label_names_of(splits["train"])
    if training_args.metric_for_best_model == "auto":
        training_args.metric_for_best_model = best_metric(kind)
    if kind != "single_label_classification" and training_args.label_smoothing_factor:
        raise ValueError(f"Found --label_smoothing_factor with {kind}; expected one class a text. Leave it out.")
    say(f"{kind}: {', '.join(names[:20])}{' ...' if len(names) > 20 else ''}")

    # 2. Split and audit: the model is chosen on validation rows that are not the reported ones
    splits, reported_split = arrange_splits(splits, seed=SPLIT_SEED, **args.arrangement)
    tokenizer = load_tokenizer(args.model_name_or_path)
    splits = audit_run(splits, tokenizer=tokenizer, training_args=training_args, **args.audit)
    splits["train"] = draw_rows(splits["train"], args.max_train_samples, seed=training_args.seed)
    splits["test"] = draw_rows(splits["test"], args.max_test_samples, seed=SPLIT_SEED)
    splits = augment(splits, args.augment, seed=training_args.seed)
    say("rows: " + ", ".join(f"{name} {len(split)}" for name, split in splits.items()))

    # 3. Clean and tokenize, batched and cached; the reported rows stay raw
    pairs = "text_pair" in splits["train"].column_names
    contract = {
        "cleaning": args.cleaning,
        "max_length": args.max_length,
        "overlap": check_window(tokenizer, max_length=args.max_length, overlap=args.overlap, pair=pairs),
        "truncation": args.truncation,
        "pair_truncation": args.pair_truncation if pairs else None,
    }
    with training_args.main_process_first(desc="tokenizing"):
        tokenized = tokenize_splits(splits, tokenizer=tokenizer, max_train_windows=args.max_train_windows, **contract)
        for name, split in tokenized.items():
            say(f"{name}: {describe_windows(split, max_length=args.max_length, special=2 + pairs)}")
        if args.train_on == "windows":
            tokenized["train"] = tokenized["train"].map(explode_windows, batched=True)

    # 4. Encoder and head
    labels = label_array(splits["train"])
    scale = {"label_mean": float(labels.mean()), "label_scale": float(labels.std())} if kind == "regression" else {}
    balanced = args.class_weights == "balanced"
    model = BertClsForSequenceClassification.from_encoder(
        args.model_name_or_path,
        id2label=dict(enumerate(names)),
        problem_type=kind,
        class_weights=balanced_class_weights(label_array(tokenized["train"]), len(names)) if balanced else None,
        **scale,
        **args.head,
        **contract,
    )
    trainable, parameters = freeze(model, encoder=args.freeze_encoder, layers=args.freeze_layers)
    say(f"{trainable:,} of {parameters:,} parameters train; pooling: {model.config.pooling}")

    # 5. Train; the best model by validation is loaded at the end
    multi_label = kind == "multi_label_classification"
    collator = WindowCollator(tokenizer, num_labels=len(names) if multi_label else None)
    trainer = Trainer(
        model=model,
        args=training_args,
        train_dataset=tokenized["train"],
        eval_dataset=tokenized["validation"],
        processing_class=tokenizer,
        data_collator=collator,
        compute_metrics=make_compute_metrics(names, training_args.metric_for_best_model, problem_type=kind),
        callbacks=training_callbacks(training_args, collator=collator, **args.training),
        optimizer_cls_and_kwargs=layerwise_optimizer(training_args, args.layer_decay, args.head_learning_rate),
    )
    if args.overwrite_output and trainer.is_world_process_zero():
        clear_output(args.run_dir)
    results = trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint).metrics
    results |= scores_before(trainer.state.log_history) | trainer.evaluate()

    # 6. Calibrate, save, load afresh, and score the reported split once, from raw text, in fp32
    trained = TextClassifier.from_trainer(trainer)
    calibrate(trained, splits["validation"])
    return finish_run(trainer, trained, splits, results=results, reported_split=reported_split, **args.report)


if __name__ == "__main__":
    run_recipe(main, RecipeArguments, defaults=DEFAULTS, sample_defaults=SAMPLE_DEFAULTS, description=__doc__)
