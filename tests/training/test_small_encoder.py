import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SAMPLE, TINY, load_recipe
from datasets import Dataset, DatasetDict
from helpers import SMALL, run_recipe_main
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    DistilBertConfig,
    DistilBertModel,
    EvalPrediction,
    TrainingArguments,
)

from bertcls import BertClsForSequenceClassification, TextClassifier, tokenize_splits
from bertcls.modeling import declared_pooling
from bertcls.training.contrastive import TwoMasks
from bertcls.training.launch import parse
from bertcls.training.masking import IGNORED
from bertcls.training.mlm import declare_pooling
from bertcls.training.small_encoder import (
    MeanCosine,
    TeacherVectors,
    TokenCollator,
    check_teacher,
    cut_passages,
    most_frequent_pieces,
    small_encoder,
    student_of,
    vector_loss,
)


def run(recipe, folder, *words):
    words = ["--sample", "--output_dir", str(folder), *words]
    return recipe.main(*parse(recipe.Arguments, words, defaults=recipe.DEFAULTS, sample=recipe.SAMPLE))


TOKENIZER = AutoTokenizer.from_pretrained(TINY)
TEXTS = Dataset.from_dict({"text": ["The film is good.", "A dull plot, and the film ends badly.", "The film."]})


def test_sentences_of_any_script_and_some_texts_whole():
    texts = ['He said: "It rains." They went home? Yes.', "你好吗。我很好！", "No end here"] * 10
    assert cut_passages({"text": ["你好吗。", "我很好！"]}, cleaning=[])["text"] == ["你好吗。", "我很好！"]
    assert cut_passages({"text": ["Oh no"]}, cleaning=[])["text"] == ["Oh no"]  # else there were none
    passages = cut_passages({"text": texts}, cleaning=[], words=(1, 100))["text"]
    assert passages[:5] == ['He said: "It rains.', "They went home?", "Yes.", "你好吗。", "我很好！"]
    assert passages[-3:] == texts[9::10]


def test_the_small_vocabulary_has_every_letter_and_what_is_most_frequent():
    pieces = most_frequent_pieces(TOKENIZER, TEXTS, 72)
    assert len(pieces) == 72 and {*TOKENIZER.all_special_tokens, "a", "##z", "film", "the"} <= {*pieces}
    with pytest.raises(ValueError, match="vocabulary of 20 pieces"):
        most_frequent_pieces(TOKENIZER, TEXTS, 20)


def test_the_teacher_reads_the_tokens_of_the_small_one_and_its_answers_are_named_by_its_weights(
    encoder_folder, tmp_path
):
    args = TrainingArguments(output_dir=str(tmp_path / "run"), use_cpu=True, bf16=False)
    large = AutoModel.from_pretrained(encoder_folder).eval()
    pieces = most_frequent_pieces(TOKENIZER, TEXTS, 72)
    numbers = TOKENIZER.convert_tokens_to_ids(pieces)
    encoder, small = small_encoder(
        large, TOKENIZER, pieces, hidden_size=32, num_hidden_layers=1, num_attention_heads=1
    )
    rows, contract = tokenize_splits(DatasetDict(train=TEXTS), small, max_length=16, truncation="head")
    taught = rows["train"].map(TeacherVectors(large, numbers, args), batched=True)
    for tokenized in (rows, TeacherVectors(large, numbers, args).add_to(rows)):
        assert type(tokenized["train"]["length"]) is list
    batch = TokenCollator(small, large.config.hidden_size)([taught[row] for row in range(3)])
    for row, windows in enumerate(taught["input_ids"]):
        ids = TOKENIZER.convert_tokens_to_ids(small.convert_ids_to_tokens(windows[0]))
        with torch.no_grad():
            expected = large(input_ids=torch.tensor([ids])).last_hidden_state[0]
        torch.testing.assert_close(batch["labels"][row, : len(ids)].float(), expected, atol=2e-2, rtol=0)
        assert (batch["labels"][row, len(ids) :] == IGNORED).all()
    assert batch["labels"].shape[:2] == batch["input_ids"].shape
    found = student_of(encoder, TeacherVectors(large, numbers, args), **contract)(batch["input_ids"])["logits"]
    assert found.shape == batch["labels"].shape

    def named(teacher, numbers) -> str:
        return rows["train"].map(TeacherVectors(teacher, numbers, args), batched=True)._fingerprint

    other = AutoModel.from_pretrained(encoder_folder)
    other.embeddings.LayerNorm.bias.data += 0.01
    assert named(large, numbers) == taught._fingerprint
    assert len({named(large, numbers), named(large, numbers[::-1]), named(other, numbers)}) == 3


def test_a_teacher_that_does_not_fit_is_one_line(encoder_folder, capsys):
    model = BertClsForSequenceClassification.from_encoder(encoder_folder, num_labels=1)
    assert check_teacher(model, TOKENIZER, model.config.hidden_size) is model.encoder
    assert "The teacher pools by 'pooler'; the small encoder learns its tokens" in capsys.readouterr().out
    with pytest.raises(ValueError, match="Found --hidden_size 512; expected at most"):
        check_teacher(model, TOKENIZER, 512)
    for encoder in (
        DistilBertModel(DistilBertConfig(vocab_size=50, dim=8, n_heads=2, n_layers=1)),
        AutoModel.from_config(AutoConfig.for_model("roformer", **SMALL, embedding_size=32)),
    ):
        model.encoder = encoder
        with pytest.raises(ValueError, match=f"Found a {type(encoder).__name__} with a tokenizer of WordPiece"):
            check_teacher(model, TOKENIZER, 8)
    model.encoder = AutoModel.from_config(AutoConfig.for_model("electra", **SMALL, embedding_size=16))
    with pytest.raises(ValueError, match="Found --hidden_size 32; expected at most 16, the teacher's"):
        check_teacher(model, TOKENIZER, 32)


def test_the_loss_is_that_of_the_whole_step_in_parts_and_knows_no_padding():
    found, labels = torch.randn(4, 3, 5), torch.randn(4, 3, 5)
    labels[0, 1:] = labels[2, 2:] = IGNORED
    whole = vector_loss({"logits": found}, labels)
    filled = found.masked_fill(labels == IGNORED, 7.0)
    torch.testing.assert_close(vector_loss({"logits": filled}, labels), whole, atol=1e-6, rtol=0)
    values = (labels != IGNORED).sum()
    parts = [vector_loss({"logits": found[rows]}, labels[rows], values) for rows in (slice(0, 1), slice(1, 4))]
    torch.testing.assert_close(sum(parts), whole, atol=1e-6, rtol=0)
    assert vector_loss({"logits": 3 * labels.masked_fill(labels == IGNORED, 0.0)}, labels).abs() < 1e-6
    cosine = MeanCosine()
    assert cosine(EvalPrediction(found[:1], labels[:1]), compute_result=False) == {}
    mean = cosine(EvalPrediction(found[1:], labels[1:]), compute_result=True)["cosine"]
    means = [(x[:n].mean(0), y[:n].mean(0)) for x, y, n in zip(found, labels, (1, 3, 2, 3))]
    assert mean == pytest.approx(np.mean([torch.cosine_similarity(x, y, dim=0) for x, y in means]), abs=1e-5)


def test_two_masks_stand_side_by_side():
    rows = [{"input_ids": [[2, 5, 3]], "attention_mask": [[1, 1, 1]], "example_id": number} for number in (7, 9)]
    batch = TwoMasks(TOKENIZER)(rows)
    assert batch["labels"].tolist() == [7, 7, 9, 9] and batch["input_ids"].shape == (4, 3)


@pytest.mark.slow
def test_a_small_encoder_comes_near_its_teacher_and_is_one_like_any_other(tmp_path, encoder_folder):
    teacher = ["--dataset_name", str(SAMPLE), "--model_name_or_path", encoder_folder]
    teacher += ["--max_length", "32", "--vocab_size", "400", "--hidden_size", "32", "--learning_rate", "3e-3"]
    results = run(load_recipe("encoder_distill"), tmp_path / "small", *teacher)
    assert results["eval_cosine"] > results["before_cosine"] + 0.2
    folder = tmp_path / "small" / "encoder"
    encoder = AutoModel.from_pretrained(folder)
    assert encoder.config.hidden_size == 32 and not encoder.config.is_decoder
    assert encoder.config.hidden_dropout_prob == 0.1  # of fine-tuning; it learnt without
    assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {torch.float16}
    assert "pooling_mode_mean_tokens" in json.loads(Path(folder, "1_Pooling", "config.json").read_text())
    model = BertClsForSequenceClassification.from_encoder(str(folder), num_labels=2)
    assert model.config.pooling == "mean" and model.encoder.dtype == torch.float32
    run_recipe_main(
        load_recipe("sst2_finetune"),
        tmp_path / "tuned",
        *["--model_name_or_path", str(folder), "--dataset_name", str(SAMPLE), "--num_train_epochs", "1"],
    )
    assert len(TextClassifier.from_pretrained(str(tmp_path / "tuned")).predict(["good", "bad"])) == 2


@pytest.mark.slow
def test_contrast_without_labels_brings_the_masks_of_a_text_together(tmp_path, encoder_folder):
    words = [
        "--model_name_or_path",
        str(tmp_path / "start"),
        "--objective",
        "contrast",
        "--from_scratch",
        "false",
        "--num_train_epochs",
        "1",
    ]
    start = shutil.copytree(encoder_folder, tmp_path / "start")
    declare_pooling(start, "mean", True, width=8)
    results = run(load_recipe("imdb_mlm_pretrain"), tmp_path / "contrast", *words)
    assert 0 < results["train_loss"] < np.log(64) + 1  # of a random encoder; nothing is learnt in an epoch
    folder = str(tmp_path / "contrast" / "encoder")
    assert AutoModel.from_pretrained(folder).config.hidden_size and declared_pooling(folder) == ("mean", True)
