"""A push to a real HTTP server on the loopback that speaks the part of the Hub's API that a push uses."""

import base64
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

TOKEN, COMMIT = "hf_dummytoken", "0" * 40
PUSH = (
    "import sys; from bertcls import one_line_errors, push_folder\n"
    "with one_line_errors():\n    print(push_folder(sys.argv[1], 'someone/model', token=sys.argv[2]))"
)


class Hub(BaseHTTPRequestHandler):
    refuse = False
    calls: list[tuple[str, str]] = []
    files: dict[str, bytes] = {}

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        self.calls.append((self.path, body))
        if self.path == "/api/repos/create":
            answer = {"url": f"http://{self.headers['Host']}/someone/model"}
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            files = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            answer = {"files": files}
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            answer = {
                "success": True,
                "commitUrl": f"http://{self.headers['Host']}/someone/model/commit/{COMMIT}",
                "commitOid": COMMIT,
            }
        else:
            answer = {}
        self.send_response(403 if self.refuse and "/commit/" in self.path else 200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *args):
        pass


@pytest.fixture
def hub():
    handler = type("FreshHub", (Hub,), {"calls": [], "files": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield handler, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def push(url: str, folder, tmp_path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "home")}
    environment.pop("HF_HUB_OFFLINE")
    command = [sys.executable, "-c", PUSH, str(folder), TOKEN]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


@pytest.fixture
def folder(tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints" / "checkpoint-1").mkdir(parents=True)
    (run / "checkpoints" / "checkpoint-1" / "training_args.bin").write_text(TOKEN)
    names = (
        "config.json",
        "model.safetensors",
        "all_results.json",
        "predictions.parquet",
        "run.json",
        "training_args.bin",
    )
    for name in names:
        (run / name).write_text(f"content of {name}")
    return run


def test_a_push_sends_the_model_and_nothing_private(hub, folder, tmp_path):
    server, url = hub
    done = push(url, folder, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{url}/someone/model/commit/{COMMIT}"
    assert set(server.files) == {"config.json", "model.safetensors", "all_results.json"}
    assert server.files["config.json"] == b"content of config.json"
    created = json.loads(next(body for path, body in server.calls if path == "/api/repos/create"))
    assert created.get("private") is True or created.get("visibility") == "private"
    assert all(TOKEN not in body for _, body in server.calls)


def test_a_refused_push_ends_with_one_line_and_keeps_the_folder(hub, folder, tmp_path):
    server, url = hub
    server.refuse = True
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    done = push(url, folder, tmp_path)
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: someone/model was not pushed (") and "The model is safe in" in last
    assert TOKEN not in done.stderr + done.stdout
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_without_a_hub_the_push_says_so(folder, tmp_path):
    done = push("http://127.0.0.1:9", folder, tmp_path)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: someone/model was not pushed (")
