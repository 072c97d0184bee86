"""Runs a recipe under FSDP on the CPU: python fsdp_on_cpu.py RECIPE OPTIONS, from `accelerate launch`.

accelerate asks for FSDP on accelerators alone, and trains by DDP on a CPU without a word; torch can do both.
"""

import os
import runpy
import sys

from accelerate.state import PartialState
from accelerate.utils import DistributedType

if __name__ == "__main__":
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    start = PartialState.__init__
    PartialState.__init__ = lambda self, cpu=False, **kwargs: start(self, **kwargs)
    PartialState._prepare_backend = lambda self, *args: ("gloo", DistributedType.MULTI_GPU)
    del sys.argv[0]
    sys.path[0] = os.path.dirname(sys.argv[0])
    runpy.run_path(sys.argv[0], run_name="__main__")
