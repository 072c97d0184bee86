"""Texts to windows of tokens, and windows to batches."""

import numpy as np
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedTokenizerBase

from bertcls.text import clean


def load_tokenizer(name_or_path: str, *, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The fast tokenizer of a model, with `model_max_length` lowered to what the encoder can take.

    Raises:
        FileNotFoundError: no such model, or a folder without a tokenizer.
        ValueError: the tokenizer has no fast version.
    """
    try:
        config = AutoConfig.from_pretrained(name_or_path, revision=revision)
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, revision=revision)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"No tokenizer found at {name_or_path!r}; expected a Hub id or a folder with config.json and "
            f"tokenizer.json. Check the spelling, or download it once where there is a network. "
            f"({str(error).splitlines()[0]})"
        ) from error
    if not tokenizer.is_fast:
        raise ValueError(f"{type(tokenizer).__name__} has no fast version; expected one with a tokenizer.json.")
    tokenizer.model_max_length = min(tokenizer.model_max_length, encoder_max_length(config))
    return tokenizer


def encoder_max_length(config) -> int:
    """Tokens that an encoder can take, special tokens included.

    Read from its position embeddings: RoBERTa, for one, has 514 of them but keeps two for padding, so it takes 512.

    >>> from transformers import BertConfig, RobertaConfig
    >>> encoder_max_length(BertConfig()), encoder_max_length(RobertaConfig(max_position_embeddings=514))
    (512, 512)
    """
    config = getattr(config, "encoder", config)
    with torch.device("meta"):
        encoder = AutoModel.from_config(config)
    for name, module in encoder.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            reserved = 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - reserved
    return config.max_position_embeddings


def check_window(
    tokenizer: PreTrainedTokenizerBase, *, max_length: int, overlap: int | None, pair: bool = False
) -> int:
    """The overlap to use: `overlap`, or 20 % of `max_length` where it is `None`.

    Raises:
        ValueError: a window longer than the encoder can take, too short to hold a token, or an overlap that leaves no
            room for new tokens.
    """
    special = tokenizer.num_special_tokens_to_add(pair=pair)
    if max_length > tokenizer.model_max_length:
        raise ValueError(
            f"Found --max_length {max_length}; the encoder takes at most {tokenizer.model_max_length} tokens. Lower "
            "it: longer texts are read in several windows."
        )
    if max_length <= special:
        raise ValueError(
            f"Found --max_length {max_length}; expected more than the {special} special tokens of a window. Raise it."
        )
    if overlap is None:
        return min(max_length // 5, max_length - special - 1)
    if not 0 <= overlap < max_length - special:
        raise ValueError(
            f"Found --overlap {overlap} with --max_length {max_length}; expected 0 to {max_length - special - 1}, so "
            f"that a window of {max_length - special} tokens (and {special} special ones) brings new tokens. Lower it."
        )
    return overlap


def tokenize_windows(
    batch: dict[str, list],
    *,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    overlap: int | None = None,
    pair_truncation: str | None = None,
    cleaning: list[str] | None = None,
    max_windows: int | None = None,
) -> dict[str, list]:
    """Raw texts to windows, for `datasets.map(..., batched=True)`. A document stays one example and loses no token.

    A pair is one window of two segments, cut where it is longer.

    Args:
        batch: a list of texts under `text` and, for pairs, one under `text_pair`.
        tokenizer: a fast tokenizer.
        max_length: tokens per window, special tokens included.
        overlap: tokens that neighbouring windows share; `None` means 20 % of `max_length`.
        pair_truncation: which text of a pair is cut: `longest_first` (token by token the longer one), `only_first` or
            `only_second`; `None` means `longest_first`.
        cleaning: steps of `bertcls.text`, in order.
        max_windows: what a training step uses at most, which caps `length` (it serves length grouping only).

    Returns:
        `input_ids`, `attention_mask` and, where the encoder has them, `token_type_ids`: per text a list of windows
        `[windows][seq_len]`, the last one ending where the text ends; `length`, the tokens in all its windows.

    Raises:
        ValueError: as `check_window`, or a pair whose other text alone fills the window.
    """
    pairs = "text_pair" in batch
    overlap = check_window(tokenizer, max_length=max_length, overlap=overlap, pair=pairs)
    texts = [[clean(text, cleaning) for text in batch[name]] for name in ("text", "text_pair")[: 1 + pairs]]
    if pairs:
        encoded = _encode_pairs(*texts, tokenizer, max_length, pair_truncation or "longest_first")
    else:
        encoded = tokenizer(
            *texts,
            truncation=True,
            max_length=max_length,
            stride=overlap,  # transformers calls the shared tokens stride
            return_overflowing_tokens=True,
        )
    owner = np.asarray(encoded.pop("overflow_to_sample_mapping", range(len(texts[0]))))  # ascending: text of a window
    bounds = np.searchsorted(owner, np.arange(len(texts[0]) + 1)).tolist()
    result = {
        name: [windows[start:end] for start, end in zip(bounds, bounds[1:])]
        for name, windows in encoded.items()
        if name in ("input_ids", "attention_mask", "token_type_ids")
    }
    cap = None if max_windows is None else max_windows * max_length
    lengths = [sum(len(window) for window in windows) for windows in result["input_ids"]]
    result["length"] = lengths if cap is None else [min(length, cap) for length in lengths]
    return result


def _encode_pairs(
    first: list[str], second: list[str], tokenizer: PreTrainedTokenizerBase, max_length: int, truncation: str
):
    """Pairs to one window each. The tokenizer would leave a pair too long, with a warning, where it cannot cut."""
    if truncation not in ("longest_first", "only_first", "only_second"):
        raise ValueError(f"Found --pair_truncation {truncation}; expected longest_first, only_first or only_second.")
    kept = {"only_first": second, "only_second": first}.get(truncation)
    if kept is not None:
        room = max_length - tokenizer.num_special_tokens_to_add(pair=True) - 1
        lengths = [len(ids) for ids in tokenizer(kept, add_special_tokens=False)["input_ids"]]
        too_long = [row for row, length in enumerate(lengths) if length > room]
        if too_long:
            raise ValueError(
                f"Found a {'second' if truncation == 'only_first' else 'first'} text of {lengths[too_long[0]]} tokens "
                f"({kept[too_long[0]][:40]!r}), which --pair_truncation {truncation} keeps whole; expected at most "
                f"{room}. Raise --max_length, or use --pair_truncation longest_first."
            )
    return tokenizer(first, second, truncation=truncation, max_length=max_length)


class WindowCollator:
    """Examples with lists of windows to one batch.

    Pads to the longest window of the batch, rounded up to a multiple (fast matrix kernels like 8), never to
    `max_length`.

    Args:
        tokenizer: gives the padding values, and the limit beyond which nothing is rounded up.
        pad_to_multiple_of: tokens.
        num_labels: of a multi-label task whose `label` is a list of class numbers, which become 0.0 and 1.0.

    The call returns `labels` `[batch]` (int64, or float `[batch]` or `[batch, num_labels]`) and `example_ids`
    `[batch]` where the examples have them, `input_ids`, `attention_mask` and `token_type_ids`
    `[num_windows, seq_len]`, and `window_example` `[num_windows]`, the row of the batch that a window belongs to.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, pad_to_multiple_of: int = 8, *, num_labels: int | None = None
    ):
        self.padding = {
            "input_ids": tokenizer.pad_token_id,
            "attention_mask": 0,
            "token_type_ids": tokenizer.pad_token_type_id,
        }
        self.max_length = tokenizer.model_max_length
        self.pad_to_multiple_of = pad_to_multiple_of
        self.num_labels = num_labels

    def __call__(self, features: list[dict]) -> dict[str, torch.Tensor]:
        batch = {}  # labels first: Trainer and accelerate take the batch size from the first tensor
        if "label" in features[0]:
            labels = [feature["label"] for feature in features]
            if self.num_labels is None:
                labels = torch.tensor(labels)
                batch["labels"] = labels if labels.dtype == torch.int64 and labels.dim() == 1 else labels.float()
            else:
                batch["labels"] = torch.zeros(len(labels), self.num_labels)
                for row, numbers in enumerate(labels):
                    batch["labels"][row, numbers] = 1.0
        if "example_id" in features[0]:
            batch["example_ids"] = torch.tensor([feature["example_id"] for feature in features])
        lengths = [len(window) for feature in features for window in feature["input_ids"]]
        multiple = self.pad_to_multiple_of
        seq_len = max(max(lengths), min(-(-max(lengths) // multiple) * multiple, self.max_length))
        real = np.arange(seq_len) < np.array(lengths)[:, None]  # [num_windows, seq_len]
        for name, value in self.padding.items():
            if name in features[0]:
                padded = np.full(real.shape, value, dtype=np.int64)
                padded[real] = np.concatenate([window for feature in features for window in feature[name]])
                batch[name] = torch.from_numpy(padded)
        counts = torch.tensor([len(feature["input_ids"]) for feature in features])
        batch["window_example"] = torch.repeat_interleave(torch.arange(len(features)), counts)
        return batch
