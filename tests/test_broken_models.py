"""Model folders and encoders that are broken or of another kind: the same answer as before, or one line."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, load_recipe
from datasets import Dataset, DatasetDict
from helpers import build, save_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoTokenizer

from bertcls import (
    BertClsConfig,
    BertClsForSequenceClassification,
    TextClassifier,
    clean,
    load_tokenizer,
    tokenize_splits,
)
from bertcls.audit import audit_splits, format_audit
from bertcls.text import STEPS, load_steps
from bertcls.training.mlm import load_masked_lm
from bertcls.training.options import parse_options

TEXTS = ["good film", "never bad", "dull, dull"]
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 439101405\n"


@pytest.fixture(scope="module")
def model(encoder_folder, tmp_path_factory) -> str:
    return save_model(encoder_folder, tmp_path_factory.mktemp("model"), cleaning=["collapse_blanks"])


@pytest.fixture(scope="module")
def answers(model) -> np.ndarray:
    return TextClassifier.from_pretrained(model, device="cpu").probabilities(TEXTS)


def same_or_one_line(folder: Path, answers: np.ndarray) -> None:
    try:
        found = TextClassifier.from_pretrained(str(folder), device="cpu").probabilities(TEXTS)
    except (OSError, ValueError, TypeError) as error:
        assert len(str(error)) < 2000
    else:
        np.testing.assert_allclose(found, answers, atol=1e-5)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"])
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(how=st.sampled_from(["cut", "empty", "pointer", "zeros", "gone"]), share=st.floats(0.01, 0.99))
def test_a_file_that_is_not_whole(model, answers, tmp_path_factory, name, how, share):
    folder = Path(shutil.copytree(model, tmp_path_factory.mktemp("broken") / "model"))
    content = (folder / name).read_bytes()
    broken = {"cut": content[: int(share * len(content))], "empty": b"", "pointer": POINTER}
    broken["zeros"] = content[: int(share * len(content))].ljust(len(content), b"\0")
    if how == "gone":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(broken[how])
    if how == "zeros" and name == "model.safetensors":
        return  # numbers as good as any; what a run resumes from has its checksums
    same_or_one_line(folder, answers)


@pytest.mark.parametrize("how", ["cut", "pointer", "another shape"])
def test_weights_that_cannot_be_read_are_named_wherever_they_are_loaded(model, encoder_folder, tmp_path, how):
    loads = {
        model: TextClassifier.from_pretrained,
        encoder_folder: lambda name: BertClsForSequenceClassification.from_encoder(name, num_labels=2),
        str(encoder_folder): load_masked_lm,
    }
    for number, (source, load) in enumerate(loads.items()):
        folder = Path(shutil.copytree(source, tmp_path / str(number)))
        path = folder / "model.safetensors"
        if how == "another shape":
            tensors = load_file(path)
            name = next(name for name in tensors if name.endswith("word_embeddings.weight"))
            save_file(tensors | {name: torch.zeros(5, 7)}, path, metadata={"format": "pt"})
        else:
            path.write_bytes(path.read_bytes()[:5000] if how == "cut" else POINTER)
        with pytest.raises(ValueError, match="The weights in .* cannot be read .*Copy it again"):
            load(str(folder))


def test_numbers_that_are_not_finite_are_no_answer(model, tmp_path):
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    tensors = load_file(folder / "model.safetensors")
    tensors["classifier.bias"][0] = math.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="not finite; expected numbers"):
        TextClassifier.from_pretrained(str(folder)).predict("good")


@pytest.mark.parametrize(
    "changed",
    [
        {"temperature": -1},
        {"temperature": 0},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"temperature": 1e18},
        {"temperature": 1e-310},
        {"label_scale": 0.0},
        {"label_scale": math.inf, "problem_type": "regression"},
        {"label_mean": math.inf, "problem_type": "regression"},
        {"thresholds": [0.5, math.nan], "problem_type": "multi_label_classification"},
        {"thresholds": [0.5, "0.5"], "problem_type": "multi_label_classification"},
        {"class_weights": [1.0, -2.0]},
        {"windows_per_forward": 0},
        {"max_train_windows": 0},
        {"max_length": 0},
        {"id2label": {0: "good", 1: "good"}},
        {"id2label": {0: "good", 2: "bad"}},
        {"id2label": {0: "good", 1: "\ud83d"}},
    ],
)
def test_values_that_mean_nothing_are_refused(model, tmp_path, changed):
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text()) | changed
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"{next(iter(changed))} .*expected"):
        TextClassifier.from_pretrained(str(folder))


def test_all_values_that_a_recipe_stores_are_taken():
    build(num_labels=2, class_weights=[0, 1.5], temperature=1, thresholds=None, label_mean=-3, max_train_windows=None)
    build(num_labels=2, problem_type="multi_label_classification", thresholds=[0.0, 1])


def save_tokenizer(folder: Path, **changed) -> None:
    AutoTokenizer.from_pretrained(TINY).save_pretrained(folder)
    save_config(folder, **changed)


def save_config(folder: Path, **changed) -> None:
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config = {name: value for name, value in (config | changed).items() if value is not None}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("family", ["t5", "bart", "gpt2", "modernbert-decoder", "bert"])
def test_an_encoder_with_a_decoder_is_refused(tmp_path, family):
    save_tokenizer(tmp_path)
    size = len(AutoTokenizer.from_pretrained(TINY))
    sized = {"d_model": 32} if family in ("t5", "bart") else {"is_decoder": True} if family == "bert" else {}
    AutoConfig.for_model(family, vocab_size=size, **sized).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="which has a decoder; expected an encoder"):
        BertClsForSequenceClassification.from_encoder(str(tmp_path), num_labels=2)
    if family in ("t5", "bart"):
        with pytest.raises(ValueError, match="which has a decoder; expected an encoder"):
            load_tokenizer(str(tmp_path))


def test_a_padding_token_that_is_only_in_the_vocabulary_is_taken(encoder_folder, tmp_path):
    folder = Path(shutil.copytree(encoder_folder, tmp_path / "model"))
    save_tokenizer(folder, pad_token=None)
    assert load_tokenizer(str(folder)).pad_token == "[PAD]"
    content = (folder / "tokenizer.json").read_text().replace("[PAD]", "[XYZ]")
    (folder / "tokenizer.json").write_text(content)
    save_config(folder, tokenizer_class="PreTrainedTokenizerFast")
    with pytest.raises(ValueError, match="no token for padding"):
        load_tokenizer(str(folder))


def test_a_tokenizer_whose_first_token_does_not_stand_for_the_text_is_refused(encoder_folder, tmp_path):
    folder = Path(shutil.copytree(encoder_folder, tmp_path / "model"))
    content = json.loads((folder / "tokenizer.json").read_text())
    content["post_processor"]["single"].append(content["post_processor"]["single"].pop(0))  # as XLNet has it
    (folder / "tokenizer.json").write_text(json.dumps(content))
    save_config(folder, tokenizer_class="PreTrainedTokenizerFast")
    with pytest.raises(ValueError, match="CLS. not at the start"):
        load_tokenizer(str(folder))


def test_relative_positions_have_no_end(tmp_path):
    save_tokenizer(tmp_path, model_max_length=None)
    config = AutoConfig.for_model(
        "deberta-v2",
        vocab_size=len(AutoTokenizer.from_pretrained(TINY)),
        hidden_size=32,
        num_attention_heads=2,
        num_hidden_layers=1,
        intermediate_size=32,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        max_position_embeddings=512,
    )
    AutoModel.from_config(config).save_pretrained(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path))
    assert tokenizer.model_max_length > 10_000
    model = BertClsForSequenceClassification.from_encoder(str(tmp_path), num_labels=2, max_length=900, overlap=0)
    (encoded,) = TextClassifier(model, tokenizer).encode(["film " * 890])
    assert encoded.size == (1, 892) and TextClassifier(model, tokenizer).predict_encoded([encoded])


def test_texts_that_the_encoder_cannot_read_are_said(tokenizer):
    unread = [f"{''.join(map(chr, range(0x1200 + n, 0x1240 + n)))} \u1361 {n}" for n in range(40)]
    rows = {"text": unread, "label": [0, 1] * 20, "example_id": list(range(40))}
    found = audit_splits(DatasetDict(train=Dataset.from_dict(rows)), tokenizer=tokenizer)
    assert found["unknown"]["train"] > 0.5
    assert "UNKNOWN: " in format_audit(found) and "--model_name_or_path" in format_audit(found)
    rows["text"] = ["a good film"] * 40
    found = audit_splits(DatasetDict(train=Dataset.from_dict(rows)), tokenizer=tokenizer)
    assert found["unknown"]["train"] < 0.1 and "UNKNOWN" not in format_audit(found)


STEP = "import re\nFOUND = re.compile('x')\ndef {name}(text: str) -> str:\n    return text.replace('{old}', '{new}')\n"


@pytest.fixture
def steps_file(tmp_path, monkeypatch):
    for name in ("my_step", "mine"):  # what a test adds goes again
        monkeypatch.setitem(STEPS, name, None)
        del STEPS[name]
    path = tmp_path / "my_steps.py"
    path.write_text(STEP.format(name="my_step", old="dull", new="good"))
    return path


def test_a_model_with_a_step_of_ones_own_names_it_where_it_is_missing(model, tmp_path, steps_file, capsys):
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text()) | {"cleaning": ["my_step"]}
    (folder / "config.json").write_text(json.dumps(config))
    recipe = load_recipe("predict")
    words = ["--model_name_or_path", str(folder), "--text", "dull"]
    with pytest.raises(ValueError, match="Found the cleaning step 'my_step'; expected one of .* --steps FILE.py"):
        recipe.main(parse_options(recipe.Arguments, words, description=""))
    recipe.main(parse_options(recipe.Arguments, [*words, "--steps", str(steps_file)], description=""))
    assert TextClassifier.from_pretrained(model).predict("good")[0].label in capsys.readouterr().out
    with pytest.raises(ValueError, match="Found the cleaning step 'other'"):
        TextClassifier.from_pretrained(model, steps={"mine": str.lower})
        clean("x", ["mine", "other"])


@pytest.mark.parametrize("content", [None, "import", "x = 1\n", "raise SystemExit(0)\n", "def _hidden(text): ...\n"])
def test_a_file_of_steps_that_brings_none_is_refused(tmp_path, content):
    path = tmp_path / "steps.py"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match="--steps .*steps.py.*Co|--steps .*steps.py; expected"):
        load_steps(str(path))


def test_an_edited_step_is_not_answered_from_the_cache(tokenizer, steps_file, tmp_path):
    Dataset.from_dict({"text": ["dull", "good"], "label": [0, 1], "example_id": [0, 1]}).save_to_disk(
        tmp_path / "rows"
    )
    splits = DatasetDict(train=Dataset.load_from_disk(tmp_path / "rows"))
    seen = []
    for new in ("good", "bad"):
        steps_file.write_text(STEP.format(name="my_step", old="dull", new=new))
        load_steps(str(steps_file))
        tokenized, contract = tokenize_splits(splits, tokenizer, max_length=16, cleaning=["my_step"])
        seen.append(tokenizer.decode(tokenized["train"]["input_ids"][0][0], skip_special_tokens=True))
    assert seen == ["good", "bad"] and contract["cleaning"] == ["my_step"]
    assert BertClsConfig(**contract, num_labels=2).cleaning == ["my_step"]


def test_another_vocabulary_of_as_many_tokens_is_refused(encoder_folder, tmp_path):
    tokenizer = load_tokenizer(encoder_folder)
    rows = Dataset.from_dict({"text": TEXTS, "label": [0, 1, 0], "example_id": [0, 1, 2]})
    contract = tokenize_splits(DatasetDict(train=rows), tokenizer)[1]
    folder = Path(save_model(encoder_folder, tmp_path, vocabulary=contract["vocabulary"]))
    TextClassifier.from_pretrained(str(folder), device="cpu")
    content = json.loads((folder / "tokenizer.json").read_text())
    known = content["model"]["vocab"]
    known["good"], known["bad"] = known["bad"], known["good"]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="another vocabulary than the model was trained with"):
        TextClassifier.from_pretrained(str(folder), device="cpu")


def test_a_length_that_is_no_number_and_a_token_that_is_missing(encoder_folder, tmp_path):
    folder = Path(shutil.copytree(encoder_folder, tmp_path / "model"))
    save_config(folder, model_max_length="512")
    with pytest.raises(ValueError, match="cannot read texts .*; expected its whole files"):
        load_tokenizer(str(folder))
    save_tokenizer(folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"]["[NONE]"] = content["model"]["vocab"].pop("[UNK]")
    content["added_tokens"] = [one for one in content["added_tokens"] if one["content"] != "[UNK]"]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    save_config(folder, tokenizer_class="PreTrainedTokenizerFast", unk_token=None)
    with pytest.raises(ValueError, match="cannot read texts"):
        load_tokenizer(str(folder))


def test_a_quantized_model_is_one_line(model, tmp_path):
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="needs a package: .* Install it"):
        TextClassifier.from_pretrained(str(folder), device="cpu")


def test_a_long_text_read_in_parts_has_no_answer_that_is_not_finite(model, tmp_path):
    classifier = TextClassifier.from_pretrained(model, device="cpu")
    (encoded,) = classifier.encode(["good " * 300])
    vectors = classifier.window_vectors(encoded).clone()
    classifier.predict_vectors(encoded, vectors)
    vectors[0, 0] = math.nan
    with pytest.raises(ValueError, match="logits that are not finite"):
        classifier.predict_vectors(encoded, vectors)
