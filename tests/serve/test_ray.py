"""The example of the documents on Ray Data gives what predict.py gives, in order."""

import re

import pandas as pd
import pytest
from conftest import ROOT, load_recipe
from helpers import save_model
from test_bulk import run

CODE = re.search(r"```py\n(.*?)```", (ROOT / "recipes" / "NODES.md").read_text(encoding="utf-8"), re.DOTALL)[1]


@pytest.mark.slow
def test_ray_gives_the_rows_of_predict_in_order(encoder_folder, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason='not among the requirements: pip install "ray[data]"')
    monkeypatch.chdir(tmp_path)
    save_model(encoder_folder, tmp_path / "runs" / "mine")
    rows = [f"good film {row} {'bad ' * (row % 50)}\n" for row in range(5000)]  # two tables of the reader
    (tmp_path / "new.csv").write_text("body\n" + "".join(rows))
    words = ["--model_name_or_path", "runs/mine", "--dataset_name", "new.csv", "--text_column", "body"]
    run(load_recipe("predict"), *words, "--output_file", "labels.parquet", "--cpu_threads", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    try:
        exec(compile(CODE, "recipes/NODES.md", "exec"), {"__name__": "__main__"})
    finally:
        ray.shutdown()
    files = sorted((tmp_path / "labels").glob("*.parquet"))
    found = pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)
    pd.testing.assert_frame_equal(found, pd.read_parquet("labels.parquet"), atol=1e-5, rtol=0)
