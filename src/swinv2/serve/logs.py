"""What a server writes to stderr: one JSON object per line, for people with jq and for log collectors."""

from __future__ import annotations

import datetime
import json
import logging
import os
import sys
import warnings
from collections.abc import Mapping
from typing import Any

access = logging.getLogger("swinv2.access")


class Lines(logging.Formatter):
    """time, level, message, and the fields that a record brings."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line = {
            "time": moment.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)  # in ASCII: an address may hold what ends a line or steers a terminal


def answered(
    identity: str, client: str, method: str, path: str, status: int | str, seconds: float, more: Mapping[str, Any]
) -> None:  # fmt: skip
    """Write the line of one request: who asked what, how it was answered, and what else is known of it."""
    if access.isEnabledFor(logging.INFO):
        access.info(
            "request",
            extra={"fields": {
                "request": identity, "client": client, "method": method, "path": path, "status": status,
                "ms": round(1000 * seconds, 3), **more,
            }},
        )  # fmt: skip


def configure(*, each_request: bool) -> None:
    """Send the lines of the server and of its libraries to stderr."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what gRPC's library in C writes by itself is no JSON
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines())
    levels = {
        "swinv2": logging.INFO,
        "swinv2.access": logging.INFO if each_request else logging.WARNING,
        "uvicorn": logging.WARNING,
        "uvicorn.error": logging.WARNING,
        "grpc": logging.WARNING,
        # What these warn of is what a client sent: it is told, and shall not fill the log.
        "python_multipart": logging.ERROR,
        "PIL": logging.ERROR,
    }
    warnings.filterwarnings("ignore", module=r"PIL\b")  # Python would also remember each new text for ever
    logging.captureWarnings(True)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    for name in ("swinv2", "uvicorn", "grpc"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
    logging.getLogger().handlers = [handler]  # all other libraries
