"""Jobs over HTTP: what was accepted is there, once; what is listed is complete; what is printed is read."""

from __future__ import annotations

import json

import pytest

from rltune.service.web.jobs import cursor_of
from tests.service.site import Connection, Site

JOB = {"command": ["true"]}


@pytest.fixture
def site(tmp_path):
    with Site(tmp_path) as made:
        yield made


def test_a_job_is_submitted_runs_and_is_told(site):
    """Whoever submits a job would not see what has become of it."""
    answer = site.ann.post("/v1/jobs", json={**JOB, "gpus": 2, "estimate_s": 60, "name": "resnet"})
    assert (answer.status_code, answer.json()) == (201, {"jobs": ["job-1"]})
    site.until(lambda: site.state("job-1") == "running")
    told = site.ann.get("/v1/jobs/job-1").json()
    assert (told["tenant"], told["state"], told["run"], told["believed_s"]) == ("ann", "running", "job-1.1", 60)
    assert told["places"] == [{"node": "m0", "gpus": [0, 1], "profile": None, "start": None}]
    assert (
        told["devices"] == {"m0": "m0-device"}
        and told["spec"]["name"] == "resnet"
        and told["submit_s"] >= 1_700_000_000
    )
    site.machines[0].end("job-1.1", 3)
    site.until(lambda: site.state("job-1") == "failed")
    told = site.ann.get("/v1/jobs/job-1").json()
    assert (told["code"], told["reason"]) == (3, "ended with status 3")
    (run,) = site.ann.get("/v1/jobs/job-1/runs").json()
    assert (run["run"], run["number"], run["code"]) == ("job-1.1", 1, 3) and run["end_s"] >= run["start_s"]


def test_lists_and_arrays_are_all_or_none(site):
    """Half of a request would run, or the message would not say which job is wrong."""
    answer = site.ann.post("/v1/jobs", json=[JOB, {**JOB, "array": 2}])
    assert answer.json() == {"jobs": ["job-1", "job-2[0]", "job-2[1]"]}
    answer = site.ann.post("/v1/jobs", json=[JOB, {**JOB, "gpus": -1}])
    assert (answer.status_code, answer.json()) == (422, {"error": "jobs[1]: gpus=-1; a whole number from 0"})
    assert site.ann.post("/v1/jobs", json=[JOB] * 1001).json()["error"].startswith("a list of 1001 jobs; 1 to 1000")
    assert len(site.engine.ledger.records) == 3


def test_the_same_request_with_the_same_key_is_done_once(site):
    """A client that repeats what it got no answer to would have its job run twice."""
    key = {"Idempotency-Key": "night-1"}
    first = site.ann.post("/v1/jobs", json=JOB, headers=key)
    again = site.ann.post("/v1/jobs", json={**JOB, "gpus": 1}, headers=key)
    assert first.json() == again.json() == {"jobs": ["job-1"]} and again.status_code == 201
    other = site.ann.post("/v1/jobs", json={**JOB, "gpus": 2}, headers=key)
    assert other.status_code == 409 and "give each request a key of its own" in other.json()["error"]
    assert site.bob.post("/v1/jobs", json=JOB, headers=key).json() == {"jobs": ["job-2"]}
    assert site.ann.post("/v1/jobs", json=JOB, headers={"Idempotency-Key": "a b"}).status_code == 422


def test_keys_survive_a_restart(tmp_path):
    """After a power cut repeated requests would be done twice."""
    with Site(tmp_path) as site:
        tokens = site.tokens
        site.ann.post("/v1/jobs", json=JOB, headers={"Idempotency-Key": "k"})
        machines = site.machines
    site = Site(tmp_path, machines=machines)
    site.tokens = tokens
    with site:
        assert site.ann.post("/v1/jobs", json=JOB, headers={"Idempotency-Key": "k"}).json() == {"jobs": ["job-1"]}
        assert list(site.engine.ledger.records) == ["job-1"]
        assert site.ann.post("/v1/jobs", json=JOB, headers={"Idempotency-Key": "k2"}).json() == {"jobs": ["job-2"]}


def test_pages_hold_every_job_once(site):
    """A job would be missing from the list, or stand in it twice."""
    site.ann.post("/v1/jobs", json={**JOB, "array": 7})
    site.bob.post("/v1/jobs", json=JOB)
    found, cursor = [], None
    while True:
        page = site.operator.get("/v1/jobs", params={"limit": 3, **({"cursor": cursor} if cursor else {})}).json()
        found += [x["id"] for x in page["items"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert found == ["job-8", *[f"job-1[{k}]" for k in reversed(range(7))]]
    assert len(site.ann.get("/v1/jobs").json()["items"]) == 7
    assert [x["id"] for x in site.operator.get("/v1/jobs?tenant=bob").json()["items"]] == ["job-8"]


def test_lists_are_of_memory_and_disk(site):
    """Jobs that are over for long would be gone, though they are on disk."""
    site.ann.post("/v1/jobs", json={**JOB, "array": 6, "gpus": 1})
    site.until(lambda: [site.state(f"job-1[{k}]") for k in range(6)].count("running") == 4)
    site.machines[0].end("job-1[0].1")
    site.until(lambda: site.state("job-1[0]") == "done" and site.state("job-1[4]") == "running")
    site.engine.ask(lambda e: e.ledger.records.pop("job-1[0]")).result()
    states = {
        state: [x["id"] for x in site.ann.get(f"/v1/jobs?state={state}").json()["items"]]
        for state in ("done", "waiting", "alive")
    }
    assert states["done"] == ["job-1[0]"] and states["waiting"] == ["job-1[5]"] and len(states["alive"]) == 5
    assert site.ann.get("/v1/jobs/job-1[0]").json()["state"] == "done"
    assert site.ann.delete("/v1/jobs/job-1[0]").json() == {"id": "job-1[0]", "state": "done"}
    assert site.bob.get("/v1/jobs/job-1[0]").status_code == 404
    assert [r["run"] for r in site.ann.get("/v1/jobs/job-1[0]/runs").json()] == ["job-1[0].1"]


def test_kinds_are_kept_apart(site):
    """A lease would be listed as a job, or cancelled as one."""
    site.ann.post("/v1/jobs", json=JOB)
    lease = site.ann.post("/v1/leases", json={"profile": "3g"}).json()["id"]
    assert [x["kind"] for x in site.ann.get("/v1/jobs").json()["items"]] == ["job"]
    assert [x["kind"] for x in site.ann.get("/v1/jobs?kind=all").json()["items"]] == ["lease", "job"]
    assert [x["id"] for x in site.ann.get("/v1/leases").json()["items"]] == [lease]
    assert site.ann.get(f"/v1/jobs/{lease}").status_code == site.ann.delete(f"/v1/jobs/{lease}").status_code == 404


def test_a_cancelled_job_is_stopped(site):
    """A job that nobody wants would hold its GPUs."""
    site.ann.post("/v1/jobs", json=JOB)
    site.until(lambda: site.state("job-1") == "running")
    assert site.ann.delete("/v1/jobs/job-1").json() == {"id": "job-1", "state": "cancelled"}
    site.until(lambda: site.machines[0].runs["job-1.1"] == "ended")
    assert site.ann.delete("/v1/jobs/job-1").json() == {"id": "job-1", "state": "cancelled"}
    assert site.ann.delete("/v1/jobs/job-9").status_code == 404


@pytest.mark.parametrize("cursor", ["nix", "%F0%9F", cursor_of(1)[:-2] + "%3D%3D", "MTo5OTk5OTk5OTk5OTk5OTk5OTk5OQ"])
def test_cursors_of_others_are_refused(site, cursor):
    """A slip would show a page of something else."""
    answer = site.ann.get(f"/v1/jobs?cursor={cursor}")
    assert answer.status_code == 422 and "next" in answer.json()["error"]


def test_logs_are_read_from_where_one_likes(site):
    """Output would be lost, or sent whole each time."""
    site.machines[0].logs["job-1.1"] = b"hello\nworld\n"
    site.ann.post("/v1/jobs", json=JOB)
    assert site.ann.get("/v1/jobs/job-1/logs").text == "hello\nworld\n"
    assert site.ann.get("/v1/jobs/job-1/logs?offset=6&limit=3").text == "wor"
    answer = site.ann.get("/v1/jobs/job-1/logs?tail=6")
    assert (answer.text, answer.headers["next-offset"]) == ("world\n", "12")
    for query in ("run=2", "rank=1"):
        assert site.ann.get(f"/v1/jobs/job-1/logs?{query}").status_code == 409
    assert site.bob.get("/v1/jobs/job-1/logs").status_code == 404


def test_a_log_is_followed_until_its_run_is_over(site):
    """Whoever watches a job would see nothing, miss its end, or wait for ever."""
    site.machines[0].logs["job-1.1"] = b"one "
    site.ann.post("/v1/jobs", json=JOB)

    async def watch():
        link = Connection(site.app, "GET", "/v1/jobs/job-1/logs", site.headers("ann"), query="follow=true")
        got = await link.events(1)
        site.machines[0].logs["job-1.1"] += "zwei é".encode()
        site.machines[0].end("job-1.1")
        got += await link.events(2)
        await link.task
        return got

    got = site.portal.call(watch)
    assert [x.get("text") for x in got] == ["one ", "zwei é", ""] and got[-1] == {
        "offset": 11,
        "text": "",
        "run": "job-1.1",
    }
    assert site.app.state.web.feed.open == 0


def test_what_is_sent_is_kept_as_it_was_sent(site):
    """Names with signs of other scripts, or long texts, would come back changed."""
    spec = {"command": ["sh", "-c", "echo 'ü 日本' \\ \"\n"], "environment": {"A": "é\t"}, "directory": "/tmp/ä"}
    site.ann.post("/v1/jobs", json=spec)
    assert site.ann.get("/v1/jobs/job-1").json()["spec"] == json.loads(json.dumps(spec))
