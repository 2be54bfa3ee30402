"""The page of evaluations: what it shows, what names of others can do to it, and what its files hold."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_cases import HOSTILE, WAITS, page, scene

from rltune.report.page import figures, write
from rltune.report.page.figures import ccdf
from rltune.report.page.tables import latex, main_table, tables, tex

pytestmark = pytest.mark.xdist_group("page")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with one figure a scene and everything else: to draw takes a second each."""
    made = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write, "drawings", lambda scene: figures.drawings(scene)[:1])
        write.write_page(page(), made)
    return made


class Elements(HTMLParser):
    """What elements a browser would make of a text, with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_hostile_names_stay_text(folder: Path) -> None:
    """A trace, model or job from elsewhere could put elements into the page of whoever looks at it."""
    text = (folder / "index.html").read_text()
    assert text.count("&lt;img") > 20
    for each in (text, *(path.read_text() for path in folder.glob("figures/*.svg"))):
        assert not {tag for tag, _ in Elements(each).found} & {
            "img",
            "script",
            "iframe",
            "object",
            "link",
            "foreignobject",
        }


def test_the_page_is_all_there_is(folder: Path) -> None:
    """It would look for files or servers when opened from a mail, run something, or be refused its own style sheet."""
    text = (folder / "index.html").read_text()
    found = Elements(text).found
    attributes = [(name, value or "") for _, given in found for name, value in given.items()]
    assert not {name for name, _ in attributes if name in ("style", "src", "srcset", "action") or name.startswith("on")}
    css = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    assert "@import" not in css and "url(" not in css
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    policies = [given["content"] for tag, given in found if given.get("http-equiv") == "Content-Security-Policy"]
    assert policies == [f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"]
    names = [value for name, value in attributes if name == "id"]
    assert len(names) == len(set(names))
    links = [value for name, value in attributes if name == "href"]
    used = [value[1:] for value in links if value.startswith("#")] + re.findall(r"url\(#([^)]+)\)", text)
    assert set(used) <= set(names) and len(used) > 50
    assert {link for link in links if not link.startswith("#")} == {
        str(path.relative_to(folder)) for path in folder.glob("*/*")
    }


def test_the_stamp_goes_with_everything_made_of_drawn_jobs(folder: Path) -> None:
    """A figure or table of calibrated jobs, pasted elsewhere, would pass for one of the real log; or a real one be stamped."""
    text = (folder / "index.html").read_text()
    assert len(re.findall(r'<strong class="stamp">Calibrated synthetic</strong>', text)) == 2
    for stem, stamped in (("made", True), ("other", False)):
        files = [*folder.glob(f"figures/{stem}_*.svg"), *folder.glob(f"tables/{stem}_*.tex")]
        assert len(files) == 8
        assert all(("Calibrated synthetic" in path.read_text()) is stamped for path in files)


@pytest.mark.slow
def test_figures_of_every_kind_are_there_whoever_draws_them(tmp_path: Path) -> None:
    """A figure that an aim names would be missing, in one of the forms; or two processes would draw other ones."""
    told: list[str] = []
    write.write_page(page(), tmp_path, lambda n, text: told.append(text), jobs=2)
    names = "ratios ccdf_wait ccdf_jct box_slowdown sizes utilisation_pool queue_pool fragmentation mig energy"
    expected = {
        f"{scene}_{name}.{end}" for scene in ("made", "other") for name in names.split() for end in ("png", "svg")
    }
    assert {path.name for path in tmp_path.glob("figures/*")} == expected | {"learning_c.png", "learning_c.svg"}
    assert len(told) == 2


def test_tables_of_every_kind_are_there(folder: Path) -> None:
    """A table that an aim names would be missing, in one of the forms, or hold other numbers."""
    kinds = "policies bound energy by_size by_vc by_priority mig"
    found = {path.name for path in folder.glob("tables/made_*")}
    assert found == {f"made_{name}.{end}" for name in kinds.split() for end in ("csv", "parquet", "tex")}
    numbers = pd.read_csv(folder / "tables/made_policies.csv").set_index("row")
    assert numbers.wait_s.to_dict() == pytest.approx({row: np.mean(waits) for row, waits in WAITS.items()})
    assert "'=cmd()" in (folder / "tables/made_by_vc.csv").read_text()


def test_the_best_of_those_who_know_as_much_is_marked() -> None:
    """Who knows nothing of run times would be measured by who knows all, or no winner be seen."""
    table = main_table(scene())
    cells = {row[0]: row for _, row in table.rows()}
    wait, gain = (
        list(table.texts.columns).index("mean wait, s [95\u00a0%]"),
        list(table.texts.columns).index("less wait than that [95\u00a0%]"),
    )
    assert [name for name, row in cells.items() if "\u2605" in row[wait]] == [HOSTILE]
    assert cells[HOSTILE][2] == "sjf-skip-exact" and cells[HOSTILE][gain] == "+0.0 % [\u221210.0, +20.0]"
    assert cells["fifo-skip"][gain] == "\u2013"


def test_the_share_above_by_hand() -> None:
    """The figure would show another distribution than that of the jobs, or lose its tail."""
    x, share = ccdf(np.array([0.0, 0, 10, 100]), 1.0)
    assert list(x) == [1, 10, 100] and list(share) == [0.5, 0.25, 0.25]
    many = np.random.default_rng(0).lognormal(3, 2, 20_000)
    x, share = ccdf(many, 1.0)
    assert len(x) < 400 and x[-1] == many.max() and share[-1] == 1 / len(many)
    assert all(above == pytest.approx((many > value).mean()) for value, above in zip(x[:-1], share[:-1], strict=True))


def test_latex_takes_any_text(tmp_path: Path) -> None:
    """A paper would not compile, or a name be read as a command."""
    assert tex(r"a_b & 5 % \input{x} [2]") == r"a\_b \& 5 \% \textbackslash{}input\{x\} [2]"
    text = "\n".join(latex(table, HOSTILE) for table in tables(scene()))
    assert not re.search(
        r"(?<!\\)[_#&%](?![^\n]*\\\\)(?!.*usepackage)",
        text.replace(" & ", "").replace("{%\n", "").replace("tabular}%", ""),
    )
    if shutil.which("pdflatex") is None:
        return
    (tmp_path / "t.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs,graphicx}\\begin{document}\n" + text + "\\end{document}\n"
    )
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-1500:]
