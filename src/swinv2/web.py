"""One picture from the web, for programs that fetch what strangers name.

A URL is refused where its host has an address that is not public: otherwise anybody who may name a picture
could reach the services of the machine and of its network. The address is checked after name resolution and
on every redirect, and the connection goes to the address that was checked. Proxies of the environment are
not used: the check would see the proxy's address.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import time
import urllib.error
import urllib.request
from functools import partial
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from swinv2 import __version__
from swinv2.images import ImageError

MAX_BYTES = 64 * 2**20
TIMEOUT_S = 20  # of one step: connecting, or waiting for the next bytes
DEADLINE_S = 60  # of the whole body

_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def fetch(url: str, *, private: bool = False) -> bytes:
    """The body behind an http or https URL.

    Args:
        private: also from private, loopback and link-local addresses.

    Raises:
        ImageError: refused, not found, too large, too slow; one sentence that names the URL.
    """
    try:
        headers = {"User-Agent": f"swinv2/{__version__}", "Accept": "image/*"}
        request = urllib.request.Request(_in_ascii(url), headers=headers)
        with _opener(private).open(request, timeout=TIMEOUT_S) as response:
            return _body(response, url)
    except ImageError as error:
        raise ImageError(f"{url} {error}") from None
    except urllib.error.HTTPError as error:
        with error:
            raise ImageError(f"{url} was answered with {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise ImageError(f"{url} cannot be fetched: {reason or type(reason).__name__}") from None


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the internet at large."""
    ip: Any = ipaddress.ip_address(address)
    if ip.version == 6:
        inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else None
        inner = inner or ip.ipv4_mapped or ip.sixtofour  # an IPv4 address in other clothes
        if inner is None and ip not in _GLOBAL_UNICAST:
            return False
        ip = inner or ip
    return ip.is_global and not ip.is_multicast


def _opener(private: bool) -> urllib.request.OpenerDirector:
    """http and https, redirects between them, and nothing else: no file:, no ftp:, no proxies."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        _Handler(private),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


class _Handler(urllib.request.AbstractHTTPHandler):
    def __init__(self, private: bool):
        super().__init__()
        self.private = private

    def http_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(partial(_Http, self.private), request)  # type: ignore[arg-type]

    def https_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(partial(_Https, self.private), request)  # type: ignore[arg-type]

    http_request = https_request = urllib.request.AbstractHTTPHandler.do_request_


class _Http(http.client.HTTPConnection):
    def __init__(self, private: bool, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.private = private

    def connect(self) -> None:
        self.sock = _connect(self.host, self.port, self.timeout, self.private)


class _Https(_Http):
    default_port = http.client.HTTPS_PORT

    def connect(self) -> None:
        super().connect()
        self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.host)


def _connect(host: str, port: int, timeout: float | None, private: bool) -> socket.socket:
    """A connection to the first address of the host that answers; none where one of them is not public."""
    found = [info[4] for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    if not private:
        for address in found:
            if not is_public(str(address[0])):
                raise ImageError(
                    f"leads to {address[0]}, an address that is not public; allow it with --private-urls"
                )
    failed: OSError | None = None
    for address in found:
        try:
            return socket.create_connection((str(address[0]), port), timeout)
        except OSError as error:
            failed = error
    raise failed or OSError("the host has no address")


def _body(response: Any, url: str) -> bytes:
    too_large = f"is larger than {MAX_BYTES // 2**20} MiB, the limit; download it and give the file"
    length = response.headers.get("Content-Length", "")
    if length.isdigit() and int(length) > MAX_BYTES:
        raise ImageError(too_large)
    body, deadline = bytearray(), time.monotonic() + DEADLINE_S
    while chunk := response.read1(2**16):
        body += chunk
        if len(body) > MAX_BYTES:
            raise ImageError(too_large)
        if time.monotonic() > deadline:
            raise ImageError(f"took longer than {DEADLINE_S} seconds; download it and give the file")
    return bytes(body)


def _in_ascii(url: str) -> str:
    """Spaces and letters of all languages, as people copy them from a browser -> percent signs."""
    parts = urlsplit(url)
    path, query = quote(parts.path, safe="/%:@!$&'()*+,;=~"), quote(parts.query, safe="/?%:@!$&'()*+,;=~[]")
    return urlunsplit((parts.scheme, parts.netloc, path, query, ""))
