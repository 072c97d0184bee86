"""The service as its clients meet it: a real server on the loopback, real requests."""

import contextlib
import http.client
import json
import logging
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from conftest import ROOT, wait_until
from transformers import AutoTokenizer

from bertcls import BertClsForSequenceClassification, TextClassifier
from bertcls.serve.app import Server, make_app
from bertcls.serve.middleware import JsonLines
from bertcls.serve.schemas import ERRORS, Limits

TEXTS = [
    "A dull film.",
    "good",
    "",
    "never dull, always good " * 40,
    "A lovely, lovely room!",
    "这部电影很好看",
    "dull " * 99,
]
NAME = "little-model"


def save_model(encoder_folder: str, folder, **options) -> str:
    torch.manual_seed(1)
    options = {"id2label": {0: "bad", 1: "good"}, "max_length": 32, "overlap": 6} | options
    model = BertClsForSequenceClassification.from_encoder(
        encoder_folder, cleaning=["strip_tags", "collapse_blanks"], **options
    )
    torch.nn.init.normal_(model.classifier.weight)  # so that answers differ visibly
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(encoder_folder).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def saved(encoder_folder, tmp_path_factory) -> str:
    return save_model(encoder_folder, tmp_path_factory.mktemp("served") / NAME)


@pytest.fixture(scope="session")
def classifier(saved) -> TextClassifier:
    return TextClassifier.from_pretrained(saved, device="cpu")


class Answer:
    def __init__(self, response: http.client.HTTPResponse):
        self.status, self.headers, self.content = response.status, response.headers, response.read()
        self.json = (
            json.loads(self.content) if self.content and self.headers["content-type"] == "application/json" else None
        )

    def error(self) -> tuple:
        """Status, code, and the field to blame."""
        assert self.json.keys() == {"error"} and self.json["error"].keys() <= {"code", "message", "field"}
        assert (self.status, self.json["error"]["code"]) in ERRORS
        return self.status, self.json["error"]["code"], self.json["error"].get("field")


def connect(port: int) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", port, timeout=60)


def send(connection: http.client.HTTPConnection, path: str, body=None, method: str | None = None, **headers) -> None:
    content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method or ("GET" if body is None else "POST"), path, content, headers)


def ask(port: int, path: str, body=None, method: str | None = None, **headers) -> Answer:
    with contextlib.closing(connect(port)) as connection:
        send(connection, path, body, method, **headers)
        return Answer(connection.getresponse())


@contextlib.contextmanager
def started(folder: str, *options: str, log=subprocess.DEVNULL):
    """A process of recipes/serve.py, and its port."""
    command = [sys.executable, ROOT / "recipes" / "serve.py", "--model_name_or_path", folder, "--port", "0", *options]
    process = subprocess.Popen([*command, "--cpu_threads", "1"], stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        line = process.stdout.readline()
        assert line.startswith(f"Serving {NAME} at http://127.0.0.1:"), line
        yield process, int(line.rsplit(":", 1)[1])
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="session")
def port(saved):
    with started(saved) as (_, found):
        yield found


class Held:
    """A classifier whose forward passes wait for a gate."""

    def __init__(self, classifier: TextClassifier):
        self.classifier, self.gate, self.begun, self.ran = classifier, threading.Event(), threading.Event(), []

    def __getattr__(self, name: str):
        return getattr(self.classifier, name)

    def predict_encoded(self, encoded: list) -> list:
        self.begun.set()
        assert self.gate.wait(30)
        self.ran += [one.text for one in encoded]
        if any("a defect" in one.text for one in encoded):
            raise KeyError(encoded[0].text)
        return self.classifier.predict_encoded(encoded)


@contextlib.contextmanager
def inside(classifier, **options):
    """The same service on a thread of this process, and its port."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = Server(make_app(classifier, name=NAME, **options), log_config=None)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield server, listening.getsockname()[1]
    finally:
        if hasattr(classifier, "gate"):
            classifier.gate.set()
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


# ------------------------------------------------------------------------------------------------ answers


@pytest.mark.slow
def test_answers_are_those_of_the_classifier(port, classifier):
    expected = classifier.predict(TEXTS, windows=True)
    answers = ask(port, "/predict", {"texts": TEXTS, "windows": True}).json["predictions"]
    assert len(answers) == len(TEXTS) and {len(answer["windows"]) for answer in answers} >= {1, 4}
    for answer, truth in zip(answers, expected):
        check_prediction(answer, truth)
        assert len(answer["windows"]) == len(truth.windows)
        for window, its in zip(answer["windows"], truth.windows):
            check_prediction(window, its)
            assert (window["start"], window["end"], window["text"]) == (its.start, its.end, its.text)
    assert "windows" not in ask(port, "/predict", {"texts": ["x"]}).json["predictions"][0]
    numbers = [classifier.label_names.index(one.label) for one in expected]
    assert ask(port, "/query", {"sentences": TEXTS}).json == {"results": numbers}
    assert ask(port, "/query", {"sentences": TEXTS[0]}).json == {"results": numbers[:1]}


def check_prediction(answer: dict, truth) -> None:
    label = list(truth.label) if isinstance(truth.label, tuple) else truth.label
    assert answer["label"] == (pytest.approx(label, abs=1e-5) if isinstance(label, float) else label)
    assert answer["score"] == pytest.approx(truth.score, abs=1e-5)
    assert answer["probabilities"] == pytest.approx(truth.probabilities, abs=1e-5)
    assert list(answer["probabilities"]) == list(truth.probabilities)


def test_many_at_once_get_their_own_answers(port, classifier):
    draw = random.Random(0)
    words = "good bad dull lovely film room never always actor plot".split()
    requests = [
        [" ".join(draw.choices(words, k=draw.choice((2, 9, 60)))) for _ in range(draw.choice((1, 1, 4)))]
        for _ in range(160)
    ]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda texts: ask(port, "/predict", {"texts": texts}).json["predictions"], requests))
    wanted = [classifier.predict(texts) for texts in requests]
    assert len({answer["score"] for part in answers for answer in part}) > 100  # a swap would show
    for part, truths in zip(answers, wanted):
        assert len(part) == len(truths)
        for answer, truth in zip(part, truths):
            check_prediction(answer, truth)
    counts = ask(port, "/metrics").content.decode()
    passes = float(re.search(r"^bertcls_forward_texts_count (\S+)", counts, re.MULTILINE)[1])
    assert passes < float(re.search(r"^bertcls_texts_total (\S+)", counts, re.MULTILINE)[1])  # they shared


def test_no_label_below_a_probability(port):
    scores = [answer["score"] for answer in ask(port, "/predict", {"texts": TEXTS}).json["predictions"]]
    below = sorted(scores)[3]
    answers = ask(port, "/predict", {"texts": TEXTS, "abstain_below": below}).json["predictions"]
    assert [answer["label"] is None for answer in answers] == [score < below for score in scores]
    assert sum(answer["label"] is None for answer in answers) == 3


@pytest.mark.parametrize("kind", ["pairs", "multi_label_classification", "regression"])
def test_other_kinds_of_models(kind, encoder_folder, tmp_path):
    names = {0: "a", 1: "b", 2: "c"}
    options = {
        "pairs": {"pair_truncation": "none"},
        "multi_label_classification": {"problem_type": kind, "id2label": names, "thresholds": [0.5, 0.5, 2.0]},
        "regression": {"problem_type": kind, "id2label": {0: "stars"}},
    }[kind]
    model = TextClassifier.from_pretrained(save_model(encoder_folder, tmp_path / NAME, **options), device="cpu")
    texts = [(text, "and a second one " * 30) for text in TEXTS] if kind == "pairs" else TEXTS
    truths = model.predict(texts, windows=True)
    with inside(model) as (_, its_port):
        answers = ask(its_port, "/predict", {"texts": texts, "windows": True}).json["predictions"]
        results = ask(its_port, "/query", {"sentences": texts}).json["results"]
        document = ask(its_port, "/openapi.json").json
        info = ask(its_port, "/info").json
        refused = ask(its_port, "/predict", {"texts": texts, "abstain_below": 0.5})
        wrong = ask(its_port, "/predict", {"texts": [["one alone"]] if kind == "pairs" else [["a", "b"]]})
    for answer, truth in zip(answers, truths):
        check_prediction(answer, truth)
        assert [window["text"] for window in answer["windows"]] == [window.text for window in truth.windows]
    if kind == "pairs":
        assert results == [model.label_names.index(truth.label) for truth in truths] and info["pairs"] is True
        assert refused.status == 200 and wrong.error() == (422, "invalid_field", "texts[0]")
    else:
        assert refused.error() == (422, "invalid_field", "abstain_below")
        assert wrong.error() == (422, "invalid_field", "texts[0]")
    if kind == "regression":
        assert results == pytest.approx([truth.label for truth in truths], abs=1e-5) and info["labels"] == []
    if kind == "multi_label_classification":
        assert results == [[list(names.values()).index(label) for label in truth.label] for truth in truths]
    assert "/predict" in document["paths"]


def test_info_health_and_counts(port, saved, classifier):
    info = ask(port, "/info")
    assert info.json["model"] == NAME and info.json["labels"] == ["bad", "good"] and info.json["pairs"] is False
    assert info.json["contract"]["cleaning"] == ["strip_tags", "collapse_blanks"]
    assert info.json["contract"]["max_length"] == 32 and info.json["limits"]["texts"] == Limits().texts
    assert saved.rsplit("/", 1)[0] not in info.content.decode()
    assert ask(port, "/health").json["status"] == "ok" and ask(port, "/health", method="HEAD").status == 200
    ask(port, "/nowhere/typed-by-someone")
    counts = ask(port, "/metrics").content.decode()
    assert 'bertcls_requests_total{path="/health",status="200"}' in counts and "bertcls_open_texts 0.0" in counts
    assert 'path="other",status="404"' in counts and "typed-by-someone" not in counts
    assert "process_resident_memory_bytes" in counts
    assert ask(port, "/info", Host="elsewhere.example").error() == (421, "unknown_host", None)


# ------------------------------------------------------------------------------------------------ refusals

REFUSED = {  # body, path, headers, status, code, field
    "no JSON": (b"{", "/predict", {}, 400, "malformed_json", None),
    "an empty body": (b"", "/query", {}, 400, "malformed_json", None),
    "no text in the bytes": (b'{"texts": ["\xff"]}', "/predict", {}, 400, "malformed_json", None),
    "too deep": (b"[" * 200_000, "/predict", {}, 413, "body_too_complex", None),
    "a long number": (b'{"texts": ' + b"1" * 5000 + b"}", "/predict", {}, 400, "malformed_json", None),
    "null": (b"null", "/query", {}, 422, "invalid_field", "body"),
    "a list": (b"[]", "/predict", {}, 422, "invalid_field", "body"),
    "nothing in it": ({}, "/query", {}, 422, "invalid_field", "sentences"),
    "no texts": ({"texts": []}, "/predict", {}, 400, "no_texts", "texts"),
    "no sentences": ({"sentences": []}, "/query", {}, 400, "no_texts", "sentences"),
    "a number": ({"texts": ["a", 3]}, "/predict", {}, 422, "invalid_field", "texts[1]"),
    "null among texts": ({"sentences": [None]}, "/query", {}, 422, "invalid_field", "sentences[0]"),
    "one text alone": ({"texts": "a"}, "/predict", {}, 422, "invalid_field", "texts"),
    "an object": ({"sentences": {"a": "b"}}, "/query", {}, 422, "invalid_field", "sentences"),
    "an unknown field": ({"texts": ["a"], "window": True}, "/predict", {}, 422, "invalid_field", "window"),
    "windows as a word": ({"texts": ["a"], "windows": "yes"}, "/predict", {}, 422, "invalid_field", "windows"),
    "more than sure": ({"texts": ["a"], "abstain_below": 2}, "/predict", {}, 422, "invalid_field", "abstain_below"),
    "not a number": (b'{"texts": ["a"], "abstain_below": NaN}', "/predict", {}, 422, "invalid_field", "abstain_below"),
    "half a character": (b'{"texts": ["a", "\\ud800"]}', "/predict", {}, 422, "invalid_field", "texts[1]"),
    "too many": ({"texts": ["a"] * 257}, "/predict", {}, 413, "too_many_texts", "texts"),
    "too long": ({"sentences": ["a", "b" * 100_001]}, "/query", {}, 413, "text_too_long", "sentences[1]"),
    "too large": (b" " * 2_000_001, "/predict", {}, 413, "body_too_large", None),
    "a form": (b"sentences=a", "/query", {"Content_Type": "text/plain"}, 415, "unsupported_content_type", None),
    "no type": ({"texts": ["a"]}, "/predict", {"Content_Type": ""}, 415, "unsupported_content_type", None),
    "nowhere": ({"texts": ["a"]}, "/prediction", {}, 404, "not_found", None),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_told_why(port, case):
    body, path, headers, *expected = REFUSED[case]
    answer = ask(port, path, body, **headers)
    assert list(answer.error()) == expected
    assert "Traceback" not in answer.content.decode() and ".py" not in answer.content.decode()
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])
    if path in ("/predict", "/query"):  # the interface says that it may happen
        assert str(answer.status) in ask(port, "/openapi.json").json["paths"][path]["post"]["responses"]


def test_another_method(port):
    for method, path in (("GET", "/predict"), ("DELETE", "/info"), ("PUT", "/query")):
        answer = ask(port, path, method=method)
        assert answer.error() == (405, "method_not_allowed", None)
        assert {*answer.headers["allow"].split(", ")} in ({"GET", "HEAD"}, {"POST"})


def test_malformed_bodies_are_never_a_defect(port):
    draw = random.Random(0)
    whole = json.dumps({"texts": ["A film.", "a\u00e9\u4e2d"], "windows": True}, ensure_ascii=False).encode()
    statuses = []
    with contextlib.closing(connect(port)) as connection:
        for _ in range(200):
            body = bytearray(whole)
            for _ in range(draw.randint(1, 6)):
                place = draw.randrange(len(body))
                body[place : place + draw.randint(0, 3)] = draw.randbytes(draw.randint(0, 3))
            send(connection, draw.choice(("/predict", "/query")), bytes(body))
            answer = Answer(connection.getresponse())
            statuses.append(answer.status)
            assert answer.status == 200 or answer.error()
    assert max(statuses) < 500 and statuses.count(400) > 50 and len(set(statuses)) >= 3


@pytest.mark.parametrize("framing", ["Content-Length: 10000000", "Transfer-Encoding: chunked"])
def test_a_large_body_is_refused_before_it_is_read(port, framing):
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{framing}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(head.encode())
        if "chunked" in framing:
            client.sendall((b"40000\r\n" + b" " * 0x40000 + b"\r\n") * 9)  # and more to come
        response = http.client.HTTPResponse(client)
        response.begin()
        assert Answer(response).error() == (413, "body_too_large", None)
    assert ask(port, "/health").status == 200


def test_a_key(classifier):
    with inside(classifier, api_key="secret") as (_, its_port):
        for path, body in (("/info", None), ("/metrics", None), ("/predict", {"texts": ["a"]}), ("/query", b"{")):
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
                answer = ask(its_port, path, body, **headers)
                assert answer.error()[:2] == (401, "unauthorized") and answer.headers["www-authenticate"] == "Bearer"
        answer = ask(its_port, "/predict", {"texts": ["a"]}, Authorization="Bearer secret")
        assert len(answer.json["predictions"]) == 1
        assert [ask(its_port, path).status for path in ("/", "/health", "/docs", "/openapi.json")] == [200] * 4
        paths = ask(its_port, "/openapi.json").json["paths"]
        assert "401" in paths["/predict"]["post"]["responses"] and paths["/predict"]["post"]["security"]
        assert "security" not in paths["/health"]["get"]


# ------------------------------------------------------------------------------------------------ under strain


def begin(its_port: int, text: str) -> http.client.HTTPConnection:
    """A request whose answer is not awaited."""
    connection = connect(its_port)
    send(connection, "/predict", {"texts": [text]})
    return connection


def test_a_full_queue(classifier):
    held = Held(classifier)
    with inside(held, limits=Limits(queue=2, seconds=60)) as (server, its_port):
        answer = ask(its_port, "/predict", {"texts": ["a", "b", "c"]})
        assert answer.error() == (413, "too_many_texts", "texts")  # which would never fit
        first = begin(its_port, "first")
        assert held.begun.wait(30)
        answer = ask(its_port, "/predict", {"texts": ["a", "b"]})
        assert answer.error() == (503, "queue_full", None) and answer.headers["retry-after"] == "1"
        held.gate.set()
        assert Answer(first.getresponse()).status == 200
        assert server.service.open_texts == server.service.open_characters == 0
        assert ask(its_port, "/predict", {"texts": ["a", "b"]}).status == 200  # there is room again


def test_an_answer_too_late(classifier):
    held = Held(classifier)
    with inside(held, limits=Limits(seconds=0.5)) as (server, its_port):
        late = begin(its_port, "late")
        assert Answer(late.getresponse()).error() == (504, "too_slow", None)
        assert server.service.open_texts == server.service.open_characters == 0
        held.gate.set()


def test_a_client_that_leaves_costs_nothing_and_breaks_nothing(classifier):
    held = Held(classifier)
    with inside(held) as (server, its_port):
        first = begin(its_port, "first")
        assert held.begun.wait(30)
        leaving, staying = begin(its_port, "leaving"), begin(its_port, "staying")
        wait_until(lambda: server.service.open_texts == 3)
        leaving.close()
        wait_until(lambda: server.service.open_texts == 2)
        held.gate.set()
        assert Answer(first.getresponse()).status == Answer(staying.getresponse()).status == 200
        assert held.ran == ["first", "staying"]
        with socket.create_connection(("127.0.0.1", its_port)) as client:  # gone in the middle of a body
            client.sendall(b"POST /predict HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{")
        assert ask(its_port, "/predict", {"texts": ["after"]}).status == 200


def test_a_body_that_does_not_come(classifier):
    with inside(classifier, limits=Limits(seconds=0.2)) as (_, its_port):
        with socket.create_connection(("127.0.0.1", its_port), timeout=60) as client:
            client.sendall(b"POST /query HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{")
            response = http.client.HTTPResponse(client)
            response.begin()
            assert Answer(response).error() == (408, "body_too_slow", None)


def test_at_a_signal_it_finishes_what_it_accepted_and_refuses_the_rest(classifier):
    held = Held(classifier)
    with inside(held) as (server, its_port):
        open_one = connect(its_port)
        send(open_one, "/health")
        assert Answer(open_one.getresponse()).status == 200
        accepted = begin(its_port, "accepted")
        assert held.begun.wait(30)
        server.handle_exit(signal.SIGTERM, None)
        send(open_one, "/predict", {"texts": ["too late"]})
        answer = Answer(open_one.getresponse())
        assert answer.error() == (503, "stopping", None) and answer.headers["connection"] == "close"
        assert ask(its_port, "/health").error() == (503, "stopping", None)
        held.gate.set()
        assert Answer(accepted.getresponse()).json["predictions"][0]["label"] in ("bad", "good")
    assert held.ran == ["accepted"]
    with pytest.raises(OSError):
        ask(its_port, "/health")


@pytest.mark.slow
def test_sigterm_under_load_loses_no_accepted_request(saved, tmp_path):
    log, answered, enough = tmp_path / "log", [], threading.Event()

    def work(its_port: int) -> None:
        with (
            contextlib.closing(connect(its_port)) as connection,
            contextlib.suppress(OSError, http.client.HTTPException),
        ):
            while True:
                send(connection, "/predict", {"texts": ["good film " * 20]})
                answered.append(Answer(connection.getresponse()).status)
                if len(answered) > 60:
                    enough.set()

    with log.open("w") as file, started(saved, "--allowed_hosts", "Labels.example", log=file) as (process, its_port):
        for host in ("labels.example", "localhost", f"127.0.0.1:{its_port}"):
            answered.append(ask(its_port, "/health", Host=host).status)
        workers = [threading.Thread(target=work, args=(its_port,)) for _ in range(8)]
        for worker in workers:
            worker.start()
        assert enough.wait(60)
        process.send_signal(signal.SIGTERM)
        for worker in workers:
            worker.join(60)
        assert process.wait(60) == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    counted = [line["status"] for line in lines if line["event"] == "request"]
    assert sorted(counted) == sorted(answered) and set(answered) <= {200, 503}  # what it began, it answered


def test_a_defect_is_logged_without_the_text_and_answered_without_the_place(classifier, caplog):
    held = Held(classifier)
    held.gate.set()
    logging.getLogger("bertcls.service").propagate = True
    with caplog.at_level(logging.INFO, "bertcls.service"), inside(held) as (_, its_port):
        answer = ask(its_port, "/predict", {"texts": ["a defect in private"]})
        assert ask(its_port, "/predict", {"texts": ["well"]}).status == 200
    assert answer.error() == (500, "internal", None)
    assert "KeyError" not in answer.content.decode() and "private" not in answer.content.decode()
    lines = [JsonLines().format(record) for record in caplog.records]
    assert not any("private" in line for line in lines)
    failed = next(entry for entry in map(json.loads, lines) if entry["event"] == "failed")
    assert failed["error"] == "KeyError" and failed["request_id"] == answer.headers["x-request-id"]
    assert failed["request_id"] in answer.json["error"]["message"] and any(
        "predict_encoded" in p for p in failed["where"]
    )


@pytest.mark.parametrize("log_texts", [False, True])
def test_the_log_has_texts_only_when_asked(classifier, caplog, log_texts):
    with caplog.at_level(logging.INFO, "bertcls.service"), inside(classifier, log_texts=log_texts) as (_, its_port):
        assert ask(its_port, "/query", {"sentences": ["a private film"]}).status == 200
    lines = [json.loads(JsonLines().format(record)) for record in caplog.records]
    assert [(line["path"], line["status"], line["texts"]) for line in lines] == [("/query", 200, 1)]
    assert ("a private film" in json.dumps(lines)) is log_texts


# ------------------------------------------------------------------------------------------------ the start


@pytest.mark.slow
def test_a_bad_start_is_one_line(saved, tmp_path):
    (tmp_path / "empty").write_text("\n")
    taken = socket.create_server(("127.0.0.1", 0))
    cases = {
        ("--model_name_or_path", "no/such", "--port", "0"): "No model found at 'no/such'",
        ("--model_name_or_path", saved, "--port", str(taken.getsockname()[1])): "expected a free port",
        (
            "--model_name_or_path",
            saved,
            "--port",
            "0",
            "--timeout",
            "0",
        ): "Found --timeout 0.0 (seconds); expected more than",
        ("--model_name_or_path", saved, "--api_key_file", str(tmp_path / "empty")): "an API key that is empty",
    }
    with ThreadPoolExecutor(2) as pool, taken:
        command = [sys.executable, str(ROOT / "recipes" / "serve.py")]
        done = list(pool.map(lambda words: subprocess.run([*command, *words], capture_output=True, text=True), cases))
    assert len(done) == 4
    for result, message in zip(done, cases.values()):
        assert result.returncode == 2 and result.stdout == ""
        assert result.stderr.count("\n") == 1 and message in result.stderr, result.stderr


@pytest.mark.slow
def test_the_service_needs_nothing_of_training():
    code = (
        "import sys\n"
        "from bertcls import TextClassifier\nfrom bertcls.process import one_line_errors, use_cores\n"
        "from bertcls.serve.app import Server, make_app\n"
        "print(*(name for name in ('datasets', 'evaluate', 'matplotlib', 'pandas', 'sklearn') if name in sys.modules))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "\n"


def test_two_steps_are_one(classifier):
    whole, parts = classifier.predict(TEXTS, windows=True), classifier.encode(TEXTS, windows=True)
    assert [one.size[0] for one in parts] == [len(one.windows) for one in whole]
    assert classifier.encode([]) == classifier.predict_encoded([]) == []
    for row, one in enumerate(classifier.predict_encoded(parts[::-1])[::-1]):
        assert one.label == whole[row].label and len(one.windows) == len(whole[row].windows)
        np.testing.assert_allclose(one.score, whole[row].score, atol=1e-5)
    with_and_without = classifier.encode(TEXTS[:2]) + classifier.encode(TEXTS[2:4], windows=True)
    assert [one.windows is None for one in classifier.predict_encoded(with_and_without)] == [True, True, False, False]


def test_words_where_they_are_asked_for(classifier):
    text, long = "A <b>lovely</b> room, never dull.", "good film " * 60
    with inside(classifier, limits=Limits(word_tokens=100)) as (_, port):
        answer = ask(port, "/predict", {"texts": [text, ""], "words": True})
        assert answer.status == 200
        found, none = (one["words"] for one in answer.json["predictions"])
        truth, empty = classifier.predict([text, ""], words=True)
        assert none == [] == [*empty.words]
        assert [text[word["start"] : word["end"]] for word in found] == [word.text for word in truth.words]
        for word, other in zip(found, truth.words):
            assert word["contributions"] == pytest.approx(other.contributions, abs=1e-4)
        answer = ask(port, "/predict", {"texts": [long], "words": True})
        assert answer.status == 413 and "at most 100 a request for words" in answer.json["error"]["message"]
        assert ask(port, "/predict", {"texts": [long]}).status == 200
        answer = ask(port, "/predict", {"texts": ["good"], "words": 1})
        assert answer.status == 422 and answer.json["error"]["field"] == "words"
