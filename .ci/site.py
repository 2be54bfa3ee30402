"""What MkDocs adds to docs/: notebooks as pages, commands' --help, and files outside docs/ that pages link to."""

from __future__ import annotations

import io
import os
import re
import runpy
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)\s#]+)(#[^)\s]*)?\)")
"""A relative link: its path, and its anchor if it has one."""
HELP = re.compile(r"^<!-- help: (.+) -->$", re.M)
"""Where a page shows what a command says of itself."""


def on_files(files: Any, config: Any) -> Any:
    """Add notebooks and, one after the other, whatever is linked to outside docs/."""
    for script in sorted((DOCS / "notebooks").glob("*.py")):
        files.append(File.generated(config, f"notebooks/{script.stem}.md", content=page_of(script)))
    pages = [DOCS / file.src_uri for file in files.documentation_pages() if (DOCS / file.src_uri).is_file()]
    known = set(pages)
    pages += [ROOT / path for path in linked_in_nav(config["nav"]) if not (DOCS / path).is_file()]
    while pages:
        page = pages.pop()
        if not page.is_file():
            continue  # MkDocs itself says which link or entry is broken
        if page not in known and not page.is_relative_to(DOCS):
            files.append(File.generated(config, str(page.relative_to(ROOT)), abs_src_path=str(page)))
        known.add(page)
        if page.suffix == ".md":
            linked = (Path(os.path.normpath(page.parent / link[1])) for link in LINK.finditer(page.read_text()))
            pages += [each for each in linked if each not in known and not each.is_relative_to(DOCS)]
    return files


def linked_in_nav(nav: Any) -> Iterator[str]:
    """The pages that the navigation names."""
    if isinstance(nav, str):
        yield nav
    else:
        for each in nav.values() if isinstance(nav, dict) else nav:
            yield from linked_in_nav(each)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links as they stand in the repository become links of the site; places for help are filled in."""
    source = page.file.src_uri
    place = DOCS / source if (DOCS / source).is_file() or source.startswith("notebooks/") else ROOT / source

    def within_site(link: re.Match[str]) -> str:
        target = Path(os.path.normpath(place.parent / link[1]))
        inside = target.relative_to(DOCS if target.is_relative_to(DOCS) else ROOT)
        if inside.parent.name == "notebooks" and inside.suffix == ".py" and not source.startswith("notebooks/"):
            inside = inside.with_suffix(".md")
        return f"]({os.path.relpath(inside, Path(source).parent)}{link[2] or ''})"

    return with_help(LINK.sub(within_site, markdown))


def with_help(markdown: str) -> str:
    """Each place for help with what the command prints."""
    return HELP.sub(lambda place: f"```text\n{help_of(place[1])}\n```", markdown)


def help_of(command: str) -> str:
    """What ``python -m rltune.COMMAND --help`` prints; in this process, since each of its own would take seconds."""
    name, *rest = command.split()
    before, sys.argv = sys.argv, [name, *rest, "--help"]
    os.environ["COLUMNS"] = "110"
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            runpy.run_module(f"rltune.{name}", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code:
            raise PluginError(f"rltune {command} --help ended with status {end.code}") from None
    finally:
        sys.argv = before
    return printed.getvalue().strip()


def page_of(script: Path) -> str:
    """A notebook in percent format as a page: its text, its code, and beside it what it prints (NAME.txt)."""
    out = []
    for cell in re.split(r"^# %%", script.read_text(), flags=re.M)[1:]:
        kind, _, body = cell.partition("\n")
        if kind.strip() == "[markdown]":
            out.append(re.sub(r"^# ?", "", body.strip(), flags=re.M))
        else:
            out.append(f"```python\n{body.strip()}\n```")
    printed = script.with_suffix(".txt").read_text().strip()
    out.append(f"## What it prints\n\n```text\n{printed}\n```")
    out.append(
        f"The notebook itself: [{script.name}]({script.name}) opens in Jupyter (with jupytext), VS Code and PyCharm."
    )
    return "\n\n".join(out) + "\n"
