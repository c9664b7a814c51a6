"""A command in several processes on this machine, through torch.distributed.run's own launcher."""

from __future__ import annotations

import logging
import os
import sys
import uuid
from collections.abc import Mapping
from typing import Any

from swinv2.data.loader import cpus


def again(verb: str, positional: str, options: Mapping[str, Any], processes: int) -> int:
    """Run `swinv2 VERB POSITIONAL --OPTIONS` in so many processes; returns the exit code of the first that failed.

    A signal is passed on, and waited for: the processes save before they end.

    Raises:
        ValueError: no number of processes.
    """
    if processes < 1:
        raise ValueError(f"processes is {processes}; give at least 1")
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("OMP_NUM_THREADS", str(max(cpus() // processes, 1)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",  # any port that is free
        run_id=uuid.uuid4().hex,
        max_restarts=0,
    )
    logging.disable(logging.ERROR)  # what failed is said by the process that failed
    try:
        elastic_launch(config, sys.executable)("-m", "swinv2", verb, positional, *written(options))
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        return code if code >= 0 else 128 - code  # ended by a signal
    except SignalException as error:
        return 128 + error.sigval
    finally:
        logging.disable(logging.NOTSET)
    return 0


def written(options: Mapping[str, Any]) -> list[str]:
    """Options as on a command line, without those that are not given."""
    texts = []
    for name, value in options.items():
        if value is None:
            continue
        if isinstance(value, bool):
            text = str(value).lower()
        elif isinstance(value, dict):
            text = "{" + ", ".join(f"{key}: {part}" for key, part in value.items()) + "}"
        elif isinstance(value, list | tuple):
            text = ",".join(map(str, value))
        else:
            text = str(value)
        texts.append(f"--{name.replace('_', '-')}={text}")
    return texts
