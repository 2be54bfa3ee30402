"""The folder of the page: index.html with everything inside, figures/ and tables/ beside it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from rltune.report.page.definitions import DEFINITIONS
from rltune.report.page.figures import Drawing, curve_figure, drawings
from rltune.report.page.scene import Curve, Page, Scene
from rltune.report.page.svg import inline, write
from rltune.report.page.tables import NONE, Table, figure, percent, tables, write_table

CSS = Path(__file__).with_name("page.css")
Update = Callable[[int, str], None]


@dataclass(frozen=True)
class Shown:
    """A figure in the page: the drawing, its SVG, its files."""

    drawing: Drawing
    svg: Markup
    files: list[str]


@dataclass(frozen=True)
class Part:
    """A scene in the page."""

    scene: Scene
    anchor: str
    figures: list[Shown]
    tables: list[tuple[Table, list[str]]]
    gist: dict[str, str]


def write_page(page: Page, folder: Path, update: Update = lambda n, text: None) -> Path:
    """Write all of it into ``folder``, which is there; the path of index.html. ``update`` hears of each scene that is drawn."""
    for name in ("figures", "tables"):
        (folder / name).mkdir(exist_ok=True)
    parts = []
    for k, scene in enumerate(page.scenes):
        parts.append(_part(scene, k, folder))
        update(1, scene.title)
    curves = [_curve(curve, k, folder) for k, curve in enumerate(page.curves)]
    css = CSS.read_text()
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    text = _environment().get_template("page.html.j2").render(
        page=page, parts=parts, curves=curves, definitions=DEFINITIONS, css=Markup(css), csp=f"default-src 'none'; style-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'",
    )  # fmt: skip
    index = folder / "index.html"
    index.write_text(text)
    return index


def _environment() -> Environment:
    """Every text is escaped; nothing undefined is passed over."""
    return Environment(
        loader=PackageLoader("rltune.report.page", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def _part(scene: Scene, number: int, folder: Path) -> Part:
    figures = []
    for drawing in drawings(scene):
        stem = f"{scene.name}_{drawing.name}"
        figures.append(_shown(drawing, f"s{number}{drawing.name}", stem, scene.title, scene.stamp, folder))
    made = []
    for table in tables(scene):
        caption = f"{scene.title}{f' ({scene.stamp})' if scene.stamp else ''}: {table.title}. {table.says}"
        made.append((table, write_table(table, folder / "tables", f"{scene.name}_{table.name}", caption)))
    return Part(scene, f"scene-{number}", figures, made, gist(scene))


def _shown(drawing: Drawing, prefix: str, stem: str, of: str, stamp: str, folder: Path) -> Shown:
    made = drawing.draw()
    # The files go to other places without the page; the stamp must go with them.
    made.suptitle(f"{drawing.title}\n{of}{f' - {stamp}' if stamp else ''}", fontsize=10)
    files = [f"{stem}.png", f"{stem}.svg"]
    text = write(made, folder / "figures" / files[0], folder / "figures" / files[1])
    return Shown(drawing, Markup(inline(text, prefix, f"{drawing.title}: {of}", drawing.says)), files)


def _curve(curve: Curve, number: int, folder: Path) -> Shown:
    drawing = Drawing(curve.name, curve.title, curve.says, lambda: curve_figure(curve))
    return _shown(drawing, f"c{number}", f"learning_{curve.name}", curve.unit, "", folder)


def gist(scene: Scene) -> dict[str, str]:
    """The line of the scene in the first table: best rule, best model, and what it gains."""
    rows, metric = scene.rows, scene.metric
    rules, learned = rows[~rows.learned], rows[rows.learned]
    out = {"rule": NONE, "rule_value": NONE, "model": NONE, "model_value": NONE, "gain": NONE}
    if len(rules):
        out |= {"rule": rules.label.iloc[0], "rule_value": figure(rules[metric].iloc[0])}
    if len(learned):
        best: Any = learned.iloc[0]
        ends = [float(best.get(f"gain_{metric}{end}", np.nan)) for end in ("", "_low", "_high")]
        out |= {"model": best.label, "model_value": figure(best[metric]), "gain": percent(*ends)}
    return out
