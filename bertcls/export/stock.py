"""A copy of a model that the stock classes of transformers load: for pipelines and servers without remote code."""

from itertools import compress

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from bertcls.inference import Text, TextClassifier
from bertcls.layout import STOCK_FILES
from bertcls.modeling import MULTI_LABEL, REGRESSION, SINGLE_LABEL, BertClsConfig
from bertcls.process import open_weights, remove_files
from bertcls.text import clean_all
from bertcls.tokenization import save_tokenizer

TOLERANCE = 1e-6  # of a probability


def export_stock(run_dir: str, folder: str, texts: list[Text]) -> dict:
    """Writes a model as `BertForSequenceClassification` where that class can hold it, and checks its probabilities.

    The temperature is divided into the classifier, and the tokenizer cuts where the model's windows end. `folder`,
    `<run_dir>/stock`, is written anew; of `texts` those are compared that the stock class reads whole.

    Returns `{"exported": True, "not_carried": [...]}` with what `TextClassifier` does and the copy does not, or
    `{"exported": False, "reason": "..."}`. Without a copy, and after an error, there is no folder.
    """
    remove_files(folder, STOCK_FILES)
    classifier = TextClassifier.from_pretrained(run_dir, device="cpu")
    config = classifier.model.config
    if reason := _obstacle(config):
        return {"exported": False, "reason": reason}
    try:
        _write(classifier, run_dir, folder)
        _check(classifier, folder, texts)
    except BaseException as error:
        remove_files(folder, STOCK_FILES)
        if not isinstance(error, OSError | SafetensorError):
            raise
        raise OSError(
            f"The stock export cannot be written to {folder} ({error}); expected a folder of yours with room for a "
            f"second copy of the model. The model in {run_dir} is whole; make room, and call "
            "bertcls.export.stock.export_stock."
        ) from error
    return {"exported": True, "not_carried": _not_carried(config, classifier.max_length)}


def _obstacle(config: BertClsConfig) -> str | None:
    """Why the stock class cannot hold a model, in a sentence."""
    stock, kind = "BertForSequenceClassification", config.encoder.model_type
    reasons = {
        f"Its encoder is of type {kind!r}, and {stock} holds a BERT.": kind != "bert",
        f"Its pooling is {config.pooling!r}, and {stock} reads the pooler of BERT.": config.pooling != "pooler",
        f"Its vectors are normalized, and those of {stock} are not.": config.normalize,
        f"Its head has a hidden layer, and that of {stock} has none.": config.classifier_hidden_size is not None,
        "It gives numbers, and the export is for labels.": config.problem_type == REGRESSION,
        "Its windows vote, which changes the probabilities of one window, too.": config.window_pooling == "vote",
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _write(classifier: TextClassifier, run_dir: str, folder: str) -> None:
    model, config = classifier.model, classifier.model.config
    own = {name: getattr(config, name) for name in ("id2label", "label2id", "classifier_dropout")}
    own["problem_type"] = config.problem_type or SINGLE_LABEL
    stock = BertForSequenceClassification(BertConfig.from_dict(config.encoder.to_dict() | own))
    stock.bert.load_state_dict(model.encoder.state_dict())
    with torch.no_grad():
        for values, trained in zip(stock.classifier.parameters(), model.classifier.parameters()):
            values.copy_(trained.double() / config.temperature)
    stock.save_pretrained(folder)
    open_weights(folder)
    side = "left" if config.truncation == "tail" else "right"
    tokenizer = AutoTokenizer.from_pretrained(
        run_dir, model_max_length=classifier.max_length, truncation_side=side, trust_remote_code=False
    )
    save_tokenizer(tokenizer, folder)


@torch.inference_mode()
def _check(classifier: TextClassifier, folder: str, texts: list[Text]) -> None:
    """Compares the texts of which both read the same tokens; where all are too long, their beginnings.

    In fp64: fp32 alone is up to 4e-7 apart where texts are padded otherwise (measured on a BERT-base).
    """
    config, pairs = classifier.model.config, classifier.model.config.pair_truncation is not None
    cut_alike = config.pair_truncation == "longest_first" if pairs else config.truncation in ("head", "tail")
    size = classifier.max_length // (4 if pairs else 2)  # characters, which are mostly fewer tokens
    whole = [(text,) if isinstance(text, str) else text for text in texts]
    for parts in filter(None, (whole, [tuple(part[:size] for part in text) for text in whole])):
        candidates = [text if pairs else text[0] for text in parts]
        read = classifier.tokenize(candidates)
        alike = [len(ids) == 1 and (cut_alike or not cut) for ids, cut in zip(read["input_ids"], read["cut"])]
        if any(alike):
            break
    else:
        raise ValueError(
            f"Found {len(texts)} texts, none of one window of {classifier.max_length} tokens; expected at least one "
            "to compare the stock export on. Give a shorter text."
        )
    classifier.model.double()
    expected = classifier.probabilities([*compress(candidates, alike)])
    stock = BertForSequenceClassification.from_pretrained(folder, dtype=torch.float64)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    columns = [clean_all(column, config.cleaning) for column in zip(*compress(parts, alike))]
    logits = stock(**tokenizer(*columns, truncation=True, padding=True, return_tensors="pt")).logits
    found = logits.sigmoid() if stock.config.problem_type == MULTI_LABEL else logits.softmax(-1)
    difference = float(np.abs(found.numpy() - expected).max())
    if not difference <= TOLERANCE or stock.config.id2label != config.id2label:
        raise ValueError(
            f"The stock export of {folder} differs from the model by {difference:.2g} in a probability, with the "
            f"labels {list(stock.config.id2label.values())}; expected at most {TOLERANCE:.0e} and "
            f"{classifier.label_names}. It is removed; the model is whole."
        )


def _not_carried(config: BertClsConfig, max_length: int) -> list[str]:
    """What `TextClassifier` does with a text and the stock classes do not."""
    texts, pairs = (f"{kind} longer than {max_length} tokens are cut" for kind in ("texts", "pairs"))
    longer = f"{pairs} token by token from the longer text, where TextClassifier"
    beyond = {  # by what the model does with long texts, or pairs
        (None, "none"): f"windows: {texts} behind them, where TextClassifier reads all",
        (None, "head_tail"): f"truncation: {texts} behind them, where TextClassifier reads their head and their tail",
        "none": f"windows: {longer} reads all of the second one",
        "only_first": f"truncation: {longer} cuts the first one",
        "only_second": f"truncation: {longer} cuts the second one",
    }
    found = [f"cleaning: {', '.join(config.cleaning)}; apply bertcls.clean to a text first"] if config.cleaning else []
    found += filter(None, [beyond.get(config.pair_truncation or (None, config.truncation))])
    if config.problem_type == MULTI_LABEL:
        numbers = config.thresholds or [0.5] * config.num_labels
        given = ", ".join(f"{config.id2label[label]} {number:.4g}" for label, number in enumerate(numbers))
        found.append(f"thresholds: a label is given from its own probability on ({given}); top_k=None shows all")
    return found
