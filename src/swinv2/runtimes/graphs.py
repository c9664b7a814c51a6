"""A network as CUDA graphs: one launch instead of hundreds, for each of a few sizes of batch.

While batches are small a GPU waits for Python to launch the next kernel. A graph is a recording of all launches, with
the addresses that they read and write: images are copied to where it reads them, logits from where it writes them.

    Graphs(network, CudaRecorder(device)).run(images)

Batches are filled up to the next recorded size. A size is recorded when it comes the second time, so that whoever asks
once does not wait for it; larger batches keep a GPU busy by themselves and are not recorded at all.
"""

# B batch, S the recorded size that it is filled up to

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from swinv2.ops import triton

SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)  # at most a third of what is computed is filling
_RECORDING = threading.Lock()  # of this process: no two graphs are recorded at a time


class Recording(Protocol):
    """A network recorded for S images; replay() computes logits from what lies in images."""

    images: Tensor  # [S, C, H, W], float32
    logits: Tensor  # [S, classes]

    def replay(self) -> None: ...


# (network, images [S, C, H, W] to be read in every replay) -> Recording
Recorder = Callable[[Callable[[Tensor], Tensor], Tensor], Recording]


class Graphs:
    """Runs a network by recordings of it. Any thread may run it; one replays at a time.

    Args:
        network: images [B, C, H, W] of one image size -> logits [B, classes], each image by itself.
        record: who records; on a GPU a CudaRecorder.
        sizes: of the batches that are recorded, and so the most recordings that there are.
    """

    def __init__(self, network: nn.Module, record: Recorder, sizes: Sequence[int] = SIZES):
        self._network, self._record, self._sizes = network, record, sorted(sizes)
        self._lock = threading.Lock()
        self._modules = [m for m in network.modules() if m._parameters or m._buffers or hasattr(m, "backend")]
        self._recorded_with: list[Any] = []
        self._recordings: dict[int, Recording | None] = {}  # None: the size came once

    @property
    def recorded(self) -> list[int]:
        """Sizes that are recorded."""
        return sorted(size for size, recording in self._recordings.items() if recording)

    def run(self, images: Tensor, device: torch.device | str) -> Tensor:
        """Images [B, C, H, W] in float32 -> logits [B, classes] in float32, on the CPU and the caller's own."""
        size = next((size for size in self._sizes if size >= len(images)), None)
        if size is None or not len(images):
            return copied(self._network(images.to(device)))
        with self._lock:
            recording = self._recording(size, images, device)
            if recording is None:
                return copied(self._network(images.to(device)))
            recording.images[: len(images)].copy_(images)  # what lies in the rest computes for nobody
            recording.replay()
            return copied(recording.logits[: len(images)])  # before the next replay writes there

    def forget(self) -> None:
        """Give the recordings and their memory back."""
        with self._lock:
            self._recordings.clear()

    def _recording(self, size: int, images: Tensor, device: torch.device | str) -> Recording | None:
        """That of a size; None where it is not to be recorded yet."""
        if (now := self._recorded_by()) != self._recorded_with:
            self._recordings.clear()
            self._recorded_with = now
        if size not in self._recordings:
            self._recordings[size] = None
        elif self._recordings[size] is None:
            read = images.new_zeros(size, *images.shape[1:], device=device)
            try:
                with _RECORDING:
                    self._recordings[size] = self._record(self._network, read)
            except RuntimeError as error:  # also that no memory is left
                self._sizes = []
                self._recordings.clear()
                why = " ".join(str(error).split())
                warnings.warn(f"no CUDA graphs from here on, and answers as before: {why}", stacklevel=2)
        return self._recordings.get(size)

    def _recorded_by(self) -> list[Any]:
        """What is in a recording besides images: where weights lie (their values may change) and who attends."""
        found: list[Any] = [triton.IS_CHOSEN]
        for module in self._modules:
            found += [p.data_ptr() for p in module._parameters.values() if p is not None]
            found += [b.data_ptr() for b in module._buffers.values() if b is not None]
            found.append(getattr(module, "backend", None))
        return found


class CudaRecorder:
    """Records on one device. All its recordings share memory, since one replays at a time: it is as much as the
    largest needs."""

    def __init__(self, device: torch.device | str):
        with torch.cuda.device(device):
            self._stream = torch.cuda.Stream()  # one, with one workspace of cuBLAS
            self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, network: Callable[[Tensor], Tensor], images: Tensor) -> CudaRecording:
        with torch.cuda.device(images.device):
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                network(images)  # what is compiled or set up on first use must not be in the recording
            self._stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            # Other threads may go on using the device meanwhile.
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ):
                logits = network(images)
        return CudaRecording(graph, images, logits)


class CudaRecording:
    """A CUDA graph, and where it reads and writes."""

    def __init__(self, graph: torch.cuda.CUDAGraph, images: Tensor, logits: Tensor):
        self._graph, self.images, self.logits = graph, images, logits

    def replay(self) -> None:
        """Launch it on the current stream."""
        self._graph.replay()


def copied(logits: Tensor) -> Tensor:
    """In float32 on the CPU, and nobody else's; waits for the device."""
    return logits.to("cpu", torch.float32, copy=True)
