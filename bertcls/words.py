"""The words of a text, where they stand in it as it came, and what each adds to the answer."""

import unicodedata
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import partial
from itertools import accumulate

import numpy as np
import regex
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from bertcls.modeling import MULTI_LABEL, REGRESSION
from bertcls.text import NO_BLANKS, clean, unescape_entities, word_spans
from bertcls.tokenization import Encoded, WindowCollator, batches_of

_ESCAPED_MARK = r"&(?:amp|lt|gt|quot|apos|nbsp|#0*3[249]);"
_ALONE, _LETTER = rf"[{NO_BLANKS}]\p{{M}}*", rf"[\w--[{NO_BLANKS}]]"  # as words are parted
_PLAIN_PIECE = regex.compile(rf"(?V1){_ALONE}|{_LETTER}+|[^\w\s]")
_PIECE = regex.compile(  # a tag, which is no word; an escaped mark; a word, perhaps with escaped letters; a mark
    rf"(?V1)</?[a-zA-Z][^<>]*>|{_ESCAPED_MARK}|{_ALONE}|(?:{_LETTER}|(?!{_ESCAPED_MARK})&\#?\w+;)+|[^\w\s]"
)
_MOST_WORK = 5e7  # of an alignment, some seconds at worst
_MOST_PIECES = 200_000  # of both texts, a second at worst
PASSES = 4  # forward passes that the words of a text take, with one label and beside that of the answer
_TOKENS = 2048  # padded tokens of a pass with gradients
MOST_LABELS = 10  # of those that a text was given, the most probable ones: each takes a backward pass
_HELD = "held_attention"


@dataclass(frozen=True)
class Word:
    """A word or punctuation mark of a text, and what it adds to the answer.

    `contributions` are by the names of the labels that were given (the 10 most probable ones; of none, the most
    probable one): to the label's logit, of single-label models to its logit against the rest, each after the
    temperature; of a regression to the value.
    """

    text: str  # as it stands from `start` to `end` in the text as it came
    start: int
    end: int
    contributions: dict[str, float]
    cleaned: bool = False  # the places are those in the cleaned text, since cleaning cannot be followed
    second: bool = False  # it stands in the second text of a pair


def spans_before_cleaning(raw: str, cleaned: str, spans: list[tuple[int, int]]) -> list[tuple[int, int]] | None:
    """Where spans of a cleaned text stand in the text as it came; `None` where one of them cannot be followed.

    >>> spans_before_cleaning("A<br/>fish &amp; chips", "A fish & chips", [(0, 1), (2, 6), (7, 8)])
    [(0, 1), (6, 10), (11, 16)]
    """
    if raw == cleaned:
        return spans
    for parts in (_PIECE, _PLAIN_PIECE):  # the latter where tags are left in
        both = (parts, raw), (_PLAIN_PIECE, cleaned)
        pieces = [[found.span() for found in part.finditer(text)] for part, text in both]
        if sum(map(len, pieces)) > _MOST_PIECES:
            return None
        names = [[_name(text[a:b]) for a, b in part] for text, part in zip((raw, cleaned), pieces)]
        starts, ends = {}, {}  # of a span in the cleaned text: where it begins and ends in the raw one
        for kind, a, b, c, d in _aligned(*names) or ():
            if kind == "equal":
                for (start, end), (first, last) in zip(pieces[0][a:b], pieces[1][c:d]):
                    starts[first], ends[last] = start, end
            elif kind == "replace":
                starts[pieces[1][c][0]], ends[pieces[1][d - 1][1]] = pieces[0][a][0], pieces[0][b - 1][1]
        found = [(starts.get(start), ends.get(end)) for start, end in spans]
        if all(None not in span and span[0] < span[1] for span in found):
            return found
    return None


def _aligned(a: list[str], b: list[str]) -> list[tuple[str, int, int, int, int]] | None:
    """Operations of `SequenceMatcher`, taken between pieces that stand once in both, since cleaning moves none."""
    counts, place, work, found = (Counter(a), Counter(b)), (0, 0), 0, []
    at = {name: number for number, name in enumerate(a) if counts[0][name] == counts[1][name] == 1}
    anchors = [(-1, -1), *((at[name], number) for number, name in enumerate(b) if name in at)]
    rising = [one for one, before in zip(anchors[1:], accumulate(anchors, max)) if one[0] > before[0]]
    for end in [*rising, (len(a), len(b))]:
        gap = a[place[0] : end[0]], b[place[1] : end[1]]
        inside = Counter(gap[1])
        work += sum(inside[name] for name in gap[0]) * min(map(len, gap))
        if work > _MOST_WORK:
            return None
        for kind, *ends in SequenceMatcher(None, *gap, autojunk=False).get_opcodes():
            found.append((kind, *(one + place[number // 2] for number, one in enumerate(ends))))
        found.append(("equal", end[0], end[0] + 1, end[1], end[1] + 1))
        place = end[0] + 1, end[1] + 1
    return found[:-1]  # without what is behind both


def _name(piece: str) -> str:
    """What two pieces have in common that only differ in escapes, width, spelling or case."""
    return unicodedata.normalize("NFKC", unescape_entities(piece)).lower()


def tells_words(model: nn.Module) -> bool:
    """Whether `explain` takes a model: one in torch whose encoder has an embedding for each token."""
    try:
        return isinstance(model.encoder.get_input_embeddings(), nn.Embedding)
    except (AttributeError, NotImplementedError):
        return False


def explain(
    model: PreTrainedModel,
    collator: WindowCollator,
    encoded: list[Encoded],
    vectors: list[torch.Tensor],
    targets: list[list[int]],
) -> list[tuple[Word, ...]]:
    """The words of texts with `places`, in their order, from the `vectors` `[windows, hidden]` of each and the labels
    that its words may speak for, of which the most probable 10 are taken."""
    targets, toward = zip(*map(partial(_gradients, model), vectors, targets))
    windows = [(row, at, window) for row, one in enumerate(encoded) for at, window in enumerate(one.parts(1))]
    pushes: dict[tuple[int, int], np.ndarray] = {}  # of a window's tokens `[targets, seq_len]`
    for batch in batches_of([window.size for _, _, window in windows], _TOKENS):
        part = [windows[number] for number in batch]
        inputs = collator([window.columns for _, _, window in part])
        inputs = {name: inputs[name].to(model.device) for name in encoded[0].columns}
        wanted = pad_sequence([toward[row][:, at] for row, at, _ in part])  # [targets, windows, hidden]
        for (row, at, _), one in zip(part, _token_pushes(model, inputs, wanted.to(model.device)).transpose(1, 0, 2)):
            pushes[row, at] = one[: len(targets[row])]
    found = []
    for row, one in enumerate(encoded):
        adds = [pushes[row, at][:, : len(places)] for at, places in enumerate(one.places)]
        names = [model.config.id2label[number] for number in targets[row]]
        found.append(_collect(one, np.concatenate(adds, -1), names, model))
    return found


def _gradients(model: PreTrainedModel, vectors: torch.Tensor, targets: list[int]) -> tuple[list[int], torch.Tensor]:
    """The targets that are taken, and the gradients of each one's score by the window vectors of a text: `[targets,
    windows, hidden]`, on the CPU."""
    vectors = vectors.clone().requires_grad_()
    logits = model.from_vectors(vectors, [len(vectors)])[0][0] / model.config.temperature
    found, taken = [], sorted(targets, key=logits.tolist().__getitem__, reverse=True)[:MOST_LABELS]
    for target in taken:
        score = logits[target]
        if model.config.problem_type not in (REGRESSION, MULTI_LABEL) and len(logits) > 1:  # against the rest
            score = score - torch.cat([logits[:target], logits[target + 1 :]]).logsumexp(0)
        found.append(torch.autograd.grad(score, vectors, retain_graph=True)[0])
    return taken, torch.stack(found).cpu()


def _token_pushes(model: PreTrainedModel, inputs: dict[str, torch.Tensor], toward: torch.Tensor) -> np.ndarray:
    """What each token adds to scores: `[targets, windows, seq_len]`, from their gradients `[targets, windows, hidden]`
    by the window vectors.

    Gradient times input, with attention weights, the scale of layer norms and of activations, and the lengths of
    vectors that are normalized held (Ali et al., 2022, "XAI for Transformers: better explanations through conservative
    propagation").
    """
    kept, normalize = [], model.config.normalize

    def watch(module, given, output):
        kept.append(output.detach().requires_grad_())
        return kept[-1]

    with _held(model), torch.enable_grad(), model.encoder.get_input_embeddings().register_forward_hook(watch):
        vectors = model.encode_windows(inputs)  # [windows, hidden]
        if normalize:
            vectors = vectors / vectors.norm(dim=-1, keepdim=True).detach() * vectors.shape[-1] ** 0.5
        found = [
            (torch.autograd.grad(vectors, kept[-1], one, retain_graph=True)[0] * kept[-1]).sum(-1).float()
            for one in toward.to(vectors.dtype)
        ]
    return torch.stack(found).detach().cpu().numpy()


@contextmanager
def _held(model: PreTrainedModel) -> Iterator[None]:
    """Makes an encoder linear about its input while gradients are taken; vectors are not normalized."""
    encoder, attention = model.encoder, model.encoder.config._attn_implementation
    with ExitStack() as stack:
        stack.callback(setattr, model.config, "normalize", model.config.normalize)
        model.config.normalize = False
        for module in encoder.modules():
            if isinstance(module, nn.LayerNorm):
                stack.callback(module.register_forward_hook(_held_norm).remove)
            elif any(name in type(module).__name__ for name in ("GELU", "SiLU", "Tanh", "RMSNorm")):
                stack.callback(module.register_forward_hook(_held_gate).remove)
        if getattr(encoder, "_supports_sdpa", False):  # an encoder that does not leaves its attention free
            encoder.set_attn_implementation(_HELD)
            stack.callback(encoder.set_attn_implementation, attention)
        yield


def _held_norm(module: nn.LayerNorm, given: tuple, output: torch.Tensor) -> torch.Tensor:
    scale = (given[0].var(-1, keepdim=True, unbiased=False) + module.eps).sqrt().detach()
    normed = (given[0] - given[0].mean(-1, keepdim=True)) / scale
    return normed * (1 if module.weight is None else module.weight) + (0 if module.bias is None else module.bias)


def _held_gate(module: nn.Module, given: tuple, output: torch.Tensor) -> torch.Tensor:
    near = given[0].abs() < 1e-6  # where an activation is half its input
    return given[0] * torch.where(near, 0.5, output / torch.where(near, 1.0, given[0])).detach()


def _attention(module: nn.Module, query: torch.Tensor, key: torch.Tensor, *rest, **options):
    return sdpa_attention_forward(module, query.detach(), key.detach(), *rest, **options)


AttentionInterface.register(_HELD, _attention)
AttentionMaskInterface.register(_HELD, sdpa_mask)


def _collect(one: Encoded, tokens: np.ndarray, names: list[str], model: PreTrainedModel) -> tuple[Word, ...]:
    """The words that a text's windows hold, with what their tokens `[targets, tokens]` add together."""
    texts, words = one.text if isinstance(one.text, tuple) else (one.text,), []
    places = np.array([place for window in one.places for place in window]).reshape(-1, 3)
    for number, raw in enumerate(texts):
        cleaned = clean(raw, model.config.cleaning)
        spans = word_spans(cleaned)
        own = (places[:, 0] == number) & (places[:, 2] > places[:, 1])
        starts, ends = np.array(spans, dtype=int).reshape(-1, 2).T
        first = np.searchsorted(ends, places[own, 1], "right")  # of the words that a token stands in, which share it
        count = np.searchsorted(starts, places[own, 2], "left") - first
        owners = np.repeat(first, count) + np.concatenate([[], *map(np.arange, count)]).astype(int)
        sums = np.zeros((len(names), len(spans)))
        np.add.at(sums, (slice(None), owners), np.repeat(tokens[:, own] / np.maximum(count, 1), count, axis=1))
        read = np.unique(owners)
        shown = spans_before_cleaning(raw, cleaned, [spans[place] for place in read])
        for place, (start, end) in zip(read, shown or [spans[place] for place in read]):
            adds = dict(zip(names, sums[:, place].tolist()))
            text = (cleaned if shown is None else raw)[start:end]
            words.append(Word(text, start, end, adds, cleaned=shown is None, second=number == 1))
    return tuple(words)
