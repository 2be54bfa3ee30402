"""The documentation site: built strictly, and looked at in a real browser."""

from __future__ import annotations

import functools
import http.server
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from browser import chromium, findings, opened

ROOT = Path(__file__).parents[2]
LOOKS = [
    pytest.param({"color_scheme": "light", "viewport": {"width": 1400, "height": 900}}, id="light"),
    pytest.param({"color_scheme": "dark", "viewport": {"width": 1400, "height": 900}}, id="dark"),
    pytest.param({"color_scheme": "light", "viewport": {"width": 390, "height": 800}}, id="phone"),
]
PAGES = ("index.html", "tour.html", "compared.html", "reference/python.html", "reference/commands.html")

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("site")]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    more = {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=ROOT, env=os.environ | more, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def address(built: Path):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=built)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


def test_links_and_anchors_lead_somewhere(built: Path) -> None:
    """A reader would click on a link that leads nowhere; and results, notebooks and help would not be there."""
    for page in ("experiments/results/hybrid.html", "notebooks/mig_plan.html", "CONTRIBUTING.html"):
        assert (built / page).is_file()
    assert "options.resume_s" in (built / "howto/simulate.html").read_text()
    assert "market_refusal:" in (built / "reference/commands.html").read_text()
    assert "no plan ends before" in (built / "notebooks/mig_plan.html").read_text()


@pytest.mark.parametrize("look", LOOKS)
def test_the_site_is_for_everybody(browser, address: str, look: dict) -> None:
    """Somebody with a screen reader, a phone, a dark room or no network could not read it."""
    for name in PAGES:
        elsewhere: list[str] = []
        with opened(browser, "about:blank", **look) as page:
            page.on("request", lambda request, told=elsewhere: told.append(request.url))
            page.goto(f"{address}/{name}")
            page.wait_for_load_state("networkidle")
            assert findings(page) == [], name
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
        assert [url for url in elsewhere if not url.startswith((address, "data:"))] == [], name
