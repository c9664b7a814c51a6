"""The session that is measured: a model at its own size and window, or at those that someone asked for.

A window is chosen with the size and trained with the weights; another one makes them worse. Whoever asks for one is
told what it costs on some of the pictures.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from swinv2 import metrics, world
from swinv2.data import Split
from swinv2.evaluate.counting import count
from swinv2.evaluate.printing import say
from swinv2.evaluate.protocol import Protocol, with_protocol
from swinv2.evaluate.reading import THREADS
from swinv2.extras import share_processors
from swinv2.preprocess import Preprocess
from swinv2.runtimes import Session, is_exported, open_session

if TYPE_CHECKING:
    from swinv2.artifact import Record
    from swinv2.model import SwinV2

PROBE = 64  # pictures that show what a window costs


def own_device(device: str, me: world.World) -> str:
    """The device of this process: of several on a machine with GPUs each has its own."""
    if me.size == 1 or device not in ("auto", "cuda"):
        return device
    import torch

    return f"cuda:{me.local_rank}" if torch.cuda.is_available() else device


def open_for(
    model: Any, runtime: str, device: str, precision: str, threads: int | None, protocol: Protocol
) -> tuple[Session, Session | None]:
    """The session to measure, and one with the window of the weights where another one was asked for."""
    if isinstance(model, Session):
        if protocol.changes_network:
            raise ValueError("an open session keeps its image size and window; give the model instead")
        return with_protocol(model, protocol), None
    is_source = isinstance(model, (str, os.PathLike))
    if is_source:
        share_processors()
        if not protocol.changes_network:
            session = open_session(model, runtime, device=device, precision=precision, threads=threads)
            return with_protocol(session, protocol), None
    if is_exported(model):
        return sized(model, runtime, device, precision, threads, protocol), None
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    if runtime not in ("auto", "torch"):
        raise ValueError(
            f"image_size and window change the network, which {runtime} cannot; take runtime torch"
        )
    from swinv2.checkpoints import load
    from swinv2.runtimes.torch import TorchSession

    network, chosen = load(model) if is_source else model, None
    if protocol.changes_network and network.record is not None:
        if other_window(network, protocol):
            chosen = TorchSession(resized(network, protocol, None), device=device, precision=precision)
            chosen.record = with_protocol(chosen, protocol).record
        network = resized(network, protocol, protocol.window)
    session = TorchSession(network, device=device, precision=precision)
    return with_protocol(session, protocol), chosen


def sized(
    path: Any, runtime: str, device: str, precision: str, threads: int | None, protocol: Protocol
) -> Session:
    """An exported model at another image size, where its file takes any."""
    session = open_session(path, runtime, device=device, precision=precision, threads=threads)
    if protocol.window is not None or not session.any_size:
        session.close()
        raise ValueError(
            f"image_size and window change the network, which {path} cannot; export the model again with "
            f"--image-size, or with --dynamic-size for every size"
        )
    assert protocol.image_size is not None
    record = session.record
    preprocess = Preprocess.official(protocol.image_size, record.config.in_chans)
    session.record = replace(
        record, preprocess=replace(preprocess, mean=record.preprocess.mean, std=record.preprocess.std)
    )
    return with_protocol(session, protocol)


def other_window(model: SwinV2, protocol: Protocol) -> bool:
    """Whether a window is asked for that differs from the one that belongs to the weights at this size."""
    if protocol.window is None:
        return False
    size = protocol.image_size or model.config.image_size
    chosen, asked = model.config.resized(size), model.config.resized(size, protocol.window)
    stages = zip(chosen.stages(*chosen.image_size), asked.stages(*asked.image_size), strict=True)
    return any(a.window != b.window for a, b in stages)  # larger than the map, windows are all the same


def resized(model: SwinV2, protocol: Protocol, window: int | None) -> SwinV2:
    """The same weights at the size asked for and with this window; None chooses it."""
    from swinv2.checkpoints.adapt import adapt
    from swinv2.model import SwinV2

    record: Record = model.record  # type: ignore[assignment]
    record, state, _ = adapt(record, model.state_dict(), image_size=protocol.image_size, window=window)
    changed = SwinV2(record.config)
    changed.load_state_dict(state)
    changed.record = record
    return changed.eval()


def cost_of_window(
    asked: Session, chosen: Session, split: Split, tally_for: Callable[[Split], Any]
) -> dict[str, Any]:
    """What the window asked for costs, on pictures from all over the split; says it, and returns the figures."""
    few = split.select(range(0, len(split), max(1, len(split) // PROBE)))
    found = []
    for session in (asked, chosen):
        tally = tally_for(few)
        count(tally, session, few, batch_size=16, threads=THREADS, stops=False)
        tally.gather(world.gather)
        measured = tally.measurement()
        is_single = isinstance(measured, metrics.Measurement)
        found.append(measured.top1 if is_single else measured.mean_ap)
    ours, theirs = asked.record.config.window, chosen.record.config.window
    figure = "top-1" if is_single else "mAP"
    say(
        f"window {ours} is not that of the weights at this size, {theirs}: on {len(few)} of the pictures {figure} is "
        f"{found[0]:.2f} % with it and {found[1]:.2f} % with theirs"
    )
    return {
        "window": ours,
        "chosen": theirs,
        "images": len(few),
        "figure": figure,
        "with": found[0],
        "without": found[1],
    }
