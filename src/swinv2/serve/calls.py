"""Between gRPC and what answers: what guard.py is to HTTP.

Every call has an id, a line in the log and a deadline. What bears no token is refused before its message is read, what
comes too slowly is given up, and the bytes of all messages together have a bound. All calls are handled as streams:
only so does gRPC let the server decide before it receives a message. On the wire it is the same.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from swinv2.serve import logs, messages
from swinv2.serve.errors import Kind, Refused, invalid
from swinv2.serve.identity import check_token, request_id
from swinv2.serve.service import Service

CLOCKS = 0.05  # seconds by which the deadline of a client may be over before that of the server is
LONGEST = 1000  # characters of a refusal: clients take 8 KiB of metadata
log = logging.getLogger("swinv2.serve")


class Call:
    """One call, from its first byte to its answer.

    Attributes:
        log: what its line in the log says beside the usual.
    """

    def __init__(self, service: Service, path: str, context: Any):
        self._service, self._path, self._context = service, path, context
        self._metadata = dict(context.invocation_metadata() or ())
        self._id = request_id(str(self._metadata.get("x-request-id", "")))
        peer = context.peer()  # ipv4:127.0.0.1:4242, ipv6:%5B::1%5D:4242; not known any more at the end
        self._client = peer.partition(":")[2].rpartition(":")[0].removeprefix("%5B").removesuffix("%5D")
        self._started = time.monotonic()
        self._held = 0
        self._status = "CANCELLED"  # by the client, unless something else is said
        self.log: dict[str, Any] = {}

    @property
    def seconds(self) -> float | None:
        """Until the client's deadline; None where it has none."""
        left: float | None = self._context.time_remaining()
        return None if left is None else max(left, 0.001)

    async def answer(self, how: Callable[[Call], Awaitable[bytes | None]]) -> bytes | None:
        """Answer it with what `how` returns, or with the reason that it raises."""
        try:
            self._context.set_trailing_metadata((("x-request-id", self._id),))
            answer = await how(self)
            self._status = "OK"
            return answer
        except Refused as why:
            await self._refuse(why)
        except grpc.aio.InternalError:  # the connection ended in the middle of an answer
            raise asyncio.CancelledError from None
        except Exception:
            log.exception("a defect in %s", self._path, extra={"fields": {"request": self._id}})
            await self._refuse(Refused(Kind.FAILED, "the server has a defect; its log says more"))
        except asyncio.CancelledError:
            if (left := self._context.time_remaining()) is not None and left < CLOCKS:
                self._status = "DEADLINE_EXCEEDED"
            raise
        finally:
            self._service.budget.release(self._held)
            self._end()
        return None  # not reached: a refusal raises

    def check_token(self) -> None:
        """Raises Refused where the call does not bear the token of the server."""
        check_token(str(self._metadata.get("authorization", "")), self._service.access.token)

    async def receive(self) -> bytes:
        """The message of the client; it counts as held until the call is answered.

        Raises:
            Refused: it did not come in time, there is none, or the server holds too many.
        """
        limit = self._service.limits.body_seconds
        try:
            async with asyncio.timeout(limit):
                data = await self._context.read()
        except TimeoutError:
            raise Refused(
                Kind.SLOW, f"the message has not arrived within {limit:g} s; send it faster"
            ) from None
        if data is grpc.aio.EOF:  # or gRPC has refused it as too large, and this is not heard any more
            raise invalid("the call has no message; send one")
        self._service.budget.hold(len(data))
        self._held += len(data)
        self._started = time.monotonic()
        return bytes(data)

    async def message(self, kind: Any) -> Any:
        """The same as a message of a class.

        Raises:
            Refused: as receive() does, or it is none of that class.
        """
        return messages.read(kind, await self.receive())

    async def send(self, message: Any) -> None:
        """One of several answers."""
        await self._context.write(message.SerializeToString())

    async def _refuse(self, why: Refused) -> None:
        """End the call with a reason; raises what gRPC wants to see of an end."""
        self._status = why.kind.grpc
        fields = [("x-request-id", self._id)]
        if why.retry_after is not None:  # for people, and for clients of gRPC with a policy of retries
            fields += [
                ("retry-after", str(why.retry_after)),
                ("grpc-retry-pushback-ms", str(1000 * why.retry_after)),
            ]
        sentence = why.sentence if len(why.sentence) <= LONGEST else f"{why.sentence[:LONGEST]}..."
        try:
            await self._context.abort(grpc.StatusCode[self._status], sentence, tuple(fields))
        except grpc.aio.InternalError:  # nobody is there to be told
            self._status = "CANCELLED"
            raise asyncio.CancelledError from None

    def _end(self) -> None:
        seconds = time.monotonic() - self._started
        self._service.metrics.answered("grpc", self._status, seconds)
        logs.answered(self._id, self._client, "gRPC", self._path, self._status, seconds, self.log)
