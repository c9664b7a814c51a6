"""Programs of others that do not fit beside ours, below build/peers; `make peers` fetches them, as `make test` does.

Triton itself is in nvidia-pytriton, which wants an older numpy; the models of KServe's resources are in its SDK, which
wants an older pandas. They are unpacked without what they want, and nothing of them is imported here.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

ROOT = Path(__file__).parent.parent
PEERS = Path(os.environ.get("SWINV2_PEERS", ROOT / "build" / "peers"))
READY_SECONDS = 120

# Triton's ONNX Runtime backend is in no package. It takes backends written in Python under any name, so this one stands
# in for it: the configuration is the one that was exported, and the model file is run by ONNX Runtime.
BACKEND = """
import os

import numpy as np
import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        return config

    def initialize(self, arguments):
        path = os.path.join(arguments["model_repository"], arguments["model_version"], "model.onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def execute(self, requests):
        # DLPack both ways: Triton's bindings are of the time before numpy 2, whose arrays they take for others.
        inputs = [triton.get_input_tensor_by_name(request, "images") for request in requests]
        images = [np.from_dlpack(one) for one in inputs]
        (logits,) = self.session.run(["logits"], {"images": np.concatenate(images)})
        print(f"batch of {len(logits)}", flush=True)
        parts = np.split(logits, np.cumsum([len(part) for part in images])[:-1])
        outputs = [triton.Tensor.from_dlpack("logits", part.copy()) for part in parts]
        return [triton.InferenceResponse([output]) for output in outputs]
"""


def peer(path: str) -> Path:
    """A file or folder below build/peers; a test that needs it is skipped with the cure where it is not there."""
    if not (PEERS / path).exists():
        pytest.skip(f"{PEERS / path} is not there; run `make peers`")
    return PEERS / path


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def tritonserver(repository: Path, work: Path) -> Iterator[tuple[str, str, Path]]:
    """The real Triton with a model repository, ready: its HTTP and gRPC addresses, and its log.

    Nothing of a configuration is completed by Triton: what is not written is not there.
    """
    server = peer("pytriton/tritonserver")
    shutil.copytree(server / "backends", work / "backends")
    stub = f"{sys.version_info.major}.{sys.version_info.minor}/triton_python_backend_stub"
    shutil.copy(server / "python_backend_stubs" / stub, work / "backends" / "python")
    (work / "backends" / "python" / "triton_python_backend_stub").chmod(0o755)
    (work / "backends" / "onnxruntime").mkdir()
    (work / "backends" / "onnxruntime" / "model.py").write_text(BACKEND)
    http, grpc, log = free_port(), free_port(), work / "triton.log"
    libraries = f"{peer('nvidia_pytriton.libs')}:{sysconfig.get_config_var('LIBDIR')}"
    packages = os.pathsep.join(path for path in sys.path if path)
    environment = os.environ | {
        "LD_LIBRARY_PATH": libraries,
        "PYTHONPATH": packages,
        "PYTHONWARNINGS": "ignore",
    }
    command = [
        server / "bin" / "tritonserver", f"--model-repository={repository}", f"--backend-directory={work}/backends",
        "--http-address=127.0.0.1", f"--http-port={http}", "--grpc-address=127.0.0.1", f"--grpc-port={grpc}",
        "--allow-metrics=false", "--disable-auto-complete-config", "--exit-timeout-secs=1",
    ]  # fmt: skip
    os.chmod(server / "bin" / "tritonserver", 0o755)
    with (
        open(log, "w") as output,
        subprocess.Popen(command, stdout=output, stderr=output, env=environment) as process,
    ):
        try:
            _wait(f"http://127.0.0.1:{http}/v2/health/ready", process, log)
            yield f"127.0.0.1:{http}", f"127.0.0.1:{grpc}", log
        finally:
            process.terminate()


def _wait(address: str, process: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            with urlopen(address, timeout=5):
                return
        except (URLError, ConnectionError):
            time.sleep(0.1)
    pytest.fail(f"Triton did not become ready: {log.read_text()[-3000:]}")
