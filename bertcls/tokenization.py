"""Texts to windows of tokens, and windows to batches."""

import math
import sys
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import torch
import xxhash
from torch import nn
from transformers import AutoModel, AutoTokenizer, BatchEncoding, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.utils import is_protobuf_available, is_sentencepiece_available

if TYPE_CHECKING:  # a server that labels texts does not import datasets
    from datasets import Dataset, DatasetDict
from bertcls.modeling import load_config
from bertcls.process import say
from bertcls.text import CHARACTERS_AT_A_TIME, check_steps, clean_all, count_characters, own_steps, portions
from bertcls.together import first_of_cache

_WAYS = {
    "truncation": ("none", "head", "tail", "head_tail"),
    "pair_truncation": ("none", "longest_first", "only_first", "only_second"),
}
_COLUMNS = ("input_ids", "attention_mask", "token_type_ids")  # of windows
Text = str | tuple[str, str]  # a text, or a pair for a model of pairs


def load_tokenizer(name_or_path: str, *, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The fast tokenizer of a model, with `model_max_length` lowered to what the encoder can take.

    Raises:
        FileNotFoundError: no such model, or a folder without a tokenizer.
        ValueError: no fast version, another vocabulary than the encoder's, no token for padding, a decoder, or a file
            that cannot be read here.
    """
    config = load_config(name_or_path, revision=revision)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, revision=revision, trust_remote_code=False)
    except Exception as error:  # tokenizers has no class of its own for a file that it cannot read
        readable = is_sentencepiece_available() and is_protobuf_available()
        if "`tiktoken` is required" in str(error) and not readable:  # what transformers tries a .model file with then
            raise ValueError(
                f"Found a SentencePiece model (a .model file) in {name_or_path} and no tokenizer.json; expected the "
                "packages that read it. Install them: pip install sentencepiece protobuf"
            ) from error
        raise FileNotFoundError(
            f"No tokenizer found at {name_or_path!r}; expected a Hub id or a folder with config.json and "
            f"tokenizer.json. Check the spelling, or download it once. ({str(error).splitlines()[0]})"
        ) from error
    if not tokenizer.is_fast:
        raise ValueError(f"{type(tokenizer).__name__} has no fast version; expected one with a tokenizer.json.")
    encoder = getattr(config, "encoder", config)
    if getattr(encoder, "is_encoder_decoder", False):
        raise ValueError(f"{name_or_path} is a {encoder.model_type} model, which has a decoder; expected an encoder.")
    known = tokenizer.get_vocab()
    if tokenizer.pad_token is None:
        tokenizer.pad_token = next((token for token in ("[PAD]", "<pad>") if token in known), None)
    most = encoder_max_length(encoder)
    try:
        first = tokenizer("a \u2603")["input_ids"][:1]  # a snowman, which few vocabularies know
        tokenizer.model_max_length = min(tokenizer.model_max_length, most)
    except Exception as error:  # tokenizers has no class of its own
        found = f"The tokenizer in {name_or_path} cannot read texts ({error})"
        raise ValueError(f"{found}; expected its whole files. Copy them again.") from error
    if tokenizer.pad_token is None or tokenizer.cls_token_id not in (None, *first):
        lacks = f"its {tokenizer.cls_token} not at the start" if tokenizer.pad_token else "no token for padding"
        raise ValueError(
            f"The tokenizer in {name_or_path} has {lacks}; expected one of an encoder such as BERT. Choose one."
        )
    rows = getattr(encoder, "vocab_size", None)
    size = max(known.values(), default=-1) + 1
    if rows is not None and not rows / 2 <= size <= rows:  # some embeddings are filled up to a round number
        raise ValueError(
            f"The tokenizer in {name_or_path} knows {size:,} tokens and the encoder has embeddings for {rows:,}; "
            "expected as many. Copy the tokenizer.json that belongs to the model there."
        )
    if getattr(config, "vocabulary", None) not in (None, _vocabulary_digest(known)):
        found = f"The tokenizer in {name_or_path} has another vocabulary than the model was trained with"
        raise ValueError(f"{found}; expected the tokenizer.json that was saved with it. Copy that one there.")
    tokenizer.truncation_side = "right"  # else windows come from the end
    return tokenizer


def _vocabulary_digest(known: dict[str, int]) -> str:
    """What tells a vocabulary from another one, of as many tokens, too."""
    return xxhash.xxh3_64(repr(sorted(known.items())).encode()).hexdigest()


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: str) -> None:
    """Saves a tokenizer for others, without what its load, or its last call in training, left in it."""
    for name in ("is_local", "local_files_only", "max_length", "stride", "truncation_strategy"):
        tokenizer.init_kwargs.pop(name, None)
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.save_pretrained(folder)


def encoder_max_length(config) -> int:
    """Tokens that an encoder can take, special ones included, by its position embeddings without those for padding;
    with relative positions alone there is no limit, but for memory."""
    try:
        with torch.device("meta"):
            encoder = AutoModel.from_config(config, trust_remote_code=False)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"Found a configuration that makes no encoder here: {str(error):.300}") from error
    for name, module in encoder.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    limit = getattr(config, "max_position_embeddings", None) or -1
    return sys.maxsize if limit < 1 or getattr(config, "relative_attention", False) else limit


def check_window(
    tokenizer: PreTrainedTokenizerBase, *, max_length: int, overlap: int | None, pair: bool = False
) -> int:
    """The overlap to use, by default 5 % of `max_length`; refuses windows that do not fit or bring no new token."""
    others = tokenizer.num_special_tokens_to_add(pair=pair)
    others += max_length // 2 if pair else 0  # tokens of a pair's first text, at most
    if max_length > tokenizer.model_max_length:
        raise ValueError(
            f"Found --max_length {max_length}; the encoder takes at most {tokenizer.model_max_length} tokens. Lower "
            "it: longer texts are read in several windows."
        )
    if max_length <= others:
        raise ValueError(
            f"Found --max_length {max_length}; expected more than the {others} tokens that stand in every window, "
            "special ones and of a pair those of its first text. Raise it."
        )
    most = max_length - others - 1
    if overlap is not None and not 0 <= overlap <= most:
        raise ValueError(
            f"Found --overlap {overlap} with --max_length {max_length}; expected 0 to {most}, so that a window of "
            f"{most + 1} tokens (and {others} others) brings new tokens. Lower it."
        )
    return min(max_length // 20, most) if overlap is None else overlap


def tokenize_windows(
    batch: dict[str, list],
    *,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    overlap: int | None = None,
    truncation: str = "none",
    pair_truncation: str | None = None,
    cleaning: list[str] | None = None,
    max_windows: int | None = None,
    spans: bool = False,
) -> dict[str, list]:
    """Raw texts to windows, for `datasets.map(..., batched=True)`. A document stays one example and loses no token.

    Of a pair (with a list of texts under `text_pair`, too) that is longer than a window the second text is read in
    windows, each behind the first one, which is cut to half a window.

    Args:
        max_length: tokens per window, special tokens included.
        overlap: tokens that neighbouring windows share; `None` means 5 % of `max_length`.
        truncation: `none`, or which tokens of a longer text make its only window: those at its `head`, at its `tail`,
            or a quarter from its head and three from its tail (`head_tail`).
        pair_truncation: of pairs: `none`, or which text is cut to one window: `longest_first` (token by token the
            longer one), `only_first` or `only_second` (where that is not enough, both); `None` for single texts.
        cleaning: steps of `bertcls.text`, in order.
        max_windows: what a training step uses at most, which caps `length` (it serves length grouping only).
        spans: add `spans`, where in the cleaned text (of a pair, the second) each window begins and ends, and
            `places`, of each of its tokens the text (0; of a pair also 1; of a special one -1), its start and end.

    Returns:
        `input_ids`, `attention_mask` and, where the tokenizer has them, `token_type_ids`: per text a list of windows
        `[windows][seq_len]`; `length`, the tokens in all its windows; `tokens`, those of the text (of a pair, of both)
        without special ones; and `cut`, how many of them no window holds.

    Raises:
        ValueError: as `check_window`, or an unknown way to cut.
    """
    pairs = "text_pair" in batch
    overlap = check_window(tokenizer, max_length=max_length, overlap=overlap, pair=pairs)
    for name, found in (("truncation", truncation), ("pair_truncation", pair_truncation or "none")):
        if found not in _WAYS[name]:
            raise ValueError(f"Found --{name} {found}; expected {', '.join(_WAYS[name])}. Correct it.")
    if truncation != "none" and pairs or pair_truncation is not None and not pairs:
        raise ValueError(
            f"Found --truncation {truncation} and --pair_truncation {pair_truncation} with "
            f"{'pairs' if pairs else 'single texts'}; expected the first for texts and the second for pairs. Leave "
            "the other out."
        )
    names = batch.get("example_id", ())
    texts = [clean_all(batch[name], cleaning, names) for name in ("text", "text_pair")[: 1 + pairs]]
    rows, parts = [*zip(*texts)], []
    for part in portions(rows, map(count_characters, rows), CHARACTERS_AT_A_TIME) if rows else [()]:
        texts = [*map(list, zip(*part))] or [[]] * (1 + pairs)
        if pairs:
            parts.append(_encode_pairs(texts, tokenizer, max_length, overlap, pair_truncation or "none", spans))
        elif truncation == "none":
            parts.append(_encode_windows(texts, tokenizer, max_length, overlap, spans))
        else:
            parts.append(_encode_truncated(texts[0], tokenizer, max_length, truncation, spans))
    result = {name: [*chain.from_iterable(part[name] for part in parts)] for name in parts[0]}
    if spans:
        result["spans"] = [[_span(places, int(pairs)) for places in windows] for windows in result["places"]]
    cap = math.inf if max_windows is None else max_windows * max_length
    return result | {"length": [min(sum(map(len, windows)), cap) for windows in result["input_ids"]]}


def _encode_windows(
    texts: list[list[str]], tokenizer: PreTrainedTokenizerBase, max_length: int, overlap: int, spans: bool
) -> dict[str, list]:
    """Texts, or pairs of which the last text is windowed, to windows that share `overlap` tokens."""
    encoded = tokenizer(
        *texts,
        truncation="only_second" if len(texts) == 2 else True,
        max_length=max_length,
        stride=overlap,  # transformers calls the shared tokens stride
        return_overflowing_tokens=True,
        return_offsets_mapping=spans,
    )
    owner = np.asarray(encoded["overflow_to_sample_mapping"])  # ascending: the text of each window
    bounds = np.searchsorted(owner, np.arange(len(texts[0]) + 1)).tolist()
    columns = _columns(encoded, spans)
    result = {name: [column[a:b] for a, b in zip(bounds, bounds[1:])] for name, column in columns.items()}
    shared = tokenizer.num_special_tokens_to_add(pair=len(texts) == 2) + overlap
    tokens = [sum(map(len, windows)) - shared * len(windows) + overlap for windows in result["input_ids"]]
    return result | {"tokens": tokens, "cut": [0] * len(tokens)}


def _encode_truncated(
    texts: list[str], tokenizer: PreTrainedTokenizerBase, max_length: int, truncation: str, spans: bool
) -> dict[str, list]:
    """Texts to one window each: the tokens at the head, at the tail, or some of both."""
    room = max_length - tokenizer.num_special_tokens_to_add()
    head = {"head": room, "tail": 0, "head_tail": room // 4}[truncation]  # a quarter: as Sun et al. (2019) found best
    encoded = tokenizer(texts, return_special_tokens_mask=True, return_offsets_mapping=spans, verbose=False)
    masks, columns = encoded["special_tokens_mask"], _columns(encoded, spans)
    tokens = [len(mask) - sum(mask) for mask in masks]
    result: dict[str, list] = {name: [] for name in columns}
    for row, (mask, length) in enumerate(zip(masks, tokens)):
        first = mask.index(0) if length else len(mask)  # special tokens stand before and behind the text
        start, end = first + head, first + max(length - (room - head), head)
        for name, column in result.items():
            column.append([columns[name][row][:start] + columns[name][row][end:]])
    return result | {"tokens": tokens, "cut": [max(length - room, 0) for length in tokens]}


def _encode_pairs(
    texts: list[list[str]], tokenizer: PreTrainedTokenizerBase, max_length: int, overlap: int, how: str, spans: bool
) -> dict[str, list]:
    """Pairs to windows, or to one window each where `how`, a `pair_truncation`, says what is cut."""
    alone = {"add_special_tokens": False, "return_offsets_mapping": True, "verbose": False}
    plain = [tokenizer(column, **alone) for column in texts]
    lengths = [[len(ids) for ids in column["input_ids"]] for column in plain]
    tokens = [a + b for a, b in zip(*lengths)]
    special = tokenizer.num_special_tokens_to_add(pair=True)
    room = max_length - special
    if how == "none":
        limits = [max(max_length // 2, room - second) for second in lengths[1]]  # both whole where they fit
        first, held, keep = list(texts[0]), list(lengths[0]), list(limits)
        while rows := [row for row in range(len(first)) if held[row] > limits[row]]:
            for row in rows:  # cut as a string: its tokens alone may be more than those it had, so look again
                first[row] = texts[0][row][: plain[0]["offset_mapping"][row][keep[row] - 1][1]] if keep[row] else ""
                keep[row] -= 1
            for row, ids in zip(rows, tokenizer([first[row] for row in rows], **alone)["input_ids"]):
                held[row] = len(ids)
        result = _encode_windows([first, texts[1]], tokenizer, max_length, overlap, spans)
        return result | {"tokens": tokens, "cut": [length - now for length, now in zip(lengths[0], held)]}
    # Where the text that is not to be cut alone fills the window, both are cut after all.
    other = lengths[1 if how == "only_first" else 0]
    ways = ["longest_first" if length >= room else how for length in other]
    result: dict[str, list] = {}
    for way in sorted(set(ways)):
        rows = [row for row, found in enumerate(ways) if found == way]
        part = [[column[row] for row in rows] for column in texts]
        encoded = tokenizer(*part, truncation=way, max_length=max_length, return_offsets_mapping=spans)
        for name, column in _columns(encoded, spans).items():
            for row, values in zip(rows, column):
                result.setdefault(name, [None] * len(tokens))[row] = [values]
    cut = [length - (len(ids[0]) - special) for length, ids in zip(tokens, result["input_ids"])]
    return result | {"tokens": tokens, "cut": cut}


def _columns(encoded: BatchEncoding, spans: bool) -> dict[str, list]:
    """The columns of an encoding, with `spans` also `places`: of each token its text and where it stands there."""
    columns = {name: encoded[name] for name in _COLUMNS if name in encoded}
    if spans:
        rows = (zip(encoded.sequence_ids(row), ends) for row, ends in enumerate(encoded["offset_mapping"]))
        columns["places"] = [[(-1 if text is None else text, *ends) for text, ends in row] for row in rows]
    return columns


def _span(places: list[tuple[int, int, int]], text: int) -> tuple[int, int]:
    """From the first token of `text` to its last."""
    kept = [place for place in places if place[0] == text]
    return (kept[0][1], kept[-1][2]) if kept else (0, 0)


def describe_windows(dataset: "Dataset", *, max_length: int, special: int = 2) -> str:
    """How many texts of a tokenized split are longer than one window, what was cut, and what one window would cut."""
    from bertcls.data.columns import numbers_in  # datasets, which --help of predict.py does without

    tokens, cut = numbers_in(dataset, "tokens"), numbers_in(dataset, "cut")
    beyond = np.maximum(tokens - (max_length - special), 0)
    shares = [f"{100 * lost.sum() / max(tokens.sum(), 1):.1f} % of the tokens" for lost in (cut, beyond)]
    lost = f"{(cut > 0).sum():,} are cut, {shares[0]}" if cut.any() else "none is cut"
    return (
        f"{(beyond > 0).sum():,} of {len(tokens):,} texts are longer than a window of {max_length} tokens, the "
        f"longest has {tokens.max():,}; {lost}; one window a text would cut {shares[1]}"
    )


def tokenize_splits(
    splits: "DatasetDict",
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int = 128,
    overlap: int | None = None,
    truncation: str = "none",
    pair_truncation: str = "none",
    cleaning: list[str] | None = None,
    max_train_windows: int | None = None,
    train_on: str = "documents",
) -> tuple["DatasetDict", dict]:
    """Tokenizes train and validation by cached, batched maps; the other splits stay raw, for `TextClassifier`.

    What `tokenize_windows` takes is as there; `max_train_windows`, used in a training step, cap `length` of train, and
    `train_on="windows"` makes each window of train an example. Gives also the contract, to be stored with the model.
    """
    from bertcls.data.columns import WithLengths  # and so datasets

    pairs = "text_pair" in splits["train"].column_names
    overlap = check_window(tokenizer, max_length=max_length, overlap=overlap, pair=pairs)
    contract = {"cleaning": list(cleaning or []), "max_length": max_length, "overlap": overlap}
    contract |= {"truncation": truncation, "pair_truncation": pair_truncation if pairs else None}
    check_steps(cleaning)
    result, special = {}, tokenizer.num_special_tokens_to_add(pair=pairs)
    fresh = False if own_steps(cleaning) else None  # the cache knows a step by its name
    with first_of_cache():
        for name in [name for name in ("train", "validation") if name in splits]:
            max_windows = max_train_windows if name == "train" else None
            result[name] = splits[name].map(
                tokenize_windows,
                batched=True,
                remove_columns=["text", "text_pair"][: 1 + pairs],
                fn_kwargs={"tokenizer": tokenizer, **contract, "max_windows": max_windows},
                load_from_cache_file=fresh,
                desc=f"Tokenize {name}",
            )
            say(f"{name}: {describe_windows(result[name], max_length=max_length, special=special)}")
        if train_on == "windows":
            result["train"] = result["train"].map(explode_windows, batched=True, load_from_cache_file=fresh)
    contract["vocabulary"] = _vocabulary_digest(tokenizer.get_vocab())
    return type(splits)({name: WithLengths.of(rows) for name, rows in result.items()}), contract


def explode_windows(batch: dict[str, list]) -> dict[str, list]:
    """Each window an example of its own with its document's label, for a batched `map` over tokenized rows."""
    windows = {name: [[w] for document in batch[name] for w in document] for name in _COLUMNS if name in batch}
    owners = [row for row, document in enumerate(batch["input_ids"]) for _ in document]
    repeated = {name: [column[row] for row in owners] for name, column in batch.items()}
    return repeated | windows | {"length": [len(window[0]) for window in windows["input_ids"]]}


@dataclass(frozen=True)
class Encoded:
    """A tokenized text: its lists of windows by column, their `spans` where their answers are wanted, too, and the
    `places` of their tokens where those of words are.

    Of a part of a text `start` is the number of its first window.
    """

    text: Text
    columns: dict[str, list[list[int]]]
    spans: list[tuple[int, int]] | None = None
    start: int | None = None
    places: list[list[tuple[int, int, int]]] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Windows, and tokens of the longest of them."""
        return len(self.columns["input_ids"]), max(map(len, self.columns["input_ids"]))

    @property
    def tokens(self) -> int:
        """Of all windows."""
        return sum(map(len, self.columns["input_ids"]))

    def parts(self, windows: int) -> list["Encoded"]:
        """The windows by so many, for `TextClassifier.window_vectors`; the text itself where it has no more."""
        if self.size[0] <= windows:
            return [self]
        return [
            Encoded(self.text, {name: rows[at : at + windows] for name, rows in self.columns.items()}, start=at)
            for at in range(0, self.size[0], windows)
        ]


def batches_of(sizes: list[tuple[int, int]], tokens: int) -> list[list[int]]:
    """Row numbers in batches of texts of like `Encoded.size`, each of at most `tokens` padded tokens or one text.

    >>> batches_of([(1, 3), (1, 1), (3, 4), (1, 2)], tokens=6)
    [[2], [0, 3], [1]]
    """
    order = sorted(range(len(sizes)), key=lambda row: (sizes[row][1], sizes[row][0]), reverse=True)
    batches, width, height = [], 0, 0
    for row in order:  # descending, so the first row of a batch sets its width
        height += sizes[row][0]
        if not batches or height * width > tokens:
            batches.append([])
            height, width = sizes[row]
        batches[-1].append(row)
    return batches


class WindowCollator:
    """Examples with lists of windows to one batch, padded to its longest window.

    With the `config` of a model of several labels lists of class numbers become 0.0 and 1.0. A window's length is
    rounded up to `pad_to_multiple_of` tokens: 8 on an accelerator, else 1 (to 8 a batch of SST-2 has a quarter more
    places).

    Returns `labels` `[batch]` (int64, or float `[batch]` or `[batch, num_labels]`), `example_ids` `[batch]`, the
    columns of windows `[num_windows, seq_len]`, and `window_example` `[num_windows]`, the row of a window's text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig | None = None):
        self.padding = dict(zip(_COLUMNS, (tokenizer.pad_token_id, 0, tokenizer.pad_token_type_id)))
        self.max_length = tokenizer.model_max_length
        self.pad_to_multiple_of = 8 if torch.accelerator.is_available() else 1
        multi_label = config is not None and config.problem_type == "multi_label_classification"
        self.num_labels = config.num_labels if multi_label else None

    def __call__(self, features: list[dict]) -> dict[str, torch.Tensor]:
        batch = {}  # labels first: Trainer and accelerate take the batch size from the first tensor
        if "label" in features[0]:
            labels = [feature["label"] for feature in features]
            if self.num_labels is None:
                labels = torch.tensor(labels)
                if labels.dtype != torch.int64 or labels.dim() > 1:
                    labels = labels.float().masked_fill(labels == -100, -99.9999)  # Trainer counts no label of -100
                batch["labels"] = labels
            else:
                batch["labels"] = torch.zeros(len(labels), self.num_labels)
                for row, numbers in enumerate(labels):
                    batch["labels"][row, numbers] = 1.0
        if "example_id" in features[0]:
            batch["example_ids"] = torch.tensor([feature["example_id"] for feature in features])
        lengths = [len(window) for feature in features for window in feature["input_ids"]]
        longest, multiple = max(lengths), self.pad_to_multiple_of
        seq_len = max(longest, min(math.ceil(longest / multiple) * multiple, self.max_length))
        real = np.arange(seq_len) < np.array(lengths)[:, None]  # [num_windows, seq_len]
        for name, value in self.padding.items():
            if name in features[0]:
                padded = np.full(real.shape, value, dtype=np.int64)
                padded[real] = np.concatenate([window for feature in features for window in feature[name]])
                batch[name] = torch.from_numpy(padded)
        batch["window_example"] = torch.repeat_interleave(torch.tensor([len(row["input_ids"]) for row in features]))
        return batch
