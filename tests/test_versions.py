"""The oldest and the newest transformers that pyproject.toml admits, each in an environment of its own."""

import os
import subprocess
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
DEPENDENCIES = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
RANGE = next(Requirement(text).specifier for text in DEPENDENCIES if text.startswith("transformers"))
OLDEST = next(part.version for part in RANGE if part.operator == ">=")


def environment(folder: Path, wanted: str) -> Path:
    """The Python of an environment that has all of this one, but another transformers."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    where = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True
    ).stdout.strip()
    Path(where, "rest.pth").write_text(sysconfig.get_path("purelib") + "\n" + str(ROOT) + "\n")
    done = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--upgrade", wanted], capture_output=True, text=True
    )
    if done.returncode and "No matching distribution" in done.stderr and "from versions: none" in done.stderr:
        pytest.skip("no package index")
    assert done.returncode == 0, done.stderr[-2000:]
    return python


@pytest.mark.slow
@pytest.mark.parametrize("wanted", [f"=={OLDEST}.*", str(RANGE)], ids=["oldest", "newest"])
def test_the_sample_and_the_models_tests_pass_with_the_ends_of_the_range(wanted, tmp_path):
    python = environment(tmp_path / "env", f"transformers{wanted}")
    told = "import transformers; print(transformers.__version__, transformers.__file__)"
    found = subprocess.run([python, "-c", told], capture_output=True, text=True, cwd=tmp_path).stdout
    assert str(tmp_path) in found, found
    environ = os.environ | {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    for command in (
        ["recipes/sst2_finetune.py", "--sample", "--output_dir", str(tmp_path / "run")],
        [
            "-m",
            "pytest",
            "-q",
            "-x",
            "tests/test_modeling.py",
            "tests/test_inference.py",
            "tests/test_saved_before.py",
        ],
    ):
        done = subprocess.run([python, *command], capture_output=True, text=True, cwd=ROOT, env=environ)
        assert done.returncode == 0, f"{found}: {(done.stdout + done.stderr)[-3000:]}"
