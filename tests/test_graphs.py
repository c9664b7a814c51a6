"""When a network is recorded and what is replayed, with a stand-in for CUDA graphs; those are in test_triton_gpu.py."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable

import pytest
import torch
from conftest import SMALL, randomized
from torch import Tensor, nn

from swinv2.artifact import Record
from swinv2.fold import fold
from swinv2.model import SwinV2
from swinv2.preprocess import Preprocess
from swinv2.runtimes.graphs import SIZES, Graphs
from swinv2.runtimes.torch import TorchSession


class Tape:
    """Computes in the same places every time, as a graph does, with the weights that lie where they lay."""

    def __init__(self, network: Callable[[Tensor], Tensor], images: Tensor):
        self.images, self._network, self.replays = images, network, 0
        self.logits = network(images).clone()

    def replay(self) -> None:
        self.replays += 1
        self.logits.copy_(self._network(self.images))


class Network(nn.Module):
    """Logits that tell images apart, and the sizes of the batches that it was asked."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1.0, 2.0]]))
        self.backend = None
        self.asked: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.asked.append(len(x))
        return x.mean((1, 2, 3))[:, None] @ self.weight


@pytest.fixture
def recorded() -> list[Tape]:
    return []


@pytest.fixture
def graphs(recorded) -> Graphs:
    def record(network, images):
        recorded.append(Tape(network, images))
        return recorded[-1]

    return Graphs(Network(), record)


def images(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, 3, 4, 4, generator=torch.Generator().manual_seed(seed))


def ask(graphs: Graphs, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return graphs.run(x, "cpu")


def exact(x: Tensor) -> Tensor:
    return x.mean((1, 2, 3))[:, None] * torch.tensor([1.0, 2.0])


def test_a_size_is_recorded_when_it_comes_again(graphs, recorded):
    for seed in range(4):
        torch.testing.assert_close(ask(graphs, images(2, seed)), exact(images(2, seed)))
        assert len(recorded) == (0 if seed == 0 else 1)
    assert [tape.replays for tape in recorded] == [3]


@pytest.mark.parametrize("n", [1, 2, 5, 7, 9, 31, 32])
def test_batches_are_filled_up_to_a_size(graphs, recorded, n):
    for seed in (0, 1):
        torch.testing.assert_close(ask(graphs, images(n, seed)), exact(images(n, seed)))
    (size,) = graphs.recorded
    assert size == min(s for s in SIZES if s >= n)
    assert size < 1.5 * n


def test_what_was_there_before_shows_in_no_answer(graphs):
    for _ in range(3):
        ask(graphs, torch.full((4, 3, 4, 4), torch.nan))
    ask(graphs, images(4))
    few = images(3, seed=1)  # a size of its own; 5 and 6 share one
    for _ in range(3):
        torch.testing.assert_close(ask(graphs, few), exact(few))
    for _ in range(3):
        ask(graphs, torch.full((6, 3, 4, 4), torch.nan))
    five = images(5, seed=2)
    assert graphs.recorded == [3, 4, 6]
    torch.testing.assert_close(ask(graphs, five), exact(five))


def test_answers_stay_what_they_are(graphs):
    answers = [ask(graphs, images(2, seed)) for seed in range(5)]
    for seed, answer in enumerate(answers):
        torch.testing.assert_close(answer, exact(images(2, seed)))


def test_there_are_never_more_recordings_than_sizes(graphs, recorded):
    for n in range(1, 50):
        for _ in range(3):
            torch.testing.assert_close(ask(graphs, images(n)), exact(images(n)))
    assert graphs.recorded == list(SIZES)
    assert len(recorded) == len(SIZES)


def test_large_batches_and_none_are_computed_as_they_are(graphs, recorded):
    for n in (33, 0):
        for _ in range(3):
            assert torch.equal(ask(graphs, images(n)), exact(images(n)))
    assert recorded == []
    assert graphs._network.asked == [33] * 3 + [0] * 3


def test_new_values_of_weights_need_no_new_recording(graphs, recorded):
    for _ in range(2):
        ask(graphs, images(2))
    with torch.no_grad():
        graphs._network.weight.mul_(3)
    torch.testing.assert_close(ask(graphs, images(2)), 3 * exact(images(2)))
    assert len(recorded) == 1


def test_new_weights_and_another_backend_do(graphs, recorded):
    network = graphs._network
    for _ in range(2):
        ask(graphs, images(2))
    network.weight = nn.Parameter(torch.tensor([[5.0, 7.0]]))
    for _ in range(3):
        found = ask(graphs, images(2))
        torch.testing.assert_close(found, exact(images(2)) / torch.tensor([1.0, 2]) * torch.tensor([5.0, 7]))
    assert len(recorded) == 2
    network.backend = "sdpa"
    ask(graphs, images(2))
    assert graphs.recorded == []


def test_forgotten_recordings_are_made_anew(graphs, recorded):
    for _ in range(2):
        ask(graphs, images(2))
    graphs.forget()
    assert graphs.recorded == []
    for _ in range(2):
        ask(graphs, images(2))
    assert len(recorded) == 2


def test_threads_get_their_own_answers(graphs):
    wrong: list[int] = []

    def work(seed: int) -> None:
        for turn in range(60):
            x = images(1 + (seed + turn) % 6, seed * 100 + turn)
            if not torch.allclose(ask(graphs, x), exact(x), atol=1e-6):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_what_cannot_be_recorded_is_computed_all_the_same():
    def refuse(network, images):
        raise RuntimeError("operation not permitted\n when stream is capturing")

    graphs = Graphs(Network(), refuse)
    ask(graphs, images(2))
    with pytest.warns(
        UserWarning, match="no CUDA graphs from here on, .*: operation not permitted when stream"
    ):
        found = ask(graphs, images(2))
    torch.testing.assert_close(found, exact(images(2)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(ask(graphs, images(2)), exact(images(2)))


def test_a_real_network_gives_the_same_logits():
    network = fold(randomized(SwinV2(SMALL)).eval())
    graphs = Graphs(network, Tape)
    x = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = network(x)
        for _ in range(3):
            torch.testing.assert_close(graphs.run(x, "cpu"), expected, rtol=0, atol=1e-5)
    assert graphs.recorded == [3]
    network.to(torch.float64)  # every weight lies elsewhere
    ask(graphs, x)
    assert graphs.recorded == []


def test_graphs_are_asked_for_and_of_cuda_devices(small, monkeypatch):
    small.record = Record(small.config, Preprocess.official(64), tuple("abcdefg"))
    monkeypatch.setenv("SWINV2_CUDA_GRAPHS", "1")
    assert TorchSession(small, device="cpu")._graphs is None
    with pytest.raises(
        ValueError, match="graphs are of CUDA devices, and the device is cpu; leave graphs out"
    ):
        TorchSession(small, device="cpu", graphs=True)
