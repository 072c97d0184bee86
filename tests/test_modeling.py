import contextlib
import copy
import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import TINY
from helpers import ENCODERS, SMALL, build
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    FNetConfig,
)

from bertcls import BertClsConfig, BertClsForSequenceClassification
from bertcls.modeling import _draw_windows


def some_windows(counts: list[int], seq_len: int = 6) -> dict[str, torch.Tensor]:
    """Windows of documents that have `counts` windows each, the last one of a document shorter."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 60, (sum(counts), seq_len), generator=generator)
    mask = torch.ones_like(ids)
    mask[torch.tensor(counts).cumsum(0) - 1, 4:] = 0
    return {
        "input_ids": ids * mask,
        "attention_mask": mask,
        "window_example": torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)),
    }


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("pooling", ["pooler", "cls", "mean", "max"])
def test_every_encoder_trains_saves_and_loads(name, pooling, tmp_path):
    has_pooler = name in ("bert", "roberta", "longformer")
    if pooling == "pooler" and not has_pooler:
        AutoModel.from_config(ENCODERS[name]).save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="has no pooler; use pooling 'cls' or 'mean'"):
            BertClsForSequenceClassification.from_encoder(str(tmp_path), num_labels=3, pooling="pooler")
        return
    model = build(encoder=ENCODERS[name], pooling=pooling)
    inputs = some_windows([1, 3])
    model.train()
    model(**inputs, labels=torch.tensor([0, 2])).loss.backward()
    assert [key for key, parameter in model.named_parameters() if parameter.grad is None] == []  # DDP would wait
    model.eval()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert type(loaded) is BertClsForSequenceClassification
    assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)


def test_pooling_by_hand():
    inputs = some_windows([1, 1])
    hidden = build(pooling="cls").encoder(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state
    real = [hidden[0, :4], hidden[1, :4]]
    expected = {
        "cls": torch.stack([vectors[0] for vectors in real]),
        "mean": torch.stack([vectors.mean(0) for vectors in real]),
        "max": torch.stack([vectors.amax(0) for vectors in real]),
    }
    for pooling, vectors in expected.items():
        model = build(pooling=pooling)
        torch.testing.assert_close(model(**inputs).logits, model.classifier(vectors))


def test_window_pooling_by_hand():
    inputs = some_windows([2, 1, 3])
    parts = ([0, 1], [2], [3, 4, 5])
    model = build(pooling="cls")
    vectors = model.encode_windows({name: inputs[name] for name in ("input_ids", "attention_mask")})
    probabilities = model.classifier(vectors).softmax(-1)
    expected = {
        "mean": model.classifier(torch.stack([vectors[p].mean(0) for p in parts])),
        "max": model.classifier(torch.stack([vectors[p].amax(0) for p in parts])),
        "mean_probs": torch.stack([probabilities[p].mean(0) for p in parts]).log(),
    }
    for how, logits in expected.items():
        model.config.window_pooling = how
        torch.testing.assert_close(model(**inputs).logits, logits)


def test_votes_decide_and_ties_go_to_the_summed_probability():
    model = build(window_pooling="vote", num_labels=2, pooling="cls")
    probabilities = torch.tensor([[0.6, 0.4], [0.1, 0.9], [0.51, 0.49], [0.51, 0.49], [0.01, 0.99]])
    model.head = lambda vectors: probabilities.log()
    logits = model._pool_windows(torch.zeros(5, 32), torch.tensor([0, 0, 1, 1, 1]), 2)
    pooled = logits.softmax(-1)
    assert pooled[0].argmax() == 1  # one vote each, the sum is larger
    assert pooled[1].argmax() == 0  # two votes against one, whatever the confidence
    torch.testing.assert_close(pooled[0], torch.tensor([(1 + 0.35) / 3, (1 + 0.65) / 3]))


def test_multi_label_window_pooling():
    model = build(window_pooling="mean_probs", problem_type="multi_label_classification", pooling="cls")
    inputs = some_windows([2])
    vectors = model.encode_windows({name: inputs[name] for name in ("input_ids", "attention_mask")})
    torch.testing.assert_close(
        model(**inputs).logits.sigmoid()[0], model.classifier(vectors).sigmoid().mean(0), atol=1e-5, rtol=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize("window_pooling", ["mean", "max", "mean_probs", "vote"])
def test_evaluation_does_not_depend_on_slices_padding_or_company(window_pooling):
    model = build(pooling="mean", window_pooling=window_pooling, windows_per_forward=64)
    inputs = some_windows([3, 1, 5])
    together = model(**inputs).logits
    model.config.windows_per_forward, model.config.max_train_windows = 2, 1
    torch.testing.assert_close(model(**inputs).logits, together, atol=1e-5, rtol=1e-5)
    padded = {name: F.pad(inputs[name], (0, 4)) for name in ("input_ids", "attention_mask")}
    torch.testing.assert_close(
        model(**padded, window_example=inputs["window_example"]).logits, together, atol=1e-5, rtol=1e-5
    )
    alone = {name: inputs[name][3:4] for name in ("input_ids", "attention_mask")}
    torch.testing.assert_close(model(**alone).logits[0], together[1], atol=1e-5, rtol=1e-5)


def test_training_draws_windows_from_the_global_generator():
    model = build(max_train_windows=2, pooling="cls", encoder=AutoConfig.for_model("bert", **SMALL))
    inputs = some_windows([5, 1])
    seen = []
    model.encoder.register_forward_hook(
        lambda module, args, kwargs, out: seen.append(kwargs["input_ids"]), with_kwargs=True
    )
    model.train()
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        model(**inputs, labels=torch.tensor([0, 1]))
    assert [len(ids) for ids in seen] == [3, 3, 3]
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])
    assert torch.equal(seen[0][2], inputs["input_ids"][5])  # the short document is whole
    state = torch.get_rng_state()
    kept = _draw_windows(torch.tensor([0, 0, 1]), 2)
    assert kept.tolist() == [0, 1, 2] and torch.equal(torch.get_rng_state(), state)  # nothing drawn, nothing consumed


LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 0.0]])


def test_single_label_loss_by_hand():
    model = build(class_weights=[0.5, 1.0, 3.0])
    labels = torch.tensor([0, 2])
    ce = -LOGITS.log_softmax(-1)[[0, 1], [0, 2]]
    torch.testing.assert_close(model._loss(LOGITS, labels, None), (0.5 * ce[0] + 3.0 * ce[1]) / 2)
    torch.testing.assert_close(model._loss(LOGITS, labels, 10), (0.5 * ce[0] + 3.0 * ce[1]) / 10)
    torch.testing.assert_close(build()._loss(LOGITS, labels, None), F.cross_entropy(LOGITS, labels))


def test_multi_label_and_regression_loss_by_hand():
    labels = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    multi = build(problem_type="multi_label_classification")
    plain = F.binary_cross_entropy_with_logits(LOGITS, labels)
    torch.testing.assert_close(multi._loss(LOGITS, labels, None), plain)
    torch.testing.assert_close(multi._loss(LOGITS, labels, 12), plain * 6 / 12)
    weighted = build(problem_type="multi_label_classification", class_weights=[3.0, 2.0, 0.5])
    positive = torch.where(labels == 1, torch.tensor([3.0, 2.0, 0.5]), 1.0)  # texts without the label keep weight 1
    element = F.binary_cross_entropy_with_logits(LOGITS, labels, reduction="none")
    torch.testing.assert_close(weighted._loss(LOGITS, labels, None), (element * positive).mean())
    regression = build(problem_type="regression", num_labels=1)
    torch.testing.assert_close(
        regression._loss(torch.tensor([[1.0], [3.0]]), torch.tensor([0.0, 0.0]), None), torch.tensor(5.0)
    )


def test_the_loss_of_parts_adds_up_to_the_loss_of_the_whole():
    model = build(class_weights=[0.5, 1.0, 3.0])
    labels = torch.tensor([0, 2])
    parts = sum(model._loss(LOGITS[i : i + 1], labels[i : i + 1], 2) for i in range(2))
    torch.testing.assert_close(parts, model._loss(LOGITS, labels, None))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"class_weights": [1.0]}, "class_weights has 1 values, expected 3"),
        ({"class_weights": [1.0] * 3, "problem_type": "regression"}, "class_weights given for a regression"),
        (
            {"window_pooling": "vote", "problem_type": "multi_label_classification"},
            "window_pooling='vote' found with multi",
        ),
        ({"window_pooling": "mean_probs", "problem_type": "regression"}, "window_pooling='mean_probs' found"),
        ({"pooling": "first"}, "first"),
    ],
)
def test_contradicting_settings_are_refused(settings, message):
    with pytest.raises(StrictDataclassError, match=message):
        BertClsConfig(num_labels=3, **settings)


def test_hidden_layer_and_dropout():
    model = build(classifier_hidden_size=7, classifier_dropout=0.25)
    assert model.dense.out_features == model.classifier.in_features == 7
    assert model.dropout.p == 0.25
    assert build().dropout.p == ENCODERS["bert"].hidden_dropout_prob
    assert model(**some_windows([1, 2])).logits.shape == (2, 3)


def test_from_encoder_keeps_every_pretrained_weight(encoder_folder):
    model = BertClsForSequenceClassification.from_encoder(encoder_folder, id2label={0: "no", 1: "yes"})
    reference = load_file(f"{encoder_folder}/model.safetensors")
    loaded = model.encoder.state_dict()
    assert set(loaded) == set(reference)
    assert all(torch.equal(loaded[key], reference[key]) for key in reference)
    assert model.config.pooling == "pooler"  # auto: the checkpoint holds one
    assert model.config.label2id == {"no": 0, "yes": 1}
    assert model.dtype == torch.float32


def without_pooler(encoder_folder: str, target: Path) -> str:
    shutil.copytree(encoder_folder, target, dirs_exist_ok=True)
    weights = load_file(target / "model.safetensors")
    kept = {key: value for key, value in weights.items() if not key.startswith("pooler")}
    save_file(kept, target / "model.safetensors", metadata={"format": "pt"})
    return str(target)


def test_a_lost_pooler_is_not_replaced_by_a_random_one(encoder_folder, tmp_path):
    folder = without_pooler(encoder_folder, tmp_path)
    with pytest.raises(ValueError, match="holds no pooler weights .* would be random; use pooling 'cls' or 'mean'"):
        BertClsForSequenceClassification.from_encoder(folder, num_labels=2, pooling="pooler")
    model = BertClsForSequenceClassification.from_encoder(folder, num_labels=2)
    assert model.config.pooling == "cls"
    assert getattr(model.encoder, "pooler", None) is None


@contextlib.contextmanager
def transformers_logging_to(caplog):
    logger = logging.getLogger("transformers")  # which does not propagate
    logger.addHandler(caplog.handler)
    try:
        yield
    finally:
        logger.removeHandler(caplog.handler)


def test_an_encoder_that_reads_padding_is_named(tmp_path, caplog):
    AutoModel.from_config(FNetConfig(**{**SMALL, "intermediate_size": 32})).save_pretrained(tmp_path)
    with transformers_logging_to(caplog):
        BertClsForSequenceClassification.from_encoder(str(tmp_path), num_labels=2)
    assert any("FNetModel does not leave padding out" in text for text in caplog.messages)


def test_missing_weights_are_reported_by_name(encoder_folder, tmp_path, caplog):
    shutil.copytree(encoder_folder, tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "model.safetensors")
    gone = "encoder.layer.1.output.dense.weight"
    del weights[gone]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with transformers_logging_to(caplog):
        BertClsForSequenceClassification.from_encoder(str(tmp_path), num_labels=2)
    assert any("1 encoder weights were not found" in text and gone in text for text in caplog.messages)


def test_models_that_cannot_be_loaded_are_named(encoder_folder, tmp_path):
    load = BertClsForSequenceClassification.from_encoder
    with pytest.raises(FileNotFoundError, match="No model found at './nothing'; expected a Hub id or a folder"):
        load("./nothing", num_labels=2)
    with pytest.raises(FileNotFoundError, match="but no weights; expected model.safetensors"):
        load(str(TINY), num_labels=2)
    shutil.copytree(encoder_folder, tmp_path, dirs_exist_ok=True)
    save_file({"other": torch.zeros(1)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="No weight in .* fits a BertModel"):
        load(str(tmp_path), num_labels=2)
    for wrong in ({"num_labels": 3, "id2label": {0: "a", 1: "b"}}, {}):
        with pytest.raises(ValueError, match="expected one of them, or both of one size"):
            load(encoder_folder, **wrong)


def test_the_attention_that_was_asked_for_is_used(encoder_folder):
    for name in ("eager", "sdpa"):
        model = BertClsForSequenceClassification.from_encoder(encoder_folder, num_labels=2, attn_implementation=name)
        assert model.encoder.config._attn_implementation == name


def test_from_scratch_needs_no_weights_and_follows_the_seed():
    models = []
    for _ in range(2):
        torch.manual_seed(3)
        models.append(BertClsForSequenceClassification.from_encoder(str(TINY), num_labels=2, from_scratch=True))
    first, second = (model.state_dict() for model in models)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_saved_classifier_can_start_another_one(tmp_path):
    trained = build(encoder=AutoConfig.for_model("bert", **SMALL), pooling="mean")
    trained.save_pretrained(tmp_path)
    model = BertClsForSequenceClassification.from_encoder(str(tmp_path), num_labels=5)
    assert torch.equal(
        model.encoder.embeddings.word_embeddings.weight, trained.encoder.embeddings.word_embeddings.weight
    )
    assert model.num_labels == 5 and model.config.pooling == "mean"


FRESH = """
import sys, json, torch
if sys.argv[2] == "remote":
    sys.modules["bertcls"] = None  # not importable
else:
    import bertcls
from transformers import AutoModelForSequenceClassification
remote = sys.argv[2] == "remote"
model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1], trust_remote_code=remote).eval()
ids = torch.tensor([[2, 9, 8, 3], [2, 7, 3, 0]])
logits = model(ids, ids.ne(0).long(), window_example=torch.tensor([0, 0])).logits
print(json.dumps({"logits": logits.tolist(), "labels": model.config.id2label, "module": type(model).__module__}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["installed", "remote"])
def test_a_saved_folder_loads_in_a_fresh_process(how, encoder_folder, tmp_path):
    model = BertClsForSequenceClassification.from_encoder(encoder_folder, id2label={0: "bad", 1: "good"}).eval()
    model.save_pretrained(tmp_path / "saved")
    command = [sys.executable, "-c", FRESH, str(tmp_path / "saved"), how]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    answer = json.loads(done.stdout.splitlines()[-1])
    ids = torch.tensor([[2, 9, 8, 3], [2, 7, 3, 0]])
    logits = model(ids, ids.ne(0).long(), window_example=torch.tensor([0, 0])).logits
    assert answer["logits"] == logits.tolist()
    assert answer["labels"] == {"0": "bad", "1": "good"}
    assert answer["module"].startswith("transformers_modules" if how == "remote" else "bertcls")
    for file in (tmp_path / "saved").iterdir():
        assert encoder_folder.encode() not in file.read_bytes()
        assert str(tmp_path).encode() not in file.read_bytes()


@pytest.mark.parametrize("family", ENCODERS)
def test_attention_dropout_reaches_the_attention(family, tmp_path):
    """With every other dropout at 0, training mode is deterministic if and only if attention dropout is 0."""
    config = copy.deepcopy(ENCODERS[family])
    for name in ("hidden_dropout_prob", "dropout", "embedding_dropout", "mlp_dropout"):
        if hasattr(config, name):
            setattr(config, name, 0.0)
    AutoModel.from_config(config).save_pretrained(tmp_path)
    for probability, same in ((0.0, True), (0.5, False)):
        model = BertClsForSequenceClassification.from_encoder(
            str(tmp_path), num_labels=2, pooling="mean", attention_dropout=probability
        )
        batch = {"input_ids": torch.arange(5, 25).view(2, 10), "attention_mask": torch.ones(2, 10, dtype=torch.long)}
        first, second = (model.train().encoder(**batch).last_hidden_state for _ in range(2))
        assert torch.equal(first, second) is same


def test_an_encoder_without_attention_dropout_is_refused(tmp_path):
    AutoConfig.for_model("fnet", **{k: v for k, v in SMALL.items() if "heads" not in k}).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="attention_dropout 0.1 found, but a fnet encoder has no such setting"):
        BertClsForSequenceClassification.from_encoder(
            str(tmp_path), num_labels=2, from_scratch=True, attention_dropout=0.1
        )


def test_a_model_that_is_gone_on_with_pools_as_it_did(tmp_path):
    build(pooling="max", normalize=True).save_pretrained(tmp_path)
    again = BertClsForSequenceClassification.from_encoder(str(tmp_path), num_labels=2)
    assert (again.config.pooling, again.config.normalize) == ("max", True)
    other = BertClsForSequenceClassification.from_encoder(str(tmp_path), num_labels=2, pooling="cls")
    assert (other.config.pooling, other.config.normalize) == ("cls", False)
    scratch = BertClsForSequenceClassification.from_encoder(str(tmp_path), num_labels=2, from_scratch=True)
    assert (scratch.config.pooling, scratch.config.normalize) == ("cls", False)
