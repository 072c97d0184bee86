"""The classification head: any Hugging Face encoder, documents as lists of windows, logits per document.

This file is copied next to the weights (remote code), so it imports nothing of bertcls.
"""

import inspect
import os
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils import logging

logger = logging.get_logger(__name__)

SINGLE_LABEL, MULTI_LABEL, REGRESSION = (
    "single_label_classification",
    "multi_label_classification",
    "regression",
)
_MOVED_BY_PADDING = ("convbert", "fnet")  # encoders that mix padding into a text's vectors
CONTRACT = (  # of the configuration: what turns a raw text into an answer
    "cleaning",
    "max_length",
    "overlap",
    "truncation",
    "pair_truncation",
    "pooling",
    "window_pooling",
    "temperature",
    "thresholds",
)


@strict
class BertClsConfig(PreTrainedConfig):
    """Configuration of `BertClsForSequenceClassification`: the encoder, the head, and the contract.

    The contract is everything that turns a raw text into a prediction, so that training, batch prediction and a
    service give the same answer; `bertcls.TextClassifier` reads it back.

    Args:
        encoder: configuration of any encoder that `AutoModel` knows (a config object, or its dict).
        pooling: tokens to one vector per window: the encoder's own `pooler`, the first token (`cls`), or the `mean`
            or `max` over real tokens.
        window_pooling: windows to one result per document: `mean` or `max` of the window vectors; `mean_probs`, the
            mean of the windows' probabilities; `vote`, (votes + mean probabilities) / (windows + 1), which orders
            classes by votes and breaks ties by the summed probability. The last two give log-probabilities as logits.
        classifier_dropout: dropout before the classifier; `None` takes the encoder's hidden dropout.
        classifier_hidden_size: units of an optional hidden layer (GELU) in the head; `None` means none.
        class_weights: one factor a class on the loss, of multi-label on that of the texts that have the label (see
            `bertcls.balanced_class_weights`), or `None`.
        max_train_windows: windows of a document used in a training step, drawn at random; `None` uses all.
        windows_per_forward: windows encoded at a time outside training, which bounds memory.
        cleaning: names of the steps of `bertcls.text` applied to a raw text, in order.
        max_length: tokens per window, special tokens included; `None` means the encoder's limit.
        overlap: tokens that neighbouring windows share; `None` means 20 % of `max_length`.
        truncation: `none`, or which tokens of a longer text make its only window (`head`, `tail`, `head_tail`).
        pair_truncation: of a model of pairs: `none`, or which text is cut (`longest_first`, `only_first`,
            `only_second`); `None` for a model of single texts.
        thresholds: multi-label: probability from which each label is given; `None` means 0.5.
        label_mean: regression: what the head's outputs are counted from, the mean of the training labels.
        label_scale: regression: what the head's outputs are multiplied with, their standard deviation.
        temperature: divides the logits before probabilities are taken (1.0: raw).
    """

    model_type = "bertcls"
    sub_configs = {"encoder": AutoConfig}

    encoder: dict | PreTrainedConfig | None = None
    pooling: Literal["pooler", "cls", "mean", "max"] = "cls"
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
        """Runs when a configuration is made and saved.

        Raises:
            StrictDataclassError: of huggingface_hub, for settings that contradict each other.
        """
        if self.class_weights is not None and len(self.class_weights) != self.num_labels:
            raise ValueError(
                f"class_weights has {len(self.class_weights)} values, expected {self.num_labels}, one a class."
            )
        if self.class_weights is not None and self.problem_type == REGRESSION:
            raise ValueError("class_weights given for a regression, which has no classes; leave them out.")
        labels = self.num_labels if self.problem_type == MULTI_LABEL else 0
        if self.thresholds is not None and len(self.thresholds) != labels:
            raise ValueError(
                f"thresholds has {len(self.thresholds)} values, expected {labels}, one a label of a multi-label task."
            )
        if self.label_scale <= 0:
            raise ValueError(f"label_scale is {self.label_scale}, expected a positive number.")
        if self.window_pooling == "vote" and self.problem_type in (MULTI_LABEL, REGRESSION):
            raise ValueError(f"window_pooling='vote' found with {self.problem_type}; use 'mean'.")
        if self.window_pooling == "mean_probs" and self.problem_type == REGRESSION:
            raise ValueError("window_pooling='mean_probs' found with a regression; use 'mean'.")


@dataclass
class WindowClassifierOutput(SequenceClassifierOutput):
    """The stock output, and `window_logits` `[num_windows, num_labels]` where they were asked for."""

    window_logits: torch.Tensor | None = None


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
        self.encoder = _without_unused_pooler(AutoModel.from_config(config.encoder), config.pooling)
        dropout = config.classifier_dropout
        if dropout is None:
            dropout = getattr(config.encoder, "hidden_dropout_prob", getattr(config.encoder, "dropout", 0.1))
        self.dropout = nn.Dropout(dropout)
        width = config.hidden_size
        self.dense = None
        if config.classifier_hidden_size is not None:
            self.dense = nn.Linear(width, config.classifier_hidden_size)
            width = config.classifier_hidden_size
        self.classifier = nn.Linear(width, config.num_labels)
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
        from_scratch: bool = False,
        attention_dropout: float | None = None,
        attn_implementation: str | None = None,
        revision: str | None = None,
        **config_kwargs,
    ) -> "BertClsForSequenceClassification":
        """A model with a pretrained encoder and a new head.

        Args:
            name_or_path: Hub id or local folder of an encoder, or a folder saved by this class (its encoder is taken).
            num_labels: classes; may be left out when `id2label` is given.
            pooling: as in `BertClsConfig`, or `auto`: `pooler` where the checkpoint holds pooler weights, else `cls`.
            from_scratch: build the encoder from its configuration with random weights.
            attention_dropout: dropout of the encoder's attention weights in training; `None` keeps the checkpoint's.
                torch has no fused attention with dropout on a CPU: with 0 instead of BERT's 0.1 a training step of
                MiniLM is 1.10 times as fast at 256 tokens and 1.16 times at 512, without `FastOnCpu` 1.65 and 1.91
                times (measured on two cores, bf16).
            attn_implementation: as in `from_pretrained`; `None` takes SDPA.
            revision: Hub revision.
            **config_kwargs: further fields of `BertClsConfig` (`id2label`, `problem_type`, `class_weights`, ...).

        Raises:
            FileNotFoundError: no such model, or a folder without weights.
            ValueError: `pooling="pooler"` and the checkpoint has no pooler weights, no weight fits the encoder, the
                encoder knows no attention dropout, or neither or contradicting `num_labels` and `id2label`.
        """
        encoder, missing = _load_encoder(
            name_or_path,
            from_scratch=from_scratch,
            attention_dropout=attention_dropout,
            attn_implementation=attn_implementation,
            revision=revision,
        )
        has_pooler = getattr(encoder, "pooler", None) is not None
        pooler_found = has_pooler and not from_scratch and not any(key.startswith("pooler.") for key in missing)
        if pooling == "auto":
            pooling = "pooler" if pooler_found else "cls"
        elif pooling == "pooler" and not has_pooler:
            raise ValueError(
                f"pooling='pooler' found, but {type(encoder).__name__} has no pooler; use pooling 'cls' or 'mean'."
            )
        elif pooling == "pooler" and not pooler_found and not from_scratch:
            raise ValueError(
                f"pooling='pooler' found, but {name_or_path} holds no pooler weights (it was probably saved from "
                "masked language modelling), so the pooler would be random; use pooling 'cls' or 'mean'."
            )
        encoder = _without_unused_pooler(encoder, pooling)
        missing = [key for key in missing if not key.startswith("pooler.")]
        if missing:
            logger.warning(
                f"{len(missing)} encoder weights were not found in {name_or_path} and start at random values: "
                + ", ".join(missing)
            )
        if encoder.config.model_type in _MOVED_BY_PADDING:
            logger.warning(
                f"{type(encoder).__name__} does not leave padding out everywhere: a text's scores move with the "
                "length of the texts beside it. Where that matters, take another encoder."
            )
        encoder.config._name_or_path = ""  # a local path would otherwise travel in config.json
        names = config_kwargs.get("id2label")
        if (num_labels is None) == (names is None) and (names is None or len(names) != num_labels):
            raise ValueError(
                f"Found num_labels={num_labels} and id2label={names}; expected one of them, or both of one size."
            )
        if names is None:
            config_kwargs["num_labels"] = num_labels
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
        """Logits, and the loss where labels are given.

        Args:
            input_ids: `[num_windows, seq_len]`.
            attention_mask: `[num_windows, seq_len]`, 1 for tokens and 0 for padding.
            token_type_ids: `[num_windows, seq_len]`; of no effect where the encoder has less than two types.
            window_example: `[num_windows]`, the row of the batch that each window belongs to, ascending from 0;
                without it each row is a document of its own.
            labels: `[batch]` int64 for single-label, `[batch, num_labels]` float for multi-label, `[batch]` or
                `[batch, num_labels]` float for regression.
            example_ids: `[batch]`, not used here; Trainer gathers them beside the labels.
            num_items_in_batch: label elements in the whole optimizer step, over all micro-batches and processes.
            return_window_logits: also give what the head says of each window alone.

        Returns:
            `loss` (scalar, with labels), `logits` `[batch, num_labels]` and, where asked, `window_logits`
            `[num_windows, num_labels]`.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            inputs["token_type_ids"] = token_type_ids
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
        vectors = torch.cat(  # [num_windows, hidden]
            [
                self._encode({name: tensor[start : start + step] for name, tensor in inputs.items()})
                for start in range(0, len(window_example), step)
            ]
        )
        logits = self._pool_windows(vectors, window_example, batch)  # [batch, num_labels]
        loss = None if labels is None else self._loss(logits, labels, num_items_in_batch)
        window_logits = self._head(vectors) if return_window_logits else None
        return WindowClassifierOutput(loss=loss, logits=logits, window_logits=window_logits)

    def _encode(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Window vectors `[num_windows, hidden]`."""
        if getattr(self.config.encoder, "type_vocab_size", 2) < 2:  # RoBERTa, whose tokenizer may be one of BERT
            inputs = {name: tensor for name, tensor in inputs.items() if name != "token_type_ids"}
        if self.config.encoder.model_type == "longformer":  # its first token reads all others, and they read it
            first = torch.zeros_like(inputs["attention_mask"])
            first[:, 0] = 1
            inputs = inputs | {"global_attention_mask": first}
        output = self.encoder(**inputs)
        if self.config.pooling == "pooler":
            return output.pooler_output
        hidden = output.last_hidden_state  # [num_windows, seq_len, hidden]
        if self.config.pooling == "cls":
            return hidden[:, 0]
        mask = inputs["attention_mask"].unsqueeze(-1)
        if self.config.pooling == "mean":
            return (hidden * mask).sum(1) / mask.sum(1)
        return hidden.masked_fill(mask == 0, torch.finfo(hidden.dtype).min).amax(1)

    def _head(self, vectors: torch.Tensor) -> torch.Tensor:
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
            return self._head(vectors)
        logits = self._head(vectors).float()  # [num_windows, num_labels]
        multi_label = self.config.problem_type == MULTI_LABEL
        probabilities = logits.sigmoid() if multi_label else logits.softmax(-1)
        mean = _reduce_windows(probabilities, window_example, batch, "mean")
        if multi_label:
            return torch.logit(mean, eps=1e-7)
        if how == "vote" and not self.training:  # votes have no gradient: training uses the mean of probabilities
            votes = F.one_hot(probabilities.argmax(-1), self.num_labels).to(mean.dtype)
            share = _reduce_windows(votes, window_example, batch, "mean")
            windows = torch.bincount(window_example, minlength=batch).unsqueeze(-1)
            mean = (share * windows + mean) / (windows + 1)
        return mean.clamp_min(torch.finfo(mean.dtype).tiny).log()

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor, num_items_in_batch) -> torch.Tensor:
        """`sum(weight * loss) / num_items_in_batch`; without it the mean over this batch."""
        logits = logits.float()
        kind = self.config.problem_type or SINGLE_LABEL
        if kind == SINGLE_LABEL:
            loss = F.cross_entropy(logits, labels, reduction="none")
            if self.class_weights is not None:
                loss = loss * self.class_weights[labels]
        elif kind == MULTI_LABEL:
            loss = F.binary_cross_entropy_with_logits(
                logits, labels.float(), pos_weight=self.class_weights, reduction="none"
            )
        else:
            loss = F.mse_loss(logits.view_as(labels), labels.float(), reduction="none") / self.config.label_scale**2
        return loss.sum() / (loss.numel() if num_items_in_batch is None else num_items_in_batch)


def _load_encoder(
    name_or_path: str,
    *,
    from_scratch: bool,
    attention_dropout: float | None,
    attn_implementation: str | None,
    revision: str | None,
):
    """The encoder in fp32, and the names of its weights that the checkpoint does not hold."""
    try:
        config = AutoConfig.from_pretrained(name_or_path, revision=revision)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"No model found at {name_or_path!r}; expected a Hub id or a folder with config.json and "
            f"model.safetensors. Check the spelling, or download it once where there is a network. "
            f"({str(error).splitlines()[0]})"
        ) from error
    if attention_dropout is not None:
        set_attention_dropout(config.encoder if isinstance(config, BertClsConfig) else config, attention_dropout)
    if from_scratch:
        return AutoModel.from_config(config, attn_implementation=attn_implementation), []
    if isinstance(config, BertClsConfig):
        model, info = BertClsForSequenceClassification.from_pretrained(
            name_or_path,
            config=config,
            dtype=torch.float32,
            attn_implementation=attn_implementation,
            revision=revision,
            output_loading_info=True,
        )
        missing = sorted(key for key in info["missing_keys"] if key.startswith("encoder."))
        return model.encoder, [key.removeprefix("encoder.") for key in missing]
    try:
        encoder, info = AutoModel.from_pretrained(
            name_or_path,
            config=config,
            dtype=torch.float32,  # the default is the dtype of the checkpoint, which may be bf16
            attn_implementation=attn_implementation,
            revision=revision,
            output_loading_info=True,
        )
    except OSError as error:
        if not os.path.isdir(name_or_path):
            raise
        raise FileNotFoundError(
            f"The model folder {name_or_path} holds {', '.join(sorted(os.listdir(name_or_path)))} but no weights; "
            "expected model.safetensors. Copy the weights there, or give --from_scratch for random ones."
        ) from error
    missing = sorted(info["missing_keys"])
    if len(missing) == len(encoder.state_dict()):
        raise ValueError(
            f"No weight in {name_or_path} fits a {type(encoder).__name__}; expected an encoder checkpoint. Check "
            "the model_type in its config.json."
        )
    return encoder, missing


def set_attention_dropout(config: PreTrainedConfig, attention_dropout: float) -> None:
    """Sets the dropout of attention weights of an encoder's configuration, under the name that its family has for it.

    Raises:
        ValueError: the family has no such setting.
    """
    names = [name for name in ("attention_probs_dropout_prob", "attention_dropout") if hasattr(config, name)]
    if not names:
        raise ValueError(
            f"attention_dropout {attention_dropout} found, but a {config.model_type} encoder has no such setting; "
            "leave it out."
        )
    setattr(config, names[0], attention_dropout)


def _without_unused_pooler(encoder: nn.Module, pooling: str) -> nn.Module:
    """Drops a pooler that is not read: DDP would wait for its gradients."""
    if pooling != "pooler" and getattr(encoder, "pooler", None) is not None:
        if "add_pooling_layer" not in inspect.signature(type(encoder).__init__).parameters:
            raise ValueError(
                f"{type(encoder).__name__} has a pooler that cannot be switched off; use pooling 'pooler'."
            )
        encoder.pooler = None
    return encoder


def _draw_windows(window_example: torch.Tensor, max_windows: int) -> torch.Tensor:
    """Indices `[kept]`, ascending, of at most `max_windows` random windows a document.

    Draws from torch's global CPU generator, which Trainer saves in its checkpoints; a document that fits draws none.
    """
    kept, start = [], 0
    for count in torch.bincount(window_example).tolist():
        drawn = torch.arange(count) if count <= max_windows else torch.randperm(count)[:max_windows].sort().values
        kept.append(start + drawn)
        start += count
    return torch.cat(kept)


def _reduce_windows(values: torch.Tensor, window_example: torch.Tensor, batch: int, how: str) -> torch.Tensor:
    """`[num_windows, width]` to `[batch, width]` by the `mean` or `max` of each document's windows."""
    index = window_example.unsqueeze(-1).expand_as(values)
    reduce = {"mean": "mean", "max": "amax"}[how]
    return values.new_zeros(batch, values.shape[-1]).scatter_reduce(0, index, values, reduce, include_self=False)


BertClsConfig.register_for_auto_class()
BertClsForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
