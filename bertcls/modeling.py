"""The classification head: any Hugging Face encoder, documents as lists of windows, logits per document.

This file is copied next to the weights (remote code), so it imports nothing of bertcls.
"""

import inspect
import json
import math
import os
import pickle
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.utils import cached_file, logging

logger = logging.get_logger(__name__)

SINGLE_LABEL, MULTI_LABEL = "single_label_classification", "multi_label_classification"
REGRESSION = "regression"
_MOVED_BY_PADDING = ("convbert", "fnet")  # encoders that mix padding into a text's vectors
CONTRACT = (  # of the configuration: what turns a raw text into an answer
    *("cleaning", "max_length", "overlap", "truncation", "pair_truncation"),
    *("pooling", "normalize", "window_pooling", "temperature", "thresholds"),
)


@strict
class BertClsConfig(PreTrainedConfig):
    """The encoder, the head, and the contract: all that turns a raw text into a prediction (`bertcls.TextClassifier`).

    Args:
        encoder: configuration, or its dict, of any encoder that `AutoModel` knows.
        pooling: tokens to a vector per window: the encoder's `pooler`, the first token (`cls`), `mean` or `max`.
        normalize: window vectors get one length, the square root of their width, as sentence embeddings want it.
        window_pooling: windows to a document: `mean` or `max` of the vectors; `mean_probs`; `vote`, (votes + mean
            probabilities) / (windows + 1). The last two give log-probabilities as logits.
        classifier_dropout: before the classifier; `None` takes the encoder's hidden dropout.
        classifier_hidden_size: units of a hidden layer (GELU) in the head; `None`: there is none.
        class_weights: one factor a class on the loss, of multi-label on that of the texts that have the label.
        max_train_windows: windows of a document used in a training step, drawn at random; `None` uses all.
        windows_per_forward: windows encoded at a time in a call outside training, which bounds memory.
        cleaning, overlap, truncation: as in `bertcls.tokenize_windows`.
        max_length: tokens per window, special tokens included; `None` means the encoder's limit.
        pair_truncation: the same of a model of pairs; `None` for a model of single texts.
        thresholds: multi-label: probability from which each label is given; `None` means 0.5.
        label_mean, label_scale: regression: mean and deviation of the training labels, in which the head computes.
        temperature: divides the logits before probabilities are taken (1.0: raw).
        vocabulary: digest of that of the tokenizer; `None`: unknown.
    """

    model_type = "bertcls"
    sub_configs = {"encoder": AutoConfig}

    encoder: dict | PreTrainedConfig | None = None
    pooling: Literal["pooler", "cls", "mean", "max"] = "cls"
    normalize: bool = False
    window_pooling: Literal["mean", "max", "mean_probs", "vote"] = "mean"
    classifier_dropout: float | int | None = None
    classifier_hidden_size: int | None = None
    class_weights: list | None = None
    max_train_windows: int | None = 8
    windows_per_forward: int = 64
    cleaning: list | None = None
    max_length: int | None = None
    overlap: int | None = None
    truncation: str = "none"
    pair_truncation: str | None = None
    thresholds: list | None = None
    label_mean: float | int = 0.0
    label_scale: float | int = 1.0
    temperature: float | int = 1.0
    vocabulary: str | None = None
    pad_token_id: int | None = None

    def __post_init__(self, **kwargs):
        if self.encoder is None:
            self.encoder = AutoConfig.for_model("bert")
        elif isinstance(self.encoder, dict):
            self.encoder = AutoConfig.for_model(**self.encoder)
        super().__post_init__(**kwargs)
        if self.id2label is not None and self.label2id is None:
            self.label2id = {name: number for number, name in self.id2label.items()}
        self.pad_token_id = self.encoder.pad_token_id

    @property
    def hidden_size(self) -> int:
        """Width of the encoder (DeepSpeed's `auto` values read it)."""
        return self.encoder.hidden_size

    def validate_head(self):
        """Refuses settings that contradict each other, when a configuration is made and saved."""
        if self.class_weights is not None and self.problem_type == REGRESSION:
            raise ValueError("class_weights given for a regression, which has no classes; leave them out.")
        labels = self.num_labels if self.problem_type == MULTI_LABEL else 0
        for name, size in (("class_weights", self.num_labels), ("thresholds", labels)):
            if (values := getattr(self, name)) is not None and len(values) != size:
                raise ValueError(f"{name} has {len(values)} values, expected {size}, one a label; correct it.")
        names, numbers = Counter((self.id2label or {}).values()), sorted(map(int, self.id2label or {}))
        if numbers != [*range(len(numbers))] or any("\ud800" <= sign <= "\udfff" for name in names for sign in name):
            raise ValueError(f"id2label is {ascii(self.id2label)}; expected names of whole characters for 0, 1, ...")
        if twice := sorted(str(name) for name, times in names.items() if times > 1):
            raise ValueError(f"id2label has {', '.join(twice)} more than once; expected names that differ.")
        for names, expected, holds in (
            (("temperature",), "0.01 to 100", lambda value: 0.01 <= value <= 100),
            (("label_scale",), "a positive number", lambda value: value > 0),
            (("max_train_windows", "windows_per_forward", "max_length"), "1 or more", lambda value: value >= 1),
            (("class_weights",), "numbers from 0", lambda value: value >= 0),
            (("thresholds", "label_mean"), "numbers", lambda value: True),
        ):
            for name in names:
                found = getattr(self, name)
                for value in found if isinstance(found, list) else [] if found is None else [found]:
                    if not isinstance(value, int | float) or not math.isfinite(value) or not holds(value):
                        raise ValueError(f"{name} is {found}; expected {expected}, and none that is not finite.")
        unfit = {MULTI_LABEL: ("vote",), REGRESSION: ("vote", "mean_probs")}.get(self.problem_type, ())
        if self.window_pooling in unfit:
            raise ValueError(f"window_pooling={self.window_pooling!r} found with {self.problem_type}; use 'mean'.")


@dataclass
class WindowClassifierOutput(SequenceClassifierOutput):
    """The stock output; where they were asked for `window_logits` `[num_windows, num_labels]` and `vectors`
    `[num_windows, hidden]`; in training `vectors` `[batch, hidden]`, the means of the documents' window vectors."""

    window_logits: torch.Tensor | None = None
    vectors: torch.Tensor | None = None


class BertClsForSequenceClassification(PreTrainedModel):
    """An encoder with a classification head that reads documents as windows.

    `windows -> encoder -> pooling -> [num_windows, hidden] -> window_pooling -> [batch, num_labels]`
    """

    config: BertClsConfig
    base_model_prefix = "encoder"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    # The loss divides by num_items_in_batch itself: right under gradient accumulation and several processes.
    accepts_loss_kwargs = True

    def __init__(self, config: BertClsConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        encoder = AutoModel.from_config(config.encoder, trust_remote_code=False)
        self.encoder = _without_unused_pooler(encoder, config.pooling)
        dropout = getattr(config.encoder, "hidden_dropout_prob", getattr(config.encoder, "dropout", 0.1))
        self.dropout = nn.Dropout(dropout if config.classifier_dropout is None else config.classifier_dropout)
        width, inner = config.hidden_size, config.classifier_hidden_size
        self.dense = None if inner is None else nn.Linear(width, inner)
        self.classifier = nn.Linear(inner or width, config.num_labels)
        weights = None if config.class_weights is None else torch.tensor(config.class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights)
        self.post_init()

    @classmethod
    def from_encoder(
        cls,
        name_or_path: str,
        *,
        num_labels: int | None = None,
        pooling: str = "auto",
        window_pooling: str = "mean",
        max_train_windows: int | None = 8,
        from_scratch: bool = False,
        attention_dropout: float | None = None,
        classifier_dropout: float | None = None,
        classifier_hidden_size: int | None = None,
        attn_implementation: str | None = None,
        revision: str | None = None,
        **config_kwargs,
    ) -> "BertClsForSequenceClassification":
        """A model with a pretrained encoder and a new head.

        Args:
            name_or_path: Hub id or local folder of an encoder, or a folder saved by this class (its encoder is taken).
            num_labels: classes; may be left out when `id2label` is given.
            pooling: as in `BertClsConfig`, or `auto`: what a sentence-embedding checkpoint, or a model of this class,
                says of itself, else `pooler` where the checkpoint holds pooler weights, else `cls`. Vectors are
                normalized where it says so.
            window_pooling, max_train_windows, classifier_dropout, classifier_hidden_size: as in `BertClsConfig`.
            from_scratch: build the encoder from its configuration with random weights.
            attention_dropout: dropout of the encoder's attention weights in training; `None` keeps the checkpoint's.
                With 0 a training step on a CPU is 1.1 times as fast at 256 tokens: it has no fused one with dropout.
            attn_implementation: as in `from_pretrained`; `None` takes SDPA.
            revision: of the Hub.
            **config_kwargs: further fields of `BertClsConfig` (`id2label`, `problem_type`, `class_weights`, ...).

        Raises:
            FileNotFoundError: no such model, or a folder without weights.
            ValueError: an encoder with a decoder, weights that cannot be read, no pooler weights for
                `pooling="pooler"`, no weight that fits the encoder, no attention dropout in it, or neither or
                contradicting `num_labels` and `id2label`.
        """
        encoder, missing = _load_encoder(
            name_or_path, from_scratch, attention_dropout, attn_implementation=attn_implementation, revision=revision
        )
        kind, has_pooler = type(encoder).__name__, getattr(encoder, "pooler", None) is not None
        others = [key for key in missing if not key.startswith("pooler.")]
        declared, normalized = (None, False) if from_scratch else declared_pooling(name_or_path, revision=revision)
        if pooling == "auto":
            pooling = declared or ("pooler" if has_pooler and not from_scratch and others == missing else "cls")
        elif pooling == "pooler" and not has_pooler:
            raise ValueError(f"pooling='pooler' found, but {kind} has no pooler; use pooling 'cls' or 'mean'.")
        elif pooling == "pooler" and others != missing:
            raise ValueError(
                f"pooling='pooler' found, but {name_or_path} holds no pooler weights (it was probably saved from "
                "masked language modelling), so the pooler would be random; use pooling 'cls' or 'mean'."
            )
        encoder, missing = _without_unused_pooler(encoder, pooling), others
        if missing:
            logger.warning(
                f"{len(missing)} encoder weights were not found in {name_or_path} and start at random values: "
                f"{', '.join(missing)}"
            )
        if encoder.config.model_type in _MOVED_BY_PADDING:
            logger.warning(
                f"{kind} does not leave padding out everywhere: a text's scores move with the length of the texts "
                "beside it. Where that matters, take another encoder."
            )
        encoder.config._name_or_path = ""  # a local path would otherwise travel in config.json
        names = config_kwargs.get("id2label")
        if (num_labels is None) == (names is None) and (names is None or len(names) != num_labels):
            raise ValueError(
                f"Found num_labels={num_labels} and id2label={names}; expected one of them, or both of one size."
            )
        config_kwargs |= {"num_labels": num_labels} if names is None else {}
        config_kwargs |= {"classifier_dropout": classifier_dropout, "classifier_hidden_size": classifier_hidden_size}
        config_kwargs |= {"window_pooling": window_pooling, "max_train_windows": max_train_windows}
        config_kwargs |= {"normalize": normalized and pooling == declared}
        model = cls(BertClsConfig(encoder=encoder.config, pooling=pooling, **config_kwargs))
        model.encoder = encoder
        if attn_implementation is not None:  # the head took the default one for itself and the shared configuration
            model.set_attn_implementation(attn_implementation)
        return model

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        window_example: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        example_ids: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        return_window_logits: bool = False,
    ) -> "WindowClassifierOutput":
        """Logits `[batch, num_labels]`, the loss where labels are given, and more where asked.

        Args:
            input_ids, attention_mask, token_type_ids: `[num_windows, seq_len]`; the mask is 1 for tokens.
            window_example: `[num_windows]`, the row of the batch that each window belongs to, ascending from 0;
                without it each row is a document of its own.
            labels: `[batch]` int64 for single-label, `[batch, num_labels]` float for multi-label, `[batch]` or
                `[batch, num_labels]` float for regression.
            example_ids: `[batch]`, not used here; Trainer gathers them beside the labels.
            num_items_in_batch: label elements in the whole optimizer step, over all micro-batches and processes.
            return_window_logits: also give what the head says of each window alone, and the windows' vectors.
        """
        attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        inputs = {name: tensor for name, tensor in inputs.items() if tensor is not None}
        if window_example is None:
            window_example = torch.arange(len(input_ids), device=input_ids.device)
        # The batch size is read from a shape where there is one: reading it from a GPU tensor would wait for the GPU.
        known = example_ids if example_ids is not None else labels
        batch = len(known) if known is not None else int(window_example[-1]) + 1
        if self.training and self.config.max_train_windows is not None and len(input_ids) > batch:
            kept = _draw_windows(window_example, self.config.max_train_windows).to(input_ids.device)
            inputs = {name: tensor[kept] for name, tensor in inputs.items()}
            window_example = window_example[kept]

        step = len(window_example) if self.training else self.config.windows_per_forward
        parts = [slice(start, start + step) for start in range(0, len(window_example), step)]
        # [num_windows, hidden]
        vectors = torch.cat([self.encode_windows({k: tensor[part] for k, tensor in inputs.items()}) for part in parts])
        logits = self._pool_windows(vectors, window_example, batch)  # [batch, num_labels]
        loss = None if labels is None else self._loss(logits, labels, num_items_in_batch)
        window_logits = self.head(vectors) if return_window_logits else None
        if self.training and len(vectors) > batch:
            vectors = _reduce_windows(vectors, window_example, batch, "mean")
        vectors = vectors if self.training or return_window_logits else None
        return WindowClassifierOutput(loss=loss, logits=logits, window_logits=window_logits, vectors=vectors)

    def encode_windows(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Window vectors `[num_windows, hidden]`."""
        if getattr(self.config.encoder, "type_vocab_size", 2) < 2:  # RoBERTa, whose tokenizer may be one of BERT
            inputs = {name: tensor for name, tensor in inputs.items() if name != "token_type_ids"}
        if self.config.encoder.model_type == "longformer":  # its first token reads all others, and they read it
            first = torch.zeros_like(inputs["attention_mask"])
            first[:, 0] = 1
            inputs = inputs | {"global_attention_mask": first}
        vectors = self._pool_tokens(self.encoder(**inputs), inputs["attention_mask"].unsqueeze(-1))
        return F.normalize(vectors, dim=-1) * vectors.shape[-1] ** 0.5 if self.config.normalize else vectors

    def _pool_tokens(self, output, mask: torch.Tensor) -> torch.Tensor:
        if self.config.pooling == "pooler":
            return output.pooler_output
        hidden = output.last_hidden_state  # [num_windows, seq_len, hidden]
        if self.config.pooling == "cls":
            return hidden[:, 0]
        if self.config.pooling == "mean":
            return (hidden * mask).sum(1) / mask.sum(1)
        return hidden.masked_fill(mask == 0, torch.finfo(hidden.dtype).min).amax(1)

    def head(self, vectors: torch.Tensor) -> torch.Tensor:
        """`[n, hidden]` to `[n, num_labels]`."""
        vectors = self.dropout(vectors)
        if self.dense is not None:
            vectors = self.dropout(F.gelu(self.dense(vectors)))
        logits = self.classifier(vectors)
        if self.config.problem_type == REGRESSION:
            logits = logits.float() * self.config.label_scale + self.config.label_mean
        return logits

    def _pool_windows(self, vectors: torch.Tensor, window_example: torch.Tensor, batch: int) -> torch.Tensor:
        """Window vectors `[num_windows, hidden]` to document logits `[batch, num_labels]`."""
        how = self.config.window_pooling
        if how in ("mean", "max"):
            if len(vectors) > batch:
                vectors = _reduce_windows(vectors, window_example, batch, how)
            return self.head(vectors)
        add_up = partial(_reduce_windows, window_example=window_example, batch=batch, how="sum")
        return self.pool_probabilities(self.head(vectors).float(), add_up)

    def from_vectors(self, vectors: torch.Tensor, counts: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits `[batch, num_labels]` of documents of so many windows each, and those of the windows, from their
        vectors `[num_windows, hidden]`."""
        owners = torch.repeat_interleave(torch.tensor(counts)).to(vectors.device)
        return self._pool_windows(vectors, owners, len(counts)), self.head(vectors)

    def pool_probabilities(self, window_logits: torch.Tensor, add_up: Callable) -> torch.Tensor:
        """Window logits `[num_windows, num_labels]` to those of documents by `mean_probs` or `vote`.

        `add_up` takes values `[num_windows, width]` to the sums `[batch, width]` over each document's windows.
        """
        multi_label = self.config.problem_type == MULTI_LABEL
        probabilities = window_logits.sigmoid() if multi_label else window_logits.softmax(-1)
        windows = add_up(torch.ones_like(probabilities[:, :1]))  # [batch, 1]
        mean = add_up(probabilities) / windows
        if multi_label:
            return torch.logit(mean, eps=1e-7)
        if self.config.window_pooling == "vote" and not self.training:  # votes have no gradient
            classes = torch.arange(self.num_labels, device=mean.device)
            votes = (probabilities.argmax(-1, keepdim=True) == classes).to(mean.dtype)
            mean = (add_up(votes) + mean) / (windows + 1)
        return mean.clamp_min(torch.finfo(mean.dtype).tiny).log()

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor, num_items_in_batch) -> torch.Tensor:
        """`sum(weight * loss) / num_items_in_batch`; without it the mean over this batch."""
        losses = self.losses(logits, labels)
        return losses.sum() / (losses.numel() if num_items_in_batch is None else num_items_in_batch)

    def losses(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss of each text `[batch]`, of several labels of each decision `[batch, num_labels]`, weighted."""
        logits = logits.float()
        kind, weights = self.config.problem_type, self.class_weights
        if kind == REGRESSION:
            return F.mse_loss(logits.view_as(labels), labels.float(), reduction="none") / self.config.label_scale**2
        if kind == MULTI_LABEL:
            return F.binary_cross_entropy_with_logits(logits, labels.float(), pos_weight=weights, reduction="none")
        losses = F.cross_entropy(logits, labels, reduction="none")
        return losses if weights is None else losses * weights[labels]


def declared_pooling(name_or_path: str, *, revision: str | None = None) -> tuple[str | None, bool]:
    """How a sentence-embedding checkpoint pools tokens, as sentence-transformers writes it: `cls`, `mean` or `max`;
    `None` where it says nothing of these. And whether it normalizes its vectors. A model of `bertcls` says both."""
    config = load_config(name_or_path, revision=revision)
    if isinstance(config, BertClsConfig):
        return config.pooling, config.normalize
    quiet = ("_raise_exceptions_for_missing_entries", "_raise_exceptions_for_connection_errors")
    options = {"revision": revision} | dict.fromkeys(quiet, False)
    path = cached_file(name_or_path, "modules.json", **options)
    if path is None:
        return None, False
    try:
        with open(path, encoding="utf-8") as file:
            modules = {module["type"].rpartition(".")[2]: module["path"] for module in json.load(file)}
        path = cached_file(name_or_path, f"{modules.get('Pooling')}/config.json", **options)
        with open(path or "", encoding="utf-8") as file:
            settings = json.load(file)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None, False
    modes = [name.removeprefix("pooling_mode_") for name, on in settings.items() if on and "pooling_mode_" in name]
    if isinstance(settings.get("pooling_mode"), str):  # newer versions
        modes = [settings["pooling_mode"]]
    kinds = [mode.removesuffix("_token").removesuffix("_tokens") for mode in modes]
    unknown = [kind for kind in kinds if kind not in ("cls", "mean", "max")]
    unknown += sorted({*modules} - {"Transformer", "Pooling", "Normalize"})
    if unknown or len(kinds) != 1:
        logger.warning(
            f"{name_or_path} makes its vectors by {', '.join(unknown or kinds) or 'nothing that is known here'}; its "
            "pooler or first token is taken in place of it. Choose another with --pooling."
        )
        return None, False
    return kinds[0], "Normalize" in modules


def load_config(name_or_path: str, *, revision: str | None = None) -> PreTrainedConfig:
    """The configuration of a model; code that a folder brings along is not run.

    Raises:
        FileNotFoundError: no such model, or of a type that is not known.
        ValueError: values in it that mean nothing.
    """
    try:
        return AutoConfig.from_pretrained(name_or_path, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"No model found at {name_or_path!r}; expected a Hub id or a folder with config.json and "
            f"model.safetensors. Check the spelling, or download it once. ({str(error).splitlines()[0]})"
        ) from error
    except Exception as error:  # of the checks of a configuration, and of what is no configuration
        reason = str(error.__cause__ or error).splitlines()[0]
        raise ValueError(
            f"The config.json of {name_or_path} is refused: {reason} Correct it, or copy it again."
        ) from error


def _reads_forward_only(config: PreTrainedConfig) -> bool:
    """Whether a model has a decoder, of which a token knows only those before it: its first one tells nothing."""
    kind, both = config.model_type, getattr(config, "use_bidirectional_attention", False)
    causal = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    causal = causal and not both and kind not in ("bert-generation", "xlnet")
    return causal or any(getattr(config, name, False) for name in ("is_encoder_decoder", "is_decoder"))


def _load_encoder(name_or_path: str, from_scratch: bool, attention_dropout: float | None, **options):
    """The encoder in fp32, and the names of its weights that the checkpoint does not hold."""
    config = load_config(name_or_path, revision=options["revision"])
    ours = isinstance(config, BertClsConfig)
    encoder_config = config.encoder if ours else config
    if _reads_forward_only(encoder_config):
        raise ValueError(
            f"{name_or_path} is a {encoder_config.model_type} model, which has a decoder; expected an encoder alone, "
            "such as google-bert/bert-base-uncased. Choose one."
        )
    if attention_dropout is not None:
        set_attention_dropout(encoder_config, attention_dropout)
    if from_scratch:
        attention = options["attn_implementation"]
        return AutoModel.from_config(encoder_config, attn_implementation=attention, trust_remote_code=False), []
    options |= {"config": config, "output_loading_info": True, "trust_remote_code": False}
    options["dtype"] = torch.float32  # the default is the dtype of the checkpoint, which may be bf16
    try:
        with readable_weights(name_or_path):
            kind = BertClsForSequenceClassification if ours else AutoModel
            model, info = kind.from_pretrained(name_or_path, **options)
    except OSError as error:
        if not os.path.isdir(name_or_path):
            raise
        raise FileNotFoundError(
            f"The model folder {name_or_path} holds {', '.join(sorted(os.listdir(name_or_path)))} but no weights; "
            "expected model.safetensors. Copy the weights there, or give --from_scratch for random ones."
        ) from error
    missing = sorted(info["missing_keys"])
    if ours:
        return model.encoder, [key.removeprefix("encoder.") for key in missing if key.startswith("encoder.")]
    if len(missing) == len(model.state_dict()):
        raise ValueError(
            f"No weight in {name_or_path} fits a {type(model).__name__}; expected an encoder checkpoint. Check "
            "the model_type in its config.json."
        )
    return model, missing


@contextmanager
def readable_weights(name_or_path: str) -> Iterator[None]:
    """Makes one line of what the libraries raise where weights are cut, empty, a pointer or of another shape.

    Their report of weights that a checkpoint lacks is not shown: who loads it says which of them matter.
    """
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    except ImportError as error:
        raise ValueError(f"{name_or_path} needs a package: {' '.join(str(error).split())} Install it.") from error
    except (SafetensorError, RuntimeError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"The weights in {name_or_path} cannot be read ({type(error).__name__}: {str(error).splitlines()[0]}); "
            "expected the whole model.safetensors that belongs to its config.json, and no pointer of Git LFS. Copy it "
            "again."
        ) from error
    finally:
        logging.set_verbosity(verbosity)


def set_attention_dropout(config: PreTrainedConfig, attention_dropout: float) -> None:
    """Sets the dropout of attention weights under the name that the encoder's family has for it, or refuses."""
    for name in ("attention_probs_dropout_prob", "attention_dropout"):
        if hasattr(config, name):
            return setattr(config, name, attention_dropout)
    found = f"attention_dropout {attention_dropout} found, but a {config.model_type} encoder has no such setting"
    raise ValueError(f"{found}; leave it out.")


def _without_unused_pooler(encoder: nn.Module, pooling: str) -> nn.Module:
    """Drops a pooler that is not read: DDP would wait for its gradients."""
    if pooling == "pooler" or getattr(encoder, "pooler", None) is None:
        return encoder
    if "add_pooling_layer" not in inspect.signature(type(encoder).__init__).parameters:
        raise ValueError(f"{type(encoder).__name__} has a pooler that cannot be switched off; use pooling 'pooler'.")
    encoder.pooler = None
    return encoder


def _draw_windows(window_example: torch.Tensor, max_windows: int) -> torch.Tensor:
    """Indices `[kept]`, ascending, of at most `max_windows` random windows a document; one that fits draws none."""
    kept, start = [], 0
    for count in torch.bincount(window_example).tolist():
        # by torch's global generator, which Trainer saves in its checkpoints
        drawn = torch.arange(count) if count <= max_windows else torch.randperm(count)[:max_windows].sort().values
        kept.append(start + drawn)
        start += count
    return torch.cat(kept)


def _reduce_windows(values: torch.Tensor, window_example: torch.Tensor, batch: int, how: str) -> torch.Tensor:
    """`[num_windows, width]` to `[batch, width]` by the `mean`, `max` or `sum` of each document's windows."""
    index, how = window_example.unsqueeze(-1).expand_as(values), {"max": "amax"}.get(how, how)
    return values.new_zeros(batch, values.shape[-1]).scatter_reduce(0, index, values, how, include_self=False)


BertClsConfig.register_for_auto_class()
BertClsForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
