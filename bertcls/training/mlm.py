"""Masked language models: masked positions alone, a random head trained first, and the encoder kept."""

import json
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
)
from transformers.modeling_outputs import MaskedLMOutput

from bertcls.layout import MODULES, REPORT
from bertcls.modeling import declared_pooling, load_config, readable_weights, set_attention_dropout
from bertcls.process import open_weights, say
from bertcls.report.figures import draw_curves
from bertcls.report.record import write_record
from bertcls.report.scores import scores_before
from bertcls.report.write import write_metrics
from bertcls.together import finishing
from bertcls.training.adapters import add_adapters
from bertcls.training.masking import IGNORED, MaskedBatches, MaskingCheck
from bertcls.training.stage import stage

_LOADING = {"dtype": torch.float32, "output_loading_info": True}


class _MaskedPositionsOnly:
    """What `load_masked_lm` puts before a stock class.

    The vocabulary is by far the largest matrix of a small model, and 85 % of its products are thrown away by the stock
    loss. Here the encoder's output is cut to the scored positions on its way to the head.
    """

    accepts_loss_kwargs = True

    def forward(
        self, *args, labels: torch.Tensor | None = None, num_items_in_batch: torch.Tensor | int | None = None, **kwargs
    ) -> MaskedLMOutput:
        if labels is None:
            return super().forward(*args, **kwargs)
        scored = labels != IGNORED  # [batch, seq_len]

        def cut(module, inputs, output):
            output["last_hidden_state"] = output.last_hidden_state[scored]  # [scored, hidden]
            return output

        with self.base_model.register_forward_hook(cut):
            logits = super().forward(*args, **kwargs).logits
        targets = labels[scored]
        losses = F.cross_entropy(logits.float(), targets, reduction="none")  # [scored]
        count = max(len(targets), 1) if num_items_in_batch is None else num_items_in_batch
        statistics = None
        if not self.training:  # per row, so that Trainer gathers three numbers and not the vocabulary
            right = logits.argmax(-1) == targets
            per_position = torch.stack([losses, right.float(), torch.ones_like(losses)], dim=1)
            rows = scored.nonzero()[:, 0]
            statistics = per_position.new_zeros(len(labels), 3).index_add(0, rows, per_position)
        return MaskedLMOutput(loss=losses.sum() / count, logits=statistics)


def masked_positions_only(model: PreTrainedModel) -> PreTrainedModel:
    """Lets a stock masked language model compute the vocabulary at scored positions alone, in place.

    The loss is that of the stock class, in training divided by `num_items_in_batch`, as Trainer gives it. In
    evaluation mode `logits` are `[batch, 3]`: per row the summed loss, the right answers and the scored positions,
    which `masked_metrics` reads. Without labels the model is the stock one.
    """
    stock = type(model)
    model.__class__ = type(stock.__name__, (_MaskedPositionsOnly, stock), {})  # its name goes into config.json
    return model


def load_masked_lm(
    name_or_path: str,
    *,
    from_scratch: bool = False,
    attention_dropout: float | None = None,
    lora_rank: int | None = None,
) -> tuple[PreTrainedModel, list[str]]:
    """A masked language model in fp32 that scores masked positions alone, and the names of the weights of its head
    that the checkpoint of the encoder does not hold; `from_scratch` all weights start at random. `lora_rank` is that
    of `add_adapters`; `None`: the encoder trains itself.

    Raises:
        FileNotFoundError: no such model.
        ValueError: a model that is no encoder with such a head, or weights of the encoder that are missing.
    """
    config = load_config(name_or_path)
    if attention_dropout is not None:
        set_attention_dropout(config, attention_dropout)
    with readable_weights(name_or_path):
        try:
            if from_scratch:
                model, missing = AutoModelForMaskedLM.from_config(config, trust_remote_code=False), []
            else:
                model, info = AutoModelForMaskedLM.from_pretrained(
                    name_or_path, config=config, trust_remote_code=False, **_LOADING
                )
                missing = sorted(info["missing_keys"])
        except ValueError as error:
            raise ValueError(
                f"{name_or_path} is a {config.model_type} model, for which transformers has no masked language model; "
                "expected an encoder such as google-bert/bert-base-uncased. Give the encoder the classifier came from."
            ) from error
    lost = [name for name in missing if name.startswith(model.base_model_prefix + ".")]
    if lost:
        raise ValueError(
            f"{name_or_path} lacks {len(lost)} weights of the encoder ({lost[0]}, ...); expected all of them. Use a "
            "whole checkpoint, or --from_scratch."
        )
    if lora_rank is not None:
        add_adapters(model.base_model, lora_rank)
    return masked_positions_only(model), missing


def masked_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Scores over all masked positions, whatever the batches: `compute_metrics` of a `masked_positions_only` model.

    Returns:
        `masked_loss` (nats per position), `perplexity` (its exponential), `masked_accuracy` (share of positions whose
        token is the most probable one) and `masked_tokens` (positions).
    """
    loss, right, count = np.asarray(prediction.predictions, dtype=np.float64).sum(0)
    return {
        "masked_loss": loss / count,
        "perplexity": math.exp(min(loss / count, 700.0)),
        "masked_accuracy": right / count,
        "masked_tokens": int(count),
    }


def save_encoder(
    state: dict[str, torch.Tensor],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: str,
    *,
    pooler_from: str | None,
) -> list[str]:
    """Saves a masked language model with the pooler of the checkpoint that it started from, and loads it to be sure.

    Masked language modelling has no pooler, so a checkpoint of it alone would give a classifier a random one. What a
    sentence-embedding checkpoint says of its vectors is kept, too. The folder loads as an encoder (`AutoModel`,
    `--model_name_or_path` of the recipes) and as a masked language model. `state` are the trained weights;
    `pooler_from` is `None` from scratch. Gives the names of the pooler's weights.

    Raises:
        ValueError: the folder does not give back what was trained, or part of the encoder would be random.
    """
    prefix, pooler = model.base_model_prefix + ".", {}
    if pooler_from is not None:
        start, info = AutoModel.from_pretrained(pooler_from, trust_remote_code=False, **_LOADING)
        kept = {name for name in start.state_dict() if name.startswith("pooler.")} - {*info["missing_keys"]}
        pooler = {name: start.state_dict()[name] for name in kept}
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    model.config._name_or_path = ""  # a local path would otherwise travel in config.json
    model.save_pretrained(folder, state_dict={**state, **{prefix + name: tensor for name, tensor in pooler.items()}})
    open_weights(folder)
    tokenizer.save_pretrained(folder)
    said = (None, False) if pooler_from is None else declared_pooling(pooler_from)
    declare_pooling(folder, *said, width=model.config.hidden_size)
    with readable_weights(folder):  # without a report of the head, which an encoder does not take
        saved, info = AutoModel.from_pretrained(folder, trust_remote_code=False, **_LOADING)
    random = [name for name in info["missing_keys"] if pooler or not name.startswith("pooler.")]
    trained = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    found = saved.state_dict()
    differing = [name for name, tensor in (trained | pooler).items() if not torch.equal(found[name].cpu(), tensor)]
    if random or differing:
        raise ValueError(
            f"The encoder saved in {folder} is not the trained one: {(random + differing)[0]} is random or "
            "differs. Do not use it; the checkpoints beside it are whole."
        )
    return sorted(pooler)


def declare_pooling(folder: str | Path, pooling: str | None, normalize: bool, *, width: int) -> None:
    """Writes the files by which sentence-embedding checkpoints say how they pool vectors of `width` numbers.

    None for the pooler, or for what is not known: where nothing is said, the pooler is taken, else the first token.
    """
    names = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens"}
    Path(folder, MODULES).unlink(missing_ok=True)  # of an earlier run
    if pooling not in names:
        return
    kinds = {"": "Transformer", "1_Pooling": "Pooling"} | ({"2_Normalize": "Normalize"} if normalize else {})
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(kinds.items())
    ]
    modes = {f"pooling_mode_{name}": one == pooling for one, name in names.items()}
    Path(folder, "1_Pooling").mkdir(exist_ok=True)
    files = {MODULES: modules, "1_Pooling/config.json": {"word_embedding_dimension": width} | modes}
    for name, content in files.items():
        Path(folder, name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def warm_up_head(
    model: PreTrainedModel, training_args: TrainingArguments, batches: MaskedBatches, blocks: Dataset, *, steps: int
) -> None:
    """Trains a head alone that starts at random, else it would spoil the encoder, for some optimizer `steps`."""
    say(f"the head starts at random: {steps} steps on it alone")
    check = MaskingCheck(batches.collator.mlm_probability)
    with stage(training_args, model.base_model.parameters(), steps=steps, learning_rate=1e-3) as args:
        Trainer(model, args, data_collator=batches, train_dataset=blocks, callbacks=[check]).train()


@finishing()
def finish_pretraining(
    trainer: Trainer,
    results: dict,
    *,
    run_dir: str,
    started: float,
    model_name_or_path: str,
    from_scratch: bool = False,
    head_warmup_steps: int = 0,
    random_head: list[str] | None = None,
) -> dict:
    """Saves the encoder with the pooler it came with, loads it afresh, and says what was gained.

    Writes `run.json`, `report/metrics.json` and `report/loss.png`, on the first process. `results` are the scores so
    far, `train_*` and `eval_*`; `started` is in seconds of `time.time()`; `random_head` is what `load_masked_lm` gave.
    """
    state = trainer.accelerator.get_state_dict(trainer.model)
    if not trainer.is_world_process_zero():
        return results
    results = scores_before(trainer.state.log_history) | results
    pooler = save_encoder(
        state,
        trainer.accelerator.unwrap_model(trainer.model),
        trainer.processing_class,
        run_dir,
        pooler_from=None if from_scratch else model_name_or_path,
    )
    results |= {"pooler_kept": bool(pooler), "seed": trainer.args.seed, "train_blocks": len(trainer.train_dataset)}
    results |= {"random_head_weights": random_head or [], "head_warmup_steps": head_warmup_steps}
    write_record(trainer, run_dir=run_dir, started=started)
    write_metrics({"scores": results}, run_dir=run_dir)
    best_step = trainer.state.best_global_step if trainer.args.load_best_model_at_end else None
    draw_curves(trainer.state.log_history, Path(run_dir, REPORT, "loss.png"), best_step=best_step)
    say(f"{results['eval_masked_tokens']} masked tokens of validation, the same before and after:")
    if random_head:
        alone = f"was trained alone for {head_warmup_steps} steps before anything was measured"
        say(f"The head was random and {alone if head_warmup_steps else 'had no warm-up'}.")
    for when, prefix in (("before", "before"), ("after", "eval")):
        if f"{prefix}_masked_loss" in results:
            names = ("masked_loss", "perplexity", "masked_accuracy")
            loss, perplexity, accuracy = (results[f"{prefix}_{name}"] for name in names)
            say(f"{when}: loss {loss:.4f}, perplexity {perplexity:.2f}, accuracy {accuracy:.4f}")
    say(f"The encoder is in {run_dir}, {'with' if pooler else 'without'} a pooler. Fine-tune it:")
    say(f"  accelerate launch recipes/sst2_finetune.py --model_name_or_path {Path(run_dir).as_posix()}")
    return results
