"""Well-behaved clients beside attacks on the service, and random requests whose every answer is checked.

The clients' latency beside each attack stands next to that of the quiet minutes around it; the memory is the
process's, at its highest; `/health` is asked all the while.
Run:  python benchmarks/serve_attacks.py --model_name_or_path runs/sst2
"""

import argparse
import contextlib
import http.client
import json
import random
import resource
import socket
import statistics
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from machine import show
from serve_faults import HEAD, connect, memory, post, service
from serve_load import load

from bertcls import TextClassifier

ALPHABET = ["a", "Z", "é", "好", "\U0001f600", " ", "\n", "\u202e", "<b>", "&#39;", "\x00", '"', "\\", "film", "not"]


@cache  # made once: the clients share this process
def monstrous() -> list[bytes]:
    """Bodies of a million values, of empty lists, and of unknown names."""
    parts = ((b"0", 990_000), (b"[]", 600_000))
    found = [b'{"texts":[' + b",".join([value] * number) + b"]}" for value, number in parts]
    return [*found, json.dumps({f"field {number}": 0 for number in range(100_000)}).encode()[:1_990_000]]


def zeros(port: int) -> None:
    """Refused bodies."""
    with contextlib.closing(connect(port)) as connection:
        for content in monstrous():
            post(connection, content)


def long_texts(port: int) -> None:
    """A text with more tokens than a request may have, one with as many as it may, and one whose client leaves."""
    with contextlib.closing(connect(port)) as connection:
        post(connection, json.dumps({"texts": ["!" * 99_000]}).encode())
    content = json.dumps({"texts": ["good film " * 9_900]}).encode()
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(HEAD.format(len(content)).encode() + content)
        time.sleep(1)
    with contextlib.closing(connect(port)) as connection:
        post(connection, content)


def unfinished_heads(port: int) -> None:
    """400 connections, where the service has 256 files, that send half a head and wait."""
    with contextlib.ExitStack() as stack:
        for _ in range(400):
            client = stack.enter_context(socket.socket())
            client.settimeout(5)
            with contextlib.suppress(OSError):
                client.connect(("127.0.0.1", port))
                client.sendall(b"POST /predict HTTP/1.1\r\nHost: local")
        time.sleep(5)


def many_words(port: int) -> None:
    """Requests for the words of as many tokens as these may have."""
    with contextlib.closing(connect(port)) as connection:
        post(connection, json.dumps({"texts": ["good film "] * 200, "words": True}).encode())


def beside(attack: Callable | None, port: int, process, texts: list[str], truth: list[int], seconds: float) -> dict:
    """The load of 16 clients for some seconds, while an attack is repeated and the health is asked for."""
    end, peaks, health, attacks = time.perf_counter() + seconds, [], [], [0]

    def repeat() -> None:
        while attack is not None and time.perf_counter() < end:
            with contextlib.suppress(OSError, http.client.HTTPException):
                attack(port)
            attacks[0] += 1

    def watch() -> None:
        while time.perf_counter() < end:
            peaks.append(memory(process))
            started = time.perf_counter()
            try:
                with contextlib.closing(connect(port)) as connection:
                    connection.request("GET", "/health")
                    status = connection.getresponse().status
            except (OSError, http.client.HTTPException) as error:
                status = type(error).__name__
            health.append((status, time.perf_counter() - started))
            time.sleep(0.2)

    threads = [threading.Thread(target=repeat), threading.Thread(target=watch)]
    for thread in threads:
        thread.start()
    found = load(port, texts, truth, 16, seconds)
    for thread in threads:
        thread.join()
    statuses = [status for status, _ in health]
    bad = [status for status in statuses if status != 200]
    return found | {
        "attacks": attacks[0],
        "memory": max(peaks),
        "health": f"{len(statuses) - len(bad)} of {len(statuses)}, slowest {1000 * max(s for _, s in health):.0f} ms",
    }


def random_requests(port: int, classifier: TextClassifier, seconds: float, clients: int = 4) -> dict:
    """Random texts, alone and in lists, with random options; every answer is compared with the model's."""
    end, lock, asked, statuses, wrong = time.perf_counter() + seconds, threading.Lock(), [], {}, 0

    def client(seed: int) -> None:
        draw = random.Random(seed)
        with contextlib.closing(connect(port)) as connection:
            while time.perf_counter() < end:
                sizes = [draw.choice([0, 1, 5, 40, 300]) for _ in range(draw.choice([0, 1, 1, 2, 8]))]
                body: dict = {"texts": ["".join(draw.choices(ALPHABET, k=size)) for size in sizes]}
                body |= {name: True for name in ("windows", "words") if draw.random() < 0.2}
                body |= {"abstain_below": draw.choice([0.5, 2, "x", None])} if draw.random() < 0.1 else {}
                content = json.dumps(body).encode()
                content = content[: draw.randrange(len(content))] if draw.random() < 0.05 else content
                status, answer = post(connection, content)
                with lock:
                    statuses[status] = statuses.get(status, 0) + 1
                    if status == 200:
                        asked.append((body["texts"], json.loads(answer)["predictions"]))

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = iter(classifier.probabilities([text for texts, _ in asked for text in texts]))
    for _texts, answers in asked:
        for answer, values in zip(answers, expected):
            wrong += not np.allclose([*answer["probabilities"].values()], values, atol=1e-5)
    return {"statuses": statuses, "answers": sum(len(texts) for texts, _ in asked), "wrong": wrong}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True, help="folder that a recipe saved")
    parser.add_argument("--seconds", type=float, default=20, help="of each turn")
    parser.add_argument("--random_seconds", type=float, default=60)
    options = parser.parse_args()
    name_or_path = str(Path(options.model_name_or_path).resolve())
    texts = pq.read_table(Path(name_or_path, "report", "predictions.parquet"), columns=["text"])["text"].to_pylist()
    torch.set_num_threads(1)
    classifier = TextClassifier.from_pretrained(name_or_path, device="cpu")
    truth = classifier.logits(texts).argmax(-1).tolist()
    own = resource.getrlimit(resource.RLIMIT_NOFILE)
    rows = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, own[1]))  # which the service inherits
    with service(name_or_path, "--cpu_threads", "1") as (process, port, log):
        resource.setrlimit(resource.RLIMIT_NOFILE, own)
        load(port, texts, truth, 4, 2)
        monstrous()
        quiet = [beside(None, port, process, texts, truth, options.seconds)]
        for name, attack in (
            ("A1: monstrous bodies that are refused", zeros),
            ("A2: texts of 99,000 characters", long_texts),
            ("A14: 400 unfinished heads, 256 files", unfinished_heads),
            ("words of 400 tokens and more", many_words),
        ):
            found = beside(attack, port, process, texts, truth, options.seconds)
            quiet.append(beside(None, port, process, texts, truth, options.seconds))
            before = statistics.mean(one["p95"] for one in quiet[-2:])
            rows.append([name, found["attacks"], before, found["p95"], found["p95"] / before])
            rows[-1] += [found["memory"], found["health"], found["wrong"], found["failed"]]
            print(rows[-1], flush=True)
        answered = random_requests(port, classifier, options.random_seconds)
        entries = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
        defects = sum(entry.get("status", 0) >= 500 for entry in entries)
    headings = ["attack", "times", "p95 quiet, ms", "p95 beside it, ms", "ratio", "memory, MiB", "/health is 200"]
    show("16 clients beside attacks", [*headings, "wrong", "failed"], rows)
    print(f"Random requests: {answered}; answers of 5xx in the log of all of it: {defects}")


if __name__ == "__main__":
    main()
