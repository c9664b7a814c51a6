"""Who asks: the id of a request, and the token that it bears. The same for both protocols."""

from __future__ import annotations

import hmac
import re
import uuid

from swinv2.serve.errors import Kind, Refused

ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def request_id(given: str) -> str:
    """The id that a client gave in x-request-id, where it can stand in a log and in a header; a new one otherwise."""
    return given if ID.fullmatch(given) else uuid.uuid4().hex


def check_token(authorization: str, token: str) -> None:
    """Compare what a request bears with the token of the server; "" lets everybody in.

    Raises:
        Refused: it is another one, or none.
    """
    scheme, _, given = authorization.partition(" ")
    right = hmac.compare_digest(given.strip().encode(errors="replace"), token.encode())
    if token and not (right and scheme.lower() == "bearer"):
        raise Refused(Kind.UNAUTHORIZED, "this server wants a token: send Authorization: Bearer <token>")
