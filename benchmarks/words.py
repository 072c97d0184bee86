"""How faithful ways are that say which words decided: by what the answer loses without them, and with them alone.

Of each text the answer's logit against the rest is followed while the words that weigh most are taken out
(comprehensiveness, the higher the better), and while only they are left (sufficiency, the lower the better): the mean
over 10, 20, 30, 40 and 50 % of the words (DeYoung et al., 2020), by deleting words and by masks in their place.
Texts are cut at 128 tokens. `passes` counts forward passes a text, a backward pass as two.
Run:  python benchmarks/words.py --model_name_or_path runs/sst2 --dataset_name $DATA/sst2
      python benchmarks/words.py --model_name_or_path runs/newsgroups --newsgroups
"""

import argparse
import json
import time
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from datasets import load_dataset
from machine import show
from sklearn.datasets import fetch_20newsgroups
from torch import nn

from bertcls import TextClassifier
from bertcls.process import cores_per_process, use_cores
from bertcls.text import word_spans

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5)
TEXTS_AT_ONCE = 64
LENGTH = 128  # tokens at which texts are cut
CUT = {"truncation": True, "max_length": LENGTH, "verbose": False}


class Explained:
    """A model and texts as tokens of one window each, with the word of each token."""

    def __init__(self, classifier: TextClassifier, texts: list[str], bfloat16: bool):
        self.classifier, self.model, self.tokenizer = classifier, classifier.model, classifier.tokenizer
        self.bfloat16 = bfloat16
        self.texts, self.words, self.owner, self.ids = [], [], [], []
        for text in texts:
            found = self.tokenizer(text, return_offsets_mapping=True, **CUT)
            end = max((end for _, end in found["offset_mapping"]), default=0)
            spans = word_spans(text[:end])
            if not spans:
                continue
            starts = np.array([start for start, _ in spans])
            owner = [
                -1 if start == end else int(np.searchsorted(starts, start, "right")) - 1
                for start, end in found["offset_mapping"]
            ]
            self.texts.append(text[:end])
            self.words.append(spans)
            self.owner.append(np.array(owner))
            self.ids.append(found["input_ids"])
        self.answers = self.logits(self.texts).argmax(-1)
        self.full = self.margins(self.texts, self.answers)

    @torch.inference_mode()
    def logits(self, texts: list[str]) -> np.ndarray:
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        found = np.zeros((len(texts), self.model.config.num_labels))
        ids = self.tokenizer(texts, **CUT)["input_ids"]
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            for start in range(0, len(order), TEXTS_AT_ONCE):
                rows = order[start : start + TEXTS_AT_ONCE]
                found[rows] = self.model(**self.pad([ids[row] for row in rows])).logits.float().numpy()
        return found

    def pad(self, ids: list[list[int]]) -> dict[str, torch.Tensor]:
        longest = max(map(len, ids))
        padded = torch.full((len(ids), longest), self.tokenizer.pad_token_id)
        mask = torch.zeros_like(padded)
        for row, one in enumerate(ids):
            padded[row, : len(one)] = torch.tensor(one)
            mask[row, : len(one)] = 1
        return {"input_ids": padded, "attention_mask": mask}

    def margins(self, texts: list[str], answers: np.ndarray) -> np.ndarray:
        """The answer's logit against the rest, for each text."""
        return margin(torch.tensor(self.logits(texts)), torch.tensor(answers)).numpy()

    def without(self, row: int, words: set[int], mask: bool) -> str:
        """The text without some words, deleted or masked."""
        text, parts, at = self.texts[row], [], 0
        for number in sorted(words):
            start, end = self.words[row][number]
            parts += [text[at:start], self.tokenizer.mask_token if mask else ""]
            at = end
        return "".join(parts) + text[at:]


def margin(logits: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    """Log-odds `[texts]` of the answers, from logits `[texts, num_labels]`."""
    own = logits.gather(1, answers[:, None])[:, 0]
    rest = logits.masked_fill(nn.functional.one_hot(answers, logits.shape[1]).bool(), -torch.inf)
    return own - rest.logsumexp(-1)


def by_chance(explained: Explained, row: int) -> np.ndarray:
    return np.random.default_rng(row).random(len(explained.words[row]))


def without_each(explained: Explained, row: int, *, mask: bool) -> np.ndarray:
    words = range(len(explained.words[row]))
    texts = [explained.without(row, {word}, mask) for word in words]
    return explained.full[row] - explained.margins(texts, np.full(len(texts), explained.answers[row]))


def without_spans(explained: Explained, row: int, *, spans: int = 10) -> np.ndarray:
    """The loss without each of some spans, shared by its words."""
    parts = [part for part in np.array_split(np.arange(len(explained.words[row])), spans) if len(part)]
    texts = [explained.without(row, set(part.tolist()), True) for part in parts]
    lost = explained.full[row] - explained.margins(texts, np.full(len(texts), explained.answers[row]))
    return np.concatenate([np.full(len(part), one / len(part)) for part, one in zip(parts, lost)])


def by_gradient(
    explained: Explained,
    row: int,
    *,
    steps: int = 1,
    base: str = "zero",
    rules: bool = False,
    norm: bool = False,
) -> np.ndarray:
    """Gradient times the way from a base to the input; over several steps of that way its integral.

    With `rules` attention weights and the scale of layer norms and of GELU are held (Ali et al., 2022).
    """
    model, ids = explained.model, explained.ids[row]
    inputs = explained.pad([ids] * steps)
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    at = torch.tensor((nodes + 1) / 2 if steps > 1 else [1.0], dtype=torch.float32)[:, None, None]
    weights = torch.tensor(weights / 2 if steps > 1 else [1.0], dtype=torch.float32)[:, None, None]
    embedding, kept = model.encoder.get_input_embeddings(), {}
    start = torch.zeros(1, 1, embedding.weight.shape[1])
    if base == "mask":
        start = embedding.weight[explained.tokenizer.mask_token_id].detach()[None, None]
    if base == "pad":
        start = embedding.weight[explained.tokenizer.pad_token_id].detach()[None, None]
    if base == "mean":
        start = embedding.weight.detach().mean(0)[None, None]

    def watch(module, given, output):
        special = torch.tensor(explained.owner[row] < 0)[None, :, None]
        base_here = torch.where(special, output.detach(), start)
        kept["way"] = output.detach() - base_here
        kept["point"] = (base_here + at * kept["way"]).requires_grad_()
        return kept["point"]

    with ExitStack() as stack:
        handle = embedding.register_forward_hook(watch)
        stack.callback(handle.remove)
        if rules:
            stack.enter_context(held(model))
        logits = model(**inputs).logits
        score = margin(logits, torch.full((steps,), int(explained.answers[row])))
        (gradient,) = torch.autograd.grad(score.sum(), kept["point"])
    if norm:
        tokens = (gradient * weights).sum(0).norm(dim=-1)
    else:
        tokens = (gradient * weights * kept["way"]).sum(-1).sum(0)
    explained.gap = float(tokens.sum() - explained.full[row])
    return of_words(explained, row, tokens.numpy())


@contextmanager
def held(model: nn.Module):
    """Makes a model linear around the input, as layer-wise relevance propagation does."""
    handles = []
    plain = nn.functional.scaled_dot_product_attention

    def attention(query, key, value, *args, **kwargs):
        return plain(query.detach(), key.detach(), value, *args, **kwargs)

    def norm(module, given, output):
        centred = given[0] - given[0].mean(-1, keepdim=True)
        scale = (given[0].var(-1, keepdim=True, unbiased=False) + module.eps).sqrt().detach()
        return centred / scale * module.weight + module.bias

    def gate(module, given, output):
        rate = torch.where(given[0].abs() > 1e-6, output / given[0], torch.full_like(output, 0.5)).detach()
        return given[0] * rate

    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            handles.append(module.register_forward_hook(norm))
        elif "GELU" in type(module).__name__ or isinstance(module, nn.Tanh):
            handles.append(module.register_forward_hook(gate))
    nn.functional.scaled_dot_product_attention = attention
    torch.nn.functional.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        nn.functional.scaled_dot_product_attention = plain
        for handle in handles:
            handle.remove()


def as_shipped(explained: Explained, row: int) -> np.ndarray:
    """What `predict(words=True)` says: held weights and lengths."""
    (answer,) = explained.classifier.predict(explained.texts[row], words=True)
    adds = {word.start: word.contributions[answer.label] for word in answer.words}
    return np.array([adds.get(start, 0.0) for start, _ in explained.words[row]])


def by_attention(explained: Explained, row: int) -> np.ndarray:
    """What the last layer's tokens attend to, over its heads and tokens."""
    model = explained.model
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        output = model.encoder(**explained.pad([explained.ids[row]]), output_attentions=True)
    model.set_attn_implementation("sdpa")
    return of_words(explained, row, output.attentions[-1][0].mean((0, 1)).numpy())


def of_words(explained: Explained, row: int, tokens: np.ndarray) -> np.ndarray:
    owner = explained.owner[row]
    return np.bincount(owner[owner >= 0], tokens[owner >= 0], minlength=len(explained.words[row]))


WAYS: dict[str, tuple[Callable, str]] = {
    "random words": (by_chance, "0"),
    "attention of the last layer": (by_attention, "1"),
    "size of the gradient": (partial(by_gradient, norm=True), "3"),
    "gradient x input": (by_gradient, "3"),
    "gradient x (input - mask)": (partial(by_gradient, base="mask"), "3"),
    "gradient x (input - mean)": (partial(by_gradient, base="mean"), "3"),
    "held weights x input": (partial(by_gradient, rules=True), "3"),
    "held weights and lengths x input": (as_shipped, "3"),
    "held weights x (input - mask)": (partial(by_gradient, rules=True, base="mask"), "3"),
    "integrated gradients from mask, 3 steps": (partial(by_gradient, base="mask", steps=3), "9"),
    "ten spans masked": (without_spans, "10"),
    "each word deleted": (partial(without_each, mask=False), "words"),
    "each word masked": (partial(without_each, mask=True), "words"),
}


def faithfulness(explained: Explained, scores: list[np.ndarray]) -> dict[str, np.ndarray]:
    """`[texts]` of each measure."""
    found = {}
    for mask in (False, True):
        for kind in ("comprehensiveness", "sufficiency"):
            texts, answers, owners = [], [], []
            for row, score in enumerate(scores):
                order, words = np.argsort(-score, kind="stable"), len(score)
                for share in SHARES:
                    top = set(order[: max(round(share * words), 1)].tolist())
                    gone = top if kind == "comprehensiveness" else set(range(words)) - top
                    texts.append(explained.without(row, gone, mask))
                    answers.append(explained.answers[row])
                    owners.append(row)
            lost = explained.full[owners] - explained.margins(texts, np.array(answers))
            found[f"{kind}, {'masks' if mask else 'deleted'}"] = lost.reshape(-1, len(SHARES)).mean(1)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True)
    parser.add_argument("--dataset_name", help="as sst2: sentences of its validation split")
    parser.add_argument("--newsgroups", action="store_true", help="posts of the test split without headers")
    parser.add_argument("--texts", type=int, default=500)
    parser.add_argument("--bfloat16", action="store_true", help="of what measures, not of the ways")
    parser.add_argument("--ways", nargs="+", help="only these")
    parser.add_argument("--output", help="file of values a text")
    options = parser.parse_args()
    use_cores(cores_per_process())
    classifier = TextClassifier.from_pretrained(options.model_name_or_path, device="cpu")
    classifier.model.config.max_length, classifier.model.config.cleaning = LENGTH, []  # as all ways read the texts
    if options.newsgroups:
        texts = fetch_20newsgroups(subset="test", remove=("headers",)).data
    else:
        texts = load_dataset(options.dataset_name, split="validation")["sentence"][:]
    rows = np.random.default_rng(0).permutation(len(texts))[: options.texts]
    texts = [" ".join(texts[row].split()) for row in rows]
    explained = Explained(classifier, [text for text in texts if text], options.bfloat16)
    output = Path(options.output or "words.json")
    found = json.loads(output.read_text()) if output.is_file() else {}
    for name, (way, passes) in WAYS.items():
        if options.ways and name not in options.ways or name in found:
            continue
        started, gaps = time.perf_counter(), []
        scores = []
        for row in range(len(explained.texts)):
            explained.gap = float("nan")
            scores.append(way(explained, row))
            gaps.append(abs(explained.gap) / max(abs(explained.full[row]), 1.0))
        seconds = time.perf_counter() - started
        found[name] = {key: value.tolist() for key, value in faithfulness(explained, scores).items()}
        found[name] |= {"milliseconds": 1000 * seconds / len(scores), "passes": passes, "gap": float(np.median(gaps))}
        output.write_text(json.dumps(found))
        print(
            name,
            {key: round(float(np.mean(value)), 3) for key, value in found[name].items() if key != "passes"},
            flush=True,
        )
    rows = []
    for name, values in found.items():
        cells = []
        for key in values:
            if "," in key:
                one = np.array(values[key])
                cells.append(f"{one.mean():.2f} ± {1.96 * one.std(ddof=1) / len(one) ** 0.5:.2f}")
        rows.append([name, *cells, values["passes"], values["milliseconds"]])
    show("Words", ["way", *[key for key in values if "," in key], "passes", "ms a text"], rows)


if __name__ == "__main__":
    main()
