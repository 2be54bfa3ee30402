"""The folder of the page: index.html with everything inside, figures/ and tables/ beside it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from rltune.nouns.gpus import BUSY_SHARE, IDLE_SHARE
from rltune.nouns.metrics import BOUND_S, RESAMPLES
from rltune.report.page.figures import Drawing, curve_figure, drawings
from rltune.report.page.scene import Curve, Page, Scene
from rltune.report.page.svg import inline, write
from rltune.report.page.tables import NONE, Table, figure, percent, tables, write_table

HERE = Path(__file__).parent
Update = Callable[[int, str], None]


@dataclass(frozen=True)
class Shown:
    """A figure in the page: its title, how it is read, its SVG, its files."""

    title: str
    says: str
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


def write_page(page: Page, folder: Path, update: Update = lambda n, text: None, jobs: int = 1) -> Path:
    """Write all of it into ``folder``, which is there; the path of index.html.

    ``update`` hears of each scene that is drawn; ``jobs``: processes that draw.
    """
    for name in ("figures", "tables"):
        (folder / name).mkdir(exist_ok=True)
    parts = []
    for part in _drawn(page.scenes, folder, jobs):
        parts.append(part)
        update(1, part.scene.title)
    curves = [_curve(curve, k, folder) for k, curve in enumerate(page.curves)]
    css = (HERE / "page.css").read_text()
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    csp = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    template = _environment().get_template("page.html.j2")
    text = template.render(page=page, parts=parts, curves=curves, definitions=definitions(), css=Markup(css), csp=csp)
    index = folder / "index.html"
    index.write_text(text)
    return index


def definitions() -> list[dict[str, str]]:
    """How each number was made: name, formula, remark."""
    constants = {"bound_s": BOUND_S, "resamples": RESAMPLES, "busy_share": BUSY_SHARE, "idle_share": IDLE_SHARE}
    listed = yaml.safe_load((HERE / "definitions.yaml").read_text())
    return [{key: text.format(**constants) for key, text in each.items()} for each in listed]


def _environment() -> Environment:
    """Every text is escaped; nothing undefined is passed over."""
    return Environment(
        loader=PackageLoader("rltune.report.page", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _drawn(scenes: Sequence[Scene], folder: Path, jobs: int) -> Iterator[Part]:
    """The parts in their order; in this process where one is enough."""
    given = (scenes, range(len(scenes)), [folder] * len(scenes))
    if jobs < 2 or len(scenes) < 2:
        yield from map(_part, *given)
        return
    # Not forked: threads of the progress bar would be copied in the middle of something.
    with ProcessPoolExecutor(min(jobs, len(scenes)), get_context("spawn")) as pool:
        yield from pool.map(_part, *given)


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
    # The files go to other places without the page; the stamp must go with them.
    title = f"{drawing.title}\n{of}{f' - {stamp}' if stamp else ''}"
    files = [f"{stem}.png", f"{stem}.svg"]
    text, above = write(drawing.draw(), title, folder / "figures" / files[0], folder / "figures" / files[1])
    return Shown(
        drawing.title, drawing.says, Markup(inline(text, above, prefix, f"{drawing.title}: {of}", drawing.says)), files
    )


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
