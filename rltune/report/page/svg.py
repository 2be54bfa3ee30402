"""A drawn figure as files, and as SVG inside the page: no styles, no addresses, colours of the page, ids of its own."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from rltune.report.page.figures import COLOURS, GRID, LINE, STYLE, TEXT

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
NAMED = {TEXT: "ink", LINE: "axis", GRID: "grid", "#ffffff": "paper"} | {
    colour: f"c{k}" for k, colour in enumerate(COLOURS)
}
"""Colour -> part of the class that the page's style sheet colours."""
FONT = re.compile(r"(?:[\w ]*\s)?(?P<size>[\d.]+)px")
TITLE, POINTS_AN_INCH = "title", 72
KEPT = {"stroke-width", "stroke-linecap", "stroke-linejoin", "stroke-dasharray", "stroke-dashoffset", "opacity", "fill-opacity",
        "stroke-opacity", "text-anchor", "font-size", "stroke-miterlimit"}  # fmt: skip
"""What of a style becomes an attribute; a strict policy of the page allows no style attributes."""


def write(figure: Figure, title: str, png: Path, svg: Path) -> tuple[str, float]:
    """Write both files, with a title, which goes with them; close the figure. The SVG's text, and points that the title takes above it."""
    text = io.StringIO()
    with plt.rc_context(STYLE):
        heading = figure.suptitle(title, fontsize=10, color=TEXT, gid=TITLE)
        figure.draw_without_rendering()
        # What is laid out once need not be laid out for each file.
        figure.set_layout_engine("none")
        height = figure.get_figheight() * figure.dpi - heading.get_window_extent().y0
        # A date would make each page another one.
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": "rltune"})
        figure.savefig(png, dpi=130)
    svg.write_text(text.getvalue())
    plt.close(figure)
    return text.getvalue(), height * POINTS_AN_INCH / figure.dpi


def inline(text: str, above: float, prefix: str, title: str, says: str) -> str:
    """The SVG for the page without its title, which the page has (``above``: of `write`); ``prefix`` (letters) of its ids.

    ``title`` and ``says`` are what a screen reader tells of it.
    """
    ET.register_namespace("", SVG)
    root = ET.fromstring(text)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style") or child.get("id") == TITLE:
                parent.remove(child)
    for element in root.iter():
        _plain(element, prefix)
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    box = f"0 {above:g} {width:g} {height - above:g}"
    root.attrib = {"viewBox": box, "role": "img", "aria-labelledby": f"{prefix}-t {prefix}-d", "class": "plot"}
    described = [_element("title", f"{prefix}-t", title), _element("desc", f"{prefix}-d", says)]
    root[:0] = described
    return ET.tostring(root, encoding="unicode")


def _element(tag: str, name: str, text: str) -> ET.Element:
    element = ET.Element(f"{{{SVG}}}{tag}", {"id": name})
    element.text = text
    return element


def _plain(element: ET.Element, prefix: str) -> None:
    """Styles as attributes and classes, ids with the prefix."""
    old = dict(element.attrib)
    element.attrib.clear()
    classes: list[str] = []
    declared = dict(part.split(":", 1) for part in old.pop("style", "").split(";") if ":" in part)
    style = {key.strip(): value.strip() for key, value in declared.items()}
    for key in ("fill", "stroke"):
        colour = style.get(key, old.pop(key, ""))
        if colour in NAMED:
            classes.append(f"{key[0]}-{NAMED[colour]}")
        elif colour:
            element.set(key, _own(colour, prefix))
    if element.tag == f"{{{SVG}}}text" and "fill" not in style:
        classes.append("f-ink")
    if "font" in style and (size := FONT.search(style["font"])):
        style["font-size"] = size["size"] + "px"
    for key, value in style.items():
        if key in KEPT:
            element.set(key, value)
    for key, value in old.items():
        if key == "id":
            element.set("id", f"{prefix}-{value}")
        else:
            element.set("href" if key == f"{{{XLINK}}}href" else key, _own(value, prefix))
    if classes:
        element.set("class", " ".join(classes))


def _own(value: str, prefix: str) -> str:
    """References to ids of the same figure."""
    value = re.sub(r"url\(#", f"url(#{prefix}-", value)
    return (
        f"#{prefix}-{value[1:]}"
        if re.fullmatch(r"#[A-Za-z][\w.-]*", value) and not re.fullmatch(r"#[0-9a-fA-F]{3,8}", value)
        else value
    )
