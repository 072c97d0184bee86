"""Fine-tune a BERT encoder on full-length IMDB reviews, read in windows.

Data: the Large Movie Review Dataset, 25,000 training and 25,000 test reviews (the reported ones), half of each label;
its card on the Hub states no licence. The longest has some 3,000 tokens; none is cut, unless --truncation says so.
Run:  accelerate launch --quiet recipes/imdb_finetune.py          (bert-base, from the Hub; on a GPU, not measured yet)
      accelerate launch --quiet recipes/imdb_finetune.py --sample (no network, a small encoder, 25 s)
Score: all-MiniLM-L6-v2, mean pooling, 2,000 reviews and 2 epochs: 0.885, with --truncation head 0.875 (one seed each).
Copy: for long texts of yours, copy this file and edit the block below; every value is also an option.
"""

import os
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "50000")  # idle threads soon sleep: four times as fast on a busy machine

from transformers import Trainer, TrainingArguments, set_seed

from bertcls import (
    BertClsForSequenceClassification,
    RecipeArguments,
    WindowCollator,
    arrange_splits,
    audit_run,
    finish_run,
    label_config,
    layerwise_optimizer,
    load_splits,
    load_tokenizer,
    make_compute_metrics,
    prepare_training,
    run_recipe,
    tokenize_splits,
    training_callbacks,
)

HERE = Path(__file__).parent
DEFAULTS = dict(
    dataset_name="stanfordnlp/imdb",  # Hub id or folder
    language="en",  # stands in the model card
    model_name_or_path="google-bert/bert-base-uncased",
    max_length=256,  # tokens per window
    max_train_windows=4,  # of a longer review, in a training step
    attention_dropout=0.0,  # on a CPU BERT's 0.1 makes a step a tenth longer
    learning_rate=5e-5,  # 2e-5 to 5e-5 for BERT
    per_device_train_batch_size=16,
    warmup_steps=0.06,  # share of all steps
    weight_decay=0.01,
    cleaning=["strip_tags", "unescape_entities", "collapse_blanks"],  # stored with the model
    probes=str(HERE / "probes.txt"),  # texts that the trained model is asked; add yours
)
SAMPLE = dict(
    dataset_name=str(HERE / "sample" / "long"),
    model_name_or_path=str(HERE / "sample" / "encoder"),  # a small pretrained one
    cpu_threads=1,  # a small model has nothing to share
    max_length=96,  # 34 rows: a contrastive stage and a linear head, as everywhere with so few
    scratch=dict(model_name_or_path=str(HERE / "sample" / "tiny-bert"), pooling="mean", learning_rate=2e-3)
    | dict(early_stopping_patience=0, num_train_epochs=25, per_device_train_batch_size=8),  # with --from_scratch
)


def main(args: RecipeArguments, training_args: TrainingArguments) -> dict:
    # 1. Load, split and audit: columns text, [text_pair,] label, example_id; no row is both chosen by and reported
    splits = load_splits(args.dataset_name, **args.of(load_splits))
    splits, reported_split = arrange_splits(splits, **args.of(arrange_splits))
    tokenizer = load_tokenizer(args.model_name_or_path)
    splits = audit_run(splits, tokenizer=tokenizer, seed=training_args.seed, **args.of(audit_run))

    # 2. Clean and tokenize in batched, cached maps; the reported rows stay raw
    tokenized, contract = tokenize_splits(splits, tokenizer, **args.of(tokenize_splits))

    # 3. Encoder and head; with few rows the encoder is trained here, and no epoch follows
    set_seed(training_args.seed)
    model = BertClsForSequenceClassification.from_encoder(
        args.model_name_or_path,
        **label_config(splits["train"], class_weights=args.class_weights),
        **args.of(BertClsForSequenceClassification.from_encoder),
        **contract,
    )
    collator = WindowCollator(tokenizer, model.config)
    compute_metrics = make_compute_metrics(model.config, training_args)
    prepare_training(model, tokenized, collator, training_args, **args.of(prepare_training))

    # 4. The Trainer; the best model by validation is loaded at the end
    trainer = Trainer(
        model=model,
        args=training_args,
        train_dataset=tokenized["train"],
        eval_dataset=tokenized.get("validation"),
        processing_class=tokenizer,
        data_collator=collator,
        compute_metrics=compute_metrics,
        callbacks=training_callbacks(training_args, **args.of(training_callbacks)),
        optimizer_cls_and_kwargs=layerwise_optimizer(training_args, **args.of(layerwise_optimizer)),
    )

    # 5. Train and evaluate
    results = trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint).metrics
    results |= trainer.evaluate() if "validation" in tokenized else {}

    # 6. Calibrate, save, load afresh, score the reported rows once from raw text in fp32, report
    return finish_run(trainer, splits, results, reported_split=reported_split, **args.of(finish_run))


if __name__ == "__main__":
    run_recipe(main, RecipeArguments, defaults=DEFAULTS, sample=SAMPLE, description=__doc__)
