"""How pictures are shown to a model that is measured: as its weights want it, or as someone asked for.

The published figures hold for the protocol in the model file. Whoever changes it is told what it was.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from swinv2.evaluate.printing import say
from swinv2.runtimes import Session

if TYPE_CHECKING:
    from swinv2.preprocess import Preprocess


@dataclass(frozen=True)
class Protocol:
    """What is asked to be other than the model file has it; None leaves it.

    Args:
        image_size: of the network's input, one side of a square; window: of the attention.
        resize: "shorter" scales the shorter side and crops the centre, "squash" scales both sides.
        crop_pct: share of the scaled shorter side that is cropped: 0.875 of 292 pixels is 256.
        interpolation: "bicubic" or "bilinear".
    """

    image_size: int | None = None
    window: int | None = None
    resize: Literal["shorter", "squash"] | None = None
    crop_pct: float | None = None
    interpolation: Literal["bicubic", "bilinear"] | None = None

    def __post_init__(self) -> None:
        for name, value in (("image_size", self.image_size), ("window", self.window)):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; give at least 1")
        if self.crop_pct is not None and not 0 < self.crop_pct <= 1:
            raise ValueError(f"crop_pct is {self.crop_pct}; give a share above 0, up to 1")
        if self.crop_pct is not None and self.resize == "squash":
            raise ValueError("squash crops nothing; leave crop_pct out, or take resize shorter")

    @property
    def changes_network(self) -> bool:
        return self.image_size is not None or self.window is not None

    def apply(self, preprocess: Preprocess) -> Preprocess:
        """The preprocessing with what is asked for; image_size is in it already."""
        if self.interpolation is not None:
            preprocess = replace(preprocess, interpolation=self.interpolation)
        if self.crop_pct is not None:
            scaled = int(min(preprocess.size) / self.crop_pct + 1e-9)  # cut off, as timm does
            return replace(preprocess, resize="shorter", resize_to=scaled)
        return preprocess if self.resize is None else replace(preprocess, resize=self.resize)


def described(preprocess: Preprocess) -> str:
    """In words: "shorter side to 292, centre 256 x 256, bicubic"."""
    height, width = preprocess.size
    if preprocess.resize == "squash":
        return f"squashed to {height} x {width}, {preprocess.interpolation}"
    return f"shorter side to {preprocess.resize_to}, centre {height} x {width}, {preprocess.interpolation}"


def with_protocol(session: Session, protocol: Protocol) -> Session:
    """The session, whose record says how pictures are shown now."""
    preprocess = protocol.apply(session.record.preprocess)
    if preprocess != session.record.preprocess:
        say(
            f"pictures are shown otherwise than the weights were measured: {described(preprocess)}; "
            f"theirs: {described(session.record.preprocess)}"
        )
        session.record = replace(session.record, preprocess=preprocess)
    return session
