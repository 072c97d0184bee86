"""The one way from raw text to labels, used by the recipes, batch prediction and the service."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.special import expit, softmax
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

if TYPE_CHECKING:  # a server that labels texts does not import datasets
    from datasets import Dataset
    from transformers import Trainer
from bertcls.backends import OnnxModel, check_engine, use_bfloat16
from bertcls.modeling import MULTI_LABEL, REGRESSION, BertClsForSequenceClassification, load_config, readable_weights
from bertcls.process import open_weights
from bertcls.text import CHARACTERS_AT_A_TIME, STEPS, check_steps, clean, count_characters, is_whole, portions
from bertcls.tokenization import Encoded, Text, WindowCollator, batches_of, load_tokenizer, tokenize_windows
from bertcls.words import Word, explain, tells_words

TOKENS_PER_BATCH = 8192  # padded tokens in a forward: small for any GPU
TOKENS_PER_BATCH_CPU = 2048  # whose caches more does not fit: on a core 1.2 times as fast as 8192 on SST-2 with MiniLM
TEXTS_AT_A_TIME = 4096  # tokenized together
Texts = Text | list[Text]


@dataclass(frozen=True)
class Prediction:
    """The answer for one text.

    Args:
        label: name of the most probable class, or `None` where the model abstains; of a multi-label model a tuple of
            the names that reach their thresholds; of a regression the value.
        score: probability of the label; of several that of the least probable, of none that the most probable one is
            absent; `None` for a regression.
        probabilities: of every class, by name; of a regression the value.
        windows: where they were asked for, the answer for each window, in order.
        words: where they were asked for, the words that were read, in order, with what each adds to the answer.
    """

    label: str | tuple[str, ...] | float | None
    score: float | None
    probabilities: dict[str, float]
    windows: tuple["WindowPrediction", ...] | None = None
    words: tuple[Word, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class WindowPrediction(Prediction):
    """The answer for a window read alone, from `start` to `end` in the cleaned text (of a pair, the second one)."""

    start: int
    end: int
    text: str


class TextClassifier:
    """A trained model with its tokenizer and its contract: cleaning, windows, pooling, labels, temperature.

    Computes in fp32, if nothing else is asked for, and then gives a text the same answer whatever the texts beside it.

    Args:
        model: is put into evaluation mode and moved to `device`.
        tokenizer: of the same model.
        device: `None` takes the accelerator where there is one.

    >>> classifier = TextClassifier.from_pretrained("runs/sst2")           # doctest: +SKIP
    >>> classifier.predict("A film that starts badly but ends well.")[0]   # doctest: +SKIP
    Prediction(label='positive', score=0.98, probabilities={'negative': 0.02, 'positive': 0.98})
    """

    def __init__(
        self,
        model: BertClsForSequenceClassification | OnnxModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        device: torch.device | str | None = None,
    ):
        found = torch.accelerator.current_accelerator(check_available=True) or "cpu"
        self.device = torch.device(found if device is None else device)
        self.model = model.to(device=self.device, dtype=torch.float32).eval()
        self.tokenizer = tokenizer
        self.collator = WindowCollator(tokenizer)
        self.label_names = [model.config.id2label[i] for i in range(model.config.num_labels)]

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str,
        backend: str = "torch",
        *,
        dtype: str = "float32",
        device: torch.device | str | None = None,
        revision: str | None = None,
        steps: dict[str, Callable[[str], str]] | None = None,
    ) -> "TextClassifier":
        """Loads a folder that a recipe saved, or its copy on the Hub.

        Args:
            name_or_path: the folder; for ONNX Runtime one that `export_onnx` wrote.
            backend: `torch`, or `onnx` for ONNX Runtime on the CPU.
            dtype: of the encoder: `float32`, or, faster, `bfloat16` (torch) or `int8` (ONNX Runtime); with these a
                text's answer moves a little with the texts beside it.
            device, revision: as for the class; of the Hub.
            steps: cleaning steps of one's own, by the names that the model has for them; they join `text.STEPS`.

        Raises:
            FileNotFoundError: no such model.
            ValueError: no such engine, a model that no recipe saved, one that lacks weights or whose weights cannot be
                read, or a cleaning step that is not known here.
        """
        check_engine(backend, dtype, device)
        STEPS.update(steps or {})
        tokenizer = load_tokenizer(name_or_path, revision=revision)
        config = load_config(name_or_path, revision=revision)
        if config.model_type != "bertcls":
            raise ValueError(
                f"{name_or_path} holds a model of type {config.model_type!r}, expected 'bertcls': a folder that a "
                "recipe saved. Fine-tune the model with a recipe first."
            )
        check_steps(config.cleaning)
        if backend == "onnx":
            return cls(OnnxModel(name_or_path, config, dtype=dtype, revision=revision), tokenizer, device="cpu")
        with readable_weights(name_or_path):
            model, info = BertClsForSequenceClassification.from_pretrained(
                name_or_path, dtype=torch.float32, revision=revision, output_loading_info=True
            )
        if info["missing_keys"]:
            raise ValueError(
                f"{name_or_path} lacks the weights {', '.join(sorted(info['missing_keys']))}, so its answers would be "
                "random. Save the model again."
            )
        classifier = cls(model, tokenizer, device=device)
        if dtype == "bfloat16":
            use_bfloat16(model.encoder)
        return classifier

    @property
    def max_length(self) -> int:
        """Tokens of a window, special ones included."""
        return self.model.config.max_length or self.tokenizer.model_max_length

    @property
    def thresholds(self) -> list[float] | None:
        """From which probability on each label of a multi-label model is given."""
        return self.model.config.thresholds

    @classmethod
    def from_trainer(cls, trainer: "Trainer") -> "TextClassifier":
        """The model that a Trainer holds; under FSDP a copy with all weights, so call this in every process."""
        model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
        if trainer.is_fsdp_enabled:  # the processes hold a part each, and a forward pass in one would wait for all
            from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

            weights = get_model_state_dict(trainer.model, options=StateDictOptions(full_state_dict=True))
            model = BertClsForSequenceClassification(model.config)
            model.load_state_dict(weights)
        return cls(model, trainer.processing_class, device=trainer.args.device)

    def save_pretrained(self, folder: str) -> None:
        """Writes a folder for `from_pretrained`: model, its code and the tokenizer, nothing of the training."""
        self.model.save_pretrained(folder)
        open_weights(folder)
        self.tokenizer.save_pretrained(folder)

    def predict(
        self, texts: Texts, *, windows: bool = False, words: bool = False, abstain_below: float | None = None
    ) -> list[Prediction]:
        """Labels texts.

        Args:
            texts: one text or a list; for a model of pairs a tuple `(text, text_pair)` or a list of them. An empty
                text is legal.
            windows: also answer for each window of a text, so that one sees which passage decided.
            words: also say what each word adds to the answer, which takes some four times as long, and with several
                labels more; from one thread at a time, since the model is changed meanwhile.
            abstain_below: of single-label models: give no label, `None`, where the best class has less probability.

        Returns:
            one `Prediction` a text, in the order given.

        Raises:
            TypeError: something that is not a text, or not a pair where the model reads pairs.
            ValueError: half a character in a text, an `abstain_below` that means nothing, or words where there
                are none.
        """
        kind = self.model.config.problem_type
        if words and not tells_words(self.model):
            kind = "ONNX Runtime" if isinstance(self.model, OnnxModel) else self.model.config.encoder.model_type
            raise ValueError(f"Found words=True with {kind}, which tells no words; expected False. Leave it out.")
        if abstain_below is not None and (not 0 <= abstain_below <= 1 or kind in (MULTI_LABEL, REGRESSION)):
            raise ValueError(
                f"Found abstain_below={abstain_below}; expected a probability, from 0 to 1, for a model of one label "
                f"a text (this one: {kind}). Leave it out, or correct it."
            )
        parts = self._encoded(texts, windows=windows, words=words)
        answers = [answer for part in parts for answer in self.predict_encoded(part)]
        if abstain_below is None:
            return answers
        return [answer if answer.score >= abstain_below else replace(answer, label=None) for answer in answers]

    def encode(self, texts: Texts, *, windows: bool = False, words: bool = False) -> list[Encoded]:
        """The first half of `predict`; not from two threads at once, since the tokenizer keeps state."""
        texts = self._checked(texts)
        if not texts:
            return []
        tokenized = self.tokenize(texts, spans=windows or words)
        names = [name for name in self.collator.padding if name in tokenized]
        kept = [tokenized[name] if on else [None] * len(texts) for name, on in (("spans", windows), ("places", words))]
        return [
            Encoded(text, {name: tokenized[name][row] for name in names}, spans, places=places)
            for row, (text, spans, places) in enumerate(zip(texts, *kept))
        ]

    def tokenize(self, texts: list[Text], *, spans: bool = False) -> dict[str, list]:
        """`tokenize_windows` as the model's contract has it."""
        config = self.model.config
        columns = [texts] if config.pair_truncation is None else map(list, zip(*texts))
        return tokenize_windows(
            dict(zip(("text", "text_pair"), columns)),
            tokenizer=self.tokenizer,
            max_length=self.max_length,
            overlap=config.overlap,
            truncation=config.truncation,
            pair_truncation=config.pair_truncation,
            cleaning=config.cleaning,
            spans=spans,
        )

    def _encoded(self, texts: Texts, *, progress: bool = False, **wanted: bool) -> Iterator[list[Encoded]]:
        """`encode`, of so many texts at a time that memory is bounded."""
        texts = self._checked(texts)
        sizes = [max(count_characters(text), CHARACTERS_AT_A_TIME // TEXTS_AT_A_TIME) for text in texts]
        with tqdm(total=len(texts), desc="Predicting", disable=not progress, delay=5) as bar:
            for part in portions(texts, sizes, CHARACTERS_AT_A_TIME):
                yield self.encode(part, **wanted)
                bar.update(len(part))

    def predict_encoded(self, encoded: list[Encoded]) -> list[Prediction]:
        """The second half of `predict`: one `Prediction` for each that `encode` gave, whatever stands beside it."""
        if not encoded:
            return []
        logits, windows_of, vectors_of = self._logits(encoded)
        probabilities = self.to_probabilities(logits)
        answers = list(map(self._prediction, encoded, probabilities, windows_of))
        rows = [row for row, one in enumerate(encoded) if one.places is not None]
        if not rows:
            return answers
        targets = [self.given_labels(probabilities[row]) or [int(logits[row].argmax())] for row in rows]
        vectors = [vectors_of[row] for row in rows]
        found = explain(self.model, self.collator, [encoded[row] for row in rows], vectors, targets)
        for row, words in zip(rows, found):
            answers[row] = replace(answers[row], words=words)
        return answers

    @torch.inference_mode()
    def window_vectors(self, *encoded: Encoded) -> torch.Tensor:
        """`[windows, hidden]` of all texts in turn. Windows of like length are read together, whatever their texts.

        For `predict_vectors`: a long text need not be read at once (`Encoded.parts`).
        """
        windows = [window for one in encoded for window in one.parts(1)]
        tokens = TOKENS_PER_BATCH_CPU if self.device.type == "cpu" else TOKENS_PER_BATCH
        batches, parts = batches_of([window.size for window in windows], tokens), []
        for rows in batches:
            inputs = self.collator([windows[row].columns for row in rows])
            inputs = {name: tensor.to(self.device) for name, tensor in inputs.items()}
            parts.append(self.model(**inputs, return_window_logits=True).vectors)
        return torch.cat(parts)[np.argsort(np.concatenate(batches))]

    def predict_vectors(self, encoded: Encoded, vectors: torch.Tensor) -> Prediction:
        """What `predict_encoded` gives for one text, from the `window_vectors` of its windows."""
        logits, (window_logits,), _ = self._logits([encoded], vectors)
        return self._prediction(encoded, self.to_probabilities(logits[0]), window_logits)

    def _prediction(self, encoded: Encoded, probabilities: np.ndarray, window_logits: np.ndarray) -> Prediction:
        """The answer to `[num_labels]`, with those of the windows by `[windows, num_labels]` where they are wanted."""
        answer = self._answer(probabilities)
        if encoded.spans is None:
            return answer
        text = encoded.text if isinstance(encoded.text, str) else encoded.text[1]
        cleaned = clean(text, self.model.config.cleaning)
        windows = (
            WindowPrediction(**vars(self._answer(row)), start=start, end=end, text=cleaned[start:end])
            for (start, end), row in zip(encoded.spans, self.to_probabilities(window_logits))
        )
        return replace(answer, windows=tuple(windows))

    def _answer(self, probabilities: np.ndarray) -> Prediction:
        by_name, kind = dict(zip(self.label_names, probabilities.tolist())), self.model.config.problem_type
        if kind == REGRESSION:
            return Prediction(float(probabilities[0]), None, by_name)
        if kind == MULTI_LABEL:
            given = self.given_labels(probabilities)
            score = probabilities[given].min() if len(given) else 1 - probabilities.max()
            return Prediction(tuple(self.label_names[i] for i in given), float(score), by_name)
        best = int(probabilities.argmax())
        return Prediction(self.label_names[best], float(probabilities[best]), by_name)

    def given_labels(self, probabilities: np.ndarray) -> list[int]:
        """Numbers of the labels that `[num_labels]` give: one; of several labels any number; of a regression 0."""
        if self.model.config.problem_type == MULTI_LABEL:
            return np.flatnonzero(reaches(probabilities, self.thresholds)).tolist()
        return [int(probabilities.argmax())]

    def probabilities(self, texts: Texts, *, progress: bool = False) -> np.ndarray:
        """Probabilities `[texts, num_labels]` (float64) after the temperature; of a regression the values."""
        return self.to_probabilities(self.logits_with_windows(texts, progress=progress)[0])

    def to_probabilities(self, logits: np.ndarray) -> np.ndarray:
        """What `probabilities` gives, from `logits` `[..., num_labels]`."""
        logits = logits.astype(np.float64)
        if self.model.config.problem_type == REGRESSION:
            return logits
        logits /= self.model.config.temperature
        return expit(logits) if self.model.config.problem_type == MULTI_LABEL else softmax(logits, axis=-1)

    def logits(self, texts: Texts) -> np.ndarray:
        """Raw logits `[texts, num_labels]` (float32), in the order given."""
        return self.logits_with_windows(texts)[0]

    def logits_with_windows(self, texts: Texts, *, progress: bool = False) -> tuple[np.ndarray, list[np.ndarray]]:
        """`logits`, and for each text those of its windows `[windows, num_labels]`, of each alone."""
        logits, windows_of = [np.zeros((0, self.model.config.num_labels), np.float32)], []
        for part in self._encoded(texts, progress=progress):
            rows, of_windows, _ = self._logits(part)
            logits.append(rows)
            windows_of += of_windows
        return np.concatenate(logits), windows_of

    def logits_and_vectors(self, texts: Texts) -> tuple[np.ndarray, np.ndarray]:
        """`logits`, and the mean of each text's window vectors `[texts, hidden]` (float32)."""
        parts = [self._logits(part) for part in self._encoded(texts)]
        means = [_to_numpy(vectors.mean(0)) for _, _, vectors_of in parts for vectors in vectors_of]
        return np.concatenate([logits for logits, _, _ in parts]), np.stack(means)

    @torch.inference_mode()
    def _logits(
        self, encoded: list[Encoded], vectors: torch.Tensor | None = None
    ) -> tuple[np.ndarray, list[np.ndarray], list[torch.Tensor]]:
        """Logits `[texts, num_labels]`, and those and the vectors of each text's windows."""
        counts = [one.size[0] for one in encoded]
        vectors = self.window_vectors(*encoded) if vectors is None else vectors
        logits, window_logits = map(_to_numpy, self.model.from_vectors(vectors, counts))
        if not np.isfinite(logits).all():
            raise ValueError("The model gives logits that are not finite; expected numbers. Its weights are broken.")
        return logits, np.split(window_logits, np.cumsum(counts)[:-1]), vectors.split(counts)

    def _checked(self, texts: Texts) -> list[Text]:
        """A list of texts, or of pairs, of whole characters."""
        texts = [texts] if isinstance(texts, str | tuple) else list(texts)
        pairs = self.model.config.pair_truncation is not None
        for row, text in enumerate(texts):
            parts = text if pairs and isinstance(text, tuple) and len(text) == 2 else (text,)
            if len(parts) != 1 + pairs or not all(isinstance(part, str) for part in parts):
                wanted = "a tuple of two strings, since the model reads pairs" if pairs else "a string"
                raise TypeError(f"Text {row} is of type {type(text).__name__}, expected {wanted}.")
            if not all(map(is_whole, parts)):
                found = f"Text {row} holds half of a character (a lone surrogate)"
                raise ValueError(f"{found}; expected whole characters. Decode it with the encoding that it is in.")
        return texts


def texts_of(dataset: "Dataset") -> list[Text]:
    """The texts of a split as `TextClassifier` takes them: strings, or tuples where it has a column `text_pair`."""
    if "text_pair" in dataset.column_names:
        return list(zip(dataset["text"][:], dataset["text_pair"][:]))
    return dataset["text"][:]


def reaches(probabilities: np.ndarray, thresholds: list[float] | None) -> np.ndarray:
    """Which labels `[..., num_labels]` a multi-label model gives; without thresholds from 0.5 on."""
    return probabilities >= np.array(0.5 if thresholds is None else thresholds)


def _to_numpy(values: torch.Tensor) -> np.ndarray:
    return values.float().cpu().numpy()
