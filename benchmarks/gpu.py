"""Everything that wants a GPU, in one call of ten minutes; nothing to download, and nothing to carry but these files.

bert-base's shape with random weights, a vocabulary and texts of SST-2's lengths are made on the spot. Each part runs
in a process of its own, in the order of its worth, and is written to --output when it ends: what one of them cannot
do stops no other, and its error is kept. A part for which too little time is left is skipped, and says so.

- rate: what the device is, matrix products and copies
- training: the table of train_throughput.py, with larger batches of the recipe; an epoch of SST-2 by its rate
- tests: those marked gpu
- inference: TextClassifier beside transformers' pipeline, on sentences and on long texts
- service: 64 clients against serve.py and against Flask (pip install flask)
- packed, compile: steps.py
- epoch: 67,349 rows by the recipe, run and not estimated
- evaluation, pretraining, long text: evaluation.py, mlm_head.py and long_text_memory.py

Run:  python benchmarks/gpu.py --output gpu.json
      python benchmarks/gpu.py --output gpu.json --only training packed --dataset_name $DATA/sst2
      python benchmarks/gpu.py --output cpu.json --small          (all of it with a tiny model, on any machine)
"""

import os

os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}  # nothing is downloaded

import argparse
import contextlib
import importlib.util
import io
import json
import multiprocessing
import platform
import random
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import torch
import transformers
from evaluation import WAYS
from inference_engines import PIPELINES, make
from machine import DEVICE, interleaved, matmul_rate, peak_gib, wait_for
from serve_load import load, servers, started
from steps import WAYS as STEPS
from torch import nn
from train_throughput import PADDED, run
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

from bertcls import BertClsForSequenceClassification, TextClassifier, load_splits, load_tokenizer
from bertcls.process import cores_per_process, whole_file

HERE, ROOT = Path(__file__).parent, Path(__file__).parent.parent
TINY = ROOT / "recipes" / "sample" / "tiny-bert"
SST2_ROWS = 67_349
LENGTHS = {  # tokens, special ones included, of every twentieth of SST-2's texts
    "train": [3, 4, 4, 5, 6, 6, 7, 8, 8, 9, 10, 11, 13, 14, 16, 18, 20, 23, 27, 33, 66],
    "validation": [4, 10, 12, 14, 16, 17, 19, 20, 22, 23, 25, 26, 27, 29, 31, 32, 35, 37, 40, 44, 60],
}
LONG = (100, 800)  # tokens of a long text, about as IMDB has them
ARMS = {  # of the training table, with their batch
    "plain loop": 128,
    "stock script": 8,
    "dynamic padding": 32,
    "recipe, fp32": 32,
    "recipe": 32,
    "recipe, batch 64": 64,
    "recipe, batch 256": 256,
}
SIZES = ("steps", "rounds", "sentences", "long_texts", "clients", "seconds", "matrix")
SIZE = dict(zip(SIZES, (150, 3, 872, 200, 64, 10, 8192)))
SMALL = dict(zip(SIZES, (3, 1, 24, 4, 4, 1, 256)))
ENCODER, DATA, OUTPUT = (["--model_name_or_path", "{encoder}"], ["--dataset_name", "{data}"], ["--output", "{output}"])
PACKED, COMPILED = ["--ways", *[*STEPS][:3]], ["--ways", *[*STEPS][3:]]
MASKED = "--bf16 --batch_size 32".split()
STEP = "--steps 2 --batch_size 4 --backend eager".split()
Rows = Iterator[dict]


# What is measured with


def make_model(folder: Path, small: bool) -> None:
    """An encoder of bert-base's shape, or a tiny one, and a vocabulary in which each made-up word is one token."""
    config = AutoConfig.from_pretrained(TINY) if small else AutoConfig.for_model("bert")
    written = json.loads((TINY / "tokenizer.json").read_text())
    known = written["model"]["vocab"]
    for number in range(config.vocab_size - len(known)):
        known[f"w{number}"] = len(known)
    (folder / "vocabulary.json").write_text(json.dumps(written))
    special = {name: f"[{name[:-6].upper()}]" for name in ("pad_token", "unk_token", "cls_token", "sep_token")}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "vocabulary.json"),
        model_max_length=config.max_position_embeddings,
        mask_token="[MASK]",
        **special,
    )
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(folder / "encoder")
    tokenizer.save_pretrained(folder / "encoder")


def make_texts(folder: Path, sizes: dict[str, int]) -> None:
    """Splits of texts of SST-2's lengths, with labels that mean nothing."""
    vocabulary = load_tokenizer(str(folder / "encoder")).get_vocab()
    words = sorted(word for word in vocabulary if word.isalnum())
    draw = random.Random(0)
    (folder / "data").mkdir()
    for split, rows in sizes.items():
        shares = np.linspace(0, 1, len(LENGTHS[split]))
        tokens = np.interp([draw.random() for _ in range(rows)], shares, LENGTHS[split]).round().astype(int)
        with open(folder / "data" / f"{split}.jsonl", "w") as file:
            for size in tokens:
                text = " ".join(draw.choices(words, k=max(size - 2, 1)))
                file.write(json.dumps({"text": text, "label": draw.choice(["bad", "good"])}) + "\n")


def make_run(folder: Path, texts: list[str], max_length: int) -> None:
    """A model as a recipe saves it, whose answers lie on both sides."""
    model = BertClsForSequenceClassification.from_encoder(
        str(folder / "encoder"), num_labels=2, pooling="mean", max_length=max_length
    )
    nn.init.normal_(model.classifier.weight)
    classifier = TextClassifier(model, load_tokenizer(str(folder / "encoder")))
    with torch.no_grad():
        model.classifier.bias -= torch.tensor(classifier.logits(texts).mean(0), device=classifier.device)
    classifier.save_pretrained(str(folder / "run"))


def prepare(args: argparse.Namespace) -> None:
    """All that the parts share."""
    make_model(args.folder, args.small)
    if args.dataset_name is None:
        steps, batch = args.size["steps"], max(ARMS.values())
        rows = {"train": steps * batch, "validation": 64} if args.small else {"train": SST2_ROWS, "validation": 872}
        make_texts(args.folder, rows)
    sentences = split_of(args, "validation")["text"][:50]
    make_run(args.folder, sentences, PADDED if args.small else 256)


def split_of(args: argparse.Namespace, name: str) -> datasets.Dataset:
    return load_splits(args.dataset_name or str(args.folder / "data"))[name]


# The parts: each gives its rows one by one


def rate(args: argparse.Namespace) -> Rows:
    properties = torch.cuda.get_device_properties(0) if DEVICE == "cuda" else None
    yield {
        "device": properties.name if properties else platform.processor() or platform.machine(),
        "memory GiB": round(properties.total_memory / 2**30) if properties else None,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        speed = matmul_rate(dtype, args.size["matrix"], DEVICE)
        yield {"matrix products": str(dtype).removeprefix("torch."), "TFLOP/s": speed / 1000}
    if DEVICE == "cuda":
        torch.backends.fp32_precision = "tf32"
        yield {"matrix products": "tf32", "TFLOP/s": matmul_rate(torch.float32, args.size["matrix"], DEVICE) / 1000}
        torch.backends.fp32_precision = "none"
    values = torch.empty(2**20 if args.small else 2**30, device=DEVICE)
    (seconds,) = interleaved({"copy": lambda: (values.clone(), wait_for(DEVICE))}, 5).values()
    yield {"copy of GiB": values.nbytes / 2**30, "TB/s read and written": 2 * values.nbytes / seconds / 1e12}


def trained(args: argparse.Namespace, arm: str, batch: int, rows: int) -> dict:
    """One training of an arm."""
    train = split_of(args, "train").shuffle(seed=0).select_columns(["text", "label", "example_id"])
    train = train.select(range(min(rows, len(train))))
    if DEVICE != "cpu":
        torch.accelerator.empty_cache()
        torch.accelerator.reset_peak_memory_stats()
    given = argparse.Namespace(
        model_name_or_path=str(args.folder / "encoder"), device=DEVICE, seed=1, cpu_threads=cores_per_process()
    )
    with tempfile.TemporaryDirectory() as given.folder:
        model, seconds = run(arm, train, given, batch)
    speed = len(train) / seconds
    weights = sum(p.numel() for name, p in model.named_parameters() if "embeddings" not in name)
    tokens = np.mean([len(ids) for ids in load_tokenizer(given.model_name_or_path)(train["text"][:])["input_ids"]])
    used = 6 * weights * float(tokens) * speed / 1e12
    return {
        "arm": arm,
        "batch": batch,
        "examples/s": speed,
        "TFLOP/s used": used,
        "share of bf16": used / (matmul_rate(torch.bfloat16, args.size["matrix"], DEVICE) / 1000),
        "s an epoch of SST-2": SST2_ROWS / speed,
        "rows": len(train),
        "peak GiB": peak_gib(),
    }


def training(args: argparse.Namespace) -> Rows:
    for arm, batch in ARMS.items():
        yield trained(args, arm, batch, batch * args.size["steps"])


def epoch(args: argparse.Namespace) -> Rows:
    yield trained(args, "recipe, batch 64", 64, 64 * args.size["steps"] if args.small else SST2_ROWS)


def tests(args: argparse.Namespace) -> Rows:
    files = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text()]
    report = args.folder / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", f"--junitxml={report}", *map(str, files)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if not report.exists():
        raise RuntimeError(f"pytest ended with {done.returncode}: {done.stdout[-2000:]}")
    for case in ElementTree.parse(report).iter("testcase"):
        found = {child.tag: child.get("message") for child in case if child.tag in ("failure", "error", "skipped")}
        outcome, message = next(iter(found.items()), ("passed", None))
        yield {"test": case.get("name"), "outcome": outcome, "s": float(case.get("time")), "message": message}


def inference(args: argparse.Namespace) -> Rows:
    sentences = split_of(args, "validation")["text"][: args.size["sentences"]]
    draw = random.Random(0)
    words = " ".join(sentences).split()
    long = [" ".join(draw.choices(words, k=draw.randint(*LONG))) for _ in range(args.size["long_texts"])]
    given = argparse.Namespace(model_name_or_path=str(args.folder / "run"))
    answers = {name: make(name, given) for name in ("torch fp32", "torch bf16", *PIPELINES)}
    for kind, texts in (("sentences", sentences), ("long texts", long)):
        seconds = interleaved({name: partial(answer, texts) for name, answer in answers.items()}, args.size["rounds"])
        exact = answers["torch fp32"](texts)
        for name, answer in answers.items():
            yield {
                "texts": f"{len(texts)} {kind}",
                "engine": name,
                "texts/s": len(texts) / seconds[name],
                "x pipeline": seconds["pipeline"] / seconds[name],
                "off": float(np.abs(answer(texts) - exact).max()),
            }


def service(args: argparse.Namespace) -> Rows:
    texts = split_of(args, "validation")["text"][:]
    truth = TextClassifier.from_pretrained(str(args.folder / "run")).logits(texts).argmax(-1).tolist()
    commands = servers(str(args.folder / "run"), cores_per_process(), ["float32", "bfloat16"])
    if importlib.util.find_spec("flask") is None:
        del commands["plain"]
        yield {"server": "plain", "not measured": "Flask is not installed"}
    for name, command in commands.items():
        process, port = started(command)
        try:
            for clients in (1, args.size["clients"]):
                load(port, texts, truth, min(clients, 4), 1)  # warm
                found = load(port, texts, truth, clients, args.size["seconds"])
                yield {"server": name, "clients": clients, **found}
        finally:
            process.terminate()
            process.wait()


def script(name: str, *words: str, small: Sequence[str] = ()) -> Callable[[argparse.Namespace], Rows]:
    """Another benchmark, in this process; `small` are words of --small."""

    def part(args: argparse.Namespace) -> Rows:
        output, said = args.folder / f"{name}.json", io.StringIO()
        output.unlink(missing_ok=True)
        given = {
            "{encoder}": args.folder / "encoder",
            "{data}": args.dataset_name or args.folder / "data",
            "{output}": output,
        }
        sys.argv = [f"{name}.py", *(str(given.get(word, word)) for word in [*words, *(small if args.small else ())])]
        try:
            with contextlib.redirect_stdout(said):
                runpy.run_path(str(HERE / f"{name}.py"), run_name="__main__")
        finally:
            print(said.getvalue())
        if output.exists():
            yield from json.loads(output.read_text())["rows"]
        else:
            yield json.loads(said.getvalue().splitlines()[-1].removeprefix("found:"))

    return part


def evaluation(args: argparse.Namespace) -> Rows:
    for way in WAYS:
        (found,) = script("evaluation", *ENCODER, *DATA, "--way", way)(args)
        yield {"way": way, "texts/s": found["texts"] / found["seconds"]} | found


PARTS: dict[str, tuple[Callable[[argparse.Namespace], Rows], int]] = {  # and the seconds that it wants on a GPU
    "rate": (rate, 15),
    "training": (training, 90),
    "tests": (tests, 90),
    "inference": (inference, 40),
    "service": (service, 90),
    "packed": (script("steps", *ENCODER, *DATA, *OUTPUT, *PACKED, small=STEP), 40),
    "compile": (script("steps", *ENCODER, *DATA, *OUTPUT, *COMPILED, small=[*STEP, *COMPILED[:2]]), 90),
    "epoch": (epoch, 50),
    "evaluation": (evaluation, 25),
    "pretraining": (script("mlm_head", *ENCODER, *OUTPUT, *MASKED, small=["--batch_size", "2"]), 25),
    "long text": (script("long_text_memory", *ENCODER, "--case", "long", small=["--characters", "20000"]), 20),
}


# One process a part


def run_part(args: argparse.Namespace, name: str) -> None:
    """In a process of its own: writes the rows of a part as they come, each time the whole list."""
    os.setsid()  # so that what it starts can be ended with it
    with open(args.folder / "said.txt", "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    datasets.config.HF_DATASETS_CACHE = str(args.folder / "cache")
    if name == "prepare":
        return prepare(args)
    rows = []
    for row in PARTS[name][0](args):
        rows.append(row)
        with whole_file(args.folder / "rows.json") as unfinished:
            unfinished.write_text(json.dumps(rows))


def ask(args: argparse.Namespace, name: str, seconds: float) -> dict:
    """What a part found in so many seconds, and why it ended early where it did."""
    start, found = time.perf_counter(), args.folder / "rows.json"
    found.unlink(missing_ok=True)
    # a process that has seen CUDA cannot be forked; without, that saves the imports
    process = multiprocessing.get_context("fork" if DEVICE == "cpu" else "spawn").Process(
        target=run_part,
        args=(args, name),
        name="MainProcess",  # transformers' collators take others for workers of a loader
    )
    process.start()
    process.join(seconds)
    error = None if process.exitcode == 0 else (args.folder / "said.txt").read_text()[-3000:]
    if process.exitcode is None:
        error = f"not done in the {seconds:.0f} s that were left; it said: {error}"
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # what it started, too
    process.join()
    rows = json.loads(found.read_text()) if found.exists() else []
    return {"seconds": round(time.perf_counter() - start, 1), "rows": rows} | ({"error": error} if error else {})


def print_part(name: str, part: dict) -> None:
    print(f"\n## {name}: {part.get('skipped') or '{:.0f} s'.format(part['seconds'])}\n", flush=True)
    tables: dict[tuple, list[dict]] = {}
    for row in part.get("rows", []):
        tables.setdefault(tuple(row), []).append(row)
    for headings, rows in tables.items():
        print("| " + " | ".join(headings) + " |\n|" + "---|" * len(headings))
        for row in rows:
            cells = (f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values())
            print("| " + " | ".join(cell.replace("\n", " ")[:200] for cell in cells) + " |")
        print()
    if "error" in part:
        print("error:", part["error"], flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("gpu.json"), help="a JSON file, written part by part")
    parser.add_argument("--dataset_name", help="SST-2; none: made-up texts of its lengths")
    parser.add_argument("--minutes", type=float, default=10, help="that all of it may take")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="these parts; none: all")
    parser.add_argument("--small", action="store_true", help="tiny sizes, which say nothing but that it runs")
    args = parser.parse_args()
    args.size = SMALL if args.small else SIZE
    start = time.perf_counter()
    found = {"command": sys.argv[1:], "device": DEVICE, "small": args.small, "parts": {}}
    with tempfile.TemporaryDirectory() as folder:
        args.folder = Path(folder)
        if "error" in (made := ask(args, "prepare", 60 * args.minutes)):
            raise SystemExit(made["error"])
        for name in [name for name in PARTS if name in args.only]:
            left, wanted = 60 * args.minutes - (time.perf_counter() - start), 5 if args.small else PARTS[name][1]
            if left < wanted:
                part = {"skipped": f"{max(left, 0):.0f} s are left, and it wants {wanted}"}
            else:
                part = ask(args, name, left)
            found["parts"][name] = part
            found["seconds"] = round(time.perf_counter() - start, 1)
            with whole_file(args.output) as unfinished:
                unfinished.write_text(json.dumps(found, indent=2))
            print_part(name, part)


if __name__ == "__main__":
    main()
