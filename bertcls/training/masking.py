"""Texts packed into full blocks and masked: what masked language modelling is trained and scored on."""

import hashlib

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerBase, TrainerCallback

from bertcls.data.splits import SPLIT_SEED
from bertcls.process import say, warn
from bertcls.text import clean_all, own_steps
from bertcls.together import first_of_cache
from bertcls.tokenization import check_window

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
    """Texts to full blocks of `max_length` tokens, for a batched `datasets.map` that removes the other columns.

    The texts are laid end to end with a separator between them, so that no token is lost and nothing but a last short
    batch is padded; the last block of a batch ends at its end and starts inside the block before.

    Gives `input_ids`, `attention_mask` and `special_tokens_mask`, each `[blocks, max_length]`, `length` (tokens that
    are not padding) and, with `whole_word_mask`, `offset_mapping` `[blocks, max_length, 2]` for the collator: made up
    so that the pieces of a word touch and nothing else does (by true ones a Chinese sentence would be one word).
    """
    texts = clean_all(batch["text"], cleaning, batch.get("example_id", ()))
    encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
    ids, words = [], []  # of the whole batch; a word's number in its text, -1 for a separator
    for number, text_ids in enumerate(encoded["input_ids"]):
        if ids and text_ids:
            ids.append(tokenizer.sep_token_id)
            words.append(-1)
        ids += text_ids
        text_words = encoded.word_ids(number) if whole_word_mask else [0] * len(text_ids)
        words += [-1 if word is None else word for word in text_words]
    room = max_length - 2
    starts = [min(start, max(len(ids) - room, 0)) for start in range(0, len(ids), room)]
    ids, words = np.array(ids, dtype=np.int64), np.array(words, dtype=np.int64)
    columns = {"input_ids": [], "attention_mask": [], "special_tokens_mask": [], "length": []}
    columns |= {"offset_mapping": []} if whole_word_mask else {}
    for start in starts:
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
    """Masks the blocks of `pack_blocks` for good, so that all losses are of the same positions.

    The state of torch's generator is left as it was.

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
    if not any(label != IGNORED for labels in masked["labels"] for label in labels):
        raise ValueError(
            f"Found no masked token in the {len(dataset)} blocks of validation; expected some to score. Hold out more "
            "texts (--validation_samples), or raise --mlm_probability."
        )
    return masked


class MaskingCheck(TrainerCallback):
    """Stops a run whose labels cannot be those of masked language modelling, before its first step.

    It looks at the batches that Trainer's own collator makes. Scoring every position, or positions whose answer is
    left in the input, gives tiny losses that mean nothing. What a batch draws changes nothing in the run.
    """

    def __init__(self, mlm_probability: float):
        self.mlm_probability = mlm_probability

    def on_train_begin(self, args, state, control, model=None, train_dataloader=None, **kwargs):
        dataset, collate = train_dataloader.dataset, train_dataloader.collate_fn
        size = min(state.train_batch_size or args.train_batch_size, len(dataset))  # auto_find_batch_size lowers it
        checked = range(0, min(max(_CHECKED_BLOCKS, size), len(dataset)), size)
        devices = [] if args.device.type == "cpu" else [args.device.index or 0]
        with torch.random.fork_rng(devices, device_type=args.device.type if devices else "cuda"):
            rows = [[dataset[row] for row in range(start, min(start + size, len(dataset)))] for start in checked]
            batches = [collate(features) for features in rows]
            check_masking(batches, [[row["input_ids"] for row in features] for features in rows], self.mlm_probability)
            with torch.no_grad():
                first = {name: tensor.to(args.device) for name, tensor in batches[0].items()}
                loss = float(model.eval()(**first).loss)  # Trainer puts it into training mode for each step
        if loss < IMPLAUSIBLE_LOSS and args.process_index == 0:
            warn(
                f"The loss is {loss:.4f} before the first step, where a good encoder has 1.5 to 3. Are the labels the "
                "original tokens of masked positions, and are the texts more than copies of one another?"
            )


def check_masking(batches: list[dict], originals: list[list[list[int]]], mlm_probability: float) -> None:
    """Refuses batches (`[batch, seq_len]` each) whose labels are not the `originals` at a random share of positions.

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


def pack_splits(
    splits: DatasetDict,
    tokenizer: PreTrainedTokenizerBase,
    masking: DataCollatorForLanguageModeling,
    *,
    max_length: int,
    cleaning: list[str] | None = None,
) -> DatasetDict:
    """Packs train and validation by batched, cached maps, and masks the blocks of validation once.

    Raises:
        ValueError: as `check_window` and `mask_once`, or a split without a token.
    """
    check_window(tokenizer, max_length=max_length, overlap=0)
    packing = {"tokenizer": tokenizer, "max_length": max_length, "cleaning": cleaning}
    packing["whole_word_mask"] = masking.whole_word_mask
    with first_of_cache():
        blocks = DatasetDict()
        for name in ("train", "validation"):
            blocks[name] = splits[name].map(
                pack_blocks,
                batched=True,
                remove_columns=splits[name].column_names,
                fn_kwargs=packing,
                load_from_cache_file=False if own_steps(cleaning) else None,  # the cache knows a step by its name
            )
            if len(blocks[name]) == 0:
                raise ValueError(f"The {name} texts have no token; expected some words. Check --text_column.")
        blocks["validation"] = mask_once(blocks["validation"], masking, seed=SPLIT_SEED)
    sizes = ", ".join(f"{name} {len(split)}" for name, split in blocks.items())
    say(f"blocks of {max_length} tokens: {sizes}")
    return blocks
