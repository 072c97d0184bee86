"""recipes/predict.py, killed at random moments: is the result that of an undisturbed run, byte for byte?

Run:  python benchmarks/predict_kills.py                      (100,000 rows, 10 kills, the sample's tiny model)
      python benchmarks/predict_kills.py --rows 20000 --kills 2 --processes 2
"""

import argparse
import hashlib
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from namespaces import kill
from predict_memory import RECIPES, save_model, write_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--processes", type=int, default=1, help="of the run that is killed; the other one has one")
    parser.add_argument("--rows_per_part", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    draw = random.Random(args.seed)
    environment = {**os.environ, "TQDM_DISABLE": "1"}
    launch = [sys.executable]
    if args.processes > 1:
        launch += ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(args.processes)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_model(folder / "model")
        write_rows(folder / "rows.csv", args.rows)
        words = [str(RECIPES / "predict.py"), "--model_name_or_path", str(folder / "model"), "--dataset_name"]
        words += [str(folder / "rows.csv"), "--rows_per_part", str(args.rows_per_part), "--output_file"]
        start = time.perf_counter()
        subprocess.run([sys.executable, *words[:3], "--text", "good"], check=True, env=environment)
        starting = time.perf_counter() - start
        start = time.perf_counter()
        subprocess.run([sys.executable, *words, str(folder / "whole.parquet")], check=True, env=environment)
        labelling = max(time.perf_counter() - start - starting, 0)
        killed = 0
        output = folder / "killed.parquet"
        while killed < args.kills and not output.exists():
            process = subprocess.Popen([*launch, *words, str(output)], env=environment, stdout=subprocess.DEVNULL)
            try:
                process.wait(timeout=starting + draw.uniform(-1, 1.6 * labelling / args.kills))
                print(f"ended by itself after {killed} kills")
                break
            except subprocess.TimeoutExpired:
                kill(process)
                killed += 1
                parts = len(list(folder.glob("killed.parquet.parts/part-*[0-9].parquet")))
                print(f"kill {killed}: {parts} of {-(-args.rows // args.rows_per_part)} parts are whole", flush=True)
        if not output.exists():
            subprocess.run([*launch, *words, str(output)], check=True, env=environment)
        digests = [hashlib.sha256((folder / f"{n}.parquet").read_bytes()).hexdigest() for n in ("whole", "killed")]
        print("the same bytes" if digests[0] == digests[1] else f"different: {digests}")
        left = sorted(path.name for path in folder.iterdir() if path.name.startswith("killed"))
        print(f"left behind: {', '.join(left)}")
        sys.exit(digests[0] != digests[1])


if __name__ == "__main__":
    main()
