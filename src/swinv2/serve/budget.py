"""How many bytes of requests are held at one time, over both protocols: what strangers send cannot fill the memory."""

from __future__ import annotations

from swinv2.serve.errors import Kind, Refused


class Budget:
    """Bytes of bodies and messages that wait for their answers."""

    def __init__(self, limit: int):
        self._limit, self._held = limit, 0

    @property
    def held(self) -> int:
        """Bytes, now."""
        return self._held

    def hold(self, size: int) -> None:
        """Count bytes until they are released.

        Raises:
            Refused: those of all requests together are too many.
        """
        if self._held + size > self._limit:
            raise Refused(
                Kind.BUSY, "the server holds as many requests as it may; try again later", retry_after=1
            )
        self._held += size

    def release(self, size: int) -> None:
        """The request was answered."""
        self._held -= size
