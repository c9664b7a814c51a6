"""Import this first: Triton's kernels then run on a CPU, in its interpreter, for the whole process.

What Triton is imported for is decided once, so such tests have a process of their own (NATIVE in the Makefile).
"""

import os
import sys

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    if "triton" in sys.modules:
        pytest.skip("Triton is imported for GPUs already: run this file by itself", allow_module_level=True)
    if torch.cuda.is_available():
        pytest.skip(
            "the tests of the GPU that is here need Triton for it: TRITON_INTERPRET=1",
            allow_module_level=True,
        )
    os.environ["TRITON_INTERPRET"] = "1"
pytest.importorskip(
    "triton", reason="there is no Triton for this system"
)  # CPU builds of torch come without it
