"""Further pretraining: masked language modelling on unlabelled IMDB reviews, before an encoder is fine-tuned.

Data: the 50,000 unlabelled reviews of the Large Movie Review Dataset (no licence stated on its card), laid end to end
in blocks of `max_length` tokens, so that all of each review is used. 500 whole reviews are held out and masked once:
the losses before, after each epoch and of other runs are of the same positions.
Run:  accelerate launch --quiet recipes/imdb_mlm_pretrain.py (bert-base; on a GPU, not measured yet)
      accelerate launch --quiet recipes/imdb_mlm_pretrain.py --whole_word_mask         (all pieces of a word or none)
      accelerate launch --quiet recipes/imdb_mlm_pretrain.py --objective contrast      (sentences, told apart: SimCSE)
      accelerate launch --quiet recipes/imdb_mlm_pretrain.py --sample (no network, a tiny model, 20 s on two cores)
      accelerate launch --quiet recipes/sst2_finetune.py --model_name_or_path runs/... (then fine-tune what it saved)
Score: all-MiniLM-L6-v2, 10,000 reviews, one epoch: validation loss 6.50 (with a head that had 200 steps) to 4.51, the
encoder's SST-2 accuracy 0.859 after it and without it (three seeds each).

To use it for texts of yours, copy this file and edit the block below; every value is also an option.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

os.environ.setdefault("GOMP_SPINCOUNT", "50000")  # idle threads soon sleep: four times as fast on a busy machine

from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments, set_seed

from bertcls import load_splits, load_tokenizer, run_recipe, training_callbacks
from bertcls.arguments import RunArguments, TextArguments
from bertcls.data.splits import draw_rows, hold_out
from bertcls.training.contrastive import contrastive_pretraining
from bertcls.training.masking import MaskedBatches, MaskingCheck, pack_splits
from bertcls.training.mlm import finish_pretraining, load_masked_lm, masked_metrics, warm_up_head

HERE = Path(__file__).parent
DEFAULTS = dict(
    dataset_name="stanfordnlp/imdb",  # Hub id, file or folder
    model_name_or_path="google-bert/bert-base-uncased",
    cleaning=["strip_tags", "unescape_entities", "collapse_blanks"],  # IMDB is full of <br />
    max_length=128,  # tokens per block
    mlm_probability=0.15,  # of the tokens are scored, as BERT was trained
    learning_rate=5e-5,
    num_train_epochs=2,
    per_device_train_batch_size=32,
    per_device_eval_batch_size=64,
    warmup_steps=0.06,  # share of all steps
    weight_decay=0.01,
    attention_dropout=0.0,  # a step on a CPU is the faster for it
    early_stopping_patience=0,
    metric_for_best_model="masked_loss",
    train_sampling_strategy="random",  # all blocks have one length
    logging_steps=10,  # a point of loss.png is the mean of so many steps
)
SAMPLE = dict(
    dataset_name=str(HERE / "sample" / "reviews"),
    model_name_or_path=str(HERE / "sample" / "tiny-bert"),
    from_scratch=True,
    cpu_threads=1,  # a tiny model has nothing to share
    learning_rate=3e-3,
    num_train_epochs=20,
    per_device_train_batch_size=8,
    validation_samples=40,
    logging_steps=4,
)
METRICS = ("loss", "masked_loss", "perplexity", "masked_accuracy")  # to choose a model by


@dataclass
class Arguments(TextArguments):
    train_split: str | None = field(
        default=None, metadata={"help": "Split with the texts to train on; none: unsupervised, or else train."}
    )
    validation_samples: int = field(
        default=500,
        metadata={"help": "Texts held out of train (at most a tenth) where there is no --validation_file."},
    )
    objective: Literal["masked", "contrast"] = field(
        default="masked",
        metadata={"help": "Masked tokens, or sentences against each other (SimCSE: two dropout masks)."},
    )
    mlm_probability: float = field(default=0.15, metadata={"help": "Share of the tokens that are masked and scored."})
    whole_word_mask: bool = field(default=False, metadata={"help": "Mask all pieces of a word or none."})
    head_warmup_steps: int = field(
        default=200, metadata={"help": "Where the head is random: steps on it alone, before anything is measured."}
    )

    def check(self) -> None:
        super().check()
        if not 0 < self.mlm_probability < 1:
            raise ValueError(f"Found --mlm_probability {self.mlm_probability}; expected more than 0 and less than 1.")
        if self.head_warmup_steps < 0:
            raise ValueError(f"Found --head_warmup_steps {self.head_warmup_steps}; expected 0 or more.")
        if self.validation_samples < 1:
            raise ValueError(f"Found --validation_samples {self.validation_samples}; expected at least 1.")

    def check_training(self, training_args: RunArguments) -> None:
        super().check_training(training_args)
        metric, found = training_args.metric_for_best_model, training_args.label_smoothing_factor
        if self.hub is not None or found:
            option = "--label_smoothing_factor" if found else "--push_to_hub"
            raise ValueError(f"Found {option}; expected it left out, since pretraining has no use for it.")
        for name in ("lora_rank", "from_scratch", "whole_word_mask", "attention_dropout"):
            if self.objective == "contrast" and getattr(self, name):
                raise ValueError(f"Found --{name} with --objective contrast; expected it left out. Leave it out.")
        if metric is not None and metric.removeprefix("eval_") not in METRICS:
            raise ValueError(f"Found --metric_for_best_model {metric}; expected one of {', '.join(METRICS)}.")


def main(args: Arguments, training_args: TrainingArguments) -> dict:
    set_seed(training_args.seed)  # before a head gets its random weights

    # 1. Load and split: a column text; the same validation texts for every seed
    splits = load_splits(args.dataset_name, labelled=False, **args.of(load_splits))
    if "validation" not in splits:
        rows = min(args.validation_samples, max(len(splits["train"]) // 10, 1))
        splits["train"], splits["validation"] = hold_out(splits["train"], rows=rows)
    splits["train"] = draw_rows(splits["train"], args.max_train_samples, seed=training_args.seed)

    # Or contrast of sentences, in place of steps 2 to 6
    if args.objective == "contrast":
        tokenizer = load_tokenizer(args.model_name_or_path)
        return contrastive_pretraining(splits, tokenizer, training_args, **args.of(contrastive_pretraining))

    # 2. Clean, tokenize and pack into full blocks, in batched, cached maps; the validation blocks are masked once
    tokenizer = load_tokenizer(args.model_name_or_path)
    masking = DataCollatorForLanguageModeling(
        tokenizer, mlm_probability=args.mlm_probability, whole_word_mask=args.whole_word_mask
    )
    blocks, batches = pack_splits(splits, tokenizer, masking, **args.of(pack_splits)), MaskedBatches(masking)

    # 3. Encoder and head; a head that the checkpoint lacks is trained alone first
    model, random_head = load_masked_lm(args.model_name_or_path, **args.of(load_masked_lm))
    training_args.label_names = ["labels"]
    if random_head and args.head_warmup_steps and not training_args.resume_from_checkpoint:
        warm_up_head(model, training_args, batches, blocks["train"], steps=args.head_warmup_steps)

    # 4. The Trainer; the best model by validation is loaded at the end
    checked = MaskingCheck(args.mlm_probability)
    options = args.of(training_callbacks) | {"mlm_probability": args.mlm_probability}
    trainer = Trainer(
        model=model,
        args=training_args,
        train_dataset=blocks["train"],
        eval_dataset=blocks["validation"],
        processing_class=tokenizer,
        data_collator=batches,
        compute_metrics=masked_metrics,
        callbacks=[checked, *training_callbacks(training_args, **options)],
    )

    # 5. Train and evaluate
    results = trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint).metrics
    results |= trainer.evaluate() | {"train_samples": len(splits["train"])}

    # 6. Save the encoder with the pooler it came with, load it afresh, and say what was gained
    return finish_pretraining(trainer, results, random_head=random_head, **args.of(finish_pretraining))


if __name__ == "__main__":
    run_recipe(main, Arguments, defaults=DEFAULTS, sample=SAMPLE, description=__doc__)
