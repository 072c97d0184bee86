"""Peak memory and speed of recipes/predict.py as the rows grow, with the sample's tiny model and random weights.

Run:  python benchmarks/predict_memory.py                                   (10,000 and 1,000,000 rows of csv)
      python benchmarks/predict_memory.py --rows 1000 20000 --form parquet
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from bertcls import BertClsForSequenceClassification, load_tokenizer

RECIPES = Path(__file__).parent.parent / "recipes"
TINY = RECIPES / "sample" / "tiny-bert"
WORDS_A_TEXT = 12
ROWS_AT_A_TIME = 10_000
RECIPE = """
import runpy, sys
from bertcls.process import peak_memory
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
print(peak_memory())
"""


def save_model(folder: Path) -> None:
    model = BertClsForSequenceClassification.from_encoder(
        str(RECIPES / "sample" / "tiny-bert"),
        from_scratch=True,
        pooling="mean",
        num_labels=2,
        max_length=64,
        overlap=12,
    )
    model.save_pretrained(folder)
    load_tokenizer(str(TINY)).save_pretrained(folder)


def write_rows(path: Path, rows: int) -> None:
    """Made-up texts; a parquet file, a csv file, or a folder of parquet files in the Hub's layout."""
    draw, words = random.Random(0), [f"word{number}" for number in range(5000)]
    file = path
    if path.suffix == "":
        (path / "data").mkdir(parents=True)
        (path / "README.md").write_text(
            "---\nconfigs:\n- config_name: default\n  data_files:\n  - {split: test, path: data/*.parquet}\n---\n"
        )
        file = path / "data" / "test.parquet"
    schema = pa.schema({"text": pa.string()})
    with (pc.CSVWriter if path.suffix == ".csv" else pq.ParquetWriter)(file, schema) as writer:
        for start in range(0, rows, ROWS_AT_A_TIME):
            size = min(ROWS_AT_A_TIME, rows - start)
            texts = [" ".join(draw.choices(words, k=WORDS_A_TEXT)) for _ in range(size)]
            writer.write_table(pa.table({"text": texts}))


def measure(folder: Path, form: str, rows: int) -> dict:
    source, output = folder / f"{rows}{form}", folder / f"{rows}.labels.parquet"
    write_rows(source, rows)
    command = [
        sys.executable,
        "-c",
        RECIPE,
        str(RECIPES / "predict.py"),
        "--model_name_or_path",
        str(folder / "model"),
    ]
    command += ["--dataset_name", str(source), "--output_file", str(output)]
    start = time.perf_counter()
    environment = {**os.environ, "TQDM_DISABLE": "1", "HF_DATASETS_CACHE": str(folder / "cache")}
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    seconds = time.perf_counter() - start
    written = pq.read_metadata(output).num_rows
    return {"rows": written, "peak_gib": round(int(said.split()[-1]) / 2**30, 3), "seconds": round(seconds, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--form", choices=(".csv", ".parquet", "folder"), default=".csv", help="of the data")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder, "model"))
        for rows in args.rows:
            form = "" if args.form == "folder" else args.form
            print(json.dumps({"form": args.form} | measure(Path(folder), form, rows)), flush=True)


if __name__ == "__main__":
    main()
