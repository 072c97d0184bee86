"""The service under requests that would keep others waiting, and from where it should not answer."""

import asyncio
import contextlib
import http.client
import json
import logging
import runpy
import select
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
import torch
from conftest import ROOT, wait_until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient
from test_serve import NAME, Answer, ask, begin, check_prediction, classifier, connect, inside, save_model, saved, send  # noqa: F401

from bertcls import TextClassifier
from bertcls.serve import app
from bertcls.serve.app import make_app
from bertcls.serve.middleware import LOGGING, JsonLines
from bertcls.serve.schemas import ApiError, Limits, read_body

LONG = "never dull, always good " * 60  # some 250 tokens, in windows of 32
SLICED = Limits(batch_tokens=64, seconds=60)  # two windows a pass


class Gated:
    """A classifier whose passes over parts of texts wait for a gate; `ran` has what passed."""

    def __init__(self, classifier: TextClassifier):  # noqa: F811
        self.classifier, self.gate, self.begun, self.ran = classifier, threading.Event(), threading.Event(), []

    def __getattr__(self, name: str):
        return getattr(self.classifier, name)

    def window_vectors(self, part):
        self.begun.set()
        assert self.gate.wait(60)
        self.ran.append(part.start)
        return self.classifier.window_vectors(part)

    def predict_encoded(self, encoded: list) -> list:
        self.ran += [one.text for one in encoded]
        return self.classifier.predict_encoded(encoded)


@pytest.fixture(scope="module")
def port(classifier):  # noqa: F811
    """Of a service that takes little, asked by the names of this machine alone."""
    limits = Limits(texts=4, tokens=600, answer=5000, seconds=20, batch_tokens=64)
    with inside(classifier, limits=limits, hosts={"127.0.0.1", "localhost", "[::1]"}, api_key="key") as (_, found):
        yield found


def post(its_port: int, body, path: str = "/predict") -> Answer:
    return ask(its_port, path, body, Authorization="Bearer key")


# ------------------------------------------------------------------------------------------------ bodies

HUGE = {
    "zeros": b'{"texts": [' + b"0," * 990_000 + b"0]}",
    "lists": b'{"texts": [' + b"[]," * 600_000 + b"[]]}",
    "nested": b'{"texts": ' + b"[" * 900_000 + b"]" * 900_000 + b"}",
    "keys": b"{" + b",".join(b'"k%d":0' % n for n in range(150_000)) + b"}",
    "objects": b'{"texts": [' + b'{"a":{}},' * 200_000 + b"{}]}",
}


def test_others_have_their_turn_after_a_large_body(classifier, monkeypatch):  # noqa: F811
    parsed, gate = [], threading.Event()

    def read(content: bytes, *args, **options):
        parsed.append(len(content))
        return read_body(content, *args, **options)

    async def pause(seconds: float) -> None:
        while not gate.is_set():
            await asyncio.sleep(0.01)

    monkeypatch.setattr(app, "read_body", read)
    monkeypatch.setattr(app, "sleep", pause)
    with inside(classifier) as (_, its_port), contextlib.ExitStack() as stack:
        clients = [stack.enter_context(contextlib.closing(connect(its_port))) for _ in range(3)]
        for client in clients:
            send(client, "/predict", HUGE["zeros"])
        wait_until(lambda: parsed)
        assert ask(its_port, "/predict", {"texts": ["good"]}).status == 200
        assert len(parsed) == 2 and parsed[0] == len(HUGE["zeros"])  # the other large ones wait
        gate.set()
        assert [Answer(client.getresponse()).status for client in clients] == [413] * 3
    assert len(parsed) == 4


@pytest.mark.parametrize("case", HUGE)
def test_values_are_counted_before_any_is_read(case, monkeypatch):
    monkeypatch.setattr(json, "loads", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(ApiError, match="Found more values in the body than 256 texts need") as caught:
        read_body(HUGE[case], "texts", kind="single_label_classification", pairs=False, words=True, limits=Limits())
    assert caught.value.status == 413


def test_the_first_error_ends_it(port):
    assert post(port, {"texts": [0, 0, "a" * 200_000, 0]}).error() == (422, "invalid_field", "texts[0]")
    assert post(port, {"texts": [0] * 5}).error() == (413, "too_many_texts", "texts")
    assert post(port, {f"k{n}": n for n in range(50)}).error() == (422, "invalid_field", "k0")
    assert post(port, b'{"\\ud800": 1}').error() == (422, "invalid_field", "?")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
BODIES = VALUES | st.fixed_dictionaries(
    {},
    optional={name: VALUES | st.lists(st.text(max_size=20), max_size=5) for name in ("texts", "sentences")}
    | {name: st.booleans() | VALUES for name in ("windows", "words", "abstain_below")},
)


@pytest.mark.parametrize("kind", ["classes", "pairs"])
def test_any_json_gets_an_answer(kind, classifier, encoder_folder, tmp_path_factory):  # noqa: F811
    model = classifier
    if kind == "pairs":
        folder = save_model(encoder_folder, tmp_path_factory.mktemp("pairs") / NAME, pair_truncation="none")
        model = TextClassifier.from_pretrained(folder, device="cpu")
    with TestClient(make_app(model, name=NAME, limits=Limits(seconds=60)), raise_server_exceptions=False) as client:

        @settings(max_examples=150, deadline=None, suppress_health_check=[*HealthCheck], database=None)
        @given(BODIES, st.sampled_from(["/predict", "/query"]))
        def check(body, path):
            content = json.dumps(body)
            answer = client.post(path, content=content, headers={"content-type": "application/json"})
            assert answer.status_code < 500 and answer.json()

        check()


# ------------------------------------------------------------------------------------------------ turns


@pytest.mark.parametrize("pooling", ["mean", "max", "mean_probs", "vote"])
def test_a_text_in_parts_is_the_text(pooling, classifier, monkeypatch):  # noqa: F811
    monkeypatch.setattr(classifier.model.config, "window_pooling", pooling)
    one = classifier.encode([LONG], windows=True)[0]
    parts = one.parts(3)
    assert len(parts) > 3 and sum(part.size[0] for part in parts) == one.size[0] and one.size[0] % 3
    found = classifier.predict_vectors(one, torch.cat([classifier.window_vectors(part) for part in parts]))
    whole = classifier.predict_encoded([one])[0]
    assert found.probabilities == pytest.approx(whole.probabilities, abs=1e-5) and found.label == whole.label
    for window, its in zip(found.windows, whole.windows, strict=True):
        assert (window.start, window.end, window.text) == (its.start, its.end, its.text)
        assert window.probabilities == pytest.approx(its.probabilities, abs=1e-5)


def test_answers_in_slices_are_those_of_the_classifier(classifier):  # noqa: F811
    texts = ["short", LONG, "", LONG[:700], "a film"]
    with inside(classifier, limits=SLICED) as (_, its_port):
        answers = ask(its_port, "/predict", {"texts": texts, "windows": True}).json["predictions"]
        counts = ask(its_port, "/metrics").content.decode()
    for answer, truth in zip(answers, classifier.predict(texts, windows=True), strict=True):
        check_prediction(answer, truth)
        assert [window["text"] for window in answer["windows"]] == [window.text for window in truth.windows]
    assert "bertcls_texts_total 5.0" in counts
    assert 'bertcls_forward_tokens_bucket{le="64.0"}' in counts  # and no pass had more
    passes = [line.split()[1] for line in counts.splitlines() if line.startswith("bertcls_forward_tokens_bucket")]
    assert passes[6] == passes[-1] and float(passes[-1]) > 6


@pytest.mark.slow
def test_a_pass_is_planned_by_the_tokens_that_it_will_hold(classifier):  # noqa: F811
    """56 texts of nine tokens fill 512 places, which padded to 16 only 32 do."""
    encoded = classifier.encode(["good bad good bad good bad good"] * 56)
    assert classifier.collator.pad_to_multiple_of == 1 and {one.size for one in encoded} == {(1, 9)}
    texts = ["good bad good bad good bad good"] * 57
    with inside(classifier, limits=Limits(wait=1.0, seconds=60)) as (_, its_port):
        assert ask(its_port, "/predict", {"texts": texts}).status == 200
        counts = ask(its_port, "/metrics").content.decode()
    assert "bertcls_forward_texts_count 2.0" in counts and "bertcls_forward_texts_sum 57.0" in counts
    assert 'bertcls_forward_texts_bucket{le="32.0"} 1.0' in counts  # the one that was left, alone


def test_others_have_their_turn_within_a_text(classifier):  # noqa: F811
    gated = Gated(classifier)
    with inside(gated, limits=SLICED) as (server, its_port):
        first = begin(its_port, LONG)
        assert gated.begun.wait(60)
        second = begin(its_port, "short")
        wait_until(lambda: any(job.item.text == "short" for job in server.service._batcher._waiting))
        gated.gate.set()
        assert Answer(second.getresponse()).status == Answer(first.getresponse()).status == 200
    slices = [item for item in gated.ran if item != "short"]
    assert len(slices) > 5 and gated.ran.index("short") < len(slices) - 1


def test_the_rest_of_a_text_is_not_read_for_a_client_that_left(classifier):  # noqa: F811
    gated = Gated(classifier)
    with inside(gated, limits=SLICED) as (server, its_port):
        leaving = begin(its_port, LONG)
        assert gated.begun.wait(60)
        leaving.close()
        wait_until(lambda: server.service.open_texts == 0)
        gated.gate.set()
        assert ask(its_port, "/predict", {"texts": ["after"]}).status == 200
        assert gated.ran[-1] == "after" and len(gated.ran) == 2


def test_a_request_has_a_limit_of_tokens_and_of_what_windows_answer(port):
    assert post(port, {"texts": [LONG]}).status == 200
    assert post(port, {"texts": [LONG] * 4}).error() == (413, "too_many_tokens", None)
    assert post(port, {"sentences": [LONG] * 4}, "/query").error() == (413, "too_many_tokens", None)
    assert post(port, {"texts": [LONG], "windows": True}).error() == (413, "answer_too_large", "windows")
    assert post(port, {"texts": ["a short one"], "windows": True}).status == 200


def test_health_says_how_long_a_pass_takes_and_fails_where_it_hangs(classifier):  # noqa: F811
    gated = Gated(classifier)
    with inside(gated, limits=Limits(batch_tokens=64, seconds=0.3)) as (_, its_port):
        waiting = begin(its_port, LONG)
        assert gated.begun.wait(60)
        wait_until(lambda: ask(its_port, "/health").status == 503)
        assert ask(its_port, "/health").error() == (503, "hung", None)
        assert Answer(waiting.getresponse()).error() == (504, "too_slow", None)
        gated.gate.set()
        wait_until(lambda: ask(its_port, "/health").status == 200)
        assert ask(its_port, "/health").json == {"status": "ok", "busy_seconds": 0.0}


HANGS = """
import socket, sys, threading
from bertcls import TextClassifier
from bertcls.serve import service
from bertcls.serve.app import Server, make_app
from bertcls.serve.schemas import Limits

service.CLOSING_SECONDS = 0.1
classifier = TextClassifier.from_pretrained(sys.argv[1], device="cpu")
listening = socket.create_server(("127.0.0.1", 0))

def hang(encoded):
    print("hangs", flush=True)
    threading.Event().wait()

classifier.predict_encoded = hang
print(listening.getsockname()[1], flush=True)
Server(make_app(classifier, name="x", limits=Limits(seconds=0.5))).run(sockets=[listening])
"""


@pytest.mark.slow
def test_a_pass_that_hangs_does_not_keep_the_process(saved):  # noqa: F811
    command = [sys.executable, "-c", HANGS, saved]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        with contextlib.closing(begin(int(process.stdout.readline()), "a film")):
            assert process.stdout.readline() == "hangs\n"
            process.terminate()
            assert process.wait(60) == 1
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


# ------------------------------------------------------------------------------------------------ who asks, and how


def test_a_name_that_others_gave_this_machine_is_refused(port):
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "", "localhost.evil"):
        for path in ("/", "/info", "/health"):
            assert ask(port, path, Host=host).error() == (421, "unknown_host", None)
    for host in (f"localhost:{port}", "LOCALHOST", "127.0.0.1", f"[::1]:{port}"):
        assert ask(port, "/health", Host=host).status == 200


def test_the_scheme_of_a_key_is_read_in_any_case(port):
    for scheme, status in (("Bearer", 200), ("bearer", 200), ("BEARER", 200), ("Basic", 401), ("", 401)):
        assert ask(port, "/info", Authorization=f"{scheme} key").status == status
    assert ask(port, "/info", Authorization="Bearer KEY").status == 401


@pytest.mark.parametrize("head", [b"", b"GET /health HTTP/1.1\r\nHost: loc"])
def test_a_head_that_does_not_come(classifier, caplog, head):  # noqa: F811
    logging.getLogger("bertcls.service").propagate = True
    with (
        caplog.at_level(logging.INFO, "bertcls.service"),
        inside(classifier, limits=Limits(seconds=0.2)) as (_, its_port),
        socket.create_connection(("127.0.0.1", its_port), timeout=60) as client,
    ):
        client.sendall(head)
        response = http.client.HTTPResponse(client)
        response.begin()
        assert Answer(response).error() == (408, "head_too_slow", None)
        assert client.recv(1) == b""  # it is closed
        with contextlib.closing(connect(its_port)) as connection:  # whose second head does not come
            send(connection, "/health")
            assert Answer(connection.getresponse()).status == 200
            connection.sock.sendall(b"GET /he")
            second = http.client.HTTPResponse(connection.sock)
            second.begin()
            assert Answer(second).error() == (408, "head_too_slow", None)
    assert [record.getMessage() for record in caplog.records].count("head_too_slow") == 2


def test_connections_that_wait_make_room_before_no_file_is_left(classifier):  # noqa: F811
    with inside(classifier) as (server, its_port), contextlib.ExitStack() as stack:
        server.most_connections = 5
        address = ("127.0.0.1", its_port)
        clients = [stack.enter_context(socket.create_connection(address, timeout=60)) for _ in range(8)]
        for client in clients:
            client.sendall(b"POST /predict HTTP/1.1\r\nHost: loc")
        wait_until(lambda: len(select.select(clients, [], [], 0)[0]) == 3)
        assert ask(its_port, "/health").status == 200
        for client in select.select(clients, [], [], 0)[0]:
            response = http.client.HTTPResponse(client)
            response.begin()
            assert Answer(response).error() == (503, "crowded", None)


@pytest.mark.parametrize("then", [b"", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"])
def test_an_answer_that_nobody_reads_is_not_held(classifier, then):  # noqa: F811
    limits = Limits(seconds=120, body=20_000_000, answer=100_000_000)
    with inside(classifier, limits=limits) as (server, its_port):
        body = json.dumps({"texts": [f"{'x' * 999} " * 90] * 90, "windows": True}).encode()  # words of one token
        head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        with socket.create_connection(("127.0.0.1", its_port), timeout=60) as client:
            client.sendall(head.encode() + b"\r\n\r\n" + body + then)
            connections = server.server_state.connections
            wait_until(lambda: any(one.transport.get_write_buffer_size() for one in [*connections]))
            server.service.limits = replace(limits, seconds=0.5)
            wait_until(lambda: not connections)


@pytest.mark.slow
def test_a_slow_answer_is_not_a_slow_head(classifier):  # noqa: F811
    """Of two requests sent at once the second one waits for the first, beyond the time for a head."""
    gated = Gated(classifier)
    with inside(gated, limits=Limits(batch_tokens=64, seconds=1)) as (_, its_port):
        body = json.dumps({"texts": [LONG]}).encode()
        head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        with socket.create_connection(("127.0.0.1", its_port), timeout=60) as client:
            client.sendall(2 * (head.encode() + b"\r\n\r\n" + body))
            assert gated.begun.wait(60)
            for _ in range(2):
                response = http.client.HTTPResponse(client)
                response.begin()
                assert Answer(response).error() == (504, "too_slow", None)
            gated.gate.set()


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nA B: c\r\n\r\n",
        b"HELLO\r\n\r\n",
    ],
)
def test_what_is_no_http_is_told_so_in_json(port, sent):
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(sent)
        response = http.client.HTTPResponse(client)
        response.begin()
        assert Answer(response).error() == (400, "malformed_http", None)


def test_a_line_of_the_log_is_a_line_in_any_program():
    record = logging.LogRecord("bertcls.service", logging.INFO, "", 0, "request", None, None)
    path = "/a\u2028b\u2029c\x85d\x7fe\u202ef\u2066g\u200fh\x1b[2Ji\ud800\n"
    record.fields = {"path": path}
    line = JsonLines().format(record)
    assert line.isascii() and line.isprintable() and json.loads(line)["path"] == path
    assert {"bertcls.service", "uvicorn", "asyncio"} <= LOGGING["loggers"].keys()


BAD = {
    ("--timeout", "nan"): "Found --timeout nan (seconds); expected more than 0",
    ("--timeout", "1e300"): "Found --timeout 1e+300 (seconds); expected more than 0",
    ("--max_wait_ms", "nan"): "Found --max_wait_ms nan (wait)",
    ("--max_tokens", "0"): "Found --max_tokens 0 (tokens)",
    ("--port", "99999"): "Found no way to listen at 127.0.0.1, port 99999",
    ("--port", "-1"): "Found no way to listen at 127.0.0.1, port -1",
    ("--cpu_threads", "-1"): "Found --cpu_threads -1; expected at least 1",
    ("--cpu_threads", "0"): "Found --cpu_threads 0; expected at least 1",
}


@pytest.mark.parametrize("words", BAD, ids=" ".join)
def test_a_number_that_means_nothing_is_one_line(words, saved, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setattr(sys, "argv", ["serve.py", "--model_name_or_path", saved, "--port", "0", *words])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(ROOT / "recipes" / "serve.py"), run_name="__main__")
    line = capsys.readouterr().err
    assert caught.value.code == 2 and line.count("\n") == 1 and BAD[words] in line


@pytest.mark.parametrize("head", [b"a:\r\n" * 16_000, b"a: " + b"b" * 64_000])
def test_the_head_of_a_request_has_a_limit(classifier, head):  # noqa: F811
    with (
        inside(classifier) as (_, its_port),
        socket.create_connection(("127.0.0.1", its_port), timeout=60) as client,
    ):
        client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n" + head)
        client.sendall(head[-4000:])  # in one piece, so that nothing is unread when it closes
        response = http.client.HTTPResponse(client)
        response.begin()
        assert Answer(response).error() == (431, "head_too_large", None)
        large = {"texts": ["good"], "filler": "x" * 300_000}  # of a body there is another one
        assert ask(its_port, "/predict", large).error() == (422, "invalid_field", "filler")


def test_bodies_that_do_not_come_make_room_before_other_connections(classifier):  # noqa: F811
    with inside(classifier) as (server, its_port), contextlib.ExitStack() as stack:
        address = ("127.0.0.1", its_port)
        slow = [stack.enter_context(socket.create_connection(address, timeout=60)) for _ in range(4)]
        for client in slow:
            client.sendall(
                b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
            )
        wait_until(lambda: len(server.expecting) == 4)
        began = time.monotonic()
        fresh = [stack.enter_context(socket.create_connection(address, timeout=60)) for _ in range(2)]
        wait_until(lambda: len(server.expecting) == 6 and time.monotonic() - began > 1.2)
        server.most_connections = 3
        wait_until(lambda: len(select.select(slow, [], [], 0)[0]) == 3)
        assert select.select(fresh, [], [], 0)[0] == []
        response = http.client.HTTPResponse(select.select(slow, [], [], 0)[0][0])
        response.begin()
        assert Answer(response).error() == (503, "crowded", None)


def test_a_small_body_has_room_beside_large_ones_that_do_not_come(classifier, monkeypatch):  # noqa: F811
    monkeypatch.setattr("bertcls.serve.middleware.HELD_BYTES", 1)
    with inside(classifier, limits=Limits(body=200_000)) as (server, its_port), contextlib.ExitStack() as stack:
        for _ in range(2):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", its_port), timeout=60))
            head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            client.sendall(head + b"Content-Length: 150000\r\n\r\n" + b" " * 90_000)
        wait_until(lambda: len(server.expecting) == 2)
        assert ask(its_port, "/predict", {"texts": ["x" * 30_000]}).status == 200


def test_words_of_texts_that_are_no_tokens_are_refused(classifier):  # noqa: F811
    with inside(classifier, limits=Limits(word_tokens=64)) as (_, its_port):
        body = {"texts": ["good" + "\x7f" * 1100], "words": True}
        assert ask(its_port, "/predict", body | {"words": False}).status == 200
        assert ask(its_port, "/predict", body).error() == (413, "too_many_tokens", None)


def test_answers_of_many_labels_have_a_limit(classifier):  # noqa: F811
    with inside(classifier, limits=Limits(answer=500)) as (_, its_port):
        assert ask(its_port, "/predict", {"texts": ["good"]}).status == 200
        assert ask(its_port, "/predict", {"texts": ["good"] * 9}).error() == (413, "answer_too_large", None)
        assert ask(its_port, "/query", {"sentences": ["good"] * 9}).status == 200


@pytest.mark.parametrize("apart", [False, True])
def test_a_body_behind_an_offer_to_upgrade_is_a_body(port, apart):
    body = json.dumps({"texts": ["a film"]}).encode()
    head = (
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer key\r\nContent-Type: application/json\r\n"
    )
    head += b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    head += b"Content-Length: %d\r\n\r\n" % len(body)
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(head if apart else head + body)
        if apart:
            time.sleep(0.3)
            client.sendall(body)
        response = http.client.HTTPResponse(client)
        response.begin()
        assert response.status == 200 and len(json.loads(response.read())["predictions"]) == 1
