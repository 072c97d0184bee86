"""Further pretraining: masked language modelling on unlabelled IMDB reviews, before an encoder is fine-tuned.

Data: the 50,000 unlabelled reviews of the Large Movie Review Dataset (no licence stated on its card), laid end to end
in blocks of `max_length` tokens, so that all of each review is used. 500 whole reviews are held out and masked once:
the losses before, after each epoch and of other runs are of the same positions.
Run:  accelerate launch recipes/imdb_mlm_pretrain.py                    (bert-base; on a GPU, not measured yet)
      accelerate launch recipes/imdb_mlm_pretrain.py --whole_word_mask  (all pieces of a word or none)
      accelerate launch recipes/imdb_mlm_pretrain.py --sample           (no network, a tiny model, 20 s on two cores)
      accelerate launch recipes/sst2_finetune.py --model_name_or_path runs/...   (then fine-tune what it saved)
Score: all-MiniLM-L6-v2, 10,000 reviews, one epoch: validation loss 6.50 (with a head that had 200 steps) to 4.51, the
encoder's SST-2 accuracy 0.859 after it and without it (three seeds each, README.md).

To use it for texts of yours, copy this file and edit the block below; every value is also an option.
"""

import copy
from dataclasses import dataclass, field
from pathlib import Path

from accelerate import PartialState
from transformers import (
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
    set_seed,
)

from bertcls import (
    MaskedBatches,
    MaskingCheck,
    TextArguments,
    check_window,
    clear_output,
    draw_curves,
    draw_rows,
    hold_out,
    load_masked_lm,
    load_splits,
    load_tokenizer,
    mask_once,
    masked_metrics,
    pack_blocks,
    run_recipe,
    save_encoder,
    scores_before,
    training_callbacks,
    write_pretraining,
    write_record,
)

# ------------------------------------------------------------------------------------------------ what to edit
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
SAMPLE = Path(__file__).parent / "sample"
SAMPLE_DEFAULTS = dict(
    dataset_name=str(SAMPLE / "reviews"),
    model_name_or_path=str(SAMPLE / "tiny-bert"),
    from_scratch=True,
    learning_rate=3e-3,
    num_train_epochs=20,
    per_device_train_batch_size=8,
    validation_samples=40,
    logging_steps=4,
)
SPLIT_SEED = 42  # the same validation texts and masks for every training seed
HEAD_LEARNING_RATE = 1e-3  # of the warm-up of a random head
METRICS = ("loss", "masked_loss", "perplexity", "masked_accuracy")  # to choose a model by
# -------------------------------------------------------------------------------------------------------------


@dataclass
class Arguments(TextArguments):
    train_split: str | None = field(
        default=None, metadata={"help": "Split with the texts to train on; none: unsupervised, or else train."}
    )
    validation_samples: int = field(
        default=500,
        metadata={"help": "Texts held out of train (at most a tenth) where there is no --validation_file."},
    )
    mlm_probability: float = field(default=0.15, metadata={"help": "Share of the tokens that are masked and scored."})
    whole_word_mask: bool = field(default=False, metadata={"help": "Mask all pieces of a word or none."})
    head_warmup_steps: int = field(
        default=200, metadata={"help": "Where the head is random: steps on it alone, before anything is measured."}
    )

    @property
    def training(self) -> dict:
        return super().training | {"mlm_probability": self.mlm_probability}

    def check(self) -> None:
        super().check()
        if not 0 < self.mlm_probability < 1:
            raise ValueError(f"Found --mlm_probability {self.mlm_probability}; expected more than 0 and less than 1.")
        if self.head_warmup_steps < 0:
            raise ValueError(f"Found --head_warmup_steps {self.head_warmup_steps}; expected 0 or more.")
        if self.validation_samples < 1:
            raise ValueError(f"Found --validation_samples {self.validation_samples}; expected at least 1.")


def main(args: Arguments, training_args: TrainingArguments) -> dict:
    say = PartialState().print  # rank 0 only
    if args.hub is not None or training_args.label_smoothing_factor:
        found = "--push_to_hub" if args.hub is not None else "--label_smoothing_factor"
        raise ValueError(f"Found {found}; expected it left out, since this recipe has no use for it. Leave it out.")
    metric = training_args.metric_for_best_model
    if metric is not None and metric.removeprefix("eval_") not in METRICS:
        raise ValueError(f"Found --metric_for_best_model {metric}; expected one of {', '.join(METRICS)}. Correct it.")
    set_seed(training_args.seed)  # before a head gets its random weights

    # 1. Load: a column text
    splits = load_splits(**args.source, train_split=args.train_split, labelled=False)
    train, validation = splits["train"], splits.get("validation")
    if validation is None:
        validation_rows = min(args.validation_samples, max(len(train) // 10, 1))
        train, validation = hold_out(train, rows=validation_rows, seed=SPLIT_SEED)
    train = draw_rows(train, args.max_train_samples, seed=SPLIT_SEED)
    say(f"texts: train {len(train)}, validation {len(validation)}")

    # 2. Clean, tokenize and pack into full blocks, batched; mask the validation blocks once
    tokenizer = load_tokenizer(args.model_name_or_path)
    check_window(tokenizer, max_length=args.max_length, overlap=0)
    masking = DataCollatorForLanguageModeling(
        tokenizer, mlm_probability=args.mlm_probability, whole_word_mask=args.whole_word_mask
    )
    packing = {
        "tokenizer": tokenizer,
        "max_length": args.max_length,
        "cleaning": args.cleaning,
        "whole_word_mask": args.whole_word_mask,
    }
    with training_args.main_process_first(desc="tokenizing"):
        train_blocks, validation_blocks = (
            split.map(pack_blocks, batched=True, remove_columns=split.column_names, fn_kwargs=packing)
            for split in (train, validation)
        )
        for name, blocks in (("train", train_blocks), ("validation", validation_blocks)):
            if len(blocks) == 0:
                raise ValueError(f"The {name} texts have no token; expected some words. Check --text_column.")
        validation_blocks = mask_once(validation_blocks, masking, seed=SPLIT_SEED)
    say(f"blocks of {args.max_length} tokens: train {len(train_blocks)}, validation {len(validation_blocks)}")

    # 3. Encoder and head; a head that the checkpoint lacks is trained alone first, else it would spoil the encoder
    model, random_head = load_masked_lm(
        args.model_name_or_path, from_scratch=args.from_scratch, attention_dropout=args.attention_dropout
    )
    batches, masked = MaskedBatches(masking), MaskingCheck(args.mlm_probability)
    training_args.label_names = ["labels"]
    if random_head and args.head_warmup_steps and not training_args.resume_from_checkpoint:
        say(f"the head starts at random ({len(random_head)} weights): {args.head_warmup_steps} steps on it alone")
        model.base_model.requires_grad_(False)
        warmup_args = copy.deepcopy(training_args)
        warmup_args.max_steps, warmup_args.learning_rate = args.head_warmup_steps, HEAD_LEARNING_RATE
        warmup_args.eval_strategy = warmup_args.save_strategy = "no"
        warmup_args.report_to = []  # no steps of another kind among those of the run
        warmup_args.eval_on_start = warmup_args.load_best_model_at_end = False
        Trainer(model, warmup_args, data_collator=batches, train_dataset=train_blocks, callbacks=[masked]).train()
        model.base_model.requires_grad_(True)

    # 4. Train; the best model by validation is loaded at the end
    trainer = Trainer(
        model=model,
        args=training_args,
        train_dataset=train_blocks,
        eval_dataset=validation_blocks,
        processing_class=tokenizer,
        data_collator=batches,
        compute_metrics=masked_metrics,
        callbacks=[masked, *training_callbacks(training_args, **args.training)],
    )
    if args.overwrite_output and trainer.is_world_process_zero():
        clear_output(args.run_dir)
    results = trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint).metrics
    results |= scores_before(trainer.state.log_history) | trainer.evaluate()

    # 5. Save the encoder with the pooler it came with, load it afresh, and say what was gained
    state = trainer.accelerator.get_state_dict(trainer.model)
    if trainer.is_world_process_zero():
        pooler_from = None if args.from_scratch else args.model_name_or_path
        unwrapped = trainer.accelerator.unwrap_model(trainer.model)
        results["pooler_kept"] = bool(save_encoder(state, unwrapped, tokenizer, args.run_dir, pooler_from=pooler_from))
        results |= {"seed": training_args.seed, "train_samples": len(train), "train_blocks": len(train_blocks)}
        results |= {"random_head_weights": random_head, "head_warmup_steps": args.head_warmup_steps}
        write_record(trainer, run_dir=args.run_dir, started=args.started)
        say(write_pretraining(results, run_dir=args.run_dir))
        draw_curves(trainer.state.log_history, Path(args.run_dir, "report", "loss.png"))
    return results


if __name__ == "__main__":
    run_recipe(main, Arguments, defaults=DEFAULTS, sample_defaults=SAMPLE_DEFAULTS, description=__doc__)
