"""Other engines than torch in fp32 give the same answers, or answers as near as they promise."""

import builtins
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import ROOT, SAMPLE, TINY, load_recipe
from transformers import AutoConfig, AutoTokenizer, DistilBertConfig, PretrainedConfig, RobertaConfig

from bertcls import BertClsConfig, BertClsForSequenceClassification, TextClassifier, export_onnx
from bertcls.backends import DTYPES
from bertcls.export import onnx as export_module
from bertcls.layout import ONNX_FILES

pytestmark = pytest.mark.slow  # exports take seconds
TEXTS = ["A dull film.", "", "The plot is thin, but the cast saves it. " * 12, "good", "Never dull, always good. " * 4]
LABELS = {0: "bad", 1: "good", 2: "mixed"}
SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"
CASES = {  # each pooling, window pooling and problem type at least once
    "mean, temperature": dict(pooling="mean", window_pooling="mean", problem_type=SINGLE, temperature=1.7),
    "pooler, hidden layer": dict(
        pooling="pooler", window_pooling="max", problem_type=SINGLE, classifier_hidden_size=8
    ),
    "max, several labels": dict(pooling="max", window_pooling="mean_probs", problem_type=MULTI),
    "cls, vote": dict(pooling="cls", window_pooling="vote", problem_type=SINGLE),
    "regression": dict(
        pooling="cls",
        window_pooling="mean",
        problem_type=REGRESSION,
        id2label={0: "stars"},
        label_scale=3,
        label_mean=5,
    ),
    "pairs": dict(pooling="mean", window_pooling="mean_probs", problem_type=SINGLE, pair_truncation="none"),
}


def build_run(folder: Path, encoder: PretrainedConfig | None = None, **settings) -> str:
    """A run's folder with a one-layer model that tells texts apart."""
    torch.manual_seed(1)
    encoder = encoder or AutoConfig.from_pretrained(TINY, num_hidden_layers=1)
    settings = {"id2label": LABELS, "max_length": 32, "overlap": 6, **settings}
    model = BertClsForSequenceClassification(BertClsConfig(encoder=encoder, **settings))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6 if parameter.dim() == 2 else 1)  # random weights of a new BERT hardly look at the text
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(TINY).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """By case the folders of a run and of its export; exported once."""
    done = {}

    def export_case(case: str) -> tuple[str, str]:
        if case not in done:
            folder = tmp_path_factory.mktemp("run")
            done[case] = build_run(folder, **CASES[case]), str(folder / "onnx")
            with pytest.MonkeyPatch.context() as patch:
                if case == "cls, vote":
                    patch.setattr(export_module, "ONE_FILE_BYTES", 0)  # as if it were a very large model
                export_onnx(*done[case], int8=case in ("mean, temperature", "cls, vote"))
        return done[case]

    return export_case


@pytest.fixture(scope="module")
def plain(exported) -> tuple[str, str]:
    return exported("mean, temperature")


def test_an_encoder_of_one_token_type_reads_pairs_of_a_bert_tokenizer(tmp_path):
    sizes = AutoConfig.from_pretrained(TINY).to_dict()
    names = ("hidden_size", "num_attention_heads", "intermediate_size", "vocab_size", "pad_token_id")
    encoder = RobertaConfig(num_hidden_layers=1, type_vocab_size=1, **{name: sizes[name] for name in names})
    run = build_run(tmp_path / "run", encoder=encoder, **CASES["pairs"])
    pairs = [("A film.", text) for text in TEXTS]
    expected = TextClassifier.from_pretrained(run).probabilities(pairs)
    export_onnx(run, str(tmp_path / "onnx"))
    found = TextClassifier.from_pretrained(str(tmp_path / "onnx"), "onnx").probabilities(pairs)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_onnx_answers_like_torch(case, exported):
    run, folder = exported(case)
    torch_model, onnx_model = TextClassifier.from_pretrained(run), TextClassifier.from_pretrained(folder, "onnx")
    texts = [("A film.", text) for text in TEXTS] if "pair_truncation" in CASES[case] else TEXTS
    logits, windows = torch_model.logits_with_windows(texts)
    expected, windows = torch_model.to_probabilities(logits), [*map(torch_model.to_probabilities, windows)]
    assert max(map(len, windows)) > 4 and min(map(len, windows)) == 1
    assert np.ptp(expected, axis=0).max() > 0.01
    found, found_windows = onnx_model.logits_with_windows(texts)
    found, found_windows = onnx_model.to_probabilities(found), [*map(onnx_model.to_probabilities, found_windows)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(np.concatenate(found_windows), np.concatenate(windows), rtol=0, atol=1e-5)
    inputs = onnx_model.collator([one.columns for one in onnx_model.encode(texts)])
    pooled = onnx_model.model(**inputs).logits.numpy()  # in model.onnx itself, for other programs
    np.testing.assert_allclose(onnx_model.to_probabilities(pooled), expected, rtol=0, atol=1e-5)
    answers = onnx_model.predict(texts, windows=True)
    assert [answer.label for answer in answers] == [answer.label for answer in torch_model.predict(texts)] or (
        CASES[case]["problem_type"] == REGRESSION
    )
    assert [len(answer.windows) for answer in answers] == [len(rows) for rows in windows]


@pytest.mark.parametrize(
    "settings",
    [
        dict(pooling=pooling, window_pooling=window_pooling, problem_type=kind, classifier_hidden_size=hidden)
        for pooling in ("pooler", "cls", "mean", "max")
        for window_pooling in ("mean", "max", "mean_probs", "vote")
        for kind in (SINGLE, MULTI, REGRESSION)
        for hidden in (None, 8)
        if not (window_pooling == "vote" and kind != SINGLE or window_pooling == "mean_probs" and kind == REGRESSION)
    ],
    ids=lambda settings: "-".join(str(value) for value in settings.values()),
)
def test_what_is_exported_computes_like_the_model(settings, tokenizer):
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(TINY, num_hidden_layers=1)
    model = BertClsForSequenceClassification(BertClsConfig(encoder=config, id2label=LABELS, **settings)).eval()
    torch.nn.init.normal_(model.classifier.weight)
    ids = torch.randint(200, (6, 10))
    mask = (torch.arange(10) < torch.tensor([10, 3, 7, 10, 5, 2]).unsqueeze(-1)).long()
    with torch.no_grad():
        inputs = {"input_ids": ids, "attention_mask": mask}
        found = export_module._Documents(model)(inputs, torch.tensor([1, 3, 2]))
        expected = model(ids, mask, window_example=torch.tensor([0, 1, 1, 1, 2, 2]), return_window_logits=True)
    torch.testing.assert_close(found[0], expected.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[1], expected.window_logits, rtol=1e-5, atol=1e-5)


def test_the_folder_is_self_contained(plain, tmp_path):
    run, folder = plain
    names = {"config.json", "model.onnx", "model_int8.onnx", "pooling.onnx", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in Path(folder).iterdir()} == names
    shutil.copytree(folder, tmp_path / "moved")
    for path in (tmp_path / "moved").glob("*.json"):
        assert run not in path.read_text()
    for path in (tmp_path / "moved").glob("*.onnx"):
        assert not [
            word for word in (b"stack_trace", b"site-packages", str(ROOT).encode()) if word in path.read_bytes()
        ]
    expected = TextClassifier.from_pretrained(run).predict(TEXTS)
    found = TextClassifier.from_pretrained(str(tmp_path / "moved"), "onnx").predict(TEXTS)
    assert [answer.label for answer in found] == [answer.label for answer in expected]
    config = json.loads((tmp_path / "moved" / "config.json").read_text())
    assert config["temperature"] == 1.7 and config["max_length"] == 32 and config["id2label"]["2"] == "mixed"


def test_shapes_are_dynamic_and_the_weights_lie_once_in_the_file(plain):
    run, folder = plain
    graph = onnx.load(Path(folder, "model.onnx")).graph
    shapes = {
        value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in [*graph.input, *graph.output]
    }
    assert shapes["input_ids"] == shapes["attention_mask"] == shapes["token_type_ids"] == ["windows", "tokens"]
    assert shapes["window_counts"] == ["texts"] and shapes["logits"] == ["texts", 3]
    assert shapes["window_logits"] == ["windows", 3]
    sizes = [Path(folder, "model.onnx").stat().st_size, Path(run, "model.safetensors").stat().st_size]
    assert sizes[0] < 1.3 * sizes[1]


def test_int8_is_near_and_its_head_stays_in_fp32(plain):
    run, folder = plain
    exact = TextClassifier.from_pretrained(run)
    logits = exact.logits(TEXTS)
    found = TextClassifier.from_pretrained(folder, "onnx", dtype="int8").logits(TEXTS)
    assert 1e-5 < np.abs(found - logits).max() < 0.3 * np.ptp(logits)
    assert found.dtype == np.float32
    quantized = onnx.load(Path(folder, "model_int8.onnx")).graph
    assert len([node for node in quantized.node if node.op_type == "MatMulInteger"]) == 6  # of the only layer
    kept = [onnx.numpy_helper.to_array(weight) for weight in quantized.initializer]
    classifier = exact.model.classifier.weight.detach().numpy()
    assert any(
        weight.shape in (classifier.shape, classifier.T.shape) and weight.dtype == np.float32 for weight in kept
    )


def test_bf16_converts_the_encoder_alone(plain):
    exact = TextClassifier.from_pretrained(plain[0])
    classifier, seen = TextClassifier.from_pretrained(plain[0], dtype="bfloat16"), []
    classifier.model.classifier.register_forward_hook(lambda _, inputs, out: seen.extend([*inputs, out]))
    found = classifier.probabilities(TEXTS)
    assert seen and {tensor.dtype for tensor in seen} == {torch.float32}
    assert 1e-6 < np.abs(found - exact.probabilities(TEXTS)).max() < 0.1
    assert {parameter.dtype for parameter in classifier.model.encoder.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in exact.model.parameters()} == {torch.float32}


def test_torch_weights_are_not_read_for_onnx(plain, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("torch weights were loaded")

    monkeypatch.setattr(BertClsForSequenceClassification, "from_pretrained", refuse)
    classifier = TextClassifier.from_pretrained(plain[1], "onnx")
    assert len(classifier.predict("good")) == 1 and list(classifier.model.parameters()) == []


def test_requests_of_short_texts_can_be_laid_end_to_end(plain):
    classifier = TextClassifier.from_pretrained(plain[1], "onnx")
    ids = np.random.default_rng(0).integers(5, 200, (3, 9))
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    together = classifier.model.session.run(["logits"], {**inputs, "window_counts": np.ones(3, np.int64)})[0]
    alone = [
        classifier.model.session.run(
            ["logits"],
            {**{name: array[[row]] for name, array in inputs.items()}, "window_counts": np.ones(1, np.int64)},
        )[0]
        for row in range(3)
    ]
    np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_the_readme_snippet_runs_without_torch_and_bertcls(kind, plain, tmp_path):
    run, folder = plain
    if kind == "distilbert":  # it has no token_type_ids
        run, folder = tmp_path / "run", str(tmp_path / "exported")
        tokenizer = AutoTokenizer.from_pretrained(TINY, model_input_names=["input_ids", "attention_mask"])
        small = DistilBertConfig(vocab_size=len(tokenizer), dim=32, n_heads=2, n_layers=1)
        build_run(run, small, pooling="mean")
        tokenizer.save_pretrained(run)
        export_onnx(run, folder)
    readme = (ROOT / "bertcls" / "export" / "README.md").read_text()
    (snippet,) = [block for block in re.findall(r"```py\n(.*?)```", readme, re.DOTALL) if "onnxruntime" in block]
    shutil.copytree(folder, tmp_path / "runs" / "mine" / "onnx")
    code = (
        "import sys\nsys.modules.update(torch=None, transformers=None, bertcls=None)\n"
        f"{snippet}\nprint(json.dumps(probabilities.tolist()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    texts = re.findall(r'texts = \["(.*?)", "(.*?)"\]', snippet)[0]
    expected = TextClassifier.from_pretrained(str(run)).probabilities(list(texts))
    np.testing.assert_allclose(json.loads(done.stdout.splitlines()[-1]), expected, atol=1e-5)


def test_a_wrong_export_leaves_nothing(plain, tmp_path, monkeypatch):
    run, folder = plain
    target = tmp_path / "out" / "onnx"
    other = build_run(tmp_path / "other", **CASES["mean, temperature"] | {"window_pooling": "max"})
    monkeypatch.setattr(
        export_module, "_write", lambda _, place, int8: shutil.copytree(folder, place, dirs_exist_ok=True)
    )
    export_onnx(run, str(target))
    shutil.rmtree(target)
    with pytest.raises(ValueError, match="differs from the model by .* in a logit; expected at most 1e-04"):
        export_onnx(other, str(target))
    assert list(target.parent.iterdir()) == []


def test_an_export_replaces_an_earlier_one_and_nothing_else(plain, tmp_path, monkeypatch):
    run, folder = plain
    target = tmp_path / "onnx"
    shutil.copytree(folder, target)
    monkeypatch.setattr(
        export_module, "_write", lambda classifier, place, int8: shutil.copy(Path(folder, "model.onnx"), place)
    )
    monkeypatch.setattr(export_module, "_difference", lambda *_: 0.0)
    export_onnx(run, str(target))
    assert [path.name for path in target.iterdir()] == ["model.onnx"]
    monkeypatch.setattr(export_module, "_difference", lambda *_: float("nan"))
    with pytest.raises(ValueError, match="differs from the model by nan"):
        export_onnx(run, str(target))
    assert [path.name for path in target.iterdir()] == ["model.onnx"] and len(list(tmp_path.iterdir())) == 1
    (target / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="holds thesis.txt; expected a new folder, or an earlier export"):
        export_onnx(run, str(target))
    assert (target / "thesis.txt").exists()


def test_weights_of_a_large_model_lie_beside_the_graph(exported):
    folder = Path(exported("cls, vote")[1])  # which answers like torch, see above
    assert {"model.onnx.data", "model_int8.onnx.data"} <= {path.name for path in folder.iterdir()}
    assert (folder / "model.onnx").stat().st_size < (folder / "model.onnx.data").stat().st_size
    assert TextClassifier.from_pretrained(str(folder), "onnx", dtype="int8").logits(TEXTS).shape == (5, 3)


def test_unknown_engines_are_refused(plain):
    run, folder = plain
    for arguments, message in (
        (dict(backend="tensorrt"), "Found backend='tensorrt'; expected one of torch, onnx."),
        (
            dict(dtype="float16"),
            "Found dtype='float16' with backend='torch'; expected one of float32, bfloat16.",
        ),
        (dict(backend="onnx", dtype="bfloat16"), "Found dtype='bfloat16' with backend='onnx'; expected one of "),
        (dict(backend="onnx", device="cuda"), "Found device='cuda' with backend='onnx'"),
        (dict(dtype="int8"), "Found dtype='int8' with backend='torch'; expected one of float32, bfloat16."),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            TextClassifier.from_pretrained(run, **arguments)


def test_folders_without_the_right_files_are_refused(plain, tmp_path):
    run, folder = plain
    with pytest.raises(FileNotFoundError, match="holds no model.onnx; expected .*recipes/export_onnx.py"):
        TextClassifier.from_pretrained(run, "onnx")
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "model_int8.onnx").unlink()
    with pytest.raises(FileNotFoundError, match="holds no model_int8.onnx; .*RUN --int8"):
        TextClassifier.from_pretrained(str(copy), "onnx", dtype="int8")
    shutil.copy(copy / "pooling.onnx", copy / "model_int8.onnx")
    (copy / "model.onnx").write_bytes((copy / "model.onnx").read_bytes()[:1000])
    with pytest.raises(ValueError, match="does not load"):
        TextClassifier.from_pretrained(str(copy), "onnx")
    with pytest.raises(ValueError, match="has the inputs window_vectors, window_counts, expected input_ids"):
        TextClassifier.from_pretrained(str(copy), "onnx", dtype="int8")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config["encoder"], "model_type": "bert"}))
    with pytest.raises(ValueError, match="holds a model of type 'bert', expected 'bertcls'"):
        TextClassifier.from_pretrained(str(copy), "onnx")


@pytest.mark.parametrize("missing", ["onnxruntime", "onnxscript"])
def test_a_missing_package_is_one_line(missing, plain, tmp_path, monkeypatch, capsys):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == missing:
            raise ImportError(f"No module named {missing!r}")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    if missing == "onnxruntime":
        with pytest.raises(ValueError, match="needs onnxruntime, which is not installed. Install it: pip install"):
            TextClassifier.from_pretrained(plain[1], "onnx")
    with pytest.raises(ValueError, match=f"ONNX needs {missing}, which is not installed"):
        export_onnx(plain[0], str(tmp_path / "onnx"))


def test_the_recipe_says_what_it_wrote(plain, tmp_path, capsys, monkeypatch):
    recipe = load_recipe("export_onnx")
    run, folder = plain
    monkeypatch.setattr(
        recipe, "export_onnx", lambda run_dir, target, int8: shutil.copytree(folder, target) and {"difference": 2e-6}
    )
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("onnx"))
    assert recipe.main(str(tmp_path / "run")) == {"difference": 2e-6}
    said = capsys.readouterr().out
    assert str(tmp_path / "run" / "onnx" / "model.onnx") in said and "2.0e-06" in said
    assert (tmp_path / "run" / "onnx" / "model.onnx").exists()


def test_the_recipe_ends_with_one_line_and_a_code(tmp_path):
    command = [sys.executable, ROOT / "recipes" / "export_onnx.py", "--model_name_or_path", tmp_path / "nothing"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1 and done.stderr.startswith("error: ")


def test_the_benchmark_measures_every_engine(plain, tmp_path):
    output = tmp_path / "engines.json"
    script = [sys.executable, ROOT / "benchmarks" / "inference_engines.py", "--rounds", "1", "--output", output]
    options = f"--model_name_or_path {plain[0]} --onnx_folder {plain[1]} --dataset_name {SAMPLE} --max_samples 6"
    table = subprocess.run([*script, *options.split()], capture_output=True, text=True, check=True).stdout
    found = json.loads(output.read_text())
    rows = {row["engine"]: row for row in found["rows"]}
    engines = {"torch fp32", "torch bf16", "onnx fp32", "onnx int8"}
    assert set(rows) == engines | {"pipeline", "pipeline, batch 32", "one a forward, padded to 128"}
    for name, row in rows.items():
        speed = row["texts/s"]
        assert len(found["seconds"][name]) == 1 and speed > 0
        assert f"| {name} | {speed:.0f} |" in table if speed >= 100 else f"| {name} | {speed:.3g} |" in table
    assert rows["onnx fp32"]["off"] < 1e-5 and rows["onnx fp32"]["moves"] < 1e-5
    assert rows["onnx int8"]["off"] > 1e-5 and rows["torch fp32"]["agrees"] == "1.0000"
    assert rows["pipeline"]["/ pipeline"] == 1


def test_names_of_dtypes_have_files():
    assert set(ONNX_FILES) == set(DTYPES["onnx"])
