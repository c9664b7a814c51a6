"""The pages of `swinv2 serve` in a real browser: pictures in, answers out, errors, access for everybody."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from pages import CLEAN, DESK, PHONE, choose, expected, launched, names, no_sideways_scroll, opened
from playwright.sync_api import Browser, Page, expect
from serving import NAMES, Running, picture, serving, write_model

from swinv2 import Predictor

TORCH_SECONDS = 300  # for the first map
OTHERS = tuple(f"{name} of another model" for name in NAMES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two models, pictures, and a file that is none."""
    root = tmp_path_factory.mktemp("page")
    write_model(root / "animals.safetensors")
    write_model(root / "others.safetensors", seed=1, classes=OTHERS)
    for seed, name in enumerate(("one.png", "two.png")):
        (root / name).write_bytes(picture(seed, (90, 70)))
    (root / "wide.png").write_bytes(picture(2, (400, 100)))
    (root / "notes.txt").write_text("no picture")
    return root


@pytest.fixture(scope="module")
def server(folder) -> Iterator[Running]:
    models = folder / "animals.safetensors", folder / "others.safetensors"
    with serving(*models, "--no-grpc", "--timeout", str(TORCH_SECONDS)) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as chromium:
        yield chromium


@pytest.fixture
def page(browser, server) -> Iterator[Page]:
    with opened(browser, server.http) as page:
        expect(page.locator("#facts")).to_contain_text("small_for_tests")
        yield page


# ---------------------------------------------------------------------- pictures come in


def test_chosen_files_are_answered_as_predict_answers_them(page, folder):
    choose(page, folder / "one.png", folder / "two.png")
    cards = page.locator(".card")
    expect(cards.locator(".latency")).to_have_count(2)
    for card, file in ((cards.nth(1), "one.png"), (cards.nth(0), "two.png")):  # the newest comes first
        expect(card.locator("h2")).to_have_text(file)
        numbers = card.locator(".bars .number").all_text_contents()
        assert list(zip(names(card), numbers, strict=True)) == expected(
            folder / "animals.safetensors", folder / file
        )


def test_a_bar_is_as_long_as_its_class_is_likely(page, folder):
    choose(page, folder / "one.png")
    expect(page.locator(".latency")).to_be_visible()
    page.wait_for_timeout(600)  # the bars grow
    shares = page.locator(".fill").evaluate_all(
        "fills => fills.map(fill => fill.offsetWidth / fill.parentElement.offsetWidth)"
    )
    found = Predictor(folder / "animals.safetensors", top_k=5)(folder / "one.png")
    assert shares == pytest.approx([score.score for score in found.classes], abs=0.01)


def test_the_time_is_split_into_parts_that_add_up(page, folder):
    with page.expect_response(re.compile("/predict")) as answer:
        choose(page, folder / "one.png")
    timing = answer.value.json()["timing"]
    expect(page.locator(".legend div")).to_have_count(4)
    shown = dict(
        zip(page.locator(".legend dt").all_text_contents(), page.locator(".legend dd").all_text_contents(), strict=True)
    )  # fmt: skip
    milliseconds = {name.lower(): float(value.removesuffix(" ms")) for name, value in shown.items()}
    for part in ("decode", "queue", "compute"):
        assert milliseconds[part] == pytest.approx(timing[f"{part}_ms"], abs=0.051)
    whole = float(page.locator(".latency b").text_content().removesuffix(" ms"))
    assert sum(milliseconds.values()) == pytest.approx(whole, abs=0.21)
    assert milliseconds["network"] > 0


def test_a_dropped_file_is_answered_also_beside_the_field(page, folder):
    drag = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(folder / "two.png")], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver"):
        drag.send("Input.dispatchDragEvent", {"type": kind, "x": 20, "y": 700, "data": data})
    expect(page.locator("#drop")).to_have_class("over")
    drag.send("Input.dispatchDragEvent", {"type": "drop", "x": 20, "y": 700, "data": data})
    expect(page.locator(".card h2")).to_have_text("two.png")
    assert (
        names(page.locator(".card"))[0] == expected(folder / "animals.safetensors", folder / "two.png")[0][0]
    )
    expect(page.locator("#drop")).not_to_have_class("over")


def test_a_picture_is_pasted_from_the_clipboard(page):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.evaluate(
        """async () => {
            const canvas = document.createElement("canvas");
            canvas.width = canvas.height = 80;
            canvas.getContext("2d").fillRect(20, 20, 30, 40);
            const blob = await new Promise((done) => canvas.toBlob(done, "image/png"));
            await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
        }"""
    )
    page.keyboard.press("Control+V")
    expect(page.locator(".card .bars li")).to_have_count(5)
    page.evaluate("navigator.clipboard.writeText('words')")
    page.keyboard.press("Control+V")
    expect(page.get_by_role("alert")).to_have_text("The clipboard holds no picture.")


def focused(page: Page) -> str:
    return page.evaluate("document.activeElement.textContent || document.activeElement.id")


def test_everything_can_be_done_with_the_keyboard(page, folder):
    page.on("filechooser", lambda _: None)  # from now on: it takes the browser a moment to leave them to us
    page.keyboard.press("Tab")
    assert focused(page) == "For programs"
    page.keyboard.press("Tab")
    assert focused(page) == "chooser"
    assert page.locator("#drop").evaluate("it => getComputedStyle(it).outlineStyle") == "solid"
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(folder / "one.png")
    expect(page.locator(".bars li")).to_have_count(5)
    expect(page.locator("#status")).to_contain_text("one.png: ")  # what a screen reader says
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "model"
    page.keyboard.press("ArrowDown")
    expect(page.locator(".bars .name").first).to_contain_text("of another model")
    order = []
    for _ in range(3):
        page.keyboard.press("Tab")
        order.append(focused(page)[:15])
    assert order[:2] == ["Clear the page", "Where it looked"]
    assert page.evaluate("document.activeElement.tagName") == "SELECT"
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    expect(page.locator(".card")).to_have_count(0)
    assert focused(page) == "chooser"


# ---------------------------------------------------------------------- models, errors, tokens


def test_the_models_are_told_and_the_chosen_one_answers(page, folder):
    assert page.locator("#model option").all_text_contents() == ["animals", "others"]
    expect(page.locator("#facts")).to_contain_text("64 x 64 pixels, 3 channels")
    choose(page, folder / "one.png")
    assert names(page.locator(".card"))[0] in NAMES
    page.select_option("#model", "others")  # what is shown is asked again
    expect(page.locator(".by")).to_have_text("others, version 1")
    assert names(page.locator(".card")) == [
        name for name, _ in expected(folder / "others.safetensors", folder / "one.png")
    ]


def test_what_is_no_picture_is_said_and_the_others_are_answered(page, folder):
    choose(page, folder / "notes.txt", folder / "one.png")
    expect(page.locator(".card").nth(0).locator(".bars li")).to_have_count(5)
    expect(page.locator(".card").nth(1).locator(".error")).to_have_text(re.compile(r"^Notes\.txt.*\.$"))
    page.select_option("#model", "others")
    expect(page.locator(".card").nth(0).locator(".by")).to_have_text("others, version 1")
    expect(page.locator(".card").nth(1).locator(".error")).to_be_visible()


def test_a_file_that_is_too_large_is_not_sent(page, tmp_path):
    file = tmp_path / "huge.png"
    with file.open("wb") as data:
        data.truncate((64 << 20) + (1 << 20))
    choose(page, file)
    expect(page.locator(".error:visible")).to_have_text(
        "The file has 65 MiB and the server takes 64 MiB; make it smaller."
    )


def test_a_server_that_is_gone_is_said(browser, folder):
    with (
        serving(folder / "animals.safetensors", "--no-grpc") as running,
        opened(browser, running.http) as page,
    ):
        expect(page.locator("#facts")).to_contain_text("animals, version 1")
        expect(page.locator("#choice")).to_be_hidden()  # there is nothing to choose
        assert running.end() == 0
        choose(page, folder / "one.png")
        expect(page.locator(".card .error")).to_have_text(re.compile("^The server does not answer"))


def test_a_token_is_asked_for_and_kept_for_the_tab(browser, folder, tmp_path):
    (tmp_path / "token").write_text("open-sesame\n")
    with serving(folder / "animals.safetensors", "--no-grpc", "--token-file", tmp_path / "token") as running:
        with opened(browser, running.http) as page:
            field = page.get_by_label("Token")
            expect(field).to_be_focused()
            field.fill("open-barley")
            page.keyboard.press("Enter")
            expect(page.locator("#token p")).to_have_text("The server does not take this token.")
            field.fill("open-sesame")
            page.keyboard.press("Enter")
            expect(page.locator("#facts")).to_contain_text("animals, version 1")
            expect(field).to_be_hidden()
            choose(page, folder / "one.png")
            expect(page.locator(".bars li")).to_have_count(5)
            page.goto(f"{running.http}/docs")  # the same tab
            expect(page.locator("summary").first).to_be_visible()
        with opened(browser, f"{running.http}/docs") as page:
            expect(page.get_by_label("Token")).to_be_focused()


# ---------------------------------------------------------------------- where the model looked


def test_where_the_model_looked_is_laid_over_the_picture_and_taken_away_again(page, folder):
    choose(page, folder / "wide.png")
    picture = page.locator(".frame img")
    expect(page.locator(".bars li")).to_have_count(5)
    button = page.get_by_role("button", name="Where it looked")
    before = picture.get_attribute("src")
    button.click()
    note = page.locator(".look p")
    expect(note).to_have_text(
        re.compile(r"^Bright where .* \(Grad-CAM\)\. Dark: what|^Nothing"), timeout=1000 * TORCH_SECONDS
    )
    expect(picture).to_have_attribute("alt", "wide.png under the map of where the model looked")
    assert picture.evaluate("it => [it.naturalWidth, it.naturalHeight]") == [400, 100]
    first = picture.get_attribute("src")
    page.locator(".look select").select_option(index=3)  # another class
    expect(note).to_contain_text(page.locator(".bars .name").nth(3).text_content() or "?")
    assert picture.get_attribute("src") not in (before, first)
    button.click()
    expect(picture).to_have_attribute("src", before)
    expect(button).to_have_attribute("aria-pressed", "false")


# ---------------------------------------------------------------------- for everybody


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
def test_axe_finds_nothing_and_nothing_scrolls_sideways(browser, server, folder, scheme, viewport):
    with opened(
        browser, server.http, viewport=viewport, color_scheme=scheme, reduced_motion="reduce"
    ) as page:
        choose(page, folder / "one.png", folder / "notes.txt", folder / "wide.png")
        expect(page.locator(".latency")).to_have_count(2)
        assert no_sideways_scroll(page)
        assert Axe().run(page).generate_report() == CLEAN
        page.goto(f"{server.http}/docs")
        for summary in page.locator("summary").all():
            summary.click()
        assert no_sideways_scroll(page)
        assert Axe().run(page).generate_report() == CLEAN


def test_axe_notices_what_is_wrong(page):
    page.evaluate("const field = document.querySelector('#chooser'); field.parentElement.replaceWith(field)")
    assert "label" in Axe().run(page).generate_report()


def test_nothing_moves_for_those_who_do_not_want_it(browser, server, folder):
    # Counted as they begin: an animation of a quarter of a second may be over before it is looked for.
    count = "moved = 0; for (const begun of ['animationstart', 'transitionrun']) addEventListener(begun, () => moved++)"
    frames = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(moved))))"
    for wish, is_moving in (("no-preference", True), ("reduce", False)):
        with opened(browser, server.http, reduced_motion=wish) as page:
            page.evaluate(count)
            choose(page, folder / "one.png")
            expect(page.locator(".bars li")).to_have_count(5)
            assert (page.evaluate(frames) > 0) is is_moving


def test_long_names_do_not_break_a_phone(browser, tmp_path, folder):
    """Names without a space, longer than a line, and some with markup in them."""
    classes = ("x" * 120, "<b>bold</b>", "<img src=x onerror=alert(1)>", *NAMES[3:])
    write_model(tmp_path / f"{'m' * 60}.safetensors", classes=classes)
    with (
        serving(tmp_path / f"{'m' * 60}.safetensors", "--no-grpc") as running,
        opened(browser, running.http, viewport=PHONE) as page,
    ):
        name = folder / "one.png"
        choose(page, name)
        assert set(names(page.locator(".card"))) <= set(classes)
        assert no_sideways_scroll(page)
        assert page.locator(".bars b, .bars img").count() == 0


# ---------------------------------------------------------------------- /docs


def test_docs_name_every_operation_and_how_to_ask_it(browser, server):
    with urllib.request.urlopen(f"{server.http}/openapi.json") as answer:
        paths = json.load(answer)["paths"]
    with opened(browser, f"{server.http}/docs") as page:
        expect(page.locator("details")).to_have_count(sum(len(methods) for methods in paths.values()))
        shown = [" ".join(line.split()) for line in page.locator("summary").all_text_contents()]
        for path, methods in paths.items():
            for method in methods:
                assert any(line.startswith(f"{method.upper()}{path}") for line in shown), (
                    method,
                    path,
                    shown,
                )
        page.locator("summary", has_text="/predict").click()
        command = page.locator("details[open] pre").first.text_content()
        assert command == f"curl --data-binary @photo.jpg {server.http}/predict"
