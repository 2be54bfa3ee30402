"""Both pages in a real browser: what people see, keyboard, hostile names, no errors, nothing serious found by axe."""

from __future__ import annotations

import pytest
from browser import chromium, findings, opened, served
from run_cases import HOSTILE, crowded, learned, planned, simulated, written

from rltune.allocators.milp import MilpAllocator
from rltune.inspect.__main__ import all_of
from rltune.inspect.app import make_app
from rltune.service.web.context import WebOptions
from tests.service.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]
LOOKS = [
    pytest.param({"color_scheme": "light", "viewport": {"width": 1400, "height": 900}}, id="light"),
    pytest.param({"color_scheme": "dark", "viewport": {"width": 1400, "height": 900}}, id="dark"),
    pytest.param({"color_scheme": "light", "viewport": {"width": 390, "height": 800}}, id="phone"),
]
DRAWN = "body[data-lines][data-moments]"


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def inspector(tmp_path_factory):
    """Two runs whose trace, virtual cluster and a job have hostile names."""
    folder = tmp_path_factory.mktemp("runs")
    runs = [simulated(folder / "one", HOSTILE, HOSTILE), simulated(folder / "two", HOSTILE, "other")]
    with served(make_app(all_of(runs))) as url:
        yield url


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A service with a lease, jobs that run, and jobs that wait, of a tenant with a hostile reason on a node."""
    with Site(tmp_path_factory.mktemp("state")) as made:
        made.bob.post("/v1/leases", json={"profile": "3g"})
        for _ in range(3):
            made.ann.post("/v1/jobs", json={"command": ["true"], "gpus": 2, "estimate_s": 600})
        made.operator.post("/v1/nodes/m0/drain", json={"reason": HOSTILE})
        with served(made.app, lifespan="off") as url:
            made.url = url
            yield made


def fits(page):
    """Nothing sticks out at the side."""
    return page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("look", LOOKS)
def test_the_inspector_is_for_everybody(browser, inspector, look):
    """Somebody with a screen reader, a phone or a dark room could not use it."""
    with opened(browser, inspector, **look) as page:
        page.locator(DRAWN).wait_for()
        page.get_by_role("button", name="c", exact=True).first.click()
        page.get_by_text("It waited 3.2 min in all.").first.wait_for()
        assert findings(page) == [] and fits(page)


def test_the_inspector_by_keyboard(browser, inspector):
    """Without a mouse the moment could not be moved, nor a job chosen."""
    with opened(browser, inspector) as page:
        page.locator(DRAWN).wait_for()
        clock = page.locator("#clock")
        page.locator("#slider").focus()
        page.keyboard.press("End")
        assert clock.text_content() == "250.0 s"
        page.get_by_role("button", name="Previous start").press("Enter")
        page.wait_for_timeout(100)
        page.locator("#clock", has_text="200.0 s").wait_for()
        chart = page.get_by_role("application").first
        chart.focus()
        page.keyboard.press("+")
        page.keyboard.press("ArrowRight")
        page.locator("#clock", has_text="206.").wait_for()
        page.keyboard.press("Home")
        page.get_by_role("button", name="Find").first.focus()
        page.get_by_role("searchbox").first.fill("a")
        page.keyboard.press("Enter")
        page.get_by_text("It did not wait.").first.wait_for()


def test_hostile_names_are_shown_as_text(browser, inspector):
    """A trace from elsewhere could run scripts in the browser of whoever looks at it."""
    with opened(browser, inspector) as page:
        page.locator(DRAWN).wait_for()
        page.get_by_role("button", name=HOSTILE).first.click()
        page.get_by_text("It waited 80 s in all.").first.wait_for()
        assert HOSTILE in page.locator("#title").text_content()
        assert page.evaluate("window.pwned === undefined && document.images.length === 0")


def test_a_choice_in_one_run_is_found_in_the_other(browser, inspector):
    """Two runs could not be compared by the same job."""
    with opened(browser, inspector) as page:
        page.locator(DRAWN).wait_for()
        assert page.locator("#second").input_value() == "1"
        page.get_by_role("button", name="c", exact=True).first.click()
        page.get_by_text("It waited 3.2 min in all.").nth(1).wait_for()
        page.locator("#second").select_option("")
        page.locator(".side > section").nth(4).wait_for()
        assert page.get_by_text("Why it waited").count() == 1


@pytest.mark.parametrize("look", LOOKS)
def test_decisions_are_shown(browser, tmp_path, look):
    """What a policy thought, and what the integer program weighed, could not be looked at; or not by everybody."""
    runs = [
        written(tmp_path / "learned", learned()),
        written(tmp_path / "milp", crowded(policy="sjf", allocator=MilpAllocator(time_limit_s=600))),
    ]
    with served(make_app(all_of(runs))) as url, opened(browser, url, **look) as page:
        page.locator(f"{DRAWN}[data-decisions]").wait_for()
        for _ in range(12):
            page.get_by_role("button", name="Next start").press("Enter")
            page.wait_for_timeout(100)
        policy = page.locator("section", has=page.get_by_role("heading", name="What the policy decided"))
        agent, rule = policy.nth(0), policy.nth(1)
        agent.get_by_text("with probability").wait_for()
        assert agent.get_by_role("cell", name="chosen", exact=True).count() == 1
        assert agent.get_by_role("columnheader", name="bounded slowdown").count() == 1
        agent.locator("summary").press("Enter")
        agent.get_by_text("partly used").wait_for()
        rule.get_by_text("believed run time, s; then GPUs").wait_for()
        program = page.locator("section", has=page.get_by_role("heading", name="What the integer program weighed"))
        program.get_by_text("Status optimal").wait_for()
        assert program.get_by_role("cell", name="fragmentation", exact=True).count() == 1
        assert program.get_by_role("cell", name="sum", exact=True).count() == 2
        assert findings(page) == [] and fits(page)
        assert page.evaluate("window.pwned === undefined && document.images.length === 0")


def test_a_mig_batch_plays(browser, tmp_path):
    """Slices would stand still."""
    with served(make_app(all_of([planned(tmp_path / "mig")]))) as url, opened(browser, url) as page:
        page.locator(DRAWN).wait_for()
        page.locator("#speed").select_option("15")
        page.get_by_role("button", name="Play").click()
        page.get_by_text("2 of 4 (50 %)").wait_for()
        page.get_by_role("button", name="Pause").click()
        assert page.get_by_text("Memory slices in use").is_visible()


@pytest.mark.parametrize("look", LOOKS)
def test_the_dashboard_is_for_everybody(browser, site, look):
    """Somebody with a screen reader, a phone or a dark room could not see the cluster."""
    with opened(browser, site.url, **look) as page:
        page.get_by_label("A token of this service").wait_for()
        assert findings(page) == []
        page.fill("#token", site.tokens["operator"])
        page.get_by_role("button", name="Show the cluster").click()
        page.get_by_role("cell", name=HOSTILE).wait_for()
        page.locator("#queue td button").last.click()
        page.get_by_text("Place ").wait_for()
        page.get_by_text("Events come as they happen.").wait_for()
        assert findings(page) == [] and fits(page)
        assert page.evaluate("window.pwned === undefined && document.images.length === 0")


def test_operators_change_things_and_readers_only_look(browser, site):
    """A reader would be offered what the service refuses; an operator could not put a node back."""
    with opened(browser, site.url) as page:
        page.fill("#token", site.tokens["reader"])
        page.get_by_role("button", name="Show the cluster").click()
        page.get_by_role("cell", name=HOSTILE).wait_for()
        assert page.get_by_role("button", name="undrain m0").count() == 0 and not page.locator("#change").is_visible()
        page.get_by_role("button", name="Forget the token").click()
        page.fill("#token", site.tokens["operator"])
        page.get_by_role("button", name="Show the cluster").click()
        page.get_by_role("button", name="drain m1").click()
        page.get_by_role("button", name="undrain m1").click()
        page.get_by_role("button", name="drain m1").wait_for()
        assert site.operator.get("/v1/cluster?node=m1").json()["nodes"][0]["state"] == "open"
        assert page.evaluate("localStorage.length === 0 && document.cookie === ''")


def test_events_appear_without_a_reload(browser, site):
    """The page would show an old queue until somebody reloads it."""
    with opened(browser, site.url) as page:
        page.fill("#token", site.tokens["ann"])
        page.get_by_role("button", name="Show the cluster").click()
        page.get_by_text("Events come as they happen.").wait_for()
        name = site.ann.post("/v1/jobs", json={"command": ["true"], "gpus": 2}).json()["jobs"][0]
        page.locator("#events li", has_text=f"submitted {name}").wait_for()
        page.locator("#queue").get_by_role("button", name=name).wait_for()


def test_without_tokens_the_cluster_is_shown_at_once(browser, tmp_path):
    """A service with auth=none would ask for a token that there is none of."""
    with (
        Site(tmp_path, WebOptions(auth=False)) as made,
        served(made.app, lifespan="off") as url,
        opened(browser, url) as page,
    ):
        page.get_by_role("button", name="drain m0").wait_for()
        assert not page.locator("#login").is_visible()
