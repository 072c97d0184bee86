"""What reaches the Hub: pushes to a real HTTP server on the loopback that speaks the part of its API that is used."""

import base64
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, load_recipe
from facts import changed
from helpers import run_recipe_main
from transformers import AutoConfig, AutoModel, AutoTokenizer, BertConfig, BertModel

import bertcls
from bertcls import BertClsConfig, BertClsForSequenceClassification, TextClassifier, push_folder
from bertcls.export.stock import export_stock
from bertcls.hub import main, verify_saved
from bertcls.layout import CARD, MODEL_FILES, PREDICTIONS, PUBLIC_FILES, RESULTS
from bertcls.report.card import write_card

TOKEN, COMMIT = "hf_dummytoken", "0" * 40
TEXTS = ["A film that ends well.", "", "Bad &amp; dull.", "The plot is thin, but the cast saves it. " * 4]


class Hub(BaseHTTPRequestHandler):
    """One repository, `someone/model`: what a push writes, `from_pretrained` reads."""

    refuse = False  # answers 403 to a commit
    drop = False  # hangs up in the middle of a commit
    calls: list[tuple[str, str]] = []  # path and body
    authorized: set[str] = set()
    files: dict[str, bytes] = {}

    def do_POST(self):
        length = int(self.headers.get("Content-Length", 0))
        if self.drop and "/commit/" in self.path:
            self.rfile.read(length // 2)
            self.connection.close()
            return
        body = self.rfile.read(length).decode()
        self.calls.append((self.path, body))
        self.authorized.add(self.headers.get("Authorization", ""))
        address = f"http://{self.headers['Host']}/someone/model"
        if self.path == "/api/repos/create":
            answer = {"url": address}
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            answer = {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]}
        elif "/commit/" in self.path and not self.refuse:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "deletedFile":
                    del self.files[line["value"]["path"]]
            answer = {"success": True, "commitUrl": f"{address}/commit/{COMMIT}", "commitOid": COMMIT}
        else:
            answer = {}
        self.answer(json.dumps(answer).encode(), 403 if self.refuse and "/commit/" in self.path else 200)

    def do_GET(self):
        self.calls.append((self.path, ""))
        path = unquote(self.path.split("?")[0])
        if path.startswith("/api/models/someone/model/tree/"):
            entries = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in self.files.items()
            ]
            self.answer(json.dumps(entries).encode())
        elif path.startswith("/api/models/someone/model"):
            names = [{"rfilename": name} for name in self.files]
            self.answer(json.dumps({"id": "someone/model", "sha": COMMIT, "siblings": names}).encode())
        else:
            name = re.sub("^/someone/model/resolve/[^/]+/", "", path)
            if name in self.files:
                self.answer(self.files[name])
            else:
                self.answer(b"", 404, {"X-Error-Code": "EntryNotFound"})

    do_HEAD = do_GET

    def answer(self, content: bytes, status: int = 200, headers: dict[str, str] | None = None):
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub():
    handler = type("FreshHub", (Hub,), {"calls": [], "authorized": set(), "files": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield handler, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, encoder_folder) -> Path:
    """The folder of a run that came to its end."""
    run = tmp_path_factory.mktemp("finished") / "run"
    torch.manual_seed(0)
    model = BertClsForSequenceClassification.from_encoder(
        encoder_folder,
        id2label={0: "bad", 1: "good"},
        problem_type="single_label_classification",
        max_length=32,
        overlap=6,
        temperature=1.6,
        cleaning=["unescape_entities"],
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6 if parameter.dim() == 2 else 1)  # random weights of a new BERT hardly look at the text
    model.save_pretrained(run)
    AutoTokenizer.from_pretrained(encoder_folder).save_pretrained(run)
    classifier = TextClassifier.from_pretrained(str(run), device="cpu")
    for folder in ("report", "checkpoints/checkpoint-1"):
        (run / folder).mkdir(parents=True)
    probabilities = classifier.probabilities(TEXTS)
    table = pd.DataFrame(
        {"text": TEXTS, "probability_bad": probabilities[:, 0], "probability_good": probabilities[:, 1]}
    )
    table.to_parquet(run / PREDICTIONS)
    facts = changed(
        source={"dataset": str(run.parent / "reviews"), "files": []},
        model__encoder=encoder_folder,
        run__command=["recipe.py", "--hub_token", TOKEN],
        stock=export_stock(str(run), str(run / "stock"), TEXTS),
    )
    write_card(facts, str(run))
    (run / RESULTS).write_text(json.dumps(facts))
    private = ("run.json", "audit.json", "report/report.html", "training_args.bin", "notes.txt", "stock/notes.txt")
    checkpoint = ("config.json", "model.safetensors", "optimizer.pt", "training_args.bin")
    for name in (*private, *(f"checkpoints/checkpoint-1/{name}" for name in checkpoint)):
        (run / name).write_text(f"{TOKEN} {run}")
    return run


@pytest.fixture
def folder(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def environment(url: str, tmp_path: Path) -> dict[str, str]:
    """Of a process that talks to the server; nothing of this machine's Hugging Face folder."""
    here = {**os.environ, "HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN}
    del here["HF_HUB_OFFLINE"]
    return here


def push(url: str, tmp_path: Path, folder: Path, *words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "bertcls.hub", "push", str(folder), "--repo_id", "someone/model", *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment(url, tmp_path), timeout=300)


LOAD = """
import json, re, sys
sys.modules["bertcls"] = None  # not importable
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained("someone/model", trust_remote_code=True)  # else it asks, on stdin
model = AutoModelForSequenceClassification.from_pretrained("someone/model", trust_remote_code=True).eval()
logits = [model(**tokenizer(text, return_tensors="pt")).logits[0].tolist() for text in json.load(sys.stdin)]
print(json.dumps([type(model).__module__, model.config.id2label, logits]))
from huggingface_hub import ModelCard
for snippet in re.findall(r"```python\\n(.*?)```", ModelCard.load("someone/model").text, re.DOTALL):
    if "bertcls" not in snippet:
        exec(snippet)
"""


@pytest.mark.slow
def test_a_push_sends_what_others_can_load_and_nothing_else(hub, folder, tmp_path):
    server, url = hub
    before = content_of(folder)
    done = push(url, tmp_path, folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == f"{url}/someone/model/commit/{COMMIT}"
    assert content_of(folder) == before
    assert set(server.files) == set(PUBLIC_FILES) and len(PUBLIC_FILES) == 10
    assert len([path for path, _ in server.calls if "/commit/" in path]) == 1
    created = json.loads(next(body for path, body in server.calls if path == "/api/repos/create"))
    assert created.get("private") is True or created.get("visibility") == "private"
    assert f"Bearer {TOKEN}" in server.authorized  # the token was used
    sent = [*server.files.values(), *(body.encode() for _, body in server.calls)]
    assert len(sent) > 15
    for secret in (TOKEN, str(tmp_path), str(folder.parent), bertcls.__path__[0], str(Path.home())):
        assert not any(secret.encode() in content for content in sent), secret
        assert secret not in done.stdout, secret
    card = server.files[CARD].decode()
    assert card.count('"someone/model"') == 4 and "\n# model\n" in card
    assert {name: server.files[name] for name in PUBLIC_FILES if name != CARD} == {
        name: before[name] for name in PUBLIC_FILES if name != CARD
    }

    # what was pushed loads over HTTP where bertcls is not importable, with equal logits, and the card's snippets run
    short = [text for text in TEXTS if "&" not in text][:2]  # as the model's own code takes them: clean, one window
    done = subprocess.run(
        [sys.executable, "-c", LOAD],
        input=json.dumps(short),
        capture_output=True,
        text=True,
        env=environment(url, tmp_path),
        cwd=tmp_path,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    loaded, remote, stock = done.stdout.splitlines()[-3:]
    module, names, logits = json.loads(loaded)
    assert module.startswith("transformers_modules.someone.model") and names == {"0": "bad", "1": "good"}
    classifier = TextClassifier.from_pretrained(str(folder), device="cpu")
    np.testing.assert_allclose(logits, classifier.logits(short), rtol=0, atol=1e-5)
    answer = classifier.predict("A text.")[0]
    assert eval(remote) == pytest.approx(answer.probabilities, abs=1e-4)
    assert eval(stock) == [{"label": answer.label, "score": pytest.approx(answer.score, abs=1e-5)}]


@pytest.mark.slow
def test_a_refused_push_says_how_to_retry_and_the_retry_does_it(hub, folder, tmp_path):
    server, url = hub
    server.files |= {"stock/model.safetensors": b"old", CARD: b"old", "mine.txt": b"kept"}  # of an earlier push
    shutil.rmtree(folder / "stock")
    (folder / CARD).unlink()
    server.refuse, before = True, content_of(folder)
    done = push(url, tmp_path, folder, "--public", "--revision", "second")
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: someone/model was not pushed (") and "403" in last
    assert f"The model is safe in {folder}" in last and TOKEN not in done.stderr + done.stdout
    assert content_of(folder) == before and server.files[CARD] == b"old"
    retry = shlex.split(re.search(r"push it again: (.*) \(BERTCLS_TRACEBACK", last)[1])
    assert retry[0] == "python" and retry[-3:] == ["--public", "--revision", "second"]
    server.refuse = False
    server.calls.clear()
    command = [sys.executable, *retry[1:]]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(url, tmp_path), timeout=300)
    assert done.returncode == 0, done.stderr
    assert set(server.files) == {*MODEL_FILES, CARD, "mine.txt"} and server.files[CARD] == b"old"
    paths = [path for path, _ in server.calls]
    assert "/api/models/someone/model/branch/second" in paths and "/api/models/someone/model/commit/second" in paths
    created = json.loads(next(body for path, body in server.calls if path == "/api/repos/create"))
    assert created.get("private") is False or created.get("visibility") == "public"


@pytest.mark.slow
@pytest.mark.parametrize("how", ["dropped halfway", "no server"])
def test_a_lost_connection_leaves_the_folder_whole(how, hub, folder, tmp_path):
    server, url = hub
    server.drop, before = True, content_of(folder)
    done = push(url if how == "dropped halfway" else "http://127.0.0.1:9", tmp_path, folder)
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: someone/model was not pushed (") and "python -m bertcls.hub push" in last
    assert content_of(folder) == before and server.files == {} and TOKEN not in done.stderr + done.stdout
    assert any("/preupload/" in path for path, _ in server.calls) == (how == "dropped halfway")


STEPS = """
import json, resource, sys
from pathlib import Path
from bertcls import push_folder
from bertcls.process import one_line_errors
from bertcls.report.card import write_card
from bertcls.export.stock import export_stock
folder, texts = sys.argv[1], ["A text."]
facts = json.loads(Path(folder, "report/metrics.json").read_text())
steps = {  # and the bytes that a file may have: a disk that is full
    2_000: lambda: write_card(facts, folder),
    100_000: lambda: export_stock(folder, folder + "/stock", texts),
}
codes = []
for limit, step in steps.items():
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        with one_line_errors():
            step()
            push_folder(folder, "someone/model")
    except SystemExit as end:
        codes.append(end.code)
print(codes)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")
def test_a_full_disk_ends_a_run_before_the_push_and_leaves_the_folder_whole(hub, folder, tmp_path):
    server, url = hub
    before = content_of(folder)
    command = [sys.executable, "-c", STEPS, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(url, tmp_path), timeout=300)
    assert done.stdout.strip() == "[2, 2]", done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "The model card cannot be written to " in errors[0]
    assert "The stock export cannot be written to " in errors[1]
    assert server.calls == []
    copy = {name for name in PUBLIC_FILES if name.startswith("stock/")}  # which is whole or not there
    assert len(copy) == 4
    assert content_of(folder) == {name: content for name, content in before.items() if name not in copy}


def test_the_token_is_never_shown(hub, folder, monkeypatch):
    """A token with a line break makes a header that the HTTP library refuses, and quotes."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub[1])
    with pytest.raises(
        ConnectionError, match=r"someone/model was not pushed \(Illegal header value .*\*\*\*"
    ) as caught:
        push_folder(str(folder), "someone/model", token=f"{TOKEN}\nx")
    assert TOKEN not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("missing", [RESULTS, "model.safetensors", "modeling.py", "all"])
def test_what_is_no_finished_run_is_refused(missing, folder):
    path = folder if missing != "all" else folder / "checkpoints" / "checkpoint-1"
    if missing != "all":
        (folder / missing).unlink()
    words = "modeling.py, tokenizer.json" if missing == "all" else f"{missing};"
    for refuses in (lambda: main(["push", str(path)]), lambda: push_folder(str(path))):
        with pytest.raises(FileNotFoundError, match=f"is no folder of a finished run: it lacks {words}"):
            refuses()


def test_a_file_that_leads_out_of_the_run_is_not_pushed(folder, tmp_path):
    (tmp_path / "secret").write_text("mine")
    (folder / "README.md").unlink()
    (folder / "README.md").symlink_to(tmp_path / "secret")
    for refuses in (lambda: main(["push", str(folder)]), lambda: push_folder(str(folder))):
        with pytest.raises(ValueError, match="README.md leads to .*secret; expected a file of the run"):
            refuses()


@pytest.mark.parametrize("change", ["weights", "temperature", "labels"])
def test_a_run_that_answers_otherwise_than_it_was_scored_is_refused(change, folder):
    model = BertClsForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        model.classifier.bias[0] += 0.1 if change == "weights" else 0.0
    model.config.temperature += 0.3 if change == "temperature" else 0.0
    if change == "labels":
        model.config.id2label = {0: "good", 1: "bad"}
    model.save_pretrained(folder)
    with pytest.raises(ValueError, match=r"answers otherwise than when it was scored \(by 0.*predictions.parquet"):
        main(["push", str(folder)])


def test_labels_that_were_renamed_after_training_are_refused(folder):
    model = BertClsForSequenceClassification.from_pretrained(folder)
    model.config.id2label = {0: "dull", 1: "fine"}
    model.save_pretrained(folder)
    with pytest.raises(ValueError, match="has other labels than .*predictions.parquet; a file was changed"):
        main(["push", str(folder)])


def test_a_model_of_another_kind_is_refused(folder, encoder_folder):
    for name in ("config.json", "model.safetensors"):
        shutil.copy(Path(encoder_folder, name), folder)
    with pytest.raises(ValueError, match="holds a model of type 'bert', expected 'bertcls'"):
        main(["push", str(folder)])


@pytest.mark.slow
def test_a_saved_model_is_compared_in_a_new_process(finished, monkeypatch):
    classifier = TextClassifier.from_pretrained(str(finished), device="cpu")
    assert verify_saved(str(finished), classifier, TEXTS * 5).label_names == ["bad", "good"]
    reverse = lambda texts, *_: [text[::-1] for text in texts]  # noqa: E731
    monkeypatch.setattr("bertcls.tokenization.clean_all", reverse)  # in this process alone
    with pytest.raises(ValueError, match="differs from the trained one by .* in a logit in a new process"):
        verify_saved(str(finished), classifier, TEXTS)


@pytest.mark.slow
def test_pairs_and_numbers_are_compared_in_a_new_process(encoder_folder, tmp_path):
    model = BertClsForSequenceClassification.from_encoder(
        encoder_folder,
        id2label={0: "value"},
        problem_type="regression",
        label_mean=300.0,
        label_scale=200.0,
        pair_truncation="only_second",
    )
    model.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(encoder_folder)
    tokenizer.save_pretrained(tmp_path)
    verify_saved(
        str(tmp_path), TextClassifier(model, tokenizer, device="cpu"), [("A text \U0001f642.", "Another.")] * 20
    )


class OwnConfig(BertConfig):
    model_type = "own-bert"


class OwnModel(BertModel):
    config_class = OwnConfig


@pytest.mark.slow
def test_a_model_that_only_this_process_can_load_is_refused(tmp_path, tokenizer):
    AutoConfig.register("own-bert", OwnConfig, exist_ok=True)
    AutoModel.register(OwnConfig, OwnModel, exist_ok=True)
    encoder = OwnConfig(vocab_size=1600, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    model = BertClsForSequenceClassification(BertClsConfig(encoder=encoder, pooling="cls"))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="does not answer in a new process .*own-bert"):
        verify_saved(str(tmp_path), TextClassifier(model, tokenizer, device="cpu"), TEXTS)


@pytest.mark.slow
def test_a_distilled_student_is_pushed_with_a_card_that_names_its_teacher(hub, tmp_path):
    server, url = hub
    run_recipe_main(load_recipe("sst2_finetune"), tmp_path / "a-teacher", "--num_train_epochs", "1")
    words = ["--sample", "--teacher", tmp_path / "a-teacher", "--num_train_epochs", "1", "--figures", "false"]
    words += ["--output_dir", tmp_path / "student", "--push_to_hub", "--hub_model_id", "someone/model"]
    command = [sys.executable, ROOT / "recipes" / "distill.py", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(url, tmp_path), timeout=300)
    assert done.returncode == 0, done.stderr
    assert len([path for path, _ in server.calls if "/commit/" in path]) == 1  # of the student, not of its twin
    assert set(server.files) == {*MODEL_FILES, CARD}  # no stock class pools by the mean
    card = server.files[CARD].decode()
    assert "It was taught by a-teacher" in card and str(tmp_path) not in card
    assert server.files["model.safetensors"] == (tmp_path / "student" / "model.safetensors").read_bytes()
