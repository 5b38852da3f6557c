"""Charts as SVG: small, the same for the same data, and in the colours of whoever looks."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple
from xml.etree import ElementTree

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What a colour is for, and what it is in light and in dark. The arms' are Okabe and Ito's (2008), told apart by people
# who see fewer colours, lightened or darkened for the background. Charts tell arms apart by shape or by name as well.
COLOURS: dict[str, tuple[str, str]] = {
    "paper": ("#ffffff", "#15181c"),
    "ink": ("#1b1f24", "#e7eaee"),
    "muted": ("#5b6570", "#9ba6b2"),
    "line": ("#dde1e6", "#30363d"),
    "band": ("#eef1f4", "#23282e"),
    "good": ("#0067a5", "#5cb3f0"),
    "bad": ("#b8480a", "#f2965a"),
    "arm-1": ("#5b6570", "#9ba6b2"),
    "arm-2": ("#0072b2", "#56b4e9"),
    "arm-3": ("#c0500a", "#f0884a"),
    "arm-4": ("#00795a", "#3fc79b"),
    "arm-5": ("#a0487f", "#dd93bd"),
    "arm-6": ("#8a6a00", "#e6b422"),
    "arm-7": ("#4b4ea8", "#a3a5f2"),
    "arm-8": ("#7a3b2e", "#d79a8b"),
    "k-0": ("#c9d0d8", "#4a525b"),
    "k-1": ("#c4dcee", "#20384b"),
    "k-2": ("#9cc6e3", "#285272"),
    "k-3": ("#6dabd5", "#2f6d99"),
    "k-4": ("#3b8cc1", "#3b8cc1"),
    "k-5": ("#156ea6", "#6cb1de"),
    "k-6": ("#0a4f7c", "#a5d2ef"),
    "own": ("#5b6570", "#9ba6b2"),
    "drafter": ("#0072b2", "#56b4e9"),
    "lookup": ("#8a6a00", "#e6b422"),
    "grammar": ("#00795a", "#3fc79b"),
    "rejected": ("#c0500a", "#f0884a"),
}
_ARMS = 8  # colours, and shapes
_MARKERS = "os^DvPX*"  # by arm, as matplotlib calls them
# The same in a box of 14 by 14; "box" is a token of the time line.
SHAPES = {
    "o": "M7 2.5a4.5 4.5 0 1 0 .01 0z",
    "s": "M3 3h8v8h-8z",
    "^": "M7 2.5l5 9h-10z",
    "D": "M7 1.5l5 5.5l-5 5.5l-5-5.5z",
    "v": "M7 11.5l5-9h-10z",
    "P": "M5.3 2h3.4v3.3h3.3v3.4h-3.3v3.3h-3.4v-3.3h-3.3v-3.4h3.3z",
    "X": "M4.4 2l2.6 2.6l2.6-2.6l2.4 2.4l-2.6 2.6l2.6 2.6l-2.4 2.4l-2.6-2.6l-2.6 2.6l-2.4-2.4l2.6-2.6l-2.6-2.6z",
    "*": "M7 1l1.6 4.2l4.4.2l-3.5 2.8l1.2 4.3l-3.7-2.5l-3.7 2.5l1.2-4.3l-3.5-2.8l4.4-.2z",
    "box": "M0 1.5h14v11h-14z",
}

# A chart is drawn in stand-ins, one a role, and they become CSS variables.
_STAND_IN = {name: f"#0101{index:02x}" for index, name in enumerate(COLOURS)}
_ROLE = {colour: name for name, colour in _STAND_IN.items()}

_XLINK = "{http://www.w3.org/1999/xlink}href"
_PRIVATE = re.compile(r"url\(#([\w-]+)\)|#0101[0-9a-f]{2}")
_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # in XML
_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_FONT = re.compile(r"^font: .*?([\d.]+px).*")  # as matplotlib before 3.10 writes it
_FACE = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def colour(role: str) -> str:
    """What stands in for a role's colour while a chart is drawn."""
    return _STAND_IN[role]


def arm_role(index: int) -> str:
    """The role of an arm's colour."""
    return f"arm-{index % _ARMS + 1}"


def arm_marker(index: int) -> str:
    """An arm's shape: another one when colours begin again."""
    return _MARKERS[(index + index // _ARMS) % _ARMS]


class Key(NamedTuple):
    """What a mark means; `shape` of `SHAPES`. Rejected drafts are hollow."""

    role: str
    text: str
    shape: str


@dataclass(frozen=True)
class Chart:
    """A drawn chart.

    `name` is unique in a page. `description` says in words what the chart shows, for those who do not see it. `body`
    are the elements inside the svg element; `width` and `height` are in CSS pixels. `keys` explain the marks where the
    chart stands outside a page.
    """

    name: str
    title: str
    description: str
    width: float
    height: float
    body: str
    keys: tuple[Key, ...] = ()

    @property
    def inline(self) -> str:
        """For an HTML page that defines `variables()`."""
        return (
            f'<svg role="img" aria-labelledby="{self.name}-title {self.name}-desc" '
            f'viewBox="0 0 {self.width:g} {self.height:g}" width="{self.width:g}" height="{self.height:g}">'
            f"{self._spoken}{self.body}</svg>"
        )

    @property
    def standalone(self) -> str:
        """A file of its own, with its title above, in light or dark as the reader prefers."""
        margin = 12
        keys, below_keys = self._drawn_keys(34)
        above = below_keys + 6
        width, height = self.width + 2 * margin, self.height + above + margin
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" '
            f'aria-labelledby="{self.name}-title {self.name}-desc" '
            f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}">{self._spoken}'
            f"<style>{variables('svg')} svg {{ font-family: {_FACE}; }} "
            "path, use { stroke-linejoin: round; }</style>"
            f'<rect width="100%" height="100%" rx="8" style="fill: var(--paper)"/>'
            f'<g transform="translate({margin} 0)">'
            f'<text x="4" y="26" style="font-size: 15px; font-weight: 600; fill: var(--ink)">'
            f"{_escaped(self.title)}</text>"
            f'{keys}<g transform="translate(0 {above})">{self.body}</g></g></svg>\n'
        )

    def _drawn_keys(self, top: float) -> tuple[str, float]:
        """The keys in rows from height `top` on, and where they end. Letters are taken to be 7 pixels wide."""
        x, y, drawn = 4.0, top, []
        for key in self.keys:
            wide = 36.0 + 7 * len(key.text)
            if x > 4 and x + wide > self.width:
                x, y = 4.0, y + 20
            paint = "fill: none; stroke" if key.role == "rejected" else "fill"
            drawn.append(
                f'<path transform="translate({x:g} {y:g})" d="{SHAPES[key.shape]}" style="{paint}: var(--{key.role})"/>'
                f'<text x="{x + 20:g}" y="{y + 11.5:g}" style="font-size: 12px; fill: var(--ink)">'
                f"{_escaped(key.text)}</text>"
            )
            x += wide
        return "".join(drawn), y + 20 if drawn else top

    @property
    def _spoken(self) -> str:
        return (
            f'<title id="{self.name}-title">{_escaped(self.title)}</title>'
            f'<desc id="{self.name}-desc">{_escaped(self.description)}</desc>'
        )


def variables(selector: str = ":root") -> str:
    """The CSS that gives every role its colour, light or dark."""
    schemes = ["; ".join(f"--{name}: {pair[i]}" for name, pair in COLOURS.items()) for i in range(2)]
    return f"{selector} {{ {schemes[0]} }} @media (prefers-color-scheme: dark) {{ {selector} {{ {schemes[1]} }} }}"


def chart(figure: Figure, name: str, title: str, description: str, tips: Mapping[str, str] | None = None) -> Chart:
    """Draws a figure whose colours are `colour(role)`. Artists whose gid is a key of `tips` say it when pointed at."""
    from matplotlib import rc_context

    text = io.StringIO()
    with rc_context({"svg.hashsalt": "edge-mtp", "svg.fonttype": "none"}), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of letters that matplotlib's font lacks: the reader's has them
        figure.savefig(text, format="svg", metadata={"Date": None}, transparent=True)
    root = ElementTree.fromstring(_legible(text.getvalue()))
    width, height = (float(side) for side in root.attrib["viewBox"].split()[2:])
    body = _Body(name, tips or {}).of(root)
    return Chart(name, title, description, round(width, 1), round(height, 1), body)


class _Body:
    """Rewrites matplotlib's elements: no metadata, no styles or ids that could meet another chart's."""

    def __init__(self, name: str, tips: Mapping[str, str]) -> None:
        self._name, self._tips = name, tips

    def of(self, root: ElementTree.Element) -> str:
        used = {each.attrib[_XLINK][1:] for each in root.iter() if _XLINK in each.attrib}
        for each in root.iter():
            for value in each.attrib.values():
                used.update(found[1] for found in _PRIVATE.finditer(value) if found[1])
        children = [part for child in root for part in self._rewritten(child, used)]
        return "".join(ElementTree.tostring(each, encoding="unicode", short_empty_elements=True) for each in children)

    def _rewritten(self, element: ElementTree.Element, used: set[str]) -> list[ElementTree.Element]:
        tag = element.tag.rpartition("}")[2]
        if tag in ("metadata", "style"):
            return []
        fresh = ElementTree.Element(tag)
        for key, value in element.attrib.items():
            if key == "id":
                if value in used:
                    fresh.set("id", f"{self._name}-{value}")
            elif key == _XLINK:
                fresh.set("href", f"#{self._name}-{value[1:]}")
            elif key == "style":
                if style := self._style(value):
                    fresh.set("style", style)
            elif not (key == "transform" and value.startswith("rotate(-0 ")):
                fresh.set(key, self._value(value))
        fresh.text = element.text if tag == "text" else None
        if tip := self._tips.get(element.attrib.get("id", "")):
            ElementTree.SubElement(fresh, "title").text = _legible(tip)
        for child in element:
            fresh.extend(self._rewritten(child, used))
        if tag in ("g", "defs") and not len(fresh):
            return []
        if tag == "g" and not fresh.attrib and not (len(fresh) and fresh[0].tag == "title"):
            return list(fresh)
        return [fresh]

    def _style(self, style: str) -> str:
        kept = [_FONT.sub(r"font-size: \1", part.strip()) for part in style.split(";") if part.strip()]
        return self._value("; ".join(part for part in kept if not part.startswith("font-family")))

    def _value(self, value: str) -> str:
        value = _PRIVATE.sub(self._named, " ".join(value.split()))
        return _NUMBER.sub(lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), value)

    def _named(self, found: re.Match[str]) -> str:
        if found[1]:
            return f"url(#{self._name}-{found[1]})"
        return f"var(--{_ROLE[found[0]]})" if found[0] in _ROLE else found[0]


def _escaped(text: str) -> str:
    return _legible(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _legible(text: str) -> str:
    return _ILLEGAL.sub("\ufffd", text)
