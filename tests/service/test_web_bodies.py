"""Bad input over HTTP: one line that says what to change, and nothing is different afterwards."""

from __future__ import annotations

import json

import pytest

from rltune.service.web.context import WebOptions
from tests.service.site import Site

JOB = {"command": ["true"]}
DEEP = '{"command": ["true"], "environment": ' + '{"A":' * 5000 + "1" + "}" * 5000 + "}"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with Site(tmp_path_factory.mktemp("bodies"), WebOptions(rate=0, most_body=100_000)) as made:
        made.ann.post("/v1/jobs", json={**JOB, "gpus": 4})
        made.ann.post("/v1/jobs", json={**JOB, "gpus": 4})
        made.until(lambda: made.state("job-1") == "running")
        yield made


def refused(site, status, message, method, path, who="ann", **more):
    before = site.rows()
    answer = site.ask(who, method, path, **more)
    assert answer.status_code == status, answer.text
    told = answer.json()
    assert list(told) == ["error"] and message in told["error"] and "\n" not in told["error"], told
    assert site.rows() == before and len(site.engine.ledger.records) == 2
    return told["error"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the body is empty; a job is an object such as"),
        ("nix", "no JSON"),
        ('{"command": ["a"]', "no JSON"),
        ('{"command": ["a"]} x', "no JSON"),
        ('{"command": ["a"], "cpus": NaN}', "NaN is no number of JSON"),
        ('{"command": ["a"], "cpus": -Infinity}', "-Infinity is no number"),
        ('{"command": ["a"], "cpus": 1e999}', "too large"),
        ('{"command": ["a"], "gpus": 1' + "0" * 5000 + "}", "a number of 5001 digits"),
        ('{"command": ["a"], "gpus": 1, "gpus": 2}', "the key 'gpus' stands twice"),
        ('{"command": ["\\ud800"]}', "half a character"),
        ('{"\\udc00": 1}', "half a character"),
        (DEEP, "nested more than 32 deep"),
        ("[" * 90_000, "nested more than 32 deep"),
        ("null", "None; a job is an object such as"),
        ("[]", "a list of 0 jobs; 1 to 1000"),
        ('"job"', "'job'; a job is an object"),
        ("[null]", "jobs[0]=None; a job is an object"),
    ],
    ids=lambda x: repr(x[:30]),
)
def test_what_is_no_job_is_refused(site, text, message):
    """A reader would hang, overflow, or take something else for a job."""
    refused(site, 422, message, "POST", "/v1/jobs", content=text.encode(), headers={"content-type": "application/json"})


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({}, "command is missing; a list of program and arguments"),
        ({"command": []}, "command=[]; a list of program"),
        ({"command": "true"}, "command='true'; a list of program"),
        ({"command": ["a", 1]}, "command"),
        ({"command": ["a\0b"]}, "without NUL"),
        ({**JOB, "gpu": 2}, "'gpu' is unknown; known are"),
        ({**JOB, "gpus": "2"}, "gpus='2'; a whole number from 0"),
        ({**JOB, "gpus": True}, "gpus=True"),
        ({**JOB, "gpus": 1.5}, "gpus=1.5"),
        ({**JOB, "gpus": 10**9}, "gpus=1000000000"),
        ({**JOB, "gpus": 99}, "a job of 99 GPUs fits on no idle node of this cluster"),
        ({**JOB, "gpu_types": ["H100-80GB"]}, "gpu_types=H100-80GB is none of this cluster; there are A100-40GB"),
        ({**JOB, "profile": "9g"}, "profile=9g is cut from no GPU here; there are"),
        ({**JOB, "profile": "3g", "gpus": 2}, "a MIG slice goes with gpus=1"),
        ({**JOB, "profile": "3g", "slice_memory_gb": 9}, "both given"),
        ({**JOB, "share": 1.5}, "share=1.5; a share of one GPU between 0 and 1"),
        ({**JOB, "share": 0.5, "gpus": 2}, "a share is of one GPU"),
        ({**JOB, "gpus": 0}, "asks for nothing"),
        ({**JOB, "estimate_s": 0}, "seconds above 0"),
        ({**JOB, "array": 10_001}, "a whole number from 1 to 10,000"),
        ({**JOB, "environment": {"A=B": "x"}}, "a name such as EPOCHS"),
        ({**JOB, "environment": {"A": 1}}, "environment"),
        ({**JOB, "directory": "here"}, "an absolute path"),
        ({**JOB, "suspend": "maybe"}, "checkpoint, stop or never"),
        ({**JOB, "user": "root"}, "user=root: jobs of tenant ann run as the service"),
        ({**JOB, "name": "x" * 101}, "1 to 100 letters"),
    ],
    ids=lambda x: str(x)[:40],
)
def test_jobs_that_cannot_be_meant_are_refused(site, spec, message):
    """A slip would run as something else, or wait for ever."""
    status = 403 if "user" in spec else 422
    refused(site, status, message, "POST", "/v1/jobs", json=spec)
    # Beside good ones too: all or none.
    refused(site, status, message, "POST", "/v1/jobs", json=[JOB, spec])


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("application/json; charset=utf-16", 415),
        (None, 415),
    ],
)
def test_only_json_is_read(site, kind, status):
    """A form of another site could submit jobs without the browser asking first."""
    headers = {} if kind is None else {"content-type": kind}
    refused(site, status, "send JSON in UTF-8", "POST", "/v1/jobs", content=b'{"command": ["true"]}', headers=headers)
    text = json.dumps(JOB).encode("utf-16")
    refused(site, 422, "no UTF-8", "POST", "/v1/jobs", content=text, headers={"content-type": "application/json"})


def test_large_bodies_are_refused_before_they_are_read(site):
    """One request would fill the memory."""
    body = json.dumps({**JOB, "name": "x" * 200_000}).encode()
    kind = {"content-type": "application/json"}
    refused(site, 413, "a body of more than 100,000 bytes", "POST", "/v1/jobs", content=body, headers=kind)

    async def pieces():
        for _ in range(200):
            yield b" " * 1000

    refused(site, 413, "a body of more than 100,000 bytes", "POST", "/v1/jobs", content=pieces(), headers=kind)
    refused(site, 413, "bytes", "POST", "/v1/jobs", content=b"{}", headers={**kind, "content-length": "9" * 400})


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            "/v1/jobs?stat=waiting",
            "query parameter 'stat' is unknown; known are cursor, kind, limit, state, tenant; did you mean state?",
        ),
        ("/v1/jobs?state=waiting&state=done", "query parameter state stands twice"),
        ("/v1/jobs?state=waitin", "state='waitin' is unknown; known are waiting"),
        ("/v1/jobs?limit=0", "limit='0'; input should be greater than or equal to 1"),
        ("/v1/jobs?limit=1e3", "limit='1e3'"),
        ("/v1/jobs?kind=x", "kind='x'"),
        ("/v1/jobs/job-1?full=1", "query parameter 'full' is unknown; there are none here"),
        ("/v1/jobs/job-1/logs?offset=-1", "offset='-1'"),
        ("/v1/jobs/job-1/logs?tail=99999999999999999999999", "tail="),
        ("/v1/cluster?limit=99999", "limit='99999'"),
        ("/v1/events?since=x&follow=false", "since='x'"),
        ("/v1/jobs/job-2/when?samples=0", "samples='0'"),
    ],
)
def test_queries_that_cannot_be_meant_are_refused(site, path, message):
    """A slip would silently show something else."""
    refused(site, 422, message, "GET", path)


def test_what_there_is_not_is_said_so(site):
    """A wrong path or method would be answered with a page of a framework."""
    refused(site, 404, "there is no '/v1/job'; /docs lists", "GET", "/v1/job")
    refused(site, 404, "there is no '/v1/jobs/'", "GET", "/v1/jobs/")
    refused(site, 405, "PATCH '/v1/jobs' is not possible", "PATCH", "/v1/jobs")
    refused(site, 404, "node 'm9' is unknown; GET /v1/cluster", "POST", "/v1/nodes/m9/drain", who="operator")
    refused(site, 404, "job 'job-1\\x00' is unknown", "GET", "/v1/jobs/job-1%00")
    refused(site, 422, "Last-Event-ID", "GET", "/v1/events", headers={"last-event-id": "x"})


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"gpus": 0}, "gpus=0; a whole number from 1"),
        ({"profile": "3g", "gpus": 2}, "a MIG slice goes with gpus=1"),
        ({"wait_s": -1}, "wait_s=-1; seconds from 0"),
        ({"ttl_s": 0}, "ttl_s=0; seconds above 0"),
        ({"command": ["true"]}, "'command' is unknown"),
        ([], "[]; a lease is an object such as"),
    ],
)
def test_leases_that_cannot_be_meant_are_refused(site, spec, message):
    """A slip would hold something else."""
    refused(site, 422, message, "POST", "/v1/leases", json=spec)


def test_what_was_refused_leaves_no_trace_in_the_queue(site):
    """After bad input the service would answer good requests otherwise."""
    assert site.ann.get("/v1/jobs/job-2").json()["state"] == "waiting"
    assert site.engine.ledger.next_seq == 3
