"""Further pretraining by masked language modelling: blocks, masks, masked positions alone, and the encoder kept."""

import hashlib
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    DataCollatorForLanguageModeling,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
)
from transformers.modeling_outputs import MaskedLMOutput
from transformers.utils import logging

from bertcls.modeling import set_attention_dropout
from bertcls.process import open_weights, warn
from bertcls.report.write import write_metrics
from bertcls.text import clean_all

IGNORED = -100  # label of a position that is not scored
IMPLAUSIBLE_LOSS = 0.5  # nats: bert-base has about 1.7 on English prose it was trained on
_CHECKED_BLOCKS = 64


def pack_blocks(
    batch: dict[str, list],
    *,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    cleaning: list[str] | None = None,
    whole_word_mask: bool = False,
) -> dict[str, list]:
    """Texts to full blocks, for a batched `datasets.map` that removes the other columns.

    The texts are laid end to end with a separator between them and cut every `max_length - 2` tokens, so that no token
    is lost and nothing but a last short batch is padded. The last block of a batch ends at its end and starts inside
    the block before.

    Args:
        batch: with `text`.
        tokenizer: a fast one.
        max_length: tokens of a block, the two special tokens around it included.
        cleaning: steps of `bertcls.text`.
        whole_word_mask: also give `offset_mapping`, as the collator needs it: made up so that the pieces of a word of
            the tokenizer touch and nothing else does (by true offsets a Chinese sentence would be one word, and
            "good," too).

    Returns:
        `input_ids`, `attention_mask` and `special_tokens_mask`, each `[blocks, max_length]`, `length` (tokens that are
        not padding) and, where asked, `offset_mapping` `[blocks, max_length, 2]`.
    """
    texts = clean_all(batch["text"], cleaning, batch.get("example_id", ()))
    encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
    ids, words = [], []  # of the whole batch; a word's number, -1 for a separator
    first_word = 0
    for number, text_ids in enumerate(encoded["input_ids"]):
        if ids and text_ids:
            ids.append(tokenizer.sep_token_id)
            words.append(-1)
        ids += text_ids
        if whole_word_mask:
            text_words = encoded.word_ids(number)
            words += [-1 if word is None else first_word + word for word in text_words]
            first_word += 1 + max((word for word in text_words if word is not None), default=-1)
        else:
            words += [0] * len(text_ids)
    room = max_length - 2
    starts = list(range(0, max(len(ids) - room, 0) + 1, room))
    if ids and starts[-1] + room < len(ids):
        starts.append(len(ids) - room)
    ids, words = np.array(ids, dtype=np.int64), np.array(words, dtype=np.int64)
    columns = {"input_ids": [], "attention_mask": [], "special_tokens_mask": [], "length": []}
    if whole_word_mask:
        columns["offset_mapping"] = []
    for start in starts if len(ids) else []:
        inside, inside_words = ids[start : start + room], words[start : start + room]
        padding = room - len(inside)
        block = [tokenizer.cls_token_id, *inside.tolist(), tokenizer.sep_token_id]
        columns["input_ids"].append(block + [tokenizer.pad_token_id] * padding)
        columns["attention_mask"].append([1] * len(block) + [0] * padding)
        columns["special_tokens_mask"].append([1, *(inside_words < 0).astype(int).tolist(), 1] + [1] * padding)
        columns["length"].append(len(block))
        if whole_word_mask:  # a place begins where the one before ends, and one further where a word begins
            new_word = np.append(True, inside_words[1:] != inside_words[:-1])
            begin = np.arange(len(inside)) + new_word.cumsum()
            offsets = [[0, 0], *np.stack([begin, begin + 1], 1).tolist(), [0, 0]]
            columns["offset_mapping"].append(offsets + [[0, 0]] * padding)
    return columns


class MaskedBatches:
    """Collates blocks: masked anew by `collator` in training, as they are where they hold `labels` (validation).

    The masks of a batch follow from torch's seed, the epoch and the batch, not from what was drawn before: a run that
    was stopped within an epoch goes on with the masks that it would have had. Without an epoch they are drawn from
    torch's generator.

    Args:
        collator: masks.
    """

    def __init__(self, collator: DataCollatorForLanguageModeling):
        self.collator = collator
        self.seed = torch.initial_seed()  # here, since a worker of the loader has one of its own
        self.epoch = torch.tensor(-1).share_memory_()  # `Checkpoints` sets it, workers of the loader see it; -1: none

    def __call__(self, features: list[dict]) -> dict[str, torch.Tensor]:
        features = [{name: value for name, value in row.items() if name != "length"} for row in features]
        if "labels" in features[0]:
            return {name: torch.tensor([row[name] for row in features]) for name in features[0]}
        if self.epoch >= 0:
            key = repr((self.seed, int(self.epoch), [row["input_ids"] for row in features])).encode()
            self.collator.generator = torch.Generator()
            self.collator.generator.manual_seed(int.from_bytes(hashlib.sha256(key).digest()[:7]))
        return self.collator(features)


def mask_once(dataset: Dataset, collator: DataCollatorForLanguageModeling, *, seed: int) -> Dataset:
    """Masks blocks for good, so that the losses of several epochs, runs and processes are of the same positions.

    Args:
        dataset: of `pack_blocks`.
        collator: masks.
        seed: of the masks; the state of torch's generator is left as it was.

    Returns:
        the blocks with masked `input_ids`, `labels` and `attention_mask`.

    Raises:
        ValueError: no position of any block was masked, so that there is nothing to score.
    """

    def mask(batch: dict[str, list]) -> dict[str, list]:
        rows = [dict(zip(batch, values)) for values in zip(*batch.values())]
        return {name: tensor.tolist() for name, tensor in MaskedBatches(collator)(rows).items()}

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        masked = dataset.map(
            mask, batched=True, batch_size=128, remove_columns=dataset.column_names, load_from_cache_file=False
        )
    if not any(label != -100 for labels in masked["labels"] for label in labels):
        raise ValueError(
            f"Found no masked token in the {len(dataset)} blocks of validation; expected some to score. Hold out more "
            "texts (--validation_samples), or raise --mlm_probability."
        )
    return masked


class _MaskedPositionsOnly:
    """What `load_masked_lm` puts before a stock class.

    The vocabulary is by far the largest matrix of a small model, and 85 % of its products are thrown away by the stock
    loss. Here the encoder's output is cut to the scored positions on its way to the head.
    """

    accepts_loss_kwargs = True

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs,
    ) -> MaskedLMOutput:
        if labels is None:
            return super().forward(input_ids=input_ids, attention_mask=attention_mask, **kwargs)
        scored = labels != IGNORED  # [batch, seq_len]

        def cut(module, inputs, output):
            output["last_hidden_state"] = output.last_hidden_state[scored]  # [scored, hidden]
            return output

        hook = self.base_model.register_forward_hook(cut)
        try:
            logits = super().forward(input_ids=input_ids, attention_mask=attention_mask, **kwargs).logits
        finally:
            hook.remove()
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
    name_or_path: str, *, from_scratch: bool = False, attention_dropout: float | None = None
) -> tuple[PreTrainedModel, list[str]]:
    """A masked language model in fp32 that scores masked positions alone, and the weights it starts at random.

    Args:
        name_or_path: Hub id or folder of an encoder, with or without a head for masked language modelling.
        from_scratch: start all weights at random.
        attention_dropout: as in `BertClsForSequenceClassification.from_encoder`.

    Returns:
        the model, and the names of the weights of its head that the checkpoint does not hold.

    Raises:
        FileNotFoundError: no such model.
        ValueError: a model that is no encoder with such a head, or weights of the encoder that are missing.
    """
    try:
        config = AutoConfig.from_pretrained(name_or_path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"No model found at {name_or_path!r}; expected a Hub id or a folder with config.json and "
            f"model.safetensors. Check the spelling. ({str(error).splitlines()[0]})"
        ) from error
    if attention_dropout is not None:
        set_attention_dropout(config, attention_dropout)
    try:
        if from_scratch:
            model, missing = AutoModelForMaskedLM.from_config(config, trust_remote_code=False), []
        else:
            model, info = AutoModelForMaskedLM.from_pretrained(
                name_or_path,
                config=config,
                dtype=torch.float32,
                output_loading_info=True,
                trust_remote_code=False,
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


class MaskingCheck(TrainerCallback):
    """Stops a run whose labels cannot be those of masked language modelling, before its first step.

    It looks at the batches that Trainer's own collator makes. Scoring every position, or positions whose answer is
    left in the input, gives tiny losses that mean nothing. What a batch draws changes nothing in the run.

    Args:
        mlm_probability: share of positions to be scored.
    """

    def __init__(self, mlm_probability: float):
        self.mlm_probability = mlm_probability

    def on_train_begin(self, args, state, control, model=None, train_dataloader=None, **kwargs):
        dataset, collate = train_dataloader.dataset, train_dataloader.collate_fn
        size = min(args.per_device_train_batch_size, len(dataset))
        checked = range(0, min(max(_CHECKED_BLOCKS, size), len(dataset)), size)
        devices = [] if args.device.type == "cpu" else [args.device.index or 0]
        with torch.random.fork_rng(devices, device_type=args.device.type if devices else "cuda"):
            rows = [[dataset[row] for row in range(start, min(start + size, len(dataset)))] for start in checked]
            batches = [collate(features) for features in rows]
            check_masking(batches, [[row["input_ids"] for row in features] for features in rows], self.mlm_probability)
            was_training = model.training
            with torch.no_grad():
                first = {name: tensor.to(args.device) for name, tensor in batches[0].items()}
                loss = float(model.eval()(**first).loss)
            model.train(was_training)
        if loss < IMPLAUSIBLE_LOSS and args.process_index == 0:
            warn(
                f"The loss is {loss:.4f} before the first step, where a good encoder has 1.5 to 3. Are the labels the "
                "original tokens of masked positions, and are the texts more than copies of one another?"
            )


def check_masking(batches: list[dict], originals: list[list[list[int]]], mlm_probability: float) -> None:
    """Refuses batches whose labels are not the original tokens at a random share of the positions.

    Args:
        batches: with masked `input_ids`, `labels` and `attention_mask`, each `[batch, seq_len]`.
        originals: the token ids of their rows before masking.
        mlm_probability: share of positions to be scored.

    Raises:
        ValueError: the share of scored positions is not between half and one and a half of `mlm_probability`, a label
            is not the original token, or most scored positions still show their answer.

    >>> batch = {"input_ids": torch.tensor([[7, 7, 7]]), "labels": torch.tensor([[7, 7, 7]])}
    >>> check_masking([batch | {"attention_mask": torch.ones(1, 3)}], [[[7, 7, 7]]], 0.15)
    Traceback (most recent call last):
        ...
    ValueError: The labels score 100.0 % of the positions; expected about 15 %, ...
    """
    scored = real = shown = wrong = 0
    for batch, rows in zip(batches, originals):
        labels, ids = batch["labels"], batch["input_ids"]
        chosen = labels != IGNORED
        original = torch.full_like(ids, IGNORED)
        for place, row in enumerate(rows):
            original[place, : len(row)] = torch.tensor(row)
        scored += int(chosen.sum())
        real += int(batch["attention_mask"].sum())
        shown += int((chosen & (labels == ids)).sum())
        wrong += int((chosen & (labels != original)).sum())
    share = scored / max(real, 1)
    if not 0.5 * mlm_probability <= share <= 1.5 * mlm_probability:
        raise ValueError(
            f"The labels score {100 * share:.1f} % of the positions; expected about {100 * mlm_probability:g} %, the "
            "share that is masked. Take the labels that the collator returns, which are -100 elsewhere."
        )
    if wrong:
        raise ValueError(
            f"{wrong} of {scored} labels are not the original token of their position; expected all of them. Take the "
            "labels that the collator returns, not the masked input."
        )
    if shown > scored / 2:
        raise ValueError(
            f"{shown} of {scored} scored positions still show their answer in the input; expected about a tenth. Feed "
            "the model the masked input_ids that the collator returns."
        )


def save_encoder(
    state: dict[str, torch.Tensor],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: str,
    *,
    pooler_from: str | None,
) -> list[str]:
    """Saves a masked language model with the pooler of the checkpoint that it started from, and loads it to be sure.

    Masked language modelling has no pooler, so a checkpoint of it alone would give a classifier a random one. The
    folder loads as an encoder (`AutoModel`, `--model_name_or_path` of the recipes) and as a masked language model.

    Args:
        state: weights of the trained model.
        model: it, or one of its class and configuration.
        tokenizer: saved beside.
        folder: where to.
        pooler_from: the checkpoint; `None` for none, as from scratch.

    Returns:
        the names of the pooler's weights that were kept.

    Raises:
        ValueError: the folder does not give back what was trained, or part of the encoder would be random.
    """
    prefix, pooler = model.base_model_prefix + ".", {}
    if pooler_from is not None:
        start, info = AutoModel.from_pretrained(
            pooler_from, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
        )
        pooler = {
            name: tensor
            for name, tensor in start.state_dict().items()
            if name.startswith("pooler.") and name not in info["missing_keys"]
        }
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    model.config._name_or_path = ""  # a local path would otherwise travel in config.json
    model.save_pretrained(folder, state_dict={**state, **{prefix + name: tensor for name, tensor in pooler.items()}})
    open_weights(folder)
    tokenizer.save_pretrained(folder)
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # its report of the head, which an encoder does not take, would frighten
    saved, info = AutoModel.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
    )
    logging.set_verbosity(verbosity)
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


def write_pretraining(results: dict, *, run_dir: str) -> str:
    """Writes all scores of a further pretraining to `report/metrics.json`.

    Args:
        results: of the whole run; `random_head_weights` and `head_warmup_steps` say what "before" means.
        run_dir: where the file goes.

    Returns:
        what to tell the user: loss and perplexity before and after, and what the saved encoder is good for.
    """
    write_metrics({"scores": results}, run_dir=run_dir)
    lines = [
        f"{when}: loss {results[f'{prefix}_masked_loss']:.4f}, perplexity {results[f'{prefix}_perplexity']:.2f}, "
        f"accuracy {results[f'{prefix}_masked_accuracy']:.4f}"
        for when, prefix in (("before", "before"), ("after", "eval"))
        if f"{prefix}_masked_loss" in results
    ]
    if results["random_head_weights"]:
        steps = results["head_warmup_steps"]
        alone = f"was trained alone for {steps} steps before anything was measured" if steps else "had no warm-up"
        lines.insert(0, f"The head was random and {alone}.")
    return "\n".join(
        [
            f"{results['eval_masked_tokens']} masked tokens of validation, the same before and after:",
            *lines,
            f"The encoder is in {run_dir}, {'with' if results['pooler_kept'] else 'without'} a pooler. Fine-tune it:",
            f"  accelerate launch recipes/sst2_finetune.py --model_name_or_path {Path(run_dir).as_posix()}",
        ]
    )
