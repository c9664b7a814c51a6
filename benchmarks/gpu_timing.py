"""Times on a GPU by its own events, memory, and the ceilings that times are held against; on a CPU for a dry run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

Runs = dict[str, Callable[[], Any]]
SAMPLE_MS = 30  # a run is repeated until it takes so long: launches are then hidden as they are in use


class Clock:
    """The time that the whole benchmark may take: a lent device goes back."""

    def __init__(self, minutes: float):
        self.end = time.monotonic() + 60 * minutes

    def has_time(self) -> bool:
        return time.monotonic() < self.end


def elapsed(run: Callable[[], Any], repeat: int, device: torch.device) -> float:
    """Milliseconds of one of repeat calls."""
    if device.type != "cuda":
        begin = time.perf_counter()
        for _ in range(repeat):
            run()
        return (time.perf_counter() - begin) * 1000 / repeat
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(repeat):
        run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / repeat


def interleaved(
    runs: Runs, device: torch.device, rounds: int
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Milliseconds of every run, a sample of each a round, starting with another each time; and what could not run."""
    repeats, failed = {}, {}
    for label, run in runs.items():
        try:
            for _ in range(3):  # warm up, compile, capture
                run()
            once = elapsed(run, 1, device)
            repeats[label] = max(1, int(SAMPLE_MS / once)) if device.type == "cuda" else 1
        except Exception as error:  # a contender that cannot run leaves an empty cell and its reason
            failed[label] = (
                f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"[:200]
            )
    labels = list(repeats)
    times: dict[str, list[float]] = {label: [] for label in labels}
    for round_ in range(rounds):
        start = round_ % max(1, len(labels))
        for label in labels[start:] + labels[:start]:
            times[label].append(elapsed(runs[label], repeats[label], device))
    return times, failed


def reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def checked(
    calls: dict[str, Callable[[], torch.Tensor]], exact: torch.Tensor, tolerance: float
) -> tuple[dict[str, float], dict[str, str]]:
    """Relative errors of those that compute the same, and why the others are not timed."""
    errors, failed = {}, {}
    for label, call in calls.items():
        try:
            with torch.no_grad():
                errors[label] = ((call().double() - exact).norm() / exact.norm()).item()
            if not errors[label] <= tolerance:
                failed[label] = f"its result is off by {errors[label]:.1e}"
        except Exception as error:
            failed[label] = reason(error)
    return {label: float(f"{e:.2e}") for label, e in errors.items()}, failed


def medians(times: dict[str, list[float]]) -> dict[str, float]:
    return {label: float(f"{statistics.median(t):.4g}") for label, t in times.items()}


def spreads(times: dict[str, list[float]]) -> dict[str, list[float]]:
    """Quartiles."""
    return {
        label: [float(f"{q:.4g}") for q in statistics.quantiles(t, n=4)]
        for label, t in times.items()
        if len(t) > 1
    }


def peak_mb(run: Callable[[], Any], device: torch.device) -> float | None:
    """Most that a call holds at a time, beyond what there is before it; None on a CPU."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)


def ceilings(device: torch.device, *, small: bool) -> dict[str, float]:
    """What the device does at best here: a large product in bfloat16, and a large copy (bytes read and written)."""
    side, values = (256, 1 << 20) if small else (8192, 1 << 31)
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    source = torch.empty(values, device=device, dtype=torch.bfloat16).normal_()
    target = torch.empty_like(source)
    times, _ = interleaved({"product": lambda: a @ b, "copy": lambda: target.copy_(source)}, device, 5)
    found = medians(times)
    return {
        "product_tflops": round(2 * side**3 / found["product"] / 1e9, 2),
        "copy_tb_per_s": round(4 * values / found["copy"] / 1e9, 3),
    }


def machine(device: torch.device) -> dict[str, Any]:
    if device.type != "cuda":
        return {"device": "cpu, Triton's interpreter: times say nothing"}
    properties = torch.cuda.get_device_properties(device)
    return {
        "device": properties.name, "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count, "memory_gb": round(properties.total_memory / 1e9, 1),
        "cuda": torch.version.cuda,
    }  # fmt: skip
