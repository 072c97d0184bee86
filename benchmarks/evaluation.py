"""Texts per second of `Trainer.evaluate`: padded to 128 at batch 8 in fp32 (stock script), dynamic padding, recipe.

Run:  python benchmarks/evaluation.py --model_name_or_path $MODEL --dataset_name $DATA/sst2
"""

import argparse
import tempfile

import torch
from machine import interleaved, show
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    default_data_collator,
)

from bertcls import (
    BertClsForSequenceClassification,
    RecipeArguments,
    WindowCollator,
    cores_per_process,
    load_splits,
    load_tokenizer,
    make_compute_metrics,
    parse,
    tokenize_windows,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True)
    parser.add_argument("--dataset_name", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", help="a JSON file to write")
    args = parser.parse_args()
    torch.set_num_threads(cores_per_process())
    place = tempfile.TemporaryDirectory()
    folder = place.name
    tokenizer = load_tokenizer(args.model_name_or_path)
    rows = load_splits(args.dataset_name)["validation"].select_columns(["text", "label", "example_id"])
    stock = AutoModelForSequenceClassification.from_pretrained(args.model_name_or_path, num_labels=2).float()
    trainers = {}
    for name, padding, batch, collator in (
        ("stock script", "max_length", 8, default_data_collator),
        ("dynamic padding", False, 32, DataCollatorWithPadding(tokenizer)),
    ):
        cut = {"padding": padding, "truncation": True, "max_length": 128}
        encoded = rows.map(lambda part, cut=cut: tokenizer(part["text"], **cut), batched=True, remove_columns="text")
        settings = TrainingArguments(
            folder, use_cpu=not torch.accelerator.is_available(), per_device_eval_batch_size=batch, disable_tqdm=True
        )
        trainers[name] = Trainer(stock, settings, eval_dataset=encoded, data_collator=collator)
    words = ["--output_dir", folder, "--overwrite_output", "--disable_tqdm", "true"]
    options, settings = parse(RecipeArguments, words, defaults={"per_device_eval_batch_size": 128})
    trainers["recipe"] = Trainer(
        BertClsForSequenceClassification.from_encoder(args.model_name_or_path, num_labels=2),
        settings,
        eval_dataset=rows.map(
            tokenize_windows,
            batched=True,
            remove_columns="text",
            fn_kwargs={"tokenizer": tokenizer, "max_length": options.max_length},
        ),
        data_collator=WindowCollator(tokenizer),
        compute_metrics=make_compute_metrics(["negative", "positive"], "accuracy"),
    )
    seconds = interleaved({name: trainer.evaluate for name, trainer in trainers.items()}, args.rounds)
    speed = {name: len(rows) / found for name, found in seconds.items()}
    table = [[name, speed[name], speed["recipe"] / speed[name]] for name in trainers]
    title = f"{len(rows)} texts, median of {args.rounds} rounds, {cores_per_process()} threads"
    show(title, ["way", "texts/s", "the recipe is x times as fast"], table, args.output)


if __name__ == "__main__":
    main()
