"""The benchmarks run, small: what they measure is not looked at."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT


def run(*words: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_the_script_for_a_gpu_runs_to_its_end_on_a_cpu(tmp_path):
    said = run("benchmarks/gpu.py", "--small", "--output", str(tmp_path / "found.json"))
    found = json.loads((tmp_path / "found.json").read_text())["parts"]
    assert len(found) == 11 and {name: part.get("error") for name, part in found.items() if "error" in part} == {}
    assert all(part.get("rows") or part.get("skipped") for part in found.values())
    assert all(f"\n## {name}: " in said for name in found)
    arms = {row["arm"]: row for row in found["training"]["rows"]}
    assert len(arms) == 7 and all(row["examples/s"] > 0 and row["share of bf16"] > 0 for row in arms.values())
    tests = {row["test"]: row["outcome"] for row in found["tests"]["rows"]}
    assert len(tests) >= 9 and {*tests.values()} <= {"skipped", "passed"}
    answered = [row for row in found["service"]["rows"] if "clients" in row]
    assert len(answered) >= 4 and all(row["failed"] == 0 and row["rate"] > 0 for row in answered)
    (packed,) = [row for row in found["packed"]["rows"] if row["way"].startswith("packed")]
    assert packed["off"] < 0.05  # of logits in bf16
