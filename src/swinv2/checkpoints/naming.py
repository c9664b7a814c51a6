"""A table of parameter names, read in both directions."""

from __future__ import annotations

import re
from functools import cached_property

_TOKEN = re.compile(r"\{(\d*)([a-z])(?:\+(\d+))?\}")


class Names:
    """Official names beside those of another library.

    A row is a pair of beginnings: ("layers.{i}.downsample", "layers.{i+1}.downsample") says that what is called
    layers.0.downsample.norm.weight officially is layers.1.downsample.norm.weight there. Numbers may be {i},
    {i+1}, {2i} or {2i+1}; any small letter will do. A name goes by the first row that fits.
    """

    def __init__(self, *rows: tuple[str, str]):
        self.rows = rows

    def to_official(self, name: str) -> str | None:
        """None where no row fits."""
        return _translate(name, self._theirs)

    def from_official(self, name: str) -> str | None:
        """None where no row fits."""
        return _translate(name, self._official)

    @cached_property
    def _official(self) -> list[tuple[re.Pattern[str], str, str]]:
        return [(_pattern(official), official, theirs) for official, theirs in self.rows]

    @cached_property
    def _theirs(self) -> list[tuple[re.Pattern[str], str, str]]:
        return [(_pattern(theirs), theirs, official) for official, theirs in self.rows]


def _pattern(template: str) -> re.Pattern[str]:
    pieces, end = [], 0
    for token in _TOKEN.finditer(template):
        pieces += [re.escape(template[end : token.start()]), rf"(?P<{token[2]}>\d+)"]
        end = token.end()
    return re.compile("".join(pieces) + re.escape(template[end:]) + r"(?P<_rest>$|\..*)")


def _translate(name: str, rows: list[tuple[re.Pattern[str], str, str]]) -> str | None:
    for pattern, template, other in rows:
        if (match := pattern.fullmatch(name)) and (numbers := _solve(template, match)) is not None:
            return _TOKEN.sub(lambda token: str(_value(token, numbers)), other) + match["_rest"]
    return None


def _solve(template: str, match: re.Match[str]) -> dict[str, int] | None:
    """The numbers behind the letters, where whole ones fit."""
    numbers = {}
    for token in _TOKEN.finditer(template):
        number, rest = divmod(int(match[token[2]]) - int(token[3] or 0), int(token[1] or 1))
        if rest or number < 0:
            return None
        numbers[token[2]] = number
    return numbers


def _value(token: re.Match[str], numbers: dict[str, int]) -> int:
    return int(token[1] or 1) * numbers[token[2]] + int(token[3] or 0)
