"""Learning from a larger model as well: its answers say what else a picture resembles.

The loss is (1 - w) * task + w * T^2 * KL(teacher || student), both softened by the temperature T (Hinton et al., arXiv
1503.02531). The teacher sees the very pictures that the student sees, mixed and augmented, at its own size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from swinv2 import checkpoints
from swinv2.artifact import Record
from swinv2.model import SwinV2
from swinv2.preprocess import Preprocess
from swinv2.train.recipes.recipe import Recipe


class Teacher:
    """A trained model, asked about the pictures of a student.

    Args:
        network: with a record.
        rows: of its logits, those of the student's classes in the student's order.
        seen: how the student's pictures are normalised.
        weight: share of the loss that is agreement; temperature: what both logits are divided by.
        is_multi_label: each class is a yes or no of its own.
    """

    def __init__(
        self,
        network: SwinV2,
        rows: Tensor,
        seen: Preprocess,
        *,
        weight: float,
        temperature: float,
        is_multi_label: bool = False,
    ):
        assert network.record is not None
        self.network = network.eval().requires_grad_(False)
        self.rows, self.size = rows, network.record.preprocess.size
        self.weight, self.temperature, self.is_multi_label = weight, temperature, is_multi_label
        # (pixel - mean) / std of the student -> the same of the teacher
        mine, theirs = network.record.preprocess, seen
        mean, std, other_mean, other_std = (
            torch.tensor(values).view(-1, 1, 1) for values in (mine.mean, mine.std, theirs.mean, theirs.std)
        )
        self.scale, self.move = other_std / std, (other_mean - mean) / std
        self.is_same = (mine.mean, mine.std) == (theirs.mean, theirs.std)

    @classmethod
    def of(
        cls, recipe: Recipe, classes: tuple[str, ...], preprocess: Preprocess, *, is_multi_label: bool = False
    ) -> Teacher | None:
        """The teacher of a recipe; None where it has none.

        Args:
            classes: of the student; preprocess: of its pictures.

        Raises:
            ValueError, FileNotFoundError: a teacher that does not know the classes, or is not there.
        """
        if recipe.teacher is None:
            return None
        network = checkpoints.load(recipe.teacher)
        record = network.record
        assert record is not None
        if network.config.in_chans != preprocess.channels:
            raise ValueError(
                f"the teacher {recipe.teacher} takes {network.config.in_chans} channels and the model "
                f"{preprocess.channels}; give a teacher that takes as many"
            )
        return cls(
            network, _rows(record, classes, recipe.teacher), preprocess, weight=recipe.distill_weight,
            temperature=recipe.distill_temperature, is_multi_label=is_multi_label,
        )  # fmt: skip

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """[B, C, H, W], normalised for the student -> [B, classes] in float32, in the student's order."""
        device = images.device
        if self.rows.device != device:
            self.network.to(device)
            self.rows, self.scale, self.move = (t.to(device) for t in (self.rows, self.scale, self.move))
        if not self.is_same:
            images = images * self.scale + self.move
        if images.shape[2:] != self.size:
            images = F.interpolate(images.float(), self.size, mode="bicubic", antialias=True)
        return self.network(images).float()[:, self.rows]

    def loss(self, task: Tensor, logits: Tensor, images: Tensor) -> Tensor:
        """The whole loss.

        Args:
            task: mean loss of the labels; logits: of the student [B, classes]; images: what it saw.
        """
        agreement = divergence(
            logits, self.logits(images), self.temperature, is_multi_label=self.is_multi_label
        )
        return (1 - self.weight) * task + self.weight * agreement


def divergence(
    student: Tensor, teacher: Tensor, temperature: float, *, is_multi_label: bool = False
) -> Tensor:
    """Mean over pictures of T^2 KL(teacher || student) of logits [B, classes].

    With several labels a picture, every class is a distribution of its own over yes and no, and the mean goes over
    classes too, as in the binary cross entropy.
    """
    student, teacher = student.float() / temperature, teacher.float() / temperature
    if is_multi_label:
        student = torch.stack([F.logsigmoid(student), F.logsigmoid(-student)], -1).flatten(0, 1)
        teacher = torch.stack([F.logsigmoid(teacher), F.logsigmoid(-teacher)], -1).flatten(0, 1)
    else:
        student, teacher = student.log_softmax(1), teacher.log_softmax(1)
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def _rows(record: Record, classes: tuple[str, ...], where: str) -> Tensor:
    """Positions of the student's classes among the teacher's."""
    count = record.config.num_classes
    if not count:
        raise ValueError(f"the teacher {where} has no classes; train it on the same classes first")
    for names in (record.classes, record.synsets):
        if set(classes) <= set(names):
            return torch.tensor([names.index(name) for name in classes])
    if not record.classes and count == len(classes):
        return torch.arange(count)  # nobody has named them: taken as they come
    unknown = [name for name in classes if name not in record.classes]
    raise ValueError(
        f"the teacher {where} does not know {len(unknown)} of {len(classes)} classes, the first is {unknown[0]!r}; "
        f"give a teacher that was trained on the same classes"
    )
