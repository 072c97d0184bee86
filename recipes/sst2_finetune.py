"""Fine-tune a BERT encoder on SST-2: one sentence, two labels.

Data: the Stanford Sentiment Treebank in GLUE's form, film reviews cut into phrases; 67,349 training rows, 872
validation rows (the reported ones) and a test split whose labels are hidden. Its card on the Hub states no licence.
Run:  accelerate launch recipes/sst2_finetune.py                (bert-base, from the Hub; on a GPU, not measured yet)
      accelerate launch recipes/sst2_finetune.py --sample       (no network, a tiny model, 15 s on two cores)
      accelerate launch --multi_gpu --num_processes 4 recipes/sst2_finetune.py
Score: all-MiniLM-L6-v2 on two CPU cores reaches 0.861 with 8,000 rows in 3.6 minutes, 0.885 with all rows in 13.

To use it for a task of yours, copy this file and edit the block below; every value is also an option.
"""

from pathlib import Path

from accelerate import PartialState
from datasets import DatasetDict
from transformers import EarlyStoppingCallback, Trainer, TrainingArguments, set_seed

from bertcls import (
    BertClsForSequenceClassification,
    LayerwiseOptimizer,
    LongestBatchFirst,
    RecipeArguments,
    TextClassifier,
    WindowCollator,
    arrange_splits,
    balanced_class_weights,
    check_window,
    clean_batch,
    clear_output,
    draw_rows,
    freeze,
    label_shares,
    load_splits,
    load_tokenizer,
    make_compute_metrics,
    one_line_errors,
    parse,
    push_folder,
    score_reported,
    tokenize_windows,
    verify_saved,
    write_results,
)

# ------------------------------------------------------------------------------------------------ what to edit
DEFAULTS = dict(
    dataset_name="stanfordnlp/sst2",  # Hub id or folder
    text_column="sentence",
    label_column="label",
    model_name_or_path="google-bert/bert-base-uncased",
    max_length=128,  # tokens; the longest sentence has 66
    learning_rate=5e-5,  # 2e-5 to 5e-5 for BERT; the head starts at random, so warm up
    num_train_epochs=3,
    per_device_train_batch_size=32,
    per_device_eval_batch_size=128,
    lr_scheduler_type="linear",
    warmup_steps=0.06,  # share of all steps
    weight_decay=0.01,
    max_grad_norm=1.0,
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
CLEANING = ["strip_tags", "unescape_entities", "collapse_blanks"]  # steps of bertcls.text, stored with the model
SPLIT_SEED = 42  # the same validation rows for every training seed
# -------------------------------------------------------------------------------------------------------------


def main(args: RecipeArguments, training_args: TrainingArguments) -> dict:
    say = PartialState().print  # rank 0 only
    set_seed(training_args.seed)  # before the head gets its random weights

    # 1. Load: columns text, label, example_id
    splits = load_splits(
        args.dataset_name, args.dataset_config_name, text_column=args.text_column, label_column=args.label_column
    )
    for name, split in splits.items():
        shares = ", ".join(f"{label} {share:.6f}" for label, share in label_shares(split).items())
        say(f"{name}: {len(split)} rows, {shares}")

    # 2. Split: the model is chosen on validation rows that are not the reported ones
    splits, reported_split = arrange_splits(splits, ratio=args.split, max_samples=args.max_samples, seed=SPLIT_SEED)
    splits["train"] = draw_rows(splits["train"], args.max_train_samples, seed=training_args.seed)
    say("rows: " + ", ".join(f"{name} {len(split)}" for name, split in splits.items()))

    # 3. Clean and tokenize, batched and cached; the reported rows stay raw
    tokenizer = load_tokenizer(args.model_name_or_path)
    overlap = check_window(tokenizer, max_length=args.max_length, overlap=args.overlap)
    window = {"tokenizer": tokenizer, "max_length": args.max_length, "overlap": overlap}
    tokenized = DatasetDict()
    with training_args.main_process_first(desc="tokenizing"):
        for name, max_windows in (("train", args.max_train_windows), ("validation", None)):
            cleaned = splits[name].map(clean_batch, batched=True, fn_kwargs={"steps": CLEANING}, desc=f"Clean {name}")
            tokenized[name] = cleaned.map(
                tokenize_windows,
                batched=True,
                remove_columns="text",
                fn_kwargs={**window, "max_windows": max_windows},
                desc=f"Tokenize {name}",
            )

    # 4. Encoder and head
    labels = splits["train"].features["label"]
    class_weights = None
    if args.class_weights == "balanced":
        class_weights = balanced_class_weights(splits["train"]["label"][:], labels.num_classes)
    model = BertClsForSequenceClassification.from_encoder(
        args.model_name_or_path,
        from_scratch=args.from_scratch,
        id2label=dict(enumerate(labels.names)),
        problem_type="single_label_classification",
        pooling=args.pooling,
        window_pooling=args.window_pooling,
        classifier_dropout=args.classifier_dropout,
        classifier_hidden_size=args.classifier_hidden_size,
        class_weights=class_weights,
        max_train_windows=args.max_train_windows,
        cleaning=CLEANING,
        max_length=args.max_length,
        overlap=overlap,
    )
    trainable, parameters = freeze(model, encoder=args.freeze_encoder, layers=args.freeze_layers)
    say(f"{trainable:,} of {parameters:,} parameters train; pooling: {model.config.pooling}")

    # 5. Train; the best model by validation is loaded at the end
    callbacks = [LongestBatchFirst()]
    if args.early_stopping_patience and training_args.metric_for_best_model:
        callbacks.append(EarlyStoppingCallback(args.early_stopping_patience))
    layerwise = {"args": training_args, "layer_decay": args.layer_decay, "head_learning_rate": args.head_learning_rate}
    trainer = Trainer(
        model=model,
        args=training_args,
        train_dataset=tokenized["train"],
        eval_dataset=tokenized["validation"],
        processing_class=tokenizer,
        data_collator=WindowCollator(tokenizer),
        compute_metrics=make_compute_metrics(labels.names, training_args.metric_for_best_model),
        callbacks=callbacks,
        optimizer_cls_and_kwargs=(LayerwiseOptimizer, layerwise)
        if args.layer_decay != 1.0 or args.head_learning_rate is not None
        else None,
    )
    if args.overwrite_output and trainer.is_world_process_zero():
        clear_output(args.run_dir)
    results = trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint).metrics
    before = next((entry for entry in trainer.state.log_history if entry["step"] == 0 and "eval_loss" in entry), {})
    results |= {key.replace("eval_", "before_"): value for key, value in before.items() if key.startswith("eval_")}
    results |= trainer.evaluate()

    # 6. Save, load afresh, and score the reported split once, from raw text, in fp32
    trainer.save_model(args.run_dir)
    if trainer.is_world_process_zero():
        Path(args.run_dir, "training_args.bin").unlink()  # it holds local paths, and the Hub token where one was given
        trained = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)  # without autocast
        trained = TextClassifier(trained, tokenizer, device=training_args.device)
        classifier = verify_saved(args.run_dir, trained, splits["test"]["text"][:64])
        progress = not training_args.disable_tqdm
        results |= score_reported(classifier, splits["test"], run_dir=args.run_dir, progress=progress)
        results |= {
            "reported_split": reported_split,
            "seed": training_args.seed,
            "train_samples": len(splits["train"]),
        }
        say(write_results(results, run_dir=args.run_dir))
        if args.push:
            where = {"private": training_args.hub_private_repo, "revision": training_args.hub_revision}
            say(push_folder(args.run_dir, training_args.hub_model_id, token=args.hub_token, **where))
    return results


if __name__ == "__main__":
    with one_line_errors():
        main(*parse(RecipeArguments, defaults=DEFAULTS, sample_defaults=SAMPLE_DEFAULTS, description=__doc__))
