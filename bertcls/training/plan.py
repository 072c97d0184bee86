"""How long to train, what to choose an epoch by, and where the head starts: by the number of rows."""

import math
import time

import torch
from datasets import DatasetDict
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments

from bertcls.metrics import BEST
from bertcls.modeling import REGRESSION, SINGLE_LABEL
from bertcls.optim import freeze
from bertcls.process import say
from bertcls.together import meet
from bertcls.tokenization import WindowCollator
from bertcls.training.adapters import CONTRASTIVE_RATE, add_adapters
from bertcls.training.checkpoints import weights_digest
from bertcls.training.contrastive import contrastive_stage

ENOUGH_STEPS = 150  # of the optimizer, after which more epochs bring nothing
MOST_EPOCHS, FEWEST_EPOCHS = 25, 3
CHOOSE_BY_SCORE = 200  # rows of validation, from which on an accuracy tells epochs apart; below it the loss does
FEW_ROWS_A_CLASS = 160  # below it a contrastive stage and a linear head do better than training the classes
CONTRASTIVE_STEPS = (20, 60)  # at least and at most; between them as many as rows
_HEAD_ROWS = 10_000  # that the head is fitted on after the stage


def prepare_training(
    model: PreTrainedModel,
    tokenized: DatasetDict,
    collator: WindowCollator,
    training_args: TrainingArguments,
    *,
    head_init: str = "auto",
    contrastive_steps: int | None = None,
    from_scratch: bool = False,
    freeze_encoder: bool = False,
    freeze_layers: int = 0,
    lora_rank: int | None = None,
    watch: TrainerCallback | None = None,
) -> None:
    """Freezes what is not to train, sets what follows from the number of rows, and gives the head its start.

    With few rows a class the encoder is trained by a contrastive stage, a linear model on its vectors is the head, and
    no epoch follows. Else the head starts as a linear model on the encoder as it is, and 3 to 25 epochs follow, as
    many as make enough optimizer steps (Mosbach et al., 2021). What is given explicitly is left as it is.

    Args:
        model: with a new head; it is moved to the device of the run.
        tokenized: train and, where there are rows to choose by, validation.
        collator: of the run.
        training_args: whose `num_train_epochs`, `metric_for_best_model` and evaluation are set.
        head_init: as in `start_head`.
        contrastive_steps: optimizer steps of the contrastive stage; `None` follows from the rows.
        from_scratch: the encoder is random, so its vectors tell nothing.
        freeze_encoder, freeze_layers: as in `freeze`.
        lora_rank: of adapters on the encoder, as in `add_adapters`; `None`: it trains itself.
        watch: of a search; its `on_plan` is told the plan, and may want no more.

    Raises:
        ValueError: a metric or an option that does not go with the task.
    """
    from bertcls.training.head_start import start_head  # scikit-learn

    meet()  # some had to load the encoder first
    freeze(model, freeze_encoder=freeze_encoder, freeze_layers=freeze_layers)
    parameters = model.num_parameters()
    model.start_digest = weights_digest(model.encoder)  # of the encoder as it came, for a run that is gone on with
    if lora_rank is not None:
        add_adapters(model.encoder, lora_rank)
    trainable = model.num_parameters(only_trainable=True)
    say(f"{trainable:,} of {parameters:,} parameters train; pooling: {model.config.pooling}")
    rows, kind = len(tokenized["train"]), model.config.problem_type or SINGLE_LABEL
    can_probe = head_init != "random" and not from_scratch and model.dense is None
    trains_encoder = any(parameter.requires_grad for parameter in model.encoder.parameters())
    model.to(training_args.device)
    explicit = not getattr(training_args, "epochs_by_rows", False)
    few = kind == SINGLE_LABEL and rows < FEW_ROWS_A_CLASS * model.config.num_labels
    if contrastive_steps is None:
        least, most = CONTRASTIVE_STEPS
        few = few and can_probe and trains_encoder and not explicit
        contrastive_steps = min(max(rows, least), most) if few else 0
    elif contrastive_steps and kind == REGRESSION:
        raise ValueError(
            f"Found --contrastive_steps {contrastive_steps} with numbers as labels; expected classes, whose texts can "
            "be alike. Give 0."
        )
    elif contrastive_steps and not trains_encoder:
        raise ValueError(
            f"Found --contrastive_steps {contrastive_steps} with a frozen encoder; expected one that trains. Leave "
            "one of them out."
        )
    if not explicit:
        steps_an_epoch = math.ceil(rows / (training_args.train_batch_size * training_args.gradient_accumulation_steps))
        steps_an_epoch = math.ceil(steps_an_epoch / training_args.world_size)
        epochs = min(max(math.ceil(ENOUGH_STEPS / steps_an_epoch), FEWEST_EPOCHS), MOST_EPOCHS)
        ready = contrastive_steps > 0 and can_probe  # without an epoch
        training_args.num_train_epochs = 0.0 if ready else float(epochs)
        first = f"{contrastive_steps} contrastive steps, then " if contrastive_steps else ""
        why = f"fewer than {FEW_ROWS_A_CLASS} a class; " if few else ""
        then = f"a linear head ({why}--num_train_epochs trains epochs instead)" if ready else f"{epochs} epochs"
        say(f"{rows:,} rows: {first}{then}{'' if ready else f', {epochs * steps_an_epoch:,} steps'}")
    _choose_by(training_args, len(tokenized.get("validation", ())), kind)
    model.contrastive_steps, model.contrastive_texts = contrastive_steps, 0
    if watch is not None and watch.on_plan(model, training_args, tokenized, can_probe):
        return
    if can_probe:  # then the start is a candidate, too; the head behind a stage is what is delivered, and is exact
        with torch.autocast(training_args.device.type, torch.bfloat16, enabled=training_args.bf16):
            model.linear_start = start_head(model, tokenized["train"], collator, seed=training_args.seed)
    if training_args.resume_from_checkpoint is not None:
        return  # the checkpoint has the weights
    if contrastive_steps:
        began = time.time()
        model.contrastive_texts = contrastive_stage(
            model,
            tokenized["train"],
            collator,
            training_args,
            steps=contrastive_steps,
            **({} if lora_rank is None else {"learning_rate": CONTRASTIVE_RATE}),
        )
        model.stage_seconds = time.time() - began
        if can_probe:
            rest = {"before": model.linear_start, "seed": training_args.seed}
            start_head(model, tokenized["train"], collator, rows=_HEAD_ROWS, **rest)
    if can_probe:
        say(f"The head starts as a linear model on the encoder {'so trained' if contrastive_steps else 'as it came'}.")


def _choose_by(training_args: TrainingArguments, rows: int, kind: str) -> None:
    """The metric that an epoch is chosen by; none where there are no rows to choose by."""
    if rows == 0 and training_args.eval_strategy != "no":
        training_args.eval_strategy = training_args.eval_strategy.__class__("no")
        training_args.eval_on_start = training_args.load_best_model_at_end = False
        if training_args.num_train_epochs or training_args.max_steps > 0:
            say("No rows to choose an epoch by: the last one is taken.")
    elif training_args.metric_for_best_model == "auto" or getattr(training_args, "chosen_by_rows", False):
        best = BEST[kind]
        if rows < CHOOSE_BY_SCORE and kind != REGRESSION:
            best = "calibrated_loss"  # the plain one rises with confidence while the answers still get better
            training_args.greater_is_better = False
            if training_args.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy"):
                training_args.lr_scheduler_kwargs = {**(training_args.lr_scheduler_kwargs or {}), "mode": "min"}
            if training_args.num_train_epochs or training_args.max_steps > 0:
                say(f"{rows} rows of validation: the epoch is chosen by their loss after calibration.")
        training_args.metric_for_best_model = best
