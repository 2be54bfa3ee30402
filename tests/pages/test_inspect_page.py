"""The inspector over HTTP: who is answered, with which headers, and what a page is given."""

from __future__ import annotations

import re

import pytest
from fastapi.testclient import TestClient
from run_cases import HOSTILE, simulated

from rltune.inspect.app import Shelf, make_app
from rltune.inspect.recorded import schedules_in
from rltune.pages.serving import STATIC, static_files


@pytest.fixture
def page(tmp_path):
    loads = schedules_in(simulated(tmp_path / "run", HOSTILE, HOSTILE))
    return TestClient(make_app(loads), base_url="http://127.0.0.1:8000")


def test_other_names_and_sites_are_refused(page):
    """A page of another site could read a run through the browser (DNS rebinding)."""
    assert page.get("/api/schedules", headers={"host": "evil.example"}).status_code == 400
    assert page.get("/api/schedules", headers={"origin": "http://evil.example"}).status_code == 400
    assert page.get("/api/schedules", headers={"host": "localhost:9"}).status_code == 200
    assert page.get("/", headers={"host": "[::1]:9"}).status_code == 200


def test_pages_load_nothing_from_elsewhere_and_run_nothing_inline(page):
    """A name in a trace could become a script."""
    for name in ("inspector.html", "dashboard.html"):
        text = (STATIC / name).read_text()
        assert not re.search(r"(src|href)=\"(?!/static/|/docs)", text) and not re.search(
            r"<script>|<style|style=|\son\w+=", text
        )
    policy = page.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src 'self'" in policy and "unsafe" not in policy
    written = [path.read_text() for path in STATIC.glob("*.js")]
    assert not any(re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", text) for text in written)  # fmt: skip


def test_what_pages_name_is_served(page):
    """A script that is not in the package would leave the page empty."""
    for name in static_files():
        answer = page.get(f"/static/{name}")
        assert answer.status_code == 200 and answer.headers["x-content-type-options"] == "nosniff"
        for other in re.findall(r"(?:from |href=|src=)\"(?:\./|/static/)([^\"]+)\"", answer.text):
            assert other in static_files(), f"{name} names {other}"
    for wrong in ("../serving.py", "vendor/uplot/LICENSE", "%2e%2e/serving.py", ""):
        assert page.get(f"/static/{wrong}").status_code == 404


def test_hostile_names_stay_data(page):
    """Names of jobs and virtual clusters must come as JSON, never within a page."""
    assert HOSTILE not in page.get("/").text
    assert page.get("/api/0").json()["worst"][1]["name"] == HOSTILE
    answer = page.get("/api/0/find", params={"name": "<img"})
    assert answer.json() == {"job": 3} and answer.headers["content-type"] == "application/json"
    assert page.get("/api/0/find", params={"name": "<img", "exact": True}).json() == {"job": None}


def test_every_question_is_answered(page):
    """The page would stop at its first request."""
    assert page.get("/api/schedules").json()["labels"] == ["run"]
    assert page.get("/api/0/series?begin=0&end=250").headers["content-type"] == "application/octet-stream"
    assert page.get("/api/0/picture?begin=0&end=250&low=-5&high=99").status_code == 200
    assert page.get("/api/0/moment?at=50").json()["queue"]["waiting"] == 2
    assert page.get("/api/0/jobs/2").json()["waited"] == 190
    assert [page.get(f"/api/0/starts?at=100&direction={d}").json()["at"] for d in (1, -1)] == [200, 0]
    assert page.get("/api/0/starts?at=200").json()["at"] is None
    assert page.get("/api/0/decision?at=50").json() == {"policy": None, "milp": None}


def test_questions_about_nothing_are_refused(page):
    """A wrong address would end in a traceback."""
    assert page.get("/api/7").status_code == page.get("/api/0/jobs/9").status_code == 404
    assert page.get("/api/0/moment?at=1&order=best").status_code == 422
    assert page.get("/api/0/series?begin=0&end=1&steps=100000").status_code == 422


def test_few_schedules_stay_in_memory():
    """An evaluation of many windows would fill it."""
    loaded = []
    shelf = Shelf({str(k): lambda k=k: loaded.append(k) or k for k in range(20)})
    assert [shelf[k] for k in (*range(20), 19, 0)] == [*range(20), 19, 0]
    assert loaded == [*range(20), 0]
