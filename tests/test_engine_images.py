"""The engine sees every picture as the Python package does: the same tensor, to the last bit."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from built import LIBRARY, built
from PIL import Image
from test_images import BAD, GOOD

from swinv2 import artifact
from swinv2.artifact import Record
from swinv2.config import SwinV2Config
from swinv2.images import decode
from swinv2.model import SwinV2
from swinv2.preprocess import Preprocess

sys.path.insert(0, str(Path(__file__).parents[1] / "cpp" / "fuzz"))
import seeds_images

pytestmark = pytest.mark.filterwarnings("ignore:Corrupt EXIF data")

DECODING = built(LIBRARY)  # that of the package decodes nothing: there Pillow does

DECODERS = {".jpg": "jpeg", ".mpo": "jpeg", ".png": "png", ".webp": "webp", ".ppm": "pnm"}


class Engine:
    """The preprocessing of the library, one small model file for every recipe."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.models = folder, {}
        self.library = library = ctypes.CDLL(os.fspath(DECODING))
        library.swinv2_last_error.restype = library.swinv2_build.restype = ctypes.c_char_p
        library.swinv2_open.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p]
        library.swinv2_prepare_bytes.argtypes = [
            ctypes.c_void_p,
            ctypes.c_char_p,
            ctypes.c_size_t,
            ctypes.c_void_p,
        ]
        library.swinv2_prepare_pixels.argtypes = [
            ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_ssize_t, ctypes.c_void_p,
        ]  # fmt: skip
        library.swinv2_close.argtypes = [ctypes.c_void_p]
        self.decoders = library.swinv2_build().decode().split()[1:]

    def close(self) -> None:
        for model in self.models.values():
            self.library.swinv2_close(model)

    def prepare(self, source: np.ndarray | bytes, recipe: Preprocess) -> np.ndarray:
        """Raises ValueError with the sentence of the engine."""
        model, tensor = self._model(recipe), np.full((recipe.channels, *recipe.size), np.nan, np.float32)
        if isinstance(source, bytes):
            status = self.library.swinv2_prepare_bytes(model, source, len(source), tensor.ctypes.data)
        else:
            height, width, row = *source.shape[:2], source.strides[0]
            status = self.library.swinv2_prepare_pixels(
                model, source.ctypes.data, width, height, row, tensor.ctypes.data
            )
        if status < 0:
            raise ValueError(self.library.swinv2_last_error().decode())
        return tensor

    def _model(self, recipe: Preprocess) -> ctypes.c_void_p:
        if recipe not in self.models:
            path = self.folder / f"{len(self.models)}.safetensors"
            config = SwinV2Config(
                architecture="sees_only", image_size=recipe.size, window=4, embed_dim=16, depths=(1,),
                heads=(1,), pretrained_windows=(0,), in_chans=recipe.channels, num_classes=2,
            )  # fmt: skip
            artifact.write(path, Record(config, recipe), SwinV2(config).state_dict())
            self.models[recipe] = model = ctypes.c_void_p()
            status = self.library.swinv2_open(os.fsencode(path), None, ctypes.byref(model))
            assert status == 0, self.library.swinv2_last_error().decode()
            path.unlink()
        return self.models[recipe]


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    engine = Engine(tmp_path_factory.mktemp("engine"))
    yield engine
    engine.close()


def noise(height: int, width: int, channels: int, seed: int) -> np.ndarray:
    shape = (height, width) if channels == 1 else (height, width, channels)
    values = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return values if seed % 3 else np.where(values > 127, np.uint8(255), np.uint8(0))  # clipped overshoot too


def recipe_of(channels: int, **fields: object) -> Preprocess:
    mean, std = (0.485, 0.456, 0.406)[:channels], (0.229, 0.224, 0.225)[:channels]
    return Preprocess(mean=mean, std=std, **fields)


def as_it_is(size: tuple[int, int], channels: int = 3) -> Preprocess:
    """A recipe that leaves the pixels of a picture of (width, height) alone."""
    return recipe_of(channels, size=size[::-1], resize="squash")


def differing(found: np.ndarray, expected: np.ndarray) -> int:
    assert found.shape == expected.shape
    return int((found.view(np.uint32) != expected.view(np.uint32)).sum())


# --------------------------------------------------------------------------------- resizing

RECIPES = [
    recipe_of(channels, size=size, resize=resize, resize_to=resize_to, interpolation=interpolation)
    for channels in (3, 1)
    for interpolation in ("bicubic", "bilinear")
    for size, resize, resize_to in (
        ((32, 40), "shorter", 44),
        ((48, 64), "shorter", 40),  # smaller than the crop: black around it
        ((17, 70), "shorter", 1),
        ((23, 5), "squash", 292),
        ((70, 33), "squash", 292),
    )
]


@pytest.mark.parametrize("pictures", [25, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("recipe", RECIPES, ids=range(len(RECIPES)))
def test_tensors_equal_python_at_any_size(recipe, pictures, engine):
    random = np.random.default_rng(pictures)
    for seed in range(pictures):
        height, width = (int(random.integers(1, random.choice([9, 90, 900]))) for _ in range(2))
        array = noise(height, width, recipe.channels, seed)
        wrong = differing(engine.prepare(array, recipe), recipe(Image.fromarray(array)))
        assert wrong == 0, f"{wrong} values of {width} x {height} differ"


@pytest.mark.parametrize("size", [192, 224, 256, 384])
@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (17, 900), (375, 500), (292, 292), (293, 1001), (1200, 801), (3000, 1000)]
)
def test_official_recipes_equal_python(size, height, width, engine):
    recipe, array = Preprocess.official(size), noise(height, width, 3, seed=1)
    assert differing(engine.prepare(array, recipe), recipe(Image.fromarray(array))) == 0


@pytest.mark.parametrize("shape", [(1, 3000), (3000, 1), (1, 1_000_000), (300_000, 7)])
def test_strips_equal_python(shape, engine):
    recipe, array = Preprocess.official(256), noise(*shape, 3, seed=1)
    assert differing(engine.prepare(array, recipe), recipe(Image.fromarray(array))) == 0


def test_rows_may_have_gaps_and_run_upwards(engine):
    recipe, array = Preprocess.official(64), noise(90, 120, 3, seed=1)
    for view in (array[10:70, 20:80], array[::-1], array[60::-2]):
        expected = recipe(Image.fromarray(view))
        assert differing(engine.prepare(view, recipe), expected) == 0


# --------------------------------------------------------------------------------- decoding


def check_decoded(data: bytes, engine: Engine) -> None:
    for channels in (3, 1):
        image = decode(data, channels=channels)
        recipe = as_it_is(image.size, channels)
        assert differing(engine.prepare(data, recipe), recipe(image)) == 0, f"as {image.mode}"


@pytest.mark.parametrize("size", [(13, 9), (1, 1), (61, 47), (200, 131)])
@pytest.mark.parametrize("kind", ["jpegs", "pngs", "webps", "pnms"])
def test_pictures_of_every_kind_equal_python(kind, size, engine):
    if kind[:-1] not in engine.decoders:
        pytest.skip(f"this build of the engine decodes no {kind}")
    for name, data in getattr(seeds_images, kind)(size):
        try:
            check_decoded(data, engine)
        except (AssertionError, ValueError) as error:
            pytest.fail(f"{name}: {error}")


@pytest.mark.parametrize("name", [name for name in GOOD if Path(name).suffix in DECODERS])
def test_the_zoo_equals_python(name, engine):
    if DECODERS[Path(name).suffix] not in engine.decoders:
        pytest.skip("this build of the engine does not decode it")
    check_decoded(GOOD[name].data, engine)


SAME_WORDS = [
    "empty.jpg",
    "text.jpg",
    "page.jpg",
    "drawing.svg",
    "paper.pdf",
    "phone.heic",
    "pointer.jpg",
    "bomb.png",
]


@pytest.mark.parametrize(
    "name", [name for name in BAD if name.startswith(("cut", "damaged")) and Path(name).suffix in DECODERS]
)
def test_files_that_break_off_are_refused(name, engine):
    with pytest.raises(ValueError, match=r"^the image is cut off or damaged"):
        engine.prepare(BAD[name].data, as_it_is((8, 8)))


@pytest.mark.parametrize("name", SAME_WORDS)
def test_what_is_no_picture_is_refused_in_the_words_of_the_package(name, engine):
    from swinv2.images import ImageError

    with pytest.raises(ImageError) as expected:
        decode(BAD[name].data)
    with pytest.raises(ValueError) as found:  # noqa: PT011 -- compared below
        engine.prepare(BAD[name].data, as_it_is((8, 8)))
    assert str(found.value) == str(expected.value)


@pytest.mark.parametrize("name", ["animated.gif", "rgb.bmp", "pages.tiff", "grey-16.pgm"])
def test_formats_that_the_engine_lacks_are_named(name, engine):
    with pytest.raises(ValueError, match=r"is (of the format|a) .*, (and this build|which is not) read"):
        engine.prepare(GOOD[name].data, as_it_is((8, 8)))
