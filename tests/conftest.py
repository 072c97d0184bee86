"""Fixtures. The environment is set before anything of Hugging Face is imported."""

import os
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models have nothing to share
os.environ["HF_DATASETS_CACHE"] = os.environ.get("BERTCLS_TEST_CACHE") or tempfile.mkdtemp(prefix="bertcls-cache-")
os.environ.pop("ACCELERATE_MIXED_PRECISION", None)

import importlib.util
import shutil
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer

ROOT = Path(__file__).parent.parent
SAMPLE = ROOT / "recipes" / "sample" / "reviews"
TINY = ROOT / "recipes" / "sample" / "tiny-bert"
collect_ignore = ["data_files"]  # a saved model brings its code along


def pytest_unconfigure():
    if not os.environ.get("BERTCLS_TEST_CACHE"):
        shutil.rmtree(os.environ["HF_DATASETS_CACHE"], ignore_errors=True)


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and not torch.accelerator.is_available():
        pytest.skip("no accelerator here")


@pytest.fixture(scope="session")
def tokenizer():
    return AutoTokenizer.from_pretrained(TINY)


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory) -> str:
    """A two-layer BERT with random weights and a pooler, saved like a pretrained checkpoint."""
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    AutoModel.from_config(AutoConfig.from_pretrained(TINY)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(TINY).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def sst2_recipe():
    return load_recipe("sst2_finetune")


def load_recipe(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "recipes" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def real_path(variable: str) -> str:
    """A path from the environment, for tests marked `real`."""
    if not os.environ.get(variable):
        pytest.skip(f"{variable} is not set")
    return str(Path(os.environ[variable]).resolve())


def wait_until(holds, seconds: float = 60) -> None:
    """Waits for something that is about to hold, and fails where it never does."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not in {seconds} seconds"
        time.sleep(0.001)
