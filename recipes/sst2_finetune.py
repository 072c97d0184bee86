"""Fine-tune a BERT encoder on SST-2: one sentence, two labels.

Data: the Stanford Sentiment Treebank in GLUE's form, film reviews cut into phrases; 67,349 training rows, 872
validation rows (the reported ones) and a test split whose labels are hidden. Its card on the Hub states no licence.
Run:  accelerate launch recipes/sst2_finetune.py                (bert-base, from the Hub; on a GPU, not measured yet)
      accelerate launch recipes/sst2_finetune.py --sample       (no network, a tiny model, 15 s on two cores)
      accelerate launch --multi_gpu --num_processes 4 recipes/sst2_finetune.py
Score: all-MiniLM-L6-v2 with --pooling mean on two CPU cores reaches 0.859 (three seeds, sd 0.012) with 8,000 rows in
3.3 minutes, and 0.894 (two seeds: 0.894, 0.893) with all rows and 2 epochs in 12.

To use it for a task of yours, copy this file and edit the block below; every value is also an option.
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
    calibrate,
    check_task,
    check_window,
    clear_output,
    describe_windows,
    draw_rows,
    explode_windows,
    finish_run,
    freeze,
    layerwise_optimizer,
    load_splits,
    load_tokenizer,
    make_compute_metrics,
    run_recipe,
    scores_before,
    tokenize_splits,
    training_callbacks,
)

# ------------------------------------------------------------------------------------------------ what to edit
HERE = Path(__file__).parent
DEFAULTS = dict(
    dataset_name="stanfordnlp/sst2",  # Hub id or folder
    text_column="sentence",
    label_column="label",
    language="en",  # stands in the model card
    model_name_or_path="google-bert/bert-base-uncased",
    phrases=True,  # training rows are cut out of sentences: hold out whole ones
    max_length=128,  # tokens; the longest sentence has 66
    learning_rate=5e-5,  # 2e-5 to 5e-5 for BERT; the head starts at random, so warm up
    num_train_epochs=3,
    per_device_train_batch_size=32,
    per_device_eval_batch_size=128,
    lr_scheduler_type="linear",
    warmup_steps=0.06,  # share of all steps
    weight_decay=0.01,
    max_grad_norm=1.0,
    cleaning=["strip_tags", "unescape_entities", "collapse_blanks"],  # steps of bertcls.text, stored with the model
    probes=str(HERE / "probes.txt"),  # texts that the trained model is asked; add yours
)
SAMPLE_DEFAULTS = dict(
    dataset_name=str(HERE / "sample" / "reviews"),
    model_name_or_path=str(HERE / "sample" / "tiny-bert"),
    from_scratch=True,
    pooling="mean",
    classifier_dropout=0.5,
    early_stopping_patience=5,
    max_length=64,
    learning_rate=1e-3,
    num_train_epochs=12,
    logging_steps=1 / 12,
)
SPLIT_SEED = 42  # the same validation rows for every training seed
WITHOUT = ("text_pair_column", "pair_truncation", "label_delimiter", "problem_type")  # csv_finetune.py has these
# -------------------------------------------------------------------------------------------------------------


def main(args: RecipeArguments, training_args: TrainingArguments) -> dict:
    say = PartialState().print  # rank 0 only
    set_seed(training_args.seed)  # before the head gets its random weights

    # 1. Load: columns text, label, example_id
    splits = load_splits(**args.source)
    check_task(splits)

    # 2. Split and audit: the model is chosen on validation rows that are not the reported ones
    splits, reported_split = arrange_splits(splits, seed=SPLIT_SEED, **args.arrangement)
    tokenizer = load_tokenizer(args.model_name_or_path)
    splits = audit_run(splits, tokenizer=tokenizer, training_args=training_args, **args.audit)
    splits["train"] = draw_rows(splits["train"], args.max_train_samples, seed=training_args.seed)
    splits["test"] = draw_rows(splits["test"], args.max_test_samples, seed=SPLIT_SEED)
    splits = augment(splits, args.augment, seed=training_args.seed)
    say("rows: " + ", ".join(f"{name} {len(split)}" for name, split in splits.items()))

    # 3. Clean and tokenize, batched and cached; the reported rows stay raw
    contract = {
        "cleaning": args.cleaning,
        "max_length": args.max_length,
        "overlap": check_window(tokenizer, max_length=args.max_length, overlap=args.overlap),
        "truncation": args.truncation,
    }
    with training_args.main_process_first(desc="tokenizing"):
        tokenized = tokenize_splits(splits, tokenizer=tokenizer, max_train_windows=args.max_train_windows, **contract)
        for name, split in tokenized.items():
            say(f"{name}: {describe_windows(split, max_length=args.max_length)}")
        if args.train_on == "windows":
            tokenized["train"] = tokenized["train"].map(explode_windows, batched=True)

    # 4. Encoder and head
    labels = splits["train"].features["label"]
    balanced = args.class_weights == "balanced"
    model = BertClsForSequenceClassification.from_encoder(
        args.model_name_or_path,
        id2label=dict(enumerate(labels.names)),
        problem_type="single_label_classification",
        class_weights=balanced_class_weights(tokenized["train"]["label"][:], labels.num_classes) if balanced else None,
        **args.head,
        **contract,
    )
    trainable, parameters = freeze(model, encoder=args.freeze_encoder, layers=args.freeze_layers)
    say(f"{trainable:,} of {parameters:,} parameters train; pooling: {model.config.pooling}")

    # 5. Train; the best model by validation is loaded at the end
    collator = WindowCollator(tokenizer)
    trainer = Trainer(
        model=model,
        args=training_args,
        train_dataset=tokenized["train"],
        eval_dataset=tokenized["validation"],
        processing_class=tokenizer,
        data_collator=collator,
        compute_metrics=make_compute_metrics(labels.names, training_args.metric_for_best_model),
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
    run_recipe(
        main, RecipeArguments, defaults=DEFAULTS, sample_defaults=SAMPLE_DEFAULTS, without=WITHOUT, description=__doc__
    )
