"""A training killed by SIGKILL at random moments and gone on with: does it end as the undisturbed one, bit by bit?

Each start of the program is killed after a random time, 20 to 100 % of what the undisturbed run took; where no
checkpoint is whole yet, the next start begins anew. After the last kill the run is left to end. Weights, predictions
and scores are compared with those of the other one.

Run:  python benchmarks/run_kills.py                      (sst2_finetune.py --sample --from_scratch, 20 kills)
      python benchmarks/run_kills.py --kills 3 --json kills.json
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

from bertcls.training.checkpoints import newest_complete

RECIPES = Path(__file__).parent.parent / "recipes"


def phase(run: Path, log: str) -> str:
    """How far a run has come, by what it said since it was started and by the files that it has begun to write."""
    if "Longest batch" not in log:  # said when training begins, or would
        return "starting"
    if (run / "report").exists():
        return "report"
    if (run / "config.json").exists():
        return "saving"
    return "training" if any(run.glob("checkpoints/checkpoint-*")) else "before the first checkpoint"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--json", default=None, help="file for the result")
    args = parser.parse_args()
    draw = random.Random(args.seed)
    environment = {**os.environ, "TQDM_DISABLE": "1", "PYTHONUNBUFFERED": "1"}
    rows, differences = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [
            sys.executable,
            str(RECIPES / "sst2_finetune.py"),
            "--sample",
            "--from_scratch",
            "--disable_tqdm",
            "true",
        ]
        start = time.perf_counter()
        with open(folder / "whole.log", "w") as log:
            subprocess.run(
                [*command, "--output_dir", str(folder / "whole")], check=True, env=environment, stdout=log, stderr=log
            )
        seconds = time.perf_counter() - start
        print(f"undisturbed: {seconds:.1f} s\n\n| kill | after s | phase | newest whole checkpoint | skipped |")
        print("|---|---|---|---|---|", flush=True)
        run, number, ended = folder / "killed-0", 0, False
        while not ended:
            begun, _ = newest_complete(run / "checkpoints")
            resume = "--resume_from_checkpoint" if begun else "--overwrite_output"
            with open(folder / "killed.log", "w") as log:
                process = subprocess.Popen(
                    [*command, "--output_dir", str(run), resume], env=environment, stdout=log, stderr=log
                )
                moment = draw.uniform(0.2, 1.0) * seconds if number < args.kills else None
                try:
                    code = process.wait(timeout=moment)
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
                    code = process.wait()
            if code == -signal.SIGKILL:
                number += 1
                found, skipped = newest_complete(run / "checkpoints")
                row = [
                    number,
                    round(moment, 1),
                    phase(run, (folder / "killed.log").read_text()),
                    found.name if found else "none",
                    ", ".join(skipped),
                ]
                rows.append(dict(zip(("kill", "seconds", "phase", "checkpoint", "skipped"), row)))
                print(f"| {' | '.join(map(str, row))} |", flush=True)
            elif code == 0:
                differences.append(difference(folder / "whole", run))
                print(f"ended after {number} kills: {differences[-1] or 'the same weights and predictions'}")
                ended = number >= args.kills
                if not ended:  # killed runs that end sooner: another one, until there were enough kills
                    run = folder / f"killed-{len(differences)}"
            else:
                print((folder / "killed.log").read_text()[-3000:])
                sys.exit(f"a run that went on failed with exit code {code}")
    result = {"kills": rows, "runs": len(differences), "differences": [text for text in differences if text]}
    result |= {"seconds_undisturbed": round(seconds, 1), "seed": args.seed}
    print(json.dumps({name: value for name, value in result.items() if name != "kills"}))
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=2) + "\n")
    sys.exit(bool(result["differences"]))


def difference(whole: Path, killed: Path) -> str | None:
    """What two runs left that is not the same; `None` for nothing."""
    if (whole / "model.safetensors").read_bytes() != (killed / "model.safetensors").read_bytes():
        return "other weights"
    tables = [pd.read_parquet(run / "report" / "predictions.parquet") for run in (whole, killed)]
    if not tables[0].equals(tables[1]):
        return "other predictions"
    scores = [json.loads((run / "report" / "metrics.json").read_text())["scores"] for run in (whole, killed)]
    timed = ("runtime", "per_second")
    names = [name for name in scores[0] if name.startswith(("before_", "eval_", "test_")) and not name.endswith(timed)]
    other = [name for name in names if scores[0][name] != scores[1].get(name)]
    return f"other scores: {', '.join(other)}" if other else None


if __name__ == "__main__":
    main()
