"""Fine-tune a Chinese BERT encoder on ChnSentiCorp: reviews of hotels, books and computers, two labels.

Data: ChnSentiCorp, 9,600 training rows and 1,200 validation rows, half of each label, and on the Hub 1,200 test rows;
where there is no test split, validation is reported. Its card on the Hub states no licence.
Run:  accelerate launch --quiet recipes/chnsenticorp_finetune.py          (from the Hub; on a GPU, not measured yet)
      accelerate launch --quiet recipes/chnsenticorp_finetune.py --sample (no network, a tiny model, 15 s on two cores)
Score: a tiny encoder from scratch (recipes/sample/tiny-bert-zh, 8 epochs) reaches 0.889 on two CPU cores in 10
minutes, TF-IDF over characters 0.912; the pretrained encoder was not measured.
Copy: for texts of yours, copy this file and edit the block below; every value is an option. Words need no segmenting.
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
    dataset_name="lansinuote/ChnSentiCorp",  # Hub id or folder
    language="zh",  # stands in the model card
    model_name_or_path="hfl/chinese-bert-wwm-ext",
    max_length=256,  # tokens, about as many characters; the audit says how many texts are longer
    max_train_windows=2,  # of a longer review, in a training step
    learning_rate=3e-5,  # 2e-5 to 5e-5 for BERT
    per_device_train_batch_size=32,
    warmup_steps=0.06,  # share of all steps
    weight_decay=0.01,
    cleaning=["strip_tags", "unescape_entities", "normalise_width", "collapse_blanks"],  # stored with the model
)
SAMPLE = dict(
    dataset_name=str(HERE / "sample" / "chinese"),
    model_name_or_path=str(HERE / "sample" / "tiny-bert-zh"),
    from_scratch=True,
    cpu_threads=1,  # a tiny model has nothing to share
    pooling="mean",
    classifier_dropout=0.4,
    early_stopping_patience=0,
    max_length=64,
    learning_rate=2e-3,
    num_train_epochs=24,
    per_device_train_batch_size=16,
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
