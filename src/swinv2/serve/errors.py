"""Why a request is refused: one kind of error for both protocols, one sentence each, and the codes they travel as."""

from __future__ import annotations

import json
from enum import Enum
from typing import Any


class Kind(Enum):
    """What went wrong, and what it is called in HTTP and in gRPC (the name of a grpc.StatusCode)."""

    INVALID = 400, "INVALID_ARGUMENT"
    UNAUTHORIZED = 401, "UNAUTHENTICATED"
    FORBIDDEN = 403, "PERMISSION_DENIED"
    NOT_FOUND = 404, "NOT_FOUND"
    SLOW = 408, "CANCELLED"  # the body did not arrive in time
    TOO_LARGE = 413, "INVALID_ARGUMENT"
    UNKNOWN_CODING = 415, "UNIMPLEMENTED"
    HEADERS_TOO_LARGE = 431, "RESOURCE_EXHAUSTED"
    FAILED = 500, "INTERNAL"
    UNSUPPORTED = 501, "UNIMPLEMENTED"  # this model or this installation cannot do it
    BUSY = 503, "RESOURCE_EXHAUSTED"
    UNAVAILABLE = 503, "UNAVAILABLE"  # the server stops, or no worker of the model lives
    EXPIRED = 504, "DEADLINE_EXCEEDED"

    def __init__(self, http: int, grpc: str):
        # Two kinds with one pair of codes would be one member of the enumeration: none are.
        self.http, self.grpc = http, grpc


class Refused(Exception):
    """A request that is not answered as asked, in one sentence for the client.

    Args:
        retry_after: seconds after which another try may succeed; sent as Retry-After.
    """

    def __init__(self, kind: Kind, sentence: str, *, retry_after: int | None = None):
        super().__init__(sentence)
        self.kind, self.sentence, self.retry_after = kind, sentence, retry_after


def invalid(sentence: str) -> Refused:
    """What most refusals are: the request cannot be meant."""
    return Refused(Kind.INVALID, sentence)


def short(value: Any, most: int = 60) -> str:
    """What was given, for a sentence."""
    text = "missing" if value is None else value if isinstance(value, str) else json.dumps(value, default=str)
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[:most]}..."
