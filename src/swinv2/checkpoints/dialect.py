"""What every dialect has: how to know it, how to read it, how to write it, and what it cannot say."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from swinv2.config import SwinV2Config

State = dict[str, Tensor]


@dataclass(frozen=True)
class Dialect:
    """The names and shapes of one library, for the same weights.

    Args:
        suffix: of the file that is written; empty for a folder.
        detect: whether named tensors are of this dialect; of all dialects at most one says yes.
        to_official: -> official names and shapes; derived buffers keep theirs, under official names.
        from_official: the way back; with derived buffers where the library's state dict has them.
        unsupported: why a config cannot be written in this dialect; None where it can.
        ignored: names (a pattern, in full) of tensors that are no part of the classifier, and what they are.
        container: the key that the tensors lie under in a .pth; empty for none.
        remark: what else of a file is left out, in words.
    """

    name: str
    about: str
    suffix: str
    detect: Callable[[Mapping[str, Tensor]], bool]
    to_official: Callable[[Mapping[str, Tensor]], State]
    from_official: Callable[[Mapping[str, Tensor], SwinV2Config], State]
    unsupported: Callable[[SwinV2Config], str | None]
    ignored: tuple[tuple[str, str], ...] = ()
    container: str = ""
    remark: str = ""

    def ignores(self, name: str) -> str | None:
        """What a tensor is, in words, where it is no part of the classifier."""
        return next((what for pattern, what in self.ignored if re.fullmatch(pattern, name)), None)


def square_windows(config: SwinV2Config) -> str | None:
    """Only ours are solved per axis; elsewhere a window is square, clamped to the shorter side of the grid."""
    if config.image_size[0] != config.image_size[1] or any(h != w for h, w in config.pretrained_windows):
        return f"its windows are square, and {config.image_size[0]}x{config.image_size[1]} makes others"
    return None


def no_extra_norm(config: SwinV2Config) -> str | None:
    """Only the official code and its descendants have the norms of SwinV2-H and G."""
    if config.extra_norm_period:
        return f"it has no extra norm on the main branch, which {config.architecture} has in stage 3"
    return None
