"""The few kinds of HTML that a page is made of. Whatever comes from outside is escaped here."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from typing import TYPE_CHECKING, Any

from swinv2.report.files import draw
from swinv2.report.gallery import TINY, Exhibit, data_uri

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def document(title: str, parts: Iterable[str]) -> str:
    """A whole page; its style is inside, and it asks for nothing from outside."""
    style = (resources.files("swinv2.report") / "page.css").read_text(encoding="utf-8")
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        f"style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def text(value: str) -> str:
    """Any text inside of a page."""
    return escape(value)


def paragraph(text: str, kind: str = "") -> str:
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def plot(figure: Figure, alt: str, caption: str = "", *, wide: bool = False) -> str:
    """A matplotlib figure. wide: over the whole width; on a phone it is scrolled rather than shrunk."""
    file = io.BytesIO()
    draw(figure, file)
    width, height = (round(100 * inches) for inches in figure.get_size_inches())
    image = (
        f'<img class="plot" src="{data_uri(file.getvalue(), "image/png")}" alt="{escape(alt)}" '
        f'width="{width}" height="{height}">'
    )
    return _framed(image, caption, wide=wide)


def picture(png: bytes, alt: str, caption: str = "") -> str:
    """A PNG file over the whole width."""
    return _framed(f'<img src="{data_uri(png, "image/png")}" alt="{escape(alt)}">', caption, wide=True)


def _framed(image: str, caption: str, *, wide: bool) -> str:
    body = f'<div class="scroll middle">{image}</div>' if wide else image
    return f"<figure>{body}{f'<figcaption>{escape(caption)}</figcaption>' if caption else ''}</figure>"


def plots(figures: Iterable[str]) -> str:
    """Two beside each other; one below the other on a phone."""
    return '<div class="plots">\n' + "\n".join(figures) + "\n</div>"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Numbers are set right; a long table scrolls."""

    def cell(value: Any, tag: str, *, is_number: bool) -> str:
        kind = ' class="number"' if is_number else ""
        return f"<{tag}{kind}>{escape(f'{value:.2f}' if isinstance(value, float) else _said(value))}</{tag}>"

    rows = [list(row) for row in rows]
    numbers = [all(isinstance(row[i], int | float) for row in rows) for i in range(len(head))]
    top = "".join(cell(name, "th", is_number=numbers[i]) for i, name in enumerate(head))
    body = "\n".join(
        "<tr>" + "".join(cell(value, "td", is_number=numbers[i]) for i, value in enumerate(row)) + "</tr>"
        for row in rows
    )
    return (
        f'<div class="long"><table>\n<thead><tr>{top}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'
    )


def facts(values: Mapping[str, Any]) -> str:
    """Names and values in columns."""
    rows = "\n".join(
        f"<div><dt>{escape(str(name))}</dt><dd>{escape(_said(value))}</dd></div>"
        for name, value in values.items()
    )
    return f"<dl>\n{rows}\n</dl>"


def tiles(main: tuple[str, str] | None, others: Iterable[tuple[str, str]]) -> str:
    """Headline figures: (figure, what it is)."""
    rows = [("tile main", *main)] if main else []
    rows += [("tile", *other) for other in others]
    return (
        '<div class="tiles">\n'
        + "\n".join(
            f'<div class="{kind}"><b>{escape(figure)}</b><span>{escape(what)}</span></div>'
            for kind, figure, what in rows
        )
        + "\n</div>"
    )


def exhibits(shown: Iterable[Exhibit]) -> str:
    """Pictures with what was said about them, each beside its map."""
    return '<div class="gallery">\n' + "\n".join(map(_exhibit, shown)) + "\n</div>"


def _exhibit(shown: Exhibit) -> str:
    is_right = shown.label == shown.prediction
    said = shown.prediction or "no answer"
    tiny = ' class="tiny"' if max(shown.width, shown.height) <= TINY else ""
    images = f'<img{tiny} src="{shown.uri}" alt="{escape(f"{shown.file}: shows {shown.label}")}">'
    if shown.map_uri:
        alt = f"the same picture under its Grad-CAM map for {said}"
        images += f'<img{tiny} src="{shown.map_uri}" alt="{escape(alt)}">'
    loss = "" if shown.loss != shown.loss else f", loss {shown.loss:.2f}"
    return (
        f'<div class="exhibit"><div class="pair">{images}</div><div class="said">'
        f"<span>shows <b>{escape(shown.label or 'nothing')}</b></span>"
        f'<span class="{"right" if is_right else "wrong"}">answer <b>{escape(said)}</b> '
        f"({100 * shown.score:.1f} %{loss})</span>"
        f'<span class="quiet">{escape(shown.file)}</span></div></div>'
    )


def _said(value: Any) -> str:
    match value:
        case None | "" | [] | ():
            return "-"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:.6g}"
        case list() | tuple():
            return ", ".join(map(_said, value))
        case dict() if not value:
            return "-"
        case dict():
            return ", ".join(f"{name} {_said(part)}" for name, part in value.items())
        case _:
            return str(value)
