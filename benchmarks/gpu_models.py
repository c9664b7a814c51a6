"""Whole models on a GPU: ours against timm, transformers and torchvision, eager and compiled; answers and training."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from gpu_timing import Runs, checked, interleaved, medians, peak_mb, reason, spreads
from inference import contenders
from torch import Tensor, nn
from training import CLASSES, build

from swinv2.config import VARIANTS
from swinv2.counts import macs
from swinv2.fold import fold
from swinv2.model import SwinV2

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TRAINED = {  # label -> library, how, and the residual stream where it is another than that of autocast
    "timm eager":                ("timm", "eager", None),
    "timm compiled":             ("timm", "compiled", None),
    "swinv2 eager":              ("swinv2", "eager", None),
    "swinv2 compiled":           ("swinv2", "compiled", None),
    "swinv2 compiled, bf16_all": ("swinv2", "compiled", torch.bfloat16),
    "swinv2 graph":              ("swinv2", "graph", None),
    "swinv2 graph, bf16_all":    ("swinv2", "graph", torch.bfloat16),
}  # fmt: skip
TOLERANCE = {"fp32": 1e-3, "bf16": 0.2, "fp16": 0.05}


@torch.inference_mode()
def inference(
    name: str,
    precision: str,
    batches: list[int],
    device: torch.device,
    rounds: int,
    ceiling: float,
    compiler: dict,
) -> list[dict[str, Any]]:
    """One row for every batch. All hold the same weights, and none is timed before its logits were compared."""
    models = contenders(name)
    ours = models["swinv2 eager"]
    assert isinstance(ours, SwinV2)
    height, width = VARIANTS[name].image_size
    probe = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0)).to(device)
    wide = copy.deepcopy(ours).double().to(device)
    wide.backend = "matmul"
    exact = wide(probe.double())
    del wide
    calls = ways(models, precision, device, compiler)
    errors, wrong = checked(
        {label: lambda c=call: c(probe) for label, call in calls.items()}, exact, TOLERANCE[precision]
    )
    calls = {label: call for label, call in calls.items() if label not in wrong}
    rows = []
    for batch in batches:
        x = torch.randn(batch, 3, height, width, device=device)
        runs: Runs = {label: lambda call=call, x=x: call(x) for label, call in calls.items()}
        if device.type == "cuda" and "swinv2 folded" in calls:
            runs["swinv2 folded, graph"] = captured(lambda x=x: calls["swinv2 folded"](x))
        times, refused = interleaved(runs, device, rounds)
        found = medians(times)
        best = min((ms, label) for label, ms in found.items() if label.startswith("swinv2"))
        flops = 2 * macs(VARIANTS[name], position_bias=False) * batch
        rows.append({
            "model": name, "precision": precision, "batch": batch, "rounds": rounds, "median_ms": found,
            "quartiles_ms": spreads(times), "failed": wrong | refused, "ours": best[1],
            "images_per_second": round(1000 * batch / best[0], 1),
            "peak_mb": {label: peak_mb(runs[label], device) for label in found},
            "of_product": round(flops / best[0] / 1e9 / ceiling, 3),
            "relative_error": errors,
        })  # fmt: skip
    return rows


def ways(
    models: dict[str, nn.Module], precision: str, device: torch.device, compiler: dict
) -> dict[str, Callable[[Tensor], Tensor]]:
    """Label -> logits of images in float32, as people run each."""
    dtype = DTYPES[precision]
    calls: dict[str, Callable[[Tensor], Tensor]] = {}
    for label, model in models.items():
        name = label.removesuffix(" eager")
        model = model.to(device)
        calls[f"{name} eager"] = lambda x, m=model: autocast(m, x, dtype)
        if name in ("timm", "swinv2"):
            cast = copy.deepcopy(model).to(dtype)
            compiled = torch.compile(cast, **compiler)
            calls[f"{name} compiled"] = lambda x, m=compiled: m(x.to(dtype))
    folded = fold(models["swinv2 eager"], dtype=dtype).to(device)
    calls["swinv2 folded"] = lambda x: folded(x)
    refolded = torch.compile(copy.deepcopy(folded), **compiler)
    calls["swinv2 folded, compiled"] = lambda x: refolded(x.to(dtype))
    return calls


def autocast(model: nn.Module, x: Tensor, dtype: torch.dtype) -> Tensor:
    with torch.autocast(x.device.type, dtype, enabled=dtype != torch.float32):
        return model(x)


def captured(run: Callable[[], Any]) -> Callable[[], Any]:
    """The run as a CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        run()
    return graph.replay


def training(
    name: str, size: int, batch: int, device: torch.device, rounds: int, compiler: dict
) -> list[dict[str, Any]]:
    """A step of the loop that people write, in bfloat16 under autocast: ours and timm's, eager and compiled."""
    images = torch.randn(batch, 3, size, size, device=device)
    labels = torch.randint(CLASSES, (batch,), device=device)
    runs: Runs = {}
    failures: dict[str, str] = {}
    for label, (library, how, residual) in TRAINED.items():
        model = build(library, name, size, 0.2).to(device)
        if library == "swinv2":
            model.residual = residual
        step = stepper(torch.compile(model, **compiler) if how == "compiled" else model, images, labels)
        if how != "graph":
            runs[label] = step
        elif device.type == "cuda":
            try:
                runs[label] = captured(step)
            except RuntimeError as error:
                failures[label] = reason(error)
    times, failed = interleaved(runs, device, rounds)
    found = medians(times)
    return [{
        "model": name, "image_size": size, "batch": batch, "precision": "bf16", "rounds": rounds, "median_ms": found,
        "quartiles_ms": spreads(times), "failed": failed | failures,
        "images_per_second": {label: round(1000 * batch / ms, 1) for label, ms in found.items()},
        "peak_mb": {label: peak_mb(runs[label], device) for label in found},
    }]  # fmt: skip


def stepper(network: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(
        network.parameters(), 1e-5, weight_decay=0.05, fused=True, capturable=images.is_cuda
    )

    def step() -> None:
        with torch.autocast(images.device.type, torch.bfloat16):
            logits = network(images)
        F.cross_entropy(logits.float(), labels).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step
