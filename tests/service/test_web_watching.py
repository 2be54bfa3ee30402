"""Nodes, events, metrics, health: what an operator looks at."""

from __future__ import annotations

import re

import pytest

from rltune.service.orders import Report
from rltune.service.store import StoreError
from rltune.service.web import streaming
from rltune.service.web.context import WebOptions
from tests.service.site import Connection, Site

JOB = {"command": ["true"]}


@pytest.fixture
def site(tmp_path):
    with Site(tmp_path) as made:
        yield made


def test_the_cluster_is_told_gpu_by_gpu(site):
    """Nobody could see who holds what, or how a GPU is cut."""
    site.ann.post("/v1/jobs", json={**JOB, "gpus": 2})
    lease = site.bob.post("/v1/leases", json={"profile": "3g"}).json()["id"]
    told = site.operator.get("/v1/cluster").json()
    assert (told["gpus"], told["gpus_held"], told["jobs_running"], told["next"]) == (4, 3, 2, None)
    first, second = told["nodes"]
    assert [g["held_by"] for g in first["gpus"]] == [["job-1"], ["job-1"]] and first["state"] == "open"
    assert [(n["name"], n["first_gpu"], n["gpu_type"]) for n in told["nodes"]] == [
        ("m0", 0, "A100-40GB"),
        ("m1", 2, "A100-40GB"),
    ]
    (cut,) = [g for g in second["gpus"] if g["mig"]]
    assert {"profile": "3g.20gb", "start": 4, "memory_slices": 4, "held_by": lease} in cut["instances"] and cut[
        "configuration"
    ] >= 0
    assert site.operator.get("/v1/cluster?node=m1").json()["nodes"] == [second]
    page = site.operator.get("/v1/cluster?limit=1").json()
    assert [n["name"] for n in page["nodes"]] == ["m0"]
    assert [n["name"] for n in site.operator.get(f"/v1/cluster?limit=1&cursor={page['next']}").json()["nodes"]] == [
        "m1"
    ]


def test_a_drained_node_takes_no_job_until_it_is_put_back(site):
    """Jobs would start on a node that is about to be opened up."""
    told = site.operator.post("/v1/nodes/m0/drain", json={"reason": "new fan"}).json()
    assert told == {"name": "m0", "state": "drained", "reason": "new fan"}
    assert site.operator.post("/v1/nodes/m1/drain").json()["reason"] == "by operator"
    site.ann.post("/v1/jobs", json=JOB)
    assert site.ann.get("/v1/jobs/job-1").json()["state"] == "waiting"
    assert site.operator.post("/v1/nodes/m0/undrain").json()["state"] == "open"
    site.until(lambda: site.state("job-1") == "running")
    assert site.ann.get("/v1/jobs/job-1").json()["places"][0]["node"] == "m0"


def test_a_node_that_refused_is_seen(site):
    """An operator would not learn which GPU needs looking at."""
    site.machines[0].lazy = True
    site.ann.post("/v1/jobs", json={**JOB, "gpus": 2})
    site.machines[0].say(Report("refused", 0.0, "job-1.1", gpu=1, message="NVML_ERROR_GPU_IS_LOST"))
    site.until(lambda: site.operator.get("/v1/cluster?node=m0").json()["nodes"][0]["state"] == "drained")
    assert "NVML_ERROR_GPU_IS_LOST" in site.operator.get("/v1/cluster?node=m0").json()["nodes"][0]["reason"]


# --- events ----------------------------------------------------------------------------------------


def test_events_come_as_they_happen_and_go_on_where_a_listener_was(site, monkeypatch):
    """A dashboard would miss what happened while its connection was lost, or see it twice."""
    monkeypatch.setattr(streaming, "PAGE", 2)

    async def listen():
        link = Connection(site.app, "GET", "/v1/events", site.headers("ann"), query="since=0")
        await site.http.post("/v1/jobs", json=JOB, headers=site.headers("ann"))
        first = await link.events(3)
        link.cut()
        await link.task
        await site.http.delete("/v1/jobs/job-1", headers=site.headers("ann"))
        back = Connection(
            site.app, "GET", "/v1/events", {**site.headers("ann"), "last-event-id": str(first[-1]["seq"])}
        )
        rest = await back.events(2)
        back.cut()
        await back.task
        return first, rest, link.text

    first, rest, text = site.portal.call(listen)
    assert [e["what"] for e in first] == ["submitted", "started", "running"]
    assert {e["what"] for e in rest} == {"cancelled", "stopped"}
    assert [e["seq"] for e in first + rest] == list(range(1, 6))
    assert re.search(r"^id: 1\nevent: submitted\ndata: {", text, re.M) and site.app.state.web.feed.open == 0


def test_events_of_before_a_restart_are_read_from_disk(tmp_path):
    """What happened before the service was started anew would be lost to listeners."""
    with Site(tmp_path) as site:
        site.ann.post("/v1/jobs", json=JOB)
        site.until(lambda: site.state("job-1") == "running")
        tokens, machines = site.tokens, site.machines
    again = Site(tmp_path, machines=machines)
    again.tokens = tokens
    with again as site:

        async def listen():
            link = Connection(site.app, "GET", "/v1/events", site.headers("ann"), query="since=1&job=job-1")
            found = await link.events(2)
            link.cut()
            await link.task
            return found

        assert [e["what"] for e in site.portal.call(listen)] == ["started", "running"]


def test_who_asks_for_events_that_are_gone_is_told_so(tmp_path):
    """A listener that comes back after months would take what is left for all that happened."""
    with Site(tmp_path) as site:
        site.ann.post("/v1/jobs", json=JOB)
        site.until(lambda: site.state("job-1") == "running")
        site.engine.ask(lambda engine: engine.ledger.forget(engine.now)).result()
        site.ann.post("/v1/jobs", json=JOB)
        tokens, machines = site.tokens, site.machines
    again = Site(tmp_path, machines=machines)
    again.tokens = tokens
    with again as site:
        first, *rest = site.ann.get("/v1/events?follow=false&since=0").json()["items"]
        assert (first["what"], first["after"], first["seq"]) == ("forgotten", 0, rest[0]["seq"] - 1)


def test_tenants_hear_of_their_own_and_of_what_concerns_all(site):
    """A tenant would learn what others run, or not that a node is gone."""
    site.ann.post("/v1/jobs", json=JOB)
    site.bob.post("/v1/jobs", json=JOB)
    site.operator.post("/v1/nodes/m1/drain")
    found = site.bob.get("/v1/events?follow=false&since=0").json()["items"]
    assert {e["tenant"] for e in found} == {"bob", None} and "node drained" in [e["what"] for e in found]
    assert [e["what"] for e in site.bob.get("/v1/events?follow=false&what=submitted").json()["items"]] == ["submitted"]


def test_streams_are_numbered_and_end_with_the_service(tmp_path):
    """Listeners would fill the memory, or keep the service from going down."""
    with Site(tmp_path, WebOptions(rate=0, streams=1)) as site:

        async def listen():
            link = Connection(site.app, "GET", "/v1/events", site.headers("ann"))
            while link.status is None or not site.app.state.web.feed.open:
                await link.pieces.get()
            refused = await site.http.get("/v1/events", headers=site.headers("bob"))
            site.app.state.web.feed.end()
            await link.task
            return refused, await site.http.get("/v1/events", headers=site.headers("ann"))

        refused, late = site.portal.call(listen)
        assert refused.status_code == 503 and "1 streams are open" in refused.json()["error"]
        assert late.status_code == 503 and "going down" in late.json()["error"]


# --- is it well ------------------------------------------------------------------------------------


def test_metrics_count_what_there_is(site):
    """A dashboard would show numbers of something else."""
    site.ann.post("/v1/jobs", json={**JOB, "gpus": 4})
    site.ann.post("/v1/jobs", json={**JOB, "gpus": 4})
    site.until(lambda: site.state("job-1") == "running")
    site.operator.get("/v1/nix")
    text = site.reader.get("/metrics").text
    for line in (
        'rltune_jobs{state="waiting",tenant="ann"} 1.0', 'rltune_jobs{state="running",tenant="ann"} 1.0', "rltune_gpus 4.0",
        'rltune_gpus_touched{pool="a"} 4.0', 'rltune_nodes{state="open"} 2.0', "rltune_started_total 1.0", "rltune_failing 0.0",
        'rltune_http_request_seconds_count{method="POST",route="/v1/jobs",status="201"} 2.0',
        'rltune_http_request_seconds_count{method="GET",route="unknown",status="404"} 1.0',
    ):  # fmt: skip
        assert line in text, line
    assert site.ann.get("/metrics").status_code == site.ask("ann-reader", "GET", "/metrics").status_code == 403


def test_a_disk_that_refuses_is_not_ready_but_alive(site, monkeypatch):
    """A probe would kill a service that only waits for room, or send it requests that it cannot take."""
    assert site.ask(None, "GET", "/ready").json() == {"ok": True, "error": None}

    def full(*_):
        raise StoreError("state.sqlite: database or disk is full; make room on the disk")

    monkeypatch.setattr(site.store, "write", full)
    answer = site.ann.post("/v1/jobs", json=JOB)
    assert answer.status_code == 503 and "make room" in answer.json()["error"] and answer.headers["retry-after"] == "5"
    assert site.ask(None, "GET", "/ready").status_code == 503 and site.ask(None, "GET", "/health").status_code == 200
    monkeypatch.undo()
    site.until(lambda: site.ask(None, "GET", "/ready").status_code == 200)
    assert site.ann.post("/v1/jobs", json=JOB).status_code == 201


def test_an_engine_that_has_ended_is_not_healthy(tmp_path):
    """A service that decides nothing any more would go on taking requests."""
    with Site(tmp_path) as site:
        site.engine.stop()
        assert site.ask(None, "GET", "/health").status_code == site.ask(None, "GET", "/ready").status_code == 503
        answer = site.ann.post("/v1/jobs", json=JOB)
        assert answer.status_code == 503 and "going down" in answer.json()["error"]


def test_the_page_loads_nothing_from_elsewhere(site):
    """A machine without internet would show an empty page, and a browser would run others' scripts."""
    page = site.ask(None, "GET", "/docs")
    assert page.status_code == 200 and "POST /v1/jobs" in page.text and "resnet" not in page.text
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", page.text) and "<script" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"] and "unsafe" not in str(page.headers)
    described = site.ask(None, "GET", "/openapi.json").json()
    for path, methods in described["paths"].items():
        for method, route in methods.items():
            wanted = (
                {"400", "401", "403", "422", "429", "503"} if path not in ("/health", "/ready", "/version") else set()
            )
            assert wanted <= set(route["responses"]), (method, path)
