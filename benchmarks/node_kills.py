"""Trainings on two machines, a random process killed or the cable cut at a random moment: does every run end, and how?

Two network namespaces of this host, one process each, gloo, the sample of recipes/sst2_finetune.py. A killed run is
started again by its launcher and must end with the weights of the undisturbed one; one behind a cut cable must end.

Run:  python benchmarks/node_kills.py                      (10 kills, 2 cuts)
      python benchmarks/node_kills.py --kills 1 --cuts 1
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from namespaces import Machines, kill, why_none, worker_of

RECIPES = Path(__file__).parent.parent / "recipes"
ADDRESS = ["--config_file", str(RECIPES / "accelerate_configs" / "multi_node_elastic.yaml"), "--num_processes", "2"]
OPTIONS = (
    "--sample --from_scratch --bf16 false --early_stopping_patience 0 --report false --num_train_epochs 20".split()
)


def start(machines: Machines, folder: Path, restarts: int, silence: int) -> list[subprocess.Popen]:
    """Both launchers of a run in a folder."""
    words = ["accelerate", "launch", "--quiet", *ADDRESS, "--rdzv_backend", "c10d", "--max_restarts", str(restarts)]
    words += ["--rdzv_conf", f"join_timeout={4 * silence}", str(RECIPES / "sst2_finetune.py"), *OPTIONS]
    words += ["--ddp_timeout", str(silence), "--output_dir", str(folder / "run")]
    started = []
    for number in (0, 1):
        with open(folder / f"said-{number}", "w") as said:
            environment = {"GLOO_SOCKET_IFNAME": "eth0", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
            started.append(machines.start(number, words, env=environment, stdout=said, stderr=subprocess.STDOUT))
    return started


def steps(folder: Path) -> dict[str, float]:
    """The whole checkpoints of a run, and when each was."""
    return {path.parent.name: path.stat().st_mtime for path in folder.glob("run/checkpoints/*/complete.json")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--cuts", type=int, default=2)
    parser.add_argument("--silence", type=int, default=30, help="--ddp_timeout of the runs, seconds")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    if (why := why_none()) is not None:
        sys.exit(f"error: {why}")
    draw, wrong = random.Random(args.seed), 0
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as name, Machines() as machines:
        whole = Path(name, "whole")
        whole.mkdir()
        begun = time.time()
        for launcher in start(machines, whole, 0, args.silence):
            if launcher.wait():
                sys.exit((whole / "said-0").read_text()[-3000:])
        seconds = time.time() - begun
        weights = (whole / "run" / "model.safetensors").read_bytes()
        print(f"undisturbed: {seconds:.0f} s\n")
        print(
            "| run | fault | at s | newest checkpoint then | next, s later | ended, s later | exit codes | same end |"
        )
        print("|---|---|---|---|---|---|---|---|", flush=True)
        for number, fault in enumerate(["kill"] * args.kills + ["cut"] * args.cuts, start=1):
            folder = Path(name, f"run-{number}")
            folder.mkdir()
            launchers, wait = start(machines, folder, 3, args.silence), draw.uniform(0.2, 0.95) * seconds
            time.sleep(wait)
            rank, moment = draw.randrange(2), time.time()
            there = steps(folder)
            worker = worker_of(launchers[rank])
            if fault == "cut":
                machines.cut()
            elif worker is not None:
                worker.kill()
            later = None
            while any(launcher.poll() is None for launcher in launchers) and time.time() < moment + 20 * seconds:
                after = [at for at in steps(folder).values() if at > moment]
                later = later or (min(after) - moment if after else None)
                time.sleep(0.1)
            hangs = any(launcher.poll() is None for launcher in launchers)
            ended = time.time() - moment
            for launcher in launchers:
                kill(launcher)
            saved = folder / "run" / "model.safetensors"
            same = saved.exists() and saved.read_bytes() == weights
            codes = [launcher.returncode for launcher in launchers]
            wrong += hangs or (fault == "kill" and (not same or codes != [0, 0]))
            row = [number, f"process {rank} killed" if fault == "kill" else "cable cut", f"{wait:.0f}"]
            newest = max(there, key=lambda one: int(one.split("-")[1]), default="none")
            row += [newest, "-" if later is None else f"{later:.0f}", "hangs" if hangs else f"{ended:.0f}"]
            row += [f"{codes[0]}, {codes[1]}", "yes" if same else "no"]
            print(f"| {' | '.join(map(str, row))} |", flush=True)
            if fault == "cut":
                machines.cut("up")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
