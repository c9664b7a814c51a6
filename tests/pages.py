"""Shared by the tests of pages: Chromium, what a page must never do, and what both pages of pictures have."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from swinv2 import Predictor

SECONDS = 60  # for an answer, on a machine that is busy
PHONE = {"width": 360, "height": 740}
DESK = {"width": 1100, "height": 900}
CLEAN = "Found 0 accessibility violations:\n"  # of Axe

expect.set_options(timeout=1000 * SECONDS)


@contextmanager
def launched() -> Iterator[Browser]:
    """Chromium; the test is skipped where there is none."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield chromium
        chromium.close()


@contextmanager
def opened(browser: Browser, address: str, **options: Any) -> Iterator[Page]:
    """A page that must stay without errors of scripts or of the security policy, and ask nobody else."""
    context = browser.new_context(**{"viewport": DESK, "locale": "en"} | options)
    page = context.new_page()
    said: list[str] = []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("console", lambda line: said.append(line.text) if "status of" not in line.text else None)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    yield page
    origin = re.match(r"https?://[^/]+", address)[0]
    assert [url for url in asked if not url.startswith((origin, f"blob:{origin}", "data:"))] == []
    assert [line for line in said if "net::ERR_CONNECTION" not in line] == []
    context.close()


def choose(page: Page, *files: Path) -> None:
    page.set_input_files("#chooser", files)


def names(card: Any) -> list[str]:
    """The classes that a card shows."""
    expect(card.locator(".bars li")).to_have_count(5)
    return card.locator(".bars .name").all_text_contents()


def expected(model: Path, file: Path) -> list[tuple[str, str]]:
    """Names and percentages by `swinv2 predict`."""
    found = Predictor(model, top_k=5)(file)
    return [(score.name, f"{100 * score.score:.1f} %") for score in found.classes]


def no_sideways_scroll(page: Page) -> bool:
    return page.evaluate("document.documentElement.scrollWidth <= innerWidth")
