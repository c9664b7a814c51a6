"""Batches: which pictures, in which order, made by whom."""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import signal
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from training import write_split

from swinv2.data import DataError, Split, read_training
from swinv2.data import loader as loading
from swinv2.data.loader import AsPredicted, Pictures, decode_all, fits_in_memory, loader
from swinv2.data.order import Key, Order
from swinv2.data.packed import packed
from swinv2.data.split import Files
from swinv2.data.unreadable import LeftOut, Unreadable
from swinv2.preprocess import Preprocess
from swinv2.train.method.augment import Augment, posterize, seeded
from swinv2.train.recipes.recipe import Settled

PREPROCESS = Preprocess(size=(32, 32), resize_to=36)


@pytest.mark.parametrize("augment", ["small", "photo"])
@pytest.mark.parametrize(("workers", "in_memory"), [(0, True), (2, False)])
def test_batches_do_not_depend_on_workers_or_memory(tmp_path, augment, workers, in_memory):
    folder = read_training(write_split(tmp_path))[0]
    recipe = Settled(augment=augment, seed=3)

    def epochs(workers: int, in_memory: bool) -> list[torch.Tensor]:
        order = Order(len(folder), 5, 3)
        decoded = decode_all(folder, 3) if in_memory else None
        batches = loader(Pictures(folder, 3, Augment(recipe, PREPROCESS), decoded), order, workers=workers)
        images = []
        for order.epoch in range(2):
            images += [batch.images for batch in batches]
            torch.rand(order.epoch + workers)  # what else the program draws does not matter
        return images

    plain, other = epochs(0, False), epochs(workers, in_memory)
    assert len(plain) == len(other) == 2 * (24 // 5)
    assert all(torch.equal(a, b) for a, b in zip(plain, other, strict=True))


def test_a_picture_looks_different_in_each_epoch_and_with_each_seed(tmp_path):
    folder = read_training(write_split(tmp_path))[0]
    image = decode_all(folder, 3)[0]
    looks = [
        Augment(Settled(augment="small", seed=seed), PREPROCESS)(image, Key(epoch, index, position))
        for seed, epoch, index, position in [
            (0, 0, 0, 0),
            (0, 1, 0, 0),
            (0, 0, 1, 0),
            (1, 0, 0, 0),
            (0, 0, 0, 7),
        ]
    ]
    assert torch.equal(looks[0], looks[4])
    assert all(not torch.equal(looks[0], other) for other in looks[1:4])


def test_the_strongest_augmentation_of_the_paper_takes_every_picture():
    """RandAugment at its limit keeps 0 bits of a colour, which Pillow 13 refuses."""
    augment = Augment(Settled(augment="photo", auto_augment="rand-m10-n15-inc1"), PREPROCESS)
    image = Image.new("RGB", (40, 30), (200, 100, 50))
    for index in range(20):
        assert augment(image, Key(0, index, 0)).isfinite().all()


@pytest.mark.parametrize("bits", [0, 1, 4, 8])
def test_posterize_keeps_the_highest_bits(bits):
    image = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    expected = np.arange(256) >> (8 - bits) << (8 - bits)
    assert np.array_equal(np.asarray(posterize(image, bits)).ravel(), expected)


def test_augmentation_leaves_the_random_numbers_of_the_program_alone(tmp_path):
    torch.manual_seed(5), random.seed(5), np.random.seed(5)
    expected = torch.rand(3), random.random(), np.random.rand()
    torch.manual_seed(5), random.seed(5), np.random.seed(5)
    with seeded(1, 2, 3):
        torch.rand(7), random.random(), np.random.rand(2)
    assert torch.equal(torch.rand(3), expected[0])
    assert (random.random(), np.random.rand()) == expected[1:]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_picture_is_named_and_not_replaced(tmp_path, workers):
    folder = read_training(write_split(tmp_path))[0]
    folder.read(2).write_bytes(folder.read(2).read_bytes()[:60])
    folder.read(5).write_bytes(b"")
    order = Order(len(folder), 4)
    batches = list(loader(Pictures(folder, 3, AsPredicted(PREPROCESS)), order, workers=workers))
    assert [len(batch.labels) for batch in batches] == [3, 3, 4, 4, 4, 4]
    assert [(u.index, u.name) for batch in batches for u in batch.unreadable] == [
        (2, folder.names[2]), (5, folder.names[5])
    ]  # fmt: skip
    assert 2 not in batches[0].indices


def test_small_pictures_are_kept_and_large_ones_are_not(tmp_path):
    folder = read_training(write_split(tmp_path))[0]
    need = len(folder) * 20 * 24 * 3
    assert fits_in_memory(folder, need)
    assert not fits_in_memory(folder, need - 1)


def test_batches_go_through_pipes_where_shared_memory_is_small(tmp_path, monkeypatch):
    """A worker that finds shared memory full is killed; the batches are the same either way."""
    folder = read_training(write_split(tmp_path))[0]
    pictures = Pictures(folder, 3, AsPredicted(PREPROCESS))
    need = 32 * 32 * 3 * 4 * 4 * (2 * 2 + 2)  # bytes of a picture x a batch x batches under way
    found = {}
    for room in (need, need - 1):
        monkeypatch.setattr(loading, "_shared_room", lambda room=room: room)
        batches = loader(pictures, Order(len(folder), 4), workers=2)
        found[batches.is_shared] = list(batches)
    for shared, piped in zip(found[True], found[False], strict=True):
        assert not shared.unreadable
        assert not piped.unreadable
        assert all(torch.equal(a, b) for a, b in zip(shared[:-1], piped[:-1], strict=True))


def test_a_worker_outlives_the_sigterm_that_the_main_process_answers(tmp_path):
    """Schedulers, and `pkill -f`, send it to every process; the main one then still finishes its step."""
    folder, _ = read_training(write_split(tmp_path))
    batches = iter(loader(Pictures(folder, 3, AsPredicted(PREPROCESS)), Order(len(folder), 2), workers=1))
    seen = [next(batches)]
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGTERM)
    seen += list(batches)
    assert sum(len(batch.labels) for batch in seen) == len(folder)


def test_workers_share_the_processors_with_other_processes(monkeypatch):
    monkeypatch.setattr(loading, "cpus", lambda: 12)
    assert [loading.default_workers(processes=n) for n in (1, 2, 4, 100)] == [8, 6, 3, 1]


def test_unreadable_pictures_are_found_while_all_are_decoded(tmp_path):
    folder = read_training(write_split(tmp_path))[0]
    folder.read(4).write_bytes(b"not a picture")
    found = decode_all(folder, 3, keep=False)
    assert [i for i, image in enumerate(found) if isinstance(image, Unreadable)] == [4]
    assert str(folder.read(4)) in found[4].reason


# ---------------------------------------------------------------- what workers hold


def reachable(thing: object) -> int:
    """Python objects below one, as a worker's memory is made of them."""
    seen, open_ = {id(thing)}, [thing]
    while open_:
        for other in gc.get_referents(open_.pop()):
            if id(other) not in seen and not isinstance(other, type | types.ModuleType | types.FunctionType):
                seen.add(id(other))
                open_.append(other)
    return len(seen)


@pytest.mark.parametrize("labels", [[0, 1], [(0,), (0, 1)]], ids=["one label", "several"])
def test_what_a_worker_holds_has_no_object_for_each_picture(labels):
    """Each is a page that is copied into every worker when it is looked at."""

    def pictures(count: int) -> Pictures:
        names = tuple(f"some/{i}.jpg" for i in range(count))
        return Pictures(Split(Path("x"), "train", ("a", "b"), names, tuple(labels * (count // 2))), 3, len)

    assert reachable(pictures(1000).split) == reachable(pictures(10).split)


def test_packed_splits_are_the_same_splits():
    names = ("a.jpg", "", "b/\u00e4.jpg", "\udcff.jpg")  # the last is a file name that is not UTF-8
    split = Split(
        Path("x"), "train", ("a", "b"), names, (1, 0, 1, 0), source=Files(Path("y")), rows=[3, 2, 1, 0]
    )
    small = packed(split)
    assert (tuple(small.names), small.names[-2], tuple(small.labels)) == (names, names[2], split.labels)
    assert [small.read(i) for i in range(4)] == [split.read(i) for i in range(4)]
    several = packed(replace(split, labels=((0, 1), (), (1,), ())))
    assert (several.is_multi_label, tuple(several.labels)) == (True, ((0, 1), (), (1,), ()))


# ---------------------------------------------------------------- pictures that cannot be read


def test_pictures_are_left_out_up_to_a_share():
    split = Split(Path("photos"), "train", ("a",), tuple(f"{i}.jpg" for i in range(50)), (0,) * 50)
    left_out = LeftOut(split, 0.04)
    first, second, third = (Unreadable(i, f"{i}.jpg", f"photos/{i}.jpg is empty") for i in (7, 3, 9))
    assert left_out.add([first, first]) == [first]
    assert left_out.add([first, second]) == [second]
    assert left_out.rest() == [i for i in range(50) if i not in (3, 7)]
    with pytest.raises(
        DataError, match=r"3 of 50 .* 2 may be left out \(max_unreadable 0.04\).*photos/3.jpg is empty"
    ):
        left_out.add([third])


# ---------------------------------------------------------------- order


def test_a_shuffled_epoch_has_full_batches_and_no_picture_twice():
    order = Order(23, 5, seed=1)
    epochs = []
    for order.epoch in range(3):
        batches = list(order)
        assert [len(batch) for batch in batches] == [5] * 4 == [5] * len(order)
        indices = [key.index for batch in batches for key in batch]
        assert len(set(indices)) == 20
        epochs.append(indices)
    assert epochs[0] != epochs[1] != epochs[2]


def test_fewer_pictures_than_a_batch_make_one_batch():
    assert [len(batch) for batch in Order(3, 64, seed=0)] == [3]


@pytest.mark.parametrize("batch_size", [1, 4, 23, 64])
def test_an_evaluation_sees_every_picture_once_in_order(batch_size):
    assert [key.index for batch in Order(23, batch_size) for key in batch] == list(range(23))


@pytest.mark.parametrize(("world", "accumulate"), [(1, 1), (2, 1), (1, 3), (3, 2)])
def test_the_parts_of_a_step_are_the_total_batch_and_mirror_it(world, accumulate):
    """What is mixed with its mirror in a part is mixed with it in the total batch."""
    whole = list(Order(50, 24, seed=4))
    orders = [Order(50, 24, seed=4, rank=r, world=world, accumulate=accumulate) for r in range(world)]
    assert [(len(order), order.steps, order.parts) for order in orders] == [
        (2 * accumulate, 2, accumulate)
    ] * world
    batches = [list(order) for order in orders]
    for step, total in enumerate(whole):
        parts = [b for mine in batches for b in mine[step * accumulate : (step + 1) * accumulate]]
        assert {len(part) for part in parts} == {24 // (world * accumulate)}
        assert sorted(key for part in parts for key in part) == sorted(total)
        for part in parts:
            for key, mirrored in zip(part, reversed(part), strict=True):
                assert key.position + mirrored.position == 23
                assert total[key.position] == key


def test_an_order_starts_at_any_step():
    order = Order(100, 8, seed=1, rank=1, world=2, accumulate=2)
    order.epoch = 3
    everything = list(order)
    order.start = 5
    assert list(order) == everything[10:]
    assert len(order) == len(everything) - 10


@pytest.mark.parametrize("world", [2, 3])
def test_measuring_is_shared_out_once_and_evenly(world):
    parts = [list(Order(23, 5, rank=r, world=world)) for r in range(world)]
    assert {len(part) for part in parts} == {5}  # or processes that wait for each other would wait for ever
    assert sorted(key.index for part in parts for batch in part for key in batch) == list(range(23))


def test_a_batch_that_cannot_be_divided_in_pairs_is_refused():
    with pytest.raises(ValueError, match=r"batch of 20 .* 3 processes x 2 parts .* multiple of 12"):
        Order(100, 20, seed=0, world=3, accumulate=2)
    with pytest.raises(DataError, match="at least 12 pictures"):
        Order(11, 24, seed=0, world=3, accumulate=2)
    assert Order(11, 7, seed=0).batch_size == 7
    assert Order(23, 24, seed=0, world=3, accumulate=2).batch_size == 12
