"""Concurrent clients against the service and against the plain design it replaces, in one run.

The plain design is what tutorials show: Flask's own server, one forward pass a request, every text padded to 128
tokens (`pip install flask`). Each client sends one text after another; every label is compared with the offline
prediction in fp32, so that wrong and lost answers are counted. All servers have the same model and cores; the arms
take turns, and ratios are of their medians. What --dtype of the service changes is seen in both.

Run:  python benchmarks/serve_load.py --model_name_or_path runs/sst2 --clients 64 --seconds 60
"""

import argparse
import http.client
import json
import logging
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent


def plain_server(name_or_path: str, threads: int) -> None:
    """One forward pass a request, padded to 128 tokens."""
    import torch
    from flask import Flask, request
    from werkzeug.serving import make_server

    from bertcls import TextClassifier
    from bertcls.text import clean

    torch.set_num_threads(threads)
    classifier = TextClassifier.from_pretrained(name_or_path)
    config, tokenizer, lock = classifier.model.config, classifier.tokenizer, threading.Lock()

    app = Flask("plain")

    @app.post("/query")
    def query() -> dict:
        with lock:  # fast tokenizers keep state
            inputs = tokenizer(
                [clean(sentence, config.cleaning) for sentence in request.json["sentences"]],
                padding="max_length",
                truncation=True,
                max_length=128,
                return_tensors="pt",
            ).to(classifier.device)
        with torch.inference_mode():
            logits = classifier.model(**inputs).logits
        return {"results": logits.argmax(-1).tolist()}

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, app, threaded=True)  # as app.run does
    print(f"at :{server.port}", flush=True)
    server.serve_forever()


def load(port: int, texts: list[str], truth: list[int], clients: int, seconds: float) -> dict:
    """Clients that each send one text after another, for so many seconds."""
    latencies, wrong, failed, lock = [], 0, 0, threading.Lock()
    end = time.perf_counter() + seconds

    def client(number: int) -> None:
        nonlocal wrong, failed
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        row = number * 7919
        while time.perf_counter() < end:
            row = (row + 1) % len(texts)
            start = time.perf_counter()
            try:
                body = json.dumps({"sentences": [texts[row]]})
                connection.request("POST", "/query", body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                answer = json.loads(response.read())
                taken = time.perf_counter() - start
                with lock:
                    if response.status == 200:
                        latencies.append(taken)
                        wrong += answer["results"] != [truth[row]]
                    failed += response.status != 200
            except (OSError, ValueError, http.client.HTTPException):
                with lock:
                    failed += 1
                connection.close()
        connection.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - start
    p50, p95, p99 = (1000 * np.percentile(latencies, q) for q in (50, 95, 99))
    return {"rate": len(latencies) / took, "p50": p50, "p95": p95, "p99": p99, "wrong": wrong, "failed": failed}


def started(command: list[str]) -> tuple[subprocess.Popen, int]:
    """A server process, and its port."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT)
    return process, int(process.stdout.readline().rsplit(":", 1)[1])


def servers(name_or_path: str, threads: int, dtypes: list[str]) -> dict[str, list[str]]:
    """The commands of all."""
    common = ["--model_name_or_path", str(Path(name_or_path).resolve())]
    service = [sys.executable, "recipes/serve.py", *common, "--port", "0", "--cpu_threads", str(threads)]
    plain = [sys.executable, __file__, "--plain", *common, "--threads", str(threads)]
    arms = {"plain": plain}
    for dtype in dtypes:
        backend, _, other = dtype.rpartition(" ")
        engine = ["--model_name_or_path", f"{common[1]}/onnx", "--backend", backend] if backend else []
        arms[f"service, {dtype}"] = [*service, *engine, "--dtype", other]
    return arms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True, help="folder that a recipe saved")
    parser.add_argument("--texts", help="parquet file with a column text; none: report/predictions.parquet of the run")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60, help="of each turn")
    parser.add_argument("--turns", type=int, default=1, help="of each arm")
    parser.add_argument("--threads", type=int, default=2, help="of torch, in each server")
    parser.add_argument("--dtypes", nargs="+", default=["float32"], help='each an arm; "onnx float32": the export')
    parser.add_argument("--plain", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.plain:
        plain_server(args.model_name_or_path, args.threads)
        return

    import pyarrow.parquet as pq
    import torch

    from bertcls import TextClassifier

    file = args.texts or Path(args.model_name_or_path, "report", "predictions.parquet")
    texts = pq.read_table(file, columns=["text"])["text"].to_pylist()
    torch.set_num_threads(args.threads)
    truth = TextClassifier.from_pretrained(args.model_name_or_path).logits(texts).argmax(-1).tolist()
    commands = servers(args.model_name_or_path, args.threads, args.dtypes)
    found: dict[str, list[dict]] = {name: [] for name in commands}
    for _ in range(args.turns):
        for name, command in commands.items():
            process, port = started(command)
            try:
                load(port, texts, truth, min(args.clients, 4), 1)  # warm
                found[name].append(load(port, texts, truth, args.clients, args.seconds))
            finally:
                process.terminate()
                process.wait()
    keys = ("rate", "p50", "p95", "p99")
    median = {
        name: {key: statistics.median(one[key] for one in turns) for key in keys} for name, turns in found.items()
    }
    print(f"{args.clients} clients, {args.seconds:g} s a turn, {args.turns} turns, {len(texts)} texts")
    print("| server | requests/s | p50 ms | p95 ms | p99 ms | wrong | failed |\n|---|---|---|---|---|---|---|")
    for name, one in median.items():
        worst = {key: sum(turn[key] for turn in found[name]) for key in ("wrong", "failed")}
        times = " | ".join(f"{one[key]:.0f}" for key in ("p50", "p95", "p99"))
        print(f"| {name} | {one['rate']:.1f} | {times} | {worst['wrong']} | {worst['failed']} |")
    for name in [*median][1:]:
        ratios = " | ".join(f"{median[name][key] / median['plain'][key]:.2f}" for key in keys)
        print(f"| {name} beside plain | {ratios} | | |")


if __name__ == "__main__":
    main()
