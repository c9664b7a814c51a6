"""The engine in a real browser: the pixels, the logits and the classes of the Python package, and a page for people."""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from conftest import SMALL
from pages import CLEAN, DESK, PHONE, choose, expected, launched, names, no_sideways_scroll, opened
from PIL import Image
from playwright.sync_api import Browser, Page, expect
from serving import NAMES, PREPROCESS, write_model

from swinv2 import artifact
from swinv2.artifact import Record
from swinv2.images import decode
from swinv2.model import SwinV2
from swinv2.preprocess import Preprocess
from swinv2.runtimes.engine import EngineSession

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
OPAQUE = ("photo.jpg", "turned.jpg", "grey.png", "palette.png", "photo.webp")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """What `make cross-web` makes, in a folder with a model and pictures."""
    done = subprocess.run(
        ["make", "--no-print-directory", "cross-web"], cwd=ROOT, capture_output=True, text=True, timeout=1800
    )
    if "make: cannot install" in done.stderr:
        pytest.skip(next(line for line in done.stderr.splitlines() if "cannot install" in line))
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    site = tmp_path_factory.mktemp("web") / "site"
    shutil.copytree(ROOT / "build" / "wasm" / "web", site)
    write_model(site / "animals.safetensors")
    write_model(site / "others.safetensors", seed=1, classes=tuple("abcdefghi"))
    write_pictures(site)
    (site / "notes.txt").write_text("neither a model nor a picture")
    (site / "cut.png").write_bytes((site / "grey.png").read_bytes()[:300])
    return site


def write_pictures(folder: Path) -> None:
    """Of every kind that browsers and Pillow share: turned, grey, with a palette, with an opacity."""
    rows, columns = np.mgrid[:150, :210]
    waves = np.stack([np.sin(rows / (9 + c) + columns / (17 - 3 * c)) for c in range(3)], -1)
    colour = Image.fromarray((waves * 110 + 128).astype(np.uint8))
    colour.save(folder / "photo.jpg", quality=90)
    turn = Image.Exif()
    turn[0x0112] = 6  # orientation: to be turned right by 90 degrees
    colour.save(folder / "turned.jpg", exif=turn)
    colour.convert("L").save(folder / "grey.png")
    colour.convert("P").save(folder / "palette.png")
    colour.save(folder / "photo.webp", lossless=True)
    colour.putalpha(Image.fromarray((waves[..., 0] * 127 + 127).astype(np.uint8)))
    colour.save(folder / "clear.png")


@pytest.fixture(scope="module")
def address(site) -> Iterator[str]:
    """A server of files, which is all that the page needs."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=site)
    ) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as chromium:
        yield chromium


@pytest.fixture
def page(browser, address) -> Iterator[Page]:
    with opened(browser, address) as page:
        yield page


# ---------------------------------------------------------------------- the module, as a program uses it

OPEN = """
const { open } = await import("/swinv2.js");
const { pixelsOf } = await import("/pixels.js");
const fetched = async (name) => (await fetch(name)).blob();
"""


def run(page: Page, code: str, given: Any = None) -> Any:
    """What code returns, in the page; open, pixelsOf and fetched are there, and what was given."""
    return page.evaluate(f"async (given) => {{ {OPEN} {code} }}", given)


def test_a_picture_becomes_the_tensor_of_the_python_package(page, site):
    code = """
        const model = await open("/animals.safetensors");
        return Array.from(model.prepare(await pixelsOf(await fetched(given))));
    """
    for name in OPAQUE:
        right = PREPROCESS(decode(site / name))
        found = np.asarray(run(page, code, name), np.float32).reshape(right.shape)
        assert np.array_equal(found, right), name
    right = PREPROCESS(decode(site / "clear.png"))
    found = np.asarray(run(page, code, "clear.png"), np.float32).reshape(right.shape)
    level = 1 / 255 / min(PREPROCESS.std)
    assert np.abs(found - right).max() < 1.01 * level  # browsers round what is half transparent


def write_unscaled(path: Path, channels: int) -> Preprocess:
    """A model that sees 256 x 256 pixels as they are: no average hides a pixel that is wrong."""
    config = replace(SMALL, num_classes=len(NAMES), image_size=256, in_chans=channels)
    seen = Preprocess(size=(256, 256), resize="squash", mean=(0.5,) * channels, std=(0.25,) * channels)
    artifact.write(path, Record(config, seen, classes=NAMES), SwinV2(config).state_dict())
    return seen


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_pixels_are_seen_on_white_and_in_grey_as_in_pillow(page, site, mode, channels):
    """Every value, with every opacity where there is one; colours at random as well."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (256, 256, len(mode)), np.uint8)
    pixels[..., 0], pixels[..., -1] = np.arange(256), np.arange(256)[:, None]
    picture = Image.fromarray(pixels.squeeze(), mode)
    seen = write_unscaled(site / f"unscaled{channels}.safetensors", channels)
    right = seen(decode(picture, channels=channels))
    code = """
        const model = await open(`/unscaled${given.channels}.safetensors`);
        return Array.from(model.prepare({ data: Uint8Array.from(given.data), width: 256, height: 256 }));
    """
    given = {"channels": channels, "data": pixels.ravel().tolist()}
    found = np.asarray(run(page, code, given), np.float32).reshape(right.shape)
    assert np.array_equal(found, right)


SHAPES = ((1, 3, 64, 64), (3, 3, 64, 64), (2, 3, 33, 70), (1, 3, 1, 1))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_logits_are_those_of_the_native_engine(page, site, precision):
    """In int8, where instructions round otherwise: no further from fp32 than the native ones are, and half as much."""
    code = """
        const model = await open("/animals.safetensors", { precision: given.precision });
        const logits = given.images.map((values, i) => model.run(Float32Array.from(values), given.shapes[i]));
        return [model.info.precision, logits.flatMap((values) => Array.from(values))];
    """
    random = np.random.default_rng(0)
    values = [random.standard_normal(shape, np.float32) for shape in SHAPES]
    given = {"precision": precision, "shapes": SHAPES, "images": [one.ravel().tolist() for one in values]}
    used, found = run(page, code, given)
    assert used == precision
    exact, native = (
        np.concatenate([session.run(one).ravel() for one in values])
        for session in (
            EngineSession(site / "animals.safetensors", precision=name) for name in ("fp32", precision)
        )
    )
    if precision == "fp32":
        assert np.abs(found - exact).max() < 1e-5 * np.abs(exact).max()
    else:
        assert 0 < np.linalg.norm(found - exact) < 1.5 * np.linalg.norm(native - exact)


def test_a_model_says_what_it_is(page, site):
    info, record, best = run(
        page,
        """
        const model = await open(new Uint8Array(await (await fetch("/animals.safetensors")).arrayBuffer()));
        return [model.info, model.record, model.classify(await pixelsOf(await fetched("photo.jpg")), 99)];
    """,
    )
    assert (info["architecture"], info["classes"], info["height"]) == ("small_for_tests", 7, 64)
    assert record["classes"] == ["ape", "bee", "cow", "dog", "eel", "fox", "gnu"]
    assert [one["name"] for one in best][:5] == [
        name for name, _ in expected(site / "animals.safetensors", site / "photo.jpg")
    ]
    assert sum(one["score"] for one in best) == pytest.approx(1, abs=1e-6)
    assert len(best) == 7


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ('await open("/absent.safetensors")', "/absent.safetensors cannot be fetched: the server says 404"),
        ('await open("/notes.txt")', "the model is not a safetensors file, or was cut off"),
        ("await open(new Uint8Array(0))", "the model is not a safetensors file"),
        (
            'await open("/animals.safetensors", { engine: "/notes.txt" })',
            "/notes.txt is no engine that can run here: ",
        ),
        (
            'await open("/animals.safetensors", { precision: "int4" })',
            'precision is "int4"; give fp32, bf16 or int8',
        ),
        (
            'await open("/animals.safetensors", { precision: "bf16" })',
            "the simd128 instructions have no products of bf16",
        ),
        ("model.run(new Float32Array(5), [1, 3, 2, 2])", "images have 5 values and are to be [1,3,2,2]"),
        (
            "model.run(new Float32Array(4), [1, 1, 2, 2])",
            "images are [1,1,2,2]; give [batch, 3, height, width]",
        ),
        ("model.run(new Float32Array(0), [0, 3, 2, 2])", "images are [0,3,2,2]"),
        ("model.rank(new Float32Array(7), 0)", "k is 0; give at least 1"),
        ("model.rank([1, 2, 3])", "logits are 3; the model has 7 classes"),
        ("model.rank([1, 2, 3, NaN, 5, 6, 7])", "logits are not finite"),
        (
            "model.classify({ data: new Uint8Array(7), width: 2, height: 2 })",
            "a picture of 2 x 2 pixels has 7 bytes",
        ),
        ("model.close(), model.rank(new Float32Array(7))", "the model is closed"),
        ('await pixelsOf(await fetched("notes.txt"))', "this is no picture that the browser can decode"),
        ('await pixelsOf(await fetched("cut.png"))', "this is no picture that the browser can decode"),
    ],
)
def test_what_is_wrong_is_a_sentence(page, code, sentence):
    found = run(
        page,
        f"""
        const model = await open("/animals.safetensors");
        try {{ {code}; }} catch (error) {{ return `${{error.name}}: ${{error.message}}`; }}
    """,
    )
    assert found is not None
    assert found.startswith(f"SwinV2Error: {sentence}")


def test_models_beside_each_other_and_many_one_after_the_other(page):
    """Each has a memory of its own, and a hundred answers take no more of it."""
    first, second, grown = run(
        page,
        """
        const models = [await open("/animals.safetensors"), await open("/others.safetensors")];
        const picture = await pixelsOf(await fetched("photo.jpg"));
        const answers = models.map((model) => model.classify(picture, 1)[0].name);
        const images = new Float32Array(3 * 64 * 64).fill(0.5);
        const before = models[0].memoryBytes;
        for (let i = 0; i < 100; i++) models[0].rank(models[0].run(images, [1, 3, 64, 64]));
        return [...answers, models[0].memoryBytes - before];
    """,
    )
    assert first in ("ape", "bee", "cow", "dog", "eel", "fox", "gnu")
    assert second in "abcdefghi"
    assert grown == 0


# ---------------------------------------------------------------------- the page


def test_a_model_and_pictures_are_chosen_and_answered_as_predict_answers_them(page, site):
    pictures = ("photo.jpg", "turned.jpg")
    choose(page, *(site / name for name in pictures))  # they wait for the model
    expect(page.locator(".answer").first).to_have_text("Waiting for a model ...")
    choose(page, site / "animals.safetensors")
    expect(page.locator(".latency")).to_have_count(2)
    expect(page.locator("#facts")).to_contain_text("small_for_tests")
    for name in pictures:
        card = page.locator(".card").filter(has_text=name)
        found = list(zip(names(card), card.locator(".bars .number").all_text_contents(), strict=True))
        assert found == expected(site / "animals.safetensors", site / name)
    assert page.locator("#status").text_content() != ""


def test_another_model_takes_the_place_of_the_first(page, site):
    choose(page, site / "animals.safetensors", site / "photo.jpg")
    expect(page.locator(".latency")).to_have_count(1)
    choose(page, site / "others.safetensors")
    right = expected(site / "others.safetensors", site / "photo.jpg")
    expect(page.locator(".bars .name").first).to_have_text(right[0][0])
    page.get_by_label("Computed in").select_option("int8")
    expect(page.locator("#facts")).to_contain_text("int8")
    expect(page.locator(".latency")).to_have_count(1)


def test_the_address_may_name_the_model(browser, address, site):
    with opened(browser, f"{address}/?model=animals.safetensors&precision=int8") as page:
        expect(page.locator("#facts")).to_contain_text("int8")
        choose(page, site / "photo.jpg")
        assert names(page.locator(".card"))
    with opened(browser, f"{address}/?model=absent.safetensors") as page:
        expect(page.locator("#problem")).to_contain_text(
            "absent.safetensors cannot be fetched: the server says 404."
        )


def test_what_is_no_model_and_no_picture_is_said_and_nothing_is_lost(page, site):
    choose(page, site / "animals.safetensors", site / "photo.jpg")
    expect(page.locator(".latency")).to_have_count(1)
    choose(page, site / "cut.png")
    expect(page.locator(".card .error")).to_have_text(
        "This is no picture that the browser can decode, or it is damaged."
    )
    choose(page, site / "notes.txt")
    expect(page.locator("#problem")).to_contain_text("The model is not a safetensors file, or was cut off")
    expect(page.locator("#facts")).to_contain_text("animals.safetensors")  # it goes on
    choose(page, site / "turned.jpg")
    expect(page.locator(".latency")).to_have_count(2)
    right = expected(site / "animals.safetensors", site / "turned.jpg")
    expect(page.locator(".bars .name").first).to_have_text(right[0][0])
    choose(page, site / "others.safetensors")
    expect(page.locator("#problem")).to_be_hidden()
    expect(page.locator("#facts")).to_contain_text("others.safetensors")
    right = expected(site / "others.safetensors", site / "turned.jpg")
    expect(page.locator(".bars .name").first).to_have_text(right[0][0])


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
def test_axe_finds_nothing_and_nothing_scrolls_sideways(browser, address, site, scheme, viewport):
    with opened(browser, address, viewport=viewport, color_scheme=scheme, reduced_motion="reduce") as page:
        assert Axe().run(page).generate_report() == CLEAN
        choose(page, site / "animals.safetensors", site / "photo.jpg", site / "cut.png")
        expect(page.locator(".latency")).to_have_count(1)
        expect(page.locator(".card .error")).to_have_count(1)
        assert no_sideways_scroll(page)
        assert Axe().run(page).generate_report() == CLEAN


# ---------------------------------------------------------------------- Node.js


def test_the_module_runs_in_node_as_well(site):
    program = """
        import { readFile } from "node:fs/promises";
        import { open } from "./swinv2.js";
        const model = await open(await readFile("animals.safetensors"));
        const picture = { data: new Uint8Array(90 * 70 * 3).map((_, i) => i * 37), width: 90, height: 70 };
        console.log(JSON.stringify(model.classify(picture)));
    """
    (site / "try.mjs").write_text(program)
    done = subprocess.run(
        ["node", "try.mjs"], cwd=site, capture_output=True, text=True, timeout=120, check=True
    )
    pixels = (np.arange(90 * 70 * 3) * 37 % 256).astype(np.uint8).reshape(70, 90, 3)
    with EngineSession(site / "animals.safetensors") as session:
        logits = session.run(PREPROCESS(pixels)[None])[0]
    scores = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    for found, index in zip(json.loads(done.stdout), np.argsort(-scores), strict=False):
        assert found["index"] == index
        assert found["score"] == pytest.approx(scores[index], abs=1e-5)
