"""The processes that work on one run together: who this one is, and what all of them say.

torchrun, or --processes, starts them and tells each its place through the environment. A process that was
started alone is rank 0 of 1, and every exchange gives it back what it put in. torch is imported when processes
meet, and not before.
"""

from __future__ import annotations

import atexit
import os
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

MEETING = timedelta(seconds=60)  # until all processes have said who they are
BROKEN = (
    "gloo",
    "nccl",
    "connection reset",
    "connection closed",
    "broken pipe",
    "timed out",
)  # what libraries say
EXCHANGE = timedelta(minutes=30)  # until all have come to one exchange: one may be writing a large checkpoint


class Lost(ConnectionError):
    """A process that does not answer, in one sentence."""


@dataclass(frozen=True)
class World:
    """Where a process stands among those of its run.

    Args:
        rank: number of this process, from 0; size: how many there are.
        local_rank: number among those on the same machine, which is also that of its GPU; local_size: how many
            those are.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that prints and writes files."""
        return self.rank == 0


def current() -> World:
    """This process among those of its run, whether they have met yet or not."""
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        return World()
    rank = int(os.environ["RANK"])
    local_rank, local_size = os.environ.get("LOCAL_RANK", rank), os.environ.get("LOCAL_WORLD_SIZE", size)
    return World(rank, size, int(local_rank), int(local_size))


def start(device: str | torch.device = "cpu", *, timeout: timedelta = MEETING) -> World:
    """Meet the other processes; a second call changes nothing.

    Args:
        device: what they compute on: NCCL connects CUDA devices, gloo everything else.

    Raises:
        Lost: processes that did not come in time, by rank, host and port.
    """
    me = current()
    if me.size == 1 or has_met():
        return me
    import torch.distributed as dist

    kind = str(device).partition(":")[0]
    store = _meet(me, timeout)
    # gloo beside NCCL: what processes tell each other between two steps does not wait for the GPU.
    backend = "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo"
    with answered():
        dist.init_process_group(
            backend,
            store=dist.PrefixStore("group", store),
            rank=me.rank,
            world_size=me.size,
            timeout=EXCHANGE,
        )
    atexit.register(stop)  # while Python still stands: torch warns of processes that leave without a word
    return me


def has_met() -> bool:
    """Whether this process is connected to others."""
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized()


def stop() -> None:
    """Part from the other processes."""
    if current().size > 1 and has_met():
        import torch.distributed as dist

        dist.destroy_process_group()


def gather(value: Any) -> list[Any]:
    """What every process has put in, by rank. All of them must call it."""
    me = current()
    if me.size == 1:
        return [value]
    import torch.distributed as dist

    values: list[Any] = [None] * me.size
    with answered():
        dist.all_gather_object(values, value)
    return values


def same(flag: bool) -> bool:
    """Whether the flag is set in any process: all of them get the same answer."""
    return total([flag])[0] > 0


def total(values: Sequence[float]) -> list[float]:
    """The sum over all processes of each value, in float64; the same bits in all of them."""
    me = current()
    if me.size == 1:
        return [float(value) for value in values]
    import torch
    import torch.distributed as dist

    sums = torch.tensor(values, dtype=torch.float64)  # on the CPU: by gloo
    with answered():
        dist.all_reduce(sums)
    return sums.tolist()


@contextmanager
def together() -> Iterator[None]:
    """Inside, what one process cannot do no process does: all raise the error of the first that has one.

    Not around an exchange: a process that has failed would not take part in it.
    """
    failed: Exception | None = None
    try:
        yield
    except Exception as error:
        if current().size == 1:
            raise
        failed = error
    if first := next((error for error in gather(failed) if error is not None), None):
        raise first


def _meet(me: World, timeout: timedelta) -> Any:
    """The store that all processes can reach, after each has said its name in it."""
    import torch.distributed as dist

    host, port = os.environ.get("MASTER_ADDR", "127.0.0.1"), int(os.environ.get("MASTER_PORT", 29500))
    seconds = timeout.total_seconds()
    is_hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # torchrun itself keeps the store
    try:
        store = dist.TCPStore(
            host, port, me.size, me.is_first and not is_hosted, timeout=timeout, wait_for_workers=False
        )
    except RuntimeError as error:
        if "EADDRINUSE" in str(error):
            raise Lost(
                f"port {port} on {host} is in use, by another run perhaps; give another MASTER_PORT"
            ) from None
        raise Lost(
            f"rank {me.rank} of {me.size} on {socket.gethostname()} did not reach rank 0 at {host} port {port} "
            f"in {seconds:.0f} s; start it there, or open the port"
        ) from None
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    board = dist.PrefixStore(f"swinv2/{attempt}", store)
    names = [f"rank {rank}" for rank in range(me.size)]
    board.set(names[me.rank], socket.gethostname())
    try:
        board.wait(names, timeout)
    except RuntimeError:
        missing = [name for name in names if not board.check([name])]
        raise Lost(
            f"{', '.join(missing)} of {me.size} did not come to {host} port {port} in {seconds:.0f} s (this is "
            f"rank {me.rank} on {socket.gethostname()}); start what is missing, or fewer processes"
        ) from None
    return board


@contextmanager
def answered() -> Iterator[None]:
    """Inside, an exchange that breaks off because another process is gone is said in words.

    Raises:
        Lost: instead of what gloo or NCCL say.
    """
    try:
        yield
    except RuntimeError as error:
        said, me = " ".join(str(error).split()), current()
        if me.size == 1 or not any(word in said.lower() for word in BROKEN):
            raise
        what = re.sub(r"^\[.*?\]\s*", "", said)  # where in their source
        raise Lost(
            f"rank {me.rank} of {me.size} has lost another process ({what[:100].rstrip()}); the message of the one "
            f"that ended says why, and where it left none it was killed, for want of memory perhaps"
        ) from None
