"""A small encoder that gives the vectors of a large one: its vocabulary, its start, and what it is taught."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, DatasetDict, Features, Value
from datasets.fingerprint import Hasher
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    EvalPrediction,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
)

from bertcls.backends import use_bfloat16
from bertcls.data.columns import WithLengths, numbers_in
from bertcls.modeling import REGRESSION, BertClsConfig, BertClsForSequenceClassification
from bertcls.process import open_weights, say
from bertcls.report.record import write_record
from bertcls.report.scores import scores_before
from bertcls.report.write import write_metrics
from bertcls.text import clean_all, own_steps, words_of
from bertcls.together import finishing, first_of_cache
from bertcls.tokenization import WindowCollator, batches_of, save_tokenizer
from bertcls.training.masking import IGNORED
from bertcls.training.mlm import declare_pooling

_TOKENS = 4096  # of a forward pass of the teacher
_TAUGHT = ("word_embeddings", "position_embeddings", "token_type_embeddings")
_SENTENCE_END = re.compile(r"(?<=[.!?。！？])[\"')\]”’]*\s+|(?<=[。！？])")


def cut_passages(
    batch: dict[str, list], *, cleaning: list[str], whole: int = 10, words: tuple[int, int] = (3, 100)
) -> dict[str, list[str]]:
    """Texts to their sentences, for a batched `map`; of every `whole`-th text the whole, too, for long positions.

    Sentences have at least and at most so many `words`, or characters of a script without blanks.

    >>> cut_passages({"text": ["It rains here. We stay at home!"]}, cleaning=[], whole=2)["text"]
    ['It rains here.', 'We stay at home!']
    """
    texts = clean_all(batch["text"], cleaning)
    sentences = [sentence for text in texts for sentence in _SENTENCE_END.split(text)]
    kept = [one for one in sentences if words[0] <= len(words_of(one)) <= words[1]]
    return {"text": kept + texts[whole - 1 :: whole] or texts}


def passages_of(splits: DatasetDict, cleaning: list[str]) -> DatasetDict:
    """Splits with `text` cut into passages, by a batched, cached map."""
    how = {"fn_kwargs": {"cleaning": cleaning}, "load_from_cache_file": not own_steps(cleaning)}
    with first_of_cache():
        result = splits.map(cut_passages, batched=True, remove_columns=splits["train"].column_names, **how)
    if own_steps(cleaning):  # which the cache knows by their names: what follows goes by the content
        result = DatasetDict({name: Dataset.from_dict(rows[:]) for name, rows in result.items()})
    return result


def check_teacher(
    model: BertClsForSequenceClassification, tokenizer: PreTrainedTokenizerBase, width: int
) -> BertModel:
    """The encoder of a teacher, checked before it answers anything, for a small one of this `width`.

    Raises:
        ValueError: no WordPieces, no embeddings as BERT's, or narrower ones than the width.
    """
    teacher, embeddings = model.encoder, getattr(model.encoder, "embeddings", None)
    kind = type(tokenizer.backend_tokenizer.model).__name__
    if kind != "WordPiece" or not all(hasattr(embeddings, name) for name in _TAUGHT):
        raise ValueError(
            f"Found a {type(teacher).__name__} with a tokenizer of {kind}; expected an encoder of BERT's kind with "
            "WordPieces. Take another teacher."
        )
    if width > (most := embeddings.word_embeddings.weight.shape[1]):
        raise ValueError(f"Found --hidden_size {width}; expected at most {most}, the teacher's. Lower it.")
    if model.config.pooling != "mean":
        say(f"The teacher pools by {model.config.pooling!r}; the small encoder learns its tokens, and their mean.")
    return teacher


def most_frequent_pieces(tokenizer: PreTrainedTokenizerBase, texts: Dataset, size: int) -> list[str]:
    """The special tokens, single characters and most frequent WordPieces of a column `text`, `size` of them in all.

    Raises:
        ValueError: fewer pieces than there are single characters.
    """
    counts: Counter = Counter()
    for batch in texts.select_columns("text").iter(10_000):
        for encoded in tokenizer.backend_tokenizer.encode_batch_fast(batch["text"], add_special_tokens=False):
            counts.update(encoded.ids)
    names = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    special = [name for name in names if name in tokenizer.all_special_tokens]
    letters = [name for name in names if len(name.removeprefix("##")) == 1 and name.isascii()]  # no word is unknown
    if size <= len(special) + len(letters):
        raise ValueError(f"Found a vocabulary of {size} pieces; expected more than {len(special) + len(letters)}.")
    frequent = [names[number] for number, _ in counts.most_common()]
    kept = {*list(dict.fromkeys([*special, *letters, *frequent]))[:size]}
    return [name for name in names if name in kept]


def small_encoder(
    teacher: BertModel, tokenizer: PreTrainedTokenizerBase, pieces: list[str], **sizes: int
) -> tuple[BertModel, PreTrainedTokenizerBase]:
    """An untrained encoder for some pieces of a teacher's vocabulary, and its tokenizer.

    Its embeddings are those of the teacher, which are as BERT's, projected onto their main directions; the layers, of
    the `sizes` of `BertConfig`, are random.
    """
    lower = tokenizer.backend_tokenizer.normalizer.lowercase if tokenizer.backend_tokenizer.normalizer else False
    small = BertTokenizer({piece: number for number, piece in enumerate(pieces)}, do_lower_case=lower)
    small.model_max_length = teacher.config.max_position_embeddings
    config = BertConfig(
        vocab_size=len(pieces),
        max_position_embeddings=teacher.config.max_position_embeddings,
        pad_token_id=small.pad_token_id,
        attention_probs_dropout_prob=0.0,
        **sizes,
    )
    encoder = BertModel(config, add_pooling_layer=False)
    words = teacher.get_input_embeddings().weight.detach()[tokenizer.convert_tokens_to_ids(pieces)].float()
    main = torch.linalg.svd(words, full_matrices=False).Vh[: config.hidden_size].T  # [teacher's hidden, hidden]
    with torch.no_grad():
        encoder.embeddings.word_embeddings.weight.copy_(words @ main)
        for name in _TAUGHT[1:]:
            getattr(encoder.embeddings, name).weight.copy_(getattr(teacher.embeddings, name).weight.float() @ main)
    return encoder, small


class TeacherVectors:
    """What a large encoder says of the tokens of a small one: a batched `map` of tokenized rows that adds `label`.

    The small vocabulary is part of the large one, so the large encoder reads the very tokens that the small one does,
    and each has a vector to learn: float16 `[tokens, hidden]`, kept as bytes, which cost no time to read.

    Args:
        encoder: the teacher.
        numbers: of the small vocabulary's pieces in the teacher's, `[pieces]`.
        training_args: of the run, for the device and whether to compute in bf16.
    """

    def __init__(self, encoder: BertModel, numbers: list[int], training_args: TrainingArguments):
        self.encoder, self.numbers, self.width = encoder.eval(), torch.tensor(numbers), encoder.config.hidden_size
        self.name = [Hasher.hash(weight.numpy()) for weight in encoder.state_dict().values()]
        self.name += [numbers, training_args.bf16]
        self.encoder.to(training_args.device)
        if training_args.bf16:
            use_bfloat16(self.encoder)

    def add_to(self, splits: DatasetDict) -> DatasetDict:
        """Tokenized rows with the teacher's vectors, which it need not give twice; afterwards it is not used."""
        tokens = sum(numbers_in(split, "length").sum() for split in splits.values())
        say(f"The teacher's vectors of {tokens:,} tokens take {2e-9 * tokens * self.width:.2f} GB in the cache.")
        features = Features({**splits["train"].features, "label": Value("binary")})
        with first_of_cache():
            splits = splits.map(self, batched=True, features=features, desc="Teach")
        self.encoder.cpu()
        return DatasetDict({name: WithLengths.of(rows) for name, rows in splits.items()})

    @torch.inference_mode()
    def __call__(self, batch: dict[str, list]) -> dict[str, list[bytes]]:
        rows = [self.numbers[windows[0]] for windows in batch["input_ids"]]
        found: list = [None] * len(rows)
        for chosen in batches_of([(1, len(row)) for row in rows], _TOKENS):
            ids = pad_sequence([rows[row] for row in chosen], batch_first=True).to(self.encoder.device)
            mask = pad_sequence([torch.ones_like(rows[row]) for row in chosen], batch_first=True).to(ids.device)
            vectors = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state.half().cpu().numpy()
            for row, vector in zip(chosen, vectors):
                found[row] = vector[: len(rows[row])].tobytes()
        return {"label": found}

    def __getstate__(self) -> dict:
        return {"name": self.name}  # which the cache of `map` is named after


class TokenCollator(WindowCollator):
    """Rows of `TeacherVectors` to a batch: `labels` `[batch, seq_len, width]`, `IGNORED` where there is no token."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, width: int):
        super().__init__(tokenizer)
        self.width = width

    def __call__(self, features: list[dict]) -> dict[str, torch.Tensor]:
        taught = [np.frombuffer(feature["label"], np.float16).reshape(-1, self.width) for feature in features]
        batch = super().__call__([{"input_ids": feature["input_ids"]} for feature in features])
        labels = np.full((*batch["input_ids"].shape, self.width), IGNORED, dtype=np.float16)
        for row, vectors in enumerate(taught):
            labels[row, : len(vectors)] = vectors
        return {"labels": torch.from_numpy(labels), "input_ids": batch["input_ids"]}


class Student(BertClsForSequenceClassification):
    """A small encoder while it learns: `logits` `[batch, seq_len, hidden of the teacher]` are vectors of tokens."""

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor | None = None, **_) -> dict[str, torch.Tensor]:
        hidden = self.encoder(input_ids=input_ids, attention_mask=(input_ids != self.config.pad_token_id).long())
        return {"logits": self.classifier(hidden.last_hidden_state)}


def vector_loss(outputs, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None) -> torch.Tensor:
    """One minus the cosine, of vectors of tokens and of texts, which are their means: `compute_loss_func` of Trainer.

    Args:
        outputs: `logits` `[batch, seq_len, hidden of the teacher]`.
        labels: of the same shape, `IGNORED` where there is no token.
        num_items_in_batch: values of the labels in the whole optimizer step.
    """
    of_tokens, of_texts = _cosines(outputs["logits"], labels)
    tokens = (labels[..., 0] != IGNORED).sum(-1)  # [batch]; a text counts as often as it has tokens
    count = tokens.sum() if num_items_in_batch is None else num_items_in_batch / labels.shape[-1]
    return ((tokens - of_tokens).sum() + ((1 - of_texts) * tokens).sum()) / count


def _cosines(found: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the tokens, summed up for each text, and of the texts: `[batch]` both."""
    mask = (labels[..., 0] != IGNORED).float()
    found, labels = found.float(), labels.float()
    of_texts = _cosine(*((mask.unsqueeze(1) @ vectors).squeeze(1) for vectors in (found, labels)))
    return (_cosine(found, labels) * mask).sum(-1), of_texts


def _cosine(some: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """As that of torch, which makes copies of unit length: that takes twice the time, a tenth of a step."""
    return torch.linalg.vecdot(some, others) / (some.norm(dim=-1) * others.norm(dim=-1)).clamp_min(1e-8)


class MeanCosine:
    """`cosine` of the texts' vectors with the teacher's, on the mean: `compute_metrics` of Trainer, batch by batch."""

    def __init__(self):
        self.found: list[torch.Tensor] = []

    def __call__(self, prediction: EvalPrediction, compute_result: bool) -> dict[str, float]:
        self.found.append(_cosines(prediction.predictions, prediction.label_ids)[1].cpu())
        if not compute_result:
            return {}
        cosines, self.found = torch.cat(self.found), []
        return {"cosine": float(cosines.mean())}


def student_of(encoder: BertModel, teacher: TeacherVectors, **contract) -> Student:
    """An encoder that pools by the mean, with a linear map to the width of the teacher's vectors."""
    names = {number: str(number) for number in range(teacher.width)}
    kind = {"problem_type": REGRESSION, "pooling": "mean", "classifier_dropout": 0.0, "max_train_windows": 1}
    model = Student(BertClsConfig(encoder=encoder.config, id2label=names, **kind, **contract))
    model.encoder = encoder
    model.start_digest = Hasher.hash(teacher.name)  # an SVD, and answers, differ in their last bits elsewhere
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # so small an encoder does not learn its texts by heart; fine-tuning reads its config
    return model


@finishing()
def finish_encoder(trainer: Trainer, results: dict, *, run_dir: str, started: float, half: bool = True) -> dict:
    """Saves the encoder of a run alone, in its folder `encoder`, with the files by which sentence-embedding
    checkpoints say how they pool, and says how to go on.

    `results` are known by now, `started` is in seconds of `time.time()`, `half` writes 16 bits.
    """
    state, prefix = trainer.accelerator.get_state_dict(trainer.model), "encoder."
    if not trainer.is_world_process_zero():
        return results
    folder, model = Path(run_dir, "encoder"), trainer.accelerator.unwrap_model(trainer.model)
    state = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    state = {name: tensor.half() for name, tensor in state.items()} if half else state
    model.encoder.save_pretrained(folder, state_dict=state)
    open_weights(folder)
    save_tokenizer(trainer.processing_class, str(folder))
    declare_pooling(folder, model.config.pooling, model.config.normalize, width=model.config.hidden_size)
    write_record(trainer, run_dir=run_dir, started=started)
    results = scores_before(trainer.state.log_history) | results
    write_metrics({"scores": results}, run_dir=run_dir)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    say(f"The encoder is in {folder.as_posix()}, {size / 1e6:.1f} MB. Fine-tune it:")
    say(f"  accelerate launch recipes/sst2_finetune.py --model_name_or_path {folder.as_posix()}")
    return results
