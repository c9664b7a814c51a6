"""Predictions: the answer of torchvision's preprocessing and the eager model, for every kind of input."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from answers import CLASSES, CONFIG, Colours, picture, save_photos
from PIL import Image
from torchvision import transforms as T

from swinv2 import artifact, predict
from swinv2.artifact import Record
from swinv2.images import ImageError
from swinv2.predict import Failure, Prediction, Predictor
from swinv2.preprocess import Preprocess
from swinv2.runtimes.torch import TorchSession


@pytest.fixture
def photos(tmp_path):
    return save_photos(tmp_path / "photos")


@pytest.fixture
def model(small):
    small.record = Record(small.config, Preprocess.official(64), CLASSES)
    return small


@pytest.fixture
def path(model, tmp_path):
    artifact.write(tmp_path / "model.safetensors", model.record, model.state_dict())
    return str(tmp_path / "model.safetensors")


@pytest.fixture
def photo(tmp_path):
    """A JPEG with structure at all scales."""
    rng = np.random.default_rng(3)
    layers = [Image.fromarray(rng.integers(0, 256, (n, n + 1, 3), dtype=np.uint8)) for n in (3, 9, 40, 100)]
    large = [np.asarray(layer.resize((231, 173), Image.Resampling.BICUBIC), np.float32) for layer in layers]
    Image.fromarray(np.mean(large, 0).astype(np.uint8)).save(tmp_path / "photo.jpg", quality=90)
    return str(tmp_path / "photo.jpg")


# ---------------------------------------------------------------------- the answer


def test_answer_equals_torchvision_and_the_eager_model(path, model, photo):
    transform = T.Compose(
        [
            T.Resize(73, T.InterpolationMode.BICUBIC), T.CenterCrop(64), T.ToTensor(),
            T.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )  # fmt: skip
    with Image.open(photo) as image:
        x = transform(image.convert("RGB"))[None]
    with torch.no_grad():
        expected = model(x)[0].double().softmax(0)
    top5 = expected.topk(5)
    answer = Predictor(path, device="cpu")(photo)
    assert [score.index for score in answer.classes] == top5.indices.tolist()
    assert [score.score for score in answer.classes] == pytest.approx(top5.values.tolist(), rel=1e-4)
    assert [score.name for score in answer.classes] == [CLASSES[i] for i in top5.indices]


def test_scores_are_a_softmax_of_all_classes():
    answer = Predictor(Colours(), top_k=7)(picture(255))
    logits = np.array([3.0, 0, 0, 0, -1, -2, -3])
    expected = np.exp(logits) / np.exp(logits).sum()
    assert {s.index: s.score for s in answer.classes} == pytest.approx(dict(enumerate(expected)))
    assert sum(s.score for s in answer.classes) == pytest.approx(1, abs=1e-12)


def test_where_pictures_have_several_classes_each_score_stands_for_itself():
    session = Colours()
    session.record = replace(session.record, provenance={"thresholds": [0.5] * 7})
    answer = Predictor(session, top_k=7)(picture(255))
    expected = torch.tensor([3.0, 0, 0, 0, -1, -2, -3], dtype=torch.float64).sigmoid()
    assert {s.index: s.score for s in answer.classes} == pytest.approx(dict(enumerate(expected.tolist())))


def test_best_class_comes_first_and_equal_ones_in_the_order_of_the_classes():
    answer = Predictor(Colours())(picture(0, 255, 0))
    assert answer.top == answer.classes[0]
    assert [s.name for s in answer.classes[:4]] == ["dog", "cat", "sea urchin", "[bold]bracket[/bold]"]


def test_equal_classes_keep_their_order_however_many_there_are(monkeypatch):
    session = Colours(tuple(f"class {i}" for i in range(1000)))
    logits = np.tile(np.float32([[0, 1]]), 500)
    monkeypatch.setattr(Colours, "run", lambda self, images: logits)
    assert [s.index for s in Predictor(session, top_k=20)(picture(1)).classes] == list(range(1, 41, 2))


@pytest.mark.parametrize(
    ("classes", "k", "given"), [(1, 5, 1), (2, 5, 2), (4, 5, 4), (7, 5, 5), (7, 99, 7), (7, 1, 1)]
)
def test_k_is_clamped_to_the_number_of_classes(classes, k, given):
    assert len(Predictor(Colours(CLASSES[:classes]), top_k=k)(picture(9)).classes) == given


def test_classes_without_names_are_numbered():
    assert Predictor(Colours(()))(picture(255)).top.name == "class 0"


def test_answers_are_plain_json_types():
    answer = Predictor(Colours(), top_k=1)(picture(255)).to_dict()
    assert json.loads(json.dumps(answer)) == answer
    assert answer == {
        "file": "image",
        "predictions": [{"class_id": 0, "name": "cat", "score": pytest.approx(0.825, abs=0.05)}],
    }


def test_synsets_are_told_where_they_are_known():
    session = Colours(synsets=tuple(f"n{i:08}" for i in range(7)))
    assert Predictor(session)(picture(0, 0, 255)).to_dict()["predictions"][0]["synset"] == "n00000002"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_answer_that_is_not_finite_is_a_failure(value, monkeypatch):
    monkeypatch.setattr(Colours, "run", lambda self, images: np.full((len(images), 7), value, np.float32))
    predictor = Predictor(Colours())
    with pytest.raises(ValueError, match="not finite; try fp32"):
        predictor(picture(1))
    assert [type(answer) for answer in predictor([picture(1), picture(2)])] == [Failure, Failure]


# ---------------------------------------------------------------------- inputs


def test_every_kind_of_input_gives_the_same_answer(path, photo, monkeypatch):
    predictor, data = Predictor(path, device="cpu"), Path(photo).read_bytes()
    image = Image.open(io.BytesIO(data))
    expected = predictor(photo).classes
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    for given in (Path(photo), data, image, np.asarray(image), np.asarray(image) / 255, "-"):
        assert predictor(given).classes == expected


def test_a_url_is_a_picture(monkeypatch):
    data = io.BytesIO()
    picture(255).save(data, "PNG")
    asked = []
    monkeypatch.setattr(
        "swinv2.web.fetch", lambda url, *, private: asked.append((url, private)) or data.getvalue()
    )
    assert Predictor(Colours())("https://example.org/a.png").top.name == "cat"
    assert Predictor(Colours(), allow_urls="any")("http://intranet/a.png").file == "http://intranet/a.png"
    assert asked == [("https://example.org/a.png", False), ("http://intranet/a.png", True)]


def test_one_file_gives_one_prediction_and_a_folder_a_list(photos):
    predictor = Predictor(Colours())
    assert isinstance(predictor(photos / "1.png"), Prediction)
    assert [answer.file for answer in predictor(photos)] == [str(photos / f"{i}.png") for i in range(10)]
    assert [answer.file for answer in predictor(f"{photos}/[12].png")] == [
        str(photos / f"{i}.png") for i in (1, 2)
    ]


def test_one_picture_that_cannot_be_used_raises(photos):
    predictor = Predictor(Colours())
    with pytest.raises(ImageError, match=r"5\.png is cut off or damaged"):
        predictor(photos / "5.png")
    with pytest.raises(FileNotFoundError):
        predictor(photos / "missing.png")


def test_one_that_cannot_be_used_does_not_disturb_the_others(photos, tmp_path):
    (tmp_path / "empty").mkdir()
    answers = Predictor(Colours())([photos, photos / "no.png", str(tmp_path / "empty"), photos / "9.png"])
    failures = {answer.file: answer.error for answer in answers if isinstance(answer, Failure)}
    assert len(answers) == 13
    assert list(failures) == [
        str(photos / "5.png"),
        str(photos / "no.png"),
        str(tmp_path / "empty"),
    ]
    assert failures[str(photos / "no.png")] == f"{photos / 'no.png'}: no such file or directory"
    assert "folder without images" in failures[str(tmp_path / "empty")]
    assert answers[-1].classes == answers[9].classes


def test_a_model_of_one_channel_takes_colour_pictures():
    session = Colours()
    grey = Preprocess(size=(8, 8), resize_to=8, mean=(0.5,), std=(0.5,))
    session.record = Record(replace(CONFIG, in_chans=1), grey, CLASSES)
    session.run = lambda images: np.repeat(images.mean((1, 2, 3))[:, None], 7, 1)
    assert len(Predictor(session)(picture(200, 100, 50)).classes) == 5


def test_a_model_of_four_channels_takes_arrays_and_refuses_pictures(photos):
    session = Colours()
    session.record = Record(replace(CONFIG, in_chans=4), Preprocess.official(8, in_chans=4), CLASSES)
    session.run = lambda images: np.repeat(images.mean((2, 3))[:, :1], 7, 1)
    assert len(Predictor(session)(np.zeros((9, 9, 4), np.uint8)).classes) == 5
    with pytest.raises(ImageError, match="4 channels takes numpy arrays"):
        Predictor(session)(photos / "1.png")


# ---------------------------------------------------------------------- the stream


@pytest.mark.parametrize("batch_size", [1, 3, 4, 10, 64])
def test_order_is_kept_and_answers_do_not_depend_on_the_batch(photos, batch_size):
    alone = Predictor(Colours(), batch_size=1)
    files = [photos / f"{i}.png" for i in (3, 1, 5, 9, 0, 1)]
    expected = [alone(file) if file.name != "5.png" else None for file in files]
    answers = Predictor(Colours(), batch_size=batch_size)(files)
    assert [answer.file for answer in answers] == [str(file) for file in files]
    assert [answer if isinstance(answer, Prediction) else None for answer in answers] == expected


def test_batches_are_filled():
    session = Colours()
    Predictor(session, batch_size=4)([picture(i) for i in range(10)])
    assert session.batches == [4, 4, 2]


def test_pictures_are_read_at_most_two_batches_ahead():
    read = []

    def camera():
        for i in range(100):
            read.append(i)
            yield picture(i)

    stream = Predictor(Colours(), batch_size=3).stream(camera())
    for taken in range(1, 8):
        next(stream)
        assert len(read) <= taken + 2 * 3
    stream.close()
    assert len(read) < 20


def test_decoding_goes_on_while_the_model_runs(monkeypatch):
    """The second batch is decoded although the model, in its first, waits for exactly that."""
    decoded, session = threading.Event(), Colours()
    load, run = Preprocess.load, session.run

    def slow_run(images):
        assert session.batches or decoded.wait(20)
        return run(images)

    def watched(self, source, *, name=None):
        if name == "images[3]":
            decoded.set()
        return load(self, source, name=name)

    monkeypatch.setattr(Preprocess, "load", watched)
    session.run = slow_run
    assert len(Predictor(session, batch_size=2)([picture(i) for i in range(6)])) == 6


def test_no_thread_outlives_a_stream_that_is_left():
    stream = Predictor(Colours(), batch_size=2).stream(picture(i) for i in range(50))
    next(stream)
    stream.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("swinv2-decode")]


def test_an_error_of_the_model_is_not_taken_for_one_of_the_picture(monkeypatch):
    def fail(self, images):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Colours, "run", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        Predictor(Colours())([picture(1), picture(2)])


# ---------------------------------------------------------------------- opening


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"top_k": 0}, "top_k is 0; give at least 1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"allow_urls": "all"}, "urls is 'all'"),
    ],
)
def test_impossible_options_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Predictor(Colours(), **options)(picture(1))


def test_a_model_without_classes_is_refused():
    session = Colours()
    session.record = Record(replace(CONFIG, num_classes=0), Preprocess(size=(8, 8)))
    with pytest.raises(ValueError, match="has no classes"):
        Predictor(session)


def test_preprocessing_for_other_channels_than_the_model_has_is_refused():
    session = Colours()
    object.__setattr__(session.record, "config", replace(CONFIG, in_chans=4))
    with pytest.raises(ValueError, match="4 input channels, its preprocessing 3"):
        Predictor(session)


def test_leaving_the_block_closes_the_session():
    session = Colours()
    with Predictor(session) as predictor:
        predictor(picture(1))
    assert session.closed


def test_the_verb_is_a_function_as_well(path, photo):
    assert predict(photo, path, device="cpu", top_k=2) == Predictor(path, device="cpu", top_k=2)(photo)


def test_a_session_of_a_model_in_memory_predicts(model, path, photo):
    answer, expected = (
        Predictor(TorchSession(model, device="cpu"))(photo),
        Predictor(path, runtime="torch", device="cpu")(photo),
    )
    assert answer == expected


def test_importing_needs_neither_torch_nor_pillow_nor_numpy():
    heavy = "{'torch', 'PIL', 'numpy', 'rich', 'jsonargparse', 'huggingface_hub', 'safetensors'}"
    code = f"import sys, swinv2.predict, swinv2.runtimes; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_prediction_runs_where_torch_is_not_installed(photos):
    """With another runtime's session; the suffix of a model file then names what is missing."""
    code = f"""
import sys
sys.modules["torch"] = sys.modules["torchvision"] = sys.modules["timm"] = None
import numpy as np
from swinv2.artifact import Record
from swinv2.config import SwinV2Config
from swinv2.predict import Predictor
from swinv2.preprocess import Preprocess
from swinv2.runtimes import Session
class Mean(Session):
    record = Record(SwinV2Config(num_classes=3), Preprocess(size=(8, 8)), ("r", "g", "b"))
    precision = "fp32"
    def run(self, images): return images.mean((2, 3))
print(Predictor(Mean())({str(photos / "9.png")!r}).top.name)
try:
    Predictor("model.safetensors", runtime="torch")
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["r", 'needs torch -- pip install "swinv2[torch]"']


def test_the_command_line_predicts_a_picture(path, photo):
    done = subprocess.run(
        [sys.executable, "-m", "swinv2", "predict", photo, "--model", path, "--top-k", "3", "--json"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)[0]["predictions"]
    expected = Predictor(path, device="cpu", top_k=3)(photo)
    assert [(p["name"], p["score"]) for p in found] == [
        (s.name, pytest.approx(s.score, rel=1e-5)) for s in expected.classes
    ]
