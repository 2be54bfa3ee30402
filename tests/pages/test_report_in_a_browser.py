"""The page of evaluations in a real browser: for everybody, on every screen, as a file without a server."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from browser import chromium, findings, opened

from rltune.report.page.write import write_page

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))
from report_cases import page as cases

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]
SIZES = {"desktop": {"width": 1400, "height": 900}, "phone": {"width": 390, "height": 844}}


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    return write_page(cases(), tmp_path_factory.mktemp("report")).as_uri()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_the_report_is_for_everybody(browser, url, size, scheme):
    """Somebody with a screen reader, a phone or a dark room could not read it; errors of its policy would hide figures."""
    with opened(browser, url, color_scheme=scheme, viewport=SIZES[size]) as page:
        assert findings(page) == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.evaluate("window.pwned === undefined && document.images.length === 0")
        # Colours come from the page: words in figures are as light as those around them.
        seen = page.evaluate(
            "[document.querySelector('.plot text'), document.body].map(e => [getComputedStyle(e).fill, getComputedStyle(e).color])"
        )
        assert seen[0][0] == seen[1][1]
        assert page.locator("svg.plot").count() == 21


def test_wide_tables_scroll_by_keyboard_and_rows_unfold(browser, url):
    """Columns at the right could not be reached without a mouse."""
    with opened(browser, url, viewport=SIZES["phone"]) as page:
        region = page.locator(".scroll", has=page.locator("table")).nth(1)
        region.focus()
        page.keyboard.press("End")
        for _ in range(4):
            page.keyboard.press("ArrowRight")
        page.wait_for_timeout(300)
        assert region.evaluate("e => e.scrollLeft") > 0


def test_on_paper_nothing_is_cut_off(browser, url):
    """A printed page would lack the right half of its tables."""
    with opened(browser, url, viewport={"width": 740, "height": 1000}) as page:
        page.emulate_media(media="print")
        wide = page.evaluate(
            "[...document.querySelectorAll('table, svg.plot')].filter(e => e.scrollWidth > innerWidth + 1).length"
        )
        assert wide == 0
