"""What the service does when it is treated badly: a table, one line a fault.

Run:  python benchmarks/serve_faults.py --model_name_or_path runs/sst2      (pip install schemathesis)
"""

import argparse
import asyncio
import collections
import contextlib
import http.client
import json
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
TEXT = "A film that starts badly but ends well. "
HEAD = "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"


@contextlib.contextmanager
def service(name_or_path: str, *options: str):
    """A process of recipes/serve.py, its port, and the file of its log."""
    command = [sys.executable, "recipes/serve.py", "--model_name_or_path", name_or_path, "--port", "0", *options]
    with tempfile.NamedTemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT)
        try:
            yield process, int(process.stdout.readline().rsplit(":", 1)[1]), Path(log.name)
        finally:
            process.kill()
            process.wait()


def post(connection: http.client.HTTPConnection, body: bytes) -> tuple[int, bytes]:
    """Status and content of `/predict`."""
    connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    return response.status, response.read()


def connect(port: int) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", port, timeout=120)


def body(texts: int = 1, repeats: int = 1) -> bytes:
    return json.dumps({"texts": [TEXT * repeats] * texts}).encode()


def memory(process: subprocess.Popen) -> float:
    """MiB that a process holds."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


def alive(port: int) -> str:
    with contextlib.closing(connect(port)) as connection:
        return "answers afterwards" if post(connection, body())[0] == 200 else "DOES NOT ANSWER AFTERWARDS"


def counted(statuses: list) -> str:
    return ", ".join(
        f"{count} x {status}" for status, count in sorted(collections.Counter(map(str, statuses)).items())
    )


def schema(port: int, examples: int) -> str:
    command = ["schemathesis", "run", f"http://127.0.0.1:{port}/openapi.json", "--max-examples", str(examples)]
    with tempfile.TemporaryDirectory() as folder:  # it leaves a cache where it runs
        refusals = (
            "[checks.negative_data_rejection]\nexpected-statuses = [400, 413, 415, 422]\n"  # it does not know 413
        )
        Path(folder, "schemathesis.toml").write_text(refusals)
        done = subprocess.run([*command, "--seed", "1"], capture_output=True, text=True, cwd=folder)
    generated = re.search(r"(\d+ generated.*)", done.stdout)
    return f"{generated[1] if generated else done.stdout[-300:]}; exit code {done.returncode}"


def malformed(port: int, number: int) -> str:
    draw, whole, statuses = random.Random(0), body(3), []
    with contextlib.closing(connect(port)) as connection:
        for _ in range(number):
            broken = bytearray(whole)
            for _ in range(draw.randint(1, 8)):
                place = draw.randrange(len(broken))
                broken[place : place + draw.randint(0, 4)] = draw.randbytes(draw.randint(0, 4))
            statuses.append(post(connection, bytes(broken))[0])
    return counted(statuses)


def disconnects(port: int, number: int) -> str:
    content = body(8, 20)
    for place in range(number):
        with socket.create_connection(("127.0.0.1", port)) as client:
            whole = HEAD.format(len(content)).encode() + content
            client.sendall(whole[: len(whole) // 2] if place % 2 else whole)  # in the body, or before the answer
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.closing(connect(port)) as connection:
            connection.request("GET", "/metrics")
            waiting = re.search(rb"^bertcls_open_texts (\S+)", connection.getresponse().read(), re.MULTILINE)[1]
        if float(waiting) == 0:
            break
        time.sleep(0.1)
    return f"{float(waiting):.0f} texts left in the queue, {alive(port)}"


def large_body(process: subprocess.Popen, port: int) -> str:
    before = memory(process)
    with contextlib.closing(connect(port)) as connection:
        start = time.perf_counter()
        status, content = post(connection, b'{"texts": ["' + b"a" * 10_000_000 + b'"]}')
        took = time.perf_counter() - start
    code = json.loads(content)["error"]["code"]
    return f"{status} {code} after {1000 * took:.0f} ms, {memory(process) - before:+.1f} MiB held, {alive(port)}"


def many_connections(port: int, number: int) -> str:
    content, ready = body(), 0

    async def one(everyone: asyncio.Event, all_ready: asyncio.Event) -> str:
        nonlocal ready
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            ready += 1
            if ready == number:
                all_ready.set()
            await everyone.wait()
            writer.write(HEAD.format(len(content)).encode() + content)
            line = await asyncio.wait_for(reader.readline(), 120)
            writer.close()
            return line.split()[1].decode()
        except (OSError, TimeoutError, IndexError) as error:
            return type(error).__name__

    async def everyone_at_once() -> list[str]:
        everyone, all_ready = asyncio.Event(), asyncio.Event()
        tasks = [asyncio.create_task(one(everyone, all_ready)) for _ in range(number)]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(all_ready.wait(), 60)
        everyone.set()
        return await asyncio.gather(*tasks)

    return f"{counted(asyncio.run(everyone_at_once()))}, {alive(port)}"


def full_queue(port: int, clients: int) -> str:
    found, lock = [], threading.Lock()

    def client() -> None:
        with contextlib.closing(connect(port)) as connection:
            for _ in range(5):
                connection.request("POST", "/predict", body(4, 20), {"Content-Type": "application/json"})
                response = connection.getresponse()
                response.read()
                with lock:
                    found.append(f"{response.status}{' with Retry-After' if response.headers['retry-after'] else ''}")

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return f"{counted(found)}, {alive(port)}"


def terminated(process: subprocess.Popen, port: int, log: Path, clients: int) -> str:
    answered, cut, lock = [], [], threading.Lock()

    def client() -> None:
        connection = connect(port)
        while True:
            try:
                status = post(connection, body(2, 10))[0]
            except (OSError, http.client.HTTPException) as error:
                with lock:
                    cut.append(type(error).__name__)
                return
            with lock:
                answered.append(status)

    before = log.read_text().count('"event": "request"')
    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    time.sleep(3)
    process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join()
    code = process.wait()
    begun = log.read_text().count('"event": "request"') - before
    lost = begun - len(answered)
    return f"{counted(answered)}; {begun} requests begun, {lost} lost; then {counted(cut)}; exit code {code}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True, help="folder that a recipe saved")
    parser.add_argument("--examples", type=int, default=100, help="of schemathesis, for each operation")
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=64)
    args = parser.parse_args()
    name_or_path = str(Path(args.model_name_or_path).resolve())
    print("| fault | what happened |\n|---|---|")
    with service(name_or_path) as (process, port, log):
        print(f"| requests made from the OpenAPI document | {schema(port, args.examples)} |", flush=True)
        print(f"| 200 malformed bodies | {malformed(port, 200)} |", flush=True)
        print(f"| 50 clients that leave in the middle | {disconnects(port, 50)} |", flush=True)
        print(f"| a body of 10 MB | {large_body(process, port)} |", flush=True)
        print(f"| {args.connections} connections at once | {many_connections(port, args.connections)} |", flush=True)
        print(f"| SIGTERM, {args.clients} clients | {terminated(process, port, log, args.clients)} |", flush=True)
        entries = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
        errors = sum(entry.get("status", 0) in (500, 502) for entry in entries)
        print(f"| defects (500) in all of this | {errors} |", flush=True)
    with service(name_or_path, "--max_queue", "16") as (_, port, _):
        print(f"| a queue of 16 texts, {args.clients} clients with 4 each | {full_queue(port, args.clients)} |")


if __name__ == "__main__":
    main()
