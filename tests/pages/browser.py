"""A browser for tests of pages: Playwright with its own Chromium or the system's; skipped with a reason where there is none."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE_MS = 120_000
"""On a machine that is busy with other things."""


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser, started; RLTUNE_CHROMIUM names another program."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="Playwright is not installed: pip install -e '.[dev]'"
    )
    with playwright.sync_playwright() as runner:
        own = Path(runner.chromium.executable_path)
        found = os.environ.get("RLTUNE_CHROMIUM") or (None if own.exists() else next(filter(None, map(shutil.which, NAMES)), ""))  # fmt: skip
        if found == "":
            pytest.skip("no Chromium: playwright install chromium, or the system's package chromium")
        # Chromium's own sandbox does not run as root, as tests in containers do.
        browser = runner.chromium.launch(executable_path=found, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, url: str, **more: Any) -> Iterator[Any]:
    """A page; on leaving, AssertionError for errors on its console. ``more``: viewport, color_scheme, ..."""
    wrong: list[str] = []
    context = browser.new_context(**more)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(url)
    yield page
    context.close()
    assert wrong == []


def findings(page: Any) -> list[str]:
    """What axe-core finds wrong for people who see or point badly, of serious and critical impact."""
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="axe is not installed: pip install -e '.[dev]'"
    )
    found = axe.Axe().run(page).response["violations"]
    return [
        f"{each['id']}: {each['nodes'][0]['html'][:200]}" for each in found if each["impact"] in ("serious", "critical")
    ]


@contextmanager
def served(app: Any, **more: Any) -> Iterator[str]:
    """An application on a free port of this machine, in a thread; its address. ``more``: options of uvicorn."""
    config = uvicorn.Config(app, port=0, log_level="warning", access_log=False, timeout_graceful_shutdown=1, **more)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(30)
