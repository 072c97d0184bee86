"""A small encoder that gives the vectors of a large one: its vocabulary, its start, and what it is taught."""

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset, Features, Sequence, Value
from datasets.fingerprint import Hasher
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
)

from bertcls.backends import use_bfloat16
from bertcls.modeling import REGRESSION, BertClsConfig, BertClsForSequenceClassification
from bertcls.process import open_weights, say
from bertcls.report.record import write_record
from bertcls.report.scores import scores_before
from bertcls.report.write import write_metrics
from bertcls.text import clean_all, words_of
from bertcls.together import finishing
from bertcls.tokenization import WindowCollator, tokenize_windows
from bertcls.training.head_start import vectors_of

_SENTENCE_END = re.compile(r"(?<=[.!?。！？])[\"')\]”’]*\s+|(?<=[。！？])")


def cut_passages(
    batch: dict[str, list], *, cleaning: list[str], whole: int = 10, words: tuple[int, int] = (3, 100)
) -> dict[str, list[str]]:
    """Texts to their sentences, for a batched `map`; of every `whole`-th text the whole, too, for long positions.

    Args:
        batch: column `text`.
        cleaning: steps of `bertcls.text`.
        whole: of a batch.
        words: of a sentence, at least and at most; characters of a script without blanks.

    >>> cut_passages({"text": ["It rains here. We stay at home!"]}, cleaning=[], whole=2)["text"]
    ['It rains here.', 'We stay at home!']
    """
    texts = clean_all(batch["text"], cleaning)
    sentences = [sentence for text in texts for sentence in _SENTENCE_END.split(text)]
    kept = [one for one in sentences if words[0] <= len(words_of(one)) <= words[1]]
    return {"text": kept + texts[whole - 1 :: whole] or texts}


def check_teacher(teacher: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, hidden_size: int) -> None:
    """Refuses a teacher from which no small encoder of a width can be made, before it answers anything."""
    kind = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["type"]
    if kind != "WordPiece" or not hasattr(getattr(teacher, "embeddings", None), "token_type_embeddings"):
        raise ValueError(
            f"Found a {type(teacher).__name__} with a tokenizer of {kind}; expected an encoder of BERT's kind with "
            "WordPieces. Take another teacher."
        )
    if hidden_size > (most := teacher.config.hidden_size):
        raise ValueError(f"Found --hidden_size {hidden_size}; expected at most {most}, the teacher's. Lower it.")


def most_frequent_pieces(tokenizer: PreTrainedTokenizerBase, texts: Dataset, size: int) -> list[str]:
    """The special tokens, single characters and most frequent WordPieces of some texts, `size` of them.

    Args:
        tokenizer: of WordPieces.
        texts: column `text`.
        size: pieces in all.

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
    kept = list(dict.fromkeys([*special, *letters, *frequent]))[:size]
    order = {name: number for number, name in enumerate(names)}
    return sorted(kept, key=order.__getitem__)


def small_encoder(
    teacher: BertModel, tokenizer: PreTrainedTokenizerBase, pieces: list[str], **sizes: int
) -> tuple[BertModel, PreTrainedTokenizerBase]:
    """An untrained encoder for some pieces of a teacher's vocabulary, and its tokenizer.

    Its embeddings are those of the teacher, projected onto their main directions; the layers are random.

    Args:
        teacher: an encoder with embeddings as BERT's.
        tokenizer: of the teacher.
        pieces: of the new vocabulary.
        **sizes: of `BertConfig`.
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
        for name in ("position_embeddings", "token_type_embeddings"):
            taught = getattr(teacher.embeddings, name).weight.float()
            getattr(encoder.embeddings, name).weight.copy_(taught @ main)
    return encoder, small


class TeacherVectors:
    """What a large encoder says of texts: a batched `map` that adds `label`, its unit vectors `[rows, hidden]`.

    Args:
        name_or_path: an encoder, which says how it pools or is read by its pooler or first token.
        tokenizer: of it.
        training_args: of the run, for the device and whether to compute in bf16.
        max_length: tokens of a text that are read.
    """

    def __init__(
        self,
        name_or_path: str,
        tokenizer: PreTrainedTokenizerBase,
        training_args: TrainingArguments,
        *,
        max_length: int,
    ):
        self.model = BertClsForSequenceClassification.from_encoder(name_or_path, num_labels=1).eval()
        weights = [Hasher.hash(weight.numpy()) for weight in self.model.encoder.state_dict().values()]
        config = self.model.config
        self.name = [weights, config.pooling, config.normalize, Hasher.hash(tokenizer), max_length, training_args.bf16]
        self.width = config.hidden_size
        self.collator, self.tokenizer = WindowCollator(tokenizer), tokenizer
        self.contract = {"max_length": max_length, "overlap": 0, "truncation": "head"}
        self.model.to(training_args.device)
        if training_args.bf16:
            use_bfloat16(self.model.encoder)

    def __call__(self, batch: dict[str, list]) -> dict[str, np.ndarray]:
        tokenized = tokenize_windows({"text": batch["text"]}, tokenizer=self.tokenizer, cleaning=[], **self.contract)
        vectors, _ = vectors_of(self.model, Dataset.from_dict(tokenized), self.collator)
        return {"label": F.normalize(torch.from_numpy(vectors), dim=-1).half().numpy()}

    def __getstate__(self) -> dict:
        return {"name": self.name}  # which the cache of `map` is named after

    def features(self, others: Features) -> Features:
        """Of the rows with their vectors."""
        return Features({**others, "label": Sequence(Value("float16"), length=self.width)})


def cosine_loss(outputs, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None) -> torch.Tensor:
    """One minus the cosine of what the head gives and the teacher's vectors: `compute_loss_func` of Trainer.

    Args:
        outputs: `logits` `[batch, hidden of the teacher]`.
        labels: unit vectors of the same shape.
        num_items_in_batch: values of the labels in the whole optimizer step.
    """
    losses = 1 - F.cosine_similarity(outputs.logits.float(), labels.float(), dim=-1)
    return losses.sum() / (len(labels) if num_items_in_batch is None else num_items_in_batch / labels.shape[1])


def vector_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """`cosine`, the mean one of the student's vectors and the teacher's: `compute_metrics` of Trainer."""
    found, taught = (F.normalize(torch.from_numpy(np.asarray(x, np.float32)), dim=-1) for x in prediction)
    return {"cosine": float((found * taught).sum(-1).mean())}


def student_of(encoder: BertModel, width: int, **contract) -> BertClsForSequenceClassification:
    """An encoder that pools by the mean, with a linear head to the `width` of the teacher's vectors."""
    names = {number: str(number) for number in range(width)}
    labels = {"id2label": names, "label2id": {name: number for number, name in names.items()}}
    kind = {"problem_type": REGRESSION, "pooling": "mean", "classifier_dropout": 0.0, "max_train_windows": 1}
    model = BertClsForSequenceClassification(BertClsConfig(encoder=encoder.config, **labels, **kind, **contract))
    model.encoder = encoder
    return model


def save_sentence_encoder(
    model: BertClsForSequenceClassification,
    state: dict[str, torch.Tensor],
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
) -> None:
    """Writes the encoder of a model alone, with the files by which sentence-embedding checkpoints say how they pool.

    Args:
        model: whose pooling it is.
        state: its weights, as they are to be written.
        tokenizer: written beside.
        folder: where to.
    """
    encoder, prefix = model.encoder, "encoder."
    state = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    encoder.config.dtype = next(iter(state.values())).dtype
    encoder.save_pretrained(folder, state_dict=state)
    open_weights(str(folder))
    tokenizer.save_pretrained(folder)
    names = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens"}
    if model.config.pooling not in names:
        return  # the pooler, which is what is taken where nothing is said
    kind = "sentence_transformers.models."
    modules = [{"idx": 0, "name": "0", "path": "", "type": f"{kind}Transformer"}]
    modules += [{"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{kind}Pooling"}]
    pooling = {"word_embedding_dimension": encoder.config.hidden_size}
    pooling |= {f"pooling_mode_{name}": pooled == model.config.pooling for pooled, name in names.items()}
    for name, content in (("modules.json", modules), ("1_Pooling/config.json", pooling)):
        path = Path(folder, name)
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@finishing()
def finish_encoder(trainer: Trainer, results: dict, *, run_dir: str, started: float, half: bool = True) -> dict:
    """Saves the encoder of a run alone, in its folder `encoder`, and says how to go on.

    Args:
        trainer: that trained.
        results: what is known by now.
        run_dir: folder of the run.
        started: when it began, in seconds of `time.time()`.
        half: write 16 bits.
    """
    state = trainer.accelerator.get_state_dict(trainer.model)
    if not trainer.is_world_process_zero():
        return results
    folder, model = Path(run_dir, "encoder"), trainer.accelerator.unwrap_model(trainer.model)
    state = {name: tensor.half() for name, tensor in state.items()} if half else state
    save_sentence_encoder(model, state, trainer.processing_class, folder)
    write_record(trainer, run_dir=run_dir, started=started)
    results = scores_before(trainer.state.log_history) | results
    write_metrics({"scores": results}, run_dir=run_dir)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    say(f"The encoder is in {folder.as_posix()}, {size / 1e6:.1f} MB. Fine-tune it:")
    say(f"  accelerate launch recipes/sst2_finetune.py --model_name_or_path {folder.as_posix()}")
    return results
