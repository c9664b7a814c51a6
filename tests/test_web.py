"""URLs: pictures come, and nothing on the machine's own network can be reached unless it is allowed."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from swinv2 import web
from swinv2.images import ImageError

BODY = bytes(range(256)) * 40


class Site(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.startswith(("/to?", "/circle")):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to?"))
            self.end_headers()
        elif self.path.startswith("/gone"):
            self.send_error(404, "Not Found")
        else:
            self.send_response(200)
            if self.path != "/endless":
                self.send_header("Content-Length", "999999999999" if self.path == "/huge" else str(len(BODY)))
            self.end_headers()
            self.wfile.write(self.path.encode() if self.path.startswith("/echo") else BODY)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def site():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def this_is_the_internet(monkeypatch):
    """The site counts as public; every other address is judged as it is."""
    judge = web.is_public
    monkeypatch.setattr(web, "is_public", lambda address: address == "127.0.0.1" or judge(address))


def refusal(url, **options):
    with pytest.raises(ImageError) as caught:
        web.fetch(url, **options)
    assert str(caught.value).startswith(url)
    return str(caught.value)


def test_body_arrives(site):
    assert web.fetch(f"{site}/a.jpg", private=True) == BODY


def test_loopback_is_refused_unless_allowed(site):
    assert "127.0.0.1, an address that is not public; allow it with --private-urls" in refusal(
        f"{site}/a.jpg"
    )


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost/a.jpg", "http://169.254.169.254/latest/meta-data", "http://10.0.0.7/", "http://[::1]/",
        "http://0.0.0.0/", "http://2130706433/", "http://0x7f.1/", "https://192.168.1.1/", "http://[::ffff:10.0.0.1]/",
    ],
)  # fmt: skip
def test_addresses_of_the_own_network_are_refused_however_they_are_written(url):
    assert "not public" in refusal(url)


def test_a_public_name_with_a_private_address_is_refused(monkeypatch):
    answer = [(2, 1, 6, "", ("93.184.216.34", 80)), (2, 1, 6, "", ("10.1.2.3", 80))]
    monkeypatch.setattr(web.socket, "getaddrinfo", lambda *args, **options: answer)
    assert "leads to 10.1.2.3" in refusal("http://rebound.example/a.jpg")


def test_the_connection_goes_to_the_address_that_was_checked(monkeypatch):
    asked, reached = [], []

    def resolve(host, *args, **options):
        asked.append(host)
        return [(2, 1, 6, "", ("93.184.216.34" if len(asked) == 1 else "10.1.2.3", 80))]

    def connect(address, *args):
        reached.append(address)
        raise OSError("enough")

    monkeypatch.setattr(web.socket, "getaddrinfo", resolve)
    monkeypatch.setattr(web.socket, "create_connection", connect)
    refusal("http://rebound.example/a.jpg")
    assert (asked, reached) == (["rebound.example"], [("93.184.216.34", 80)])


def test_redirects_are_followed(site, this_is_the_internet):
    assert web.fetch(f"{site}/to?{site}/a.jpg") == BODY


def test_a_redirect_into_the_own_network_is_refused(site, this_is_the_internet):
    assert "leads to 169.254.169.254" in refusal(f"{site}/to?http://169.254.169.254/latest")


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://example.org/a.jpg"])
def test_a_redirect_to_another_scheme_is_refused(site, target):
    refusal(f"{site}/to?{target}", private=True)


def test_a_redirect_in_circles_ends(site):
    assert "302" in refusal(f"{site}/circle", private=True)


def test_https_speaks_tls(site):
    assert "SSL" in refusal(site.replace("http:", "https:"), private=True)


def test_an_announced_size_above_the_limit_is_refused_unread(site):
    assert "larger than 64 MiB" in refusal(f"{site}/huge", private=True)


def test_a_body_above_the_limit_is_refused_whatever_was_announced(site, monkeypatch):
    monkeypatch.setattr(web, "MAX_BYTES", len(BODY) - 1)
    assert "larger than" in refusal(f"{site}/endless", private=True)


def test_a_body_that_never_ends_is_given_up(site, monkeypatch):
    monkeypatch.setattr(web, "DEADLINE_S", -1)
    assert "took longer" in refusal(f"{site}/endless", private=True)


def test_a_missing_picture_says_what_the_server_said(site):
    assert "was answered with 404 Not Found" in refusal(f"{site}/gone.jpg", private=True)


def test_an_unknown_host_says_so(monkeypatch):
    def fail(*args, **options):
        raise web.socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(web.socket, "getaddrinfo", fail)
    assert "Name or service not known" in refusal("http://nowhere.example/a.jpg")


def test_nobody_listening_says_so():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert "refused" in refusal(f"http://127.0.0.1:{port}/a.jpg", private=True)


@pytest.mark.parametrize(
    "url", ["http://", "http://[", "http://host:port/", "http://user:password@/x", "http://a b/"]
)
def test_malformed_addresses_say_so(url):
    refusal(url)


def test_letters_of_all_languages_may_be_in_an_address(site):
    assert (
        web.fetch(f"{site}/echo/b\u00fccher 1.jpg?q=\u00e9", private=True)
        == b"/echo/b%C3%BCcher%201.jpg?q=%C3%A9"
    )


def test_proxies_of_the_environment_are_not_used(site, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert web.fetch(f"{site}/a.jpg", private=True) == BODY


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True), ("2606:4700::1111", True), ("64:ff9b::808:808", True), ("::ffff:8.8.8.8", True),
        ("127.0.0.1", False), ("10.1.1.1", False), ("172.16.0.1", False), ("192.168.0.1", False),
        ("169.254.169.254", False), ("100.64.0.1", False), ("0.0.0.0", False), ("224.0.1.1", False),
        ("255.255.255.255", False), ("198.18.0.1", False), ("::1", False), ("::", False), ("fe80::1", False),
        ("fc00::1", False), ("ff0e::1", False), ("::ffff:127.0.0.1", False), ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False), ("::127.0.0.1", False), ("2001:db8::1", False),
    ],
)  # fmt: skip
def test_public_addresses_are_told_from_others(address, public):
    assert web.is_public(address) is public
