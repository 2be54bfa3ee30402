"""The client: what scripts and people type, answered by a real service; the line protocol as before."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import httpx
import pytest

from rltune.client import __main__ as command
from rltune.client import http as client_http
from rltune.client.http import Client, ClientError
from rltune.client.lines import Lines, serve_lines
from tests.service.site import Site


class Through(httpx.BaseTransport):
    """From a client to the application, without a network."""

    def __init__(self, site):
        self.site = site

    def handle_request(self, request):
        path = request.url.raw_path.decode()
        headers = dict(request.headers)
        answer = self.site.portal.call(
            lambda: self.site.http.request(request.method, path, headers=headers, content=request.read())
        )
        kept = {k: v for k, v in answer.headers.items() if k != "content-length"}
        return httpx.Response(answer.status_code, headers=kept, content=answer.content)


@pytest.fixture
def site(tmp_path):
    with Site(tmp_path) as made:
        yield made


@pytest.fixture
def say(site, monkeypatch, capsys):
    """Runs a command line as somebody; its status, and what it printed."""

    def run(who, *words):
        monkeypatch.setattr(command, "token_of", lambda given: site.tokens[who])
        monkeypatch.setattr(
            command, "Client", lambda url, token, ca: Client("http://testserver", token, transport=Through(site))
        )
        try:
            command.main(list(words))
            status = 0
        except SystemExit as end:
            status = end.code or 0
        told = capsys.readouterr()
        return status, told.out, told.err

    return run


def client(site, who):
    return Client("http://testserver", site.tokens[who], transport=Through(site))


def test_a_job_is_submitted_looked_at_and_cancelled(site, say):
    """Nobody could use the service from a shell."""
    site.machines[0].logs["job-1.1"] = b"hello\n"
    status, out, _ = say(
        "ann", "submit", "--gpus", "2", "--estimate-s", "60", "--env", "A=1", "--", "python", "-c", "print(1)"
    )
    assert (status, out) == (0, "job-1\n")
    site.until(lambda: site.state("job-1") == "running")
    spec = site.engine.ledger.records["job-1"].spec
    assert (spec.command, spec.gpus, spec.estimate_s, dict(spec.environment)) == (
        ["python", "-c", "print(1)"],
        2,
        60,
        {"A": "1"},
    )
    assert (
        "job-1" in say("ann", "list")[1] and "m0:0,1" in say("ann", "list")[1] and "job-1" not in say("bob", "list")[1]
    )
    assert json.loads(say("ann", "status", "--json", "job-1")[1])["state"] == "running"
    assert say("ann", "logs", "job-1")[1] == "hello\n"
    assert say("ann", "cancel", "job-1")[1] == "job-1 cancelled\n"
    assert "started" in say("ann", "events")[1] and "cancelled" in say("ann", "why", "job-1")[1]


def test_files_of_jobs_and_keys(site, say, tmp_path):
    """A script that is run again would submit everything twice."""
    (tmp_path / "jobs.json").write_text(json.dumps([{"command": ["true"]}, {"command": ["true"], "array": 2}]))
    words = ("submit", "--file", str(tmp_path / "jobs.json"), "--key", "night")
    assert say("ann", *words)[1] == say("ann", *words)[1] == "job-1\njob-2[0]\njob-2[1]\n"
    assert len(site.engine.ledger.records) == 3


def test_leases_nodes_and_policy(site, say):
    """Slices could not be had from a shell, or nodes be taken out of service."""
    status, out, _ = say("ann", "acquire", "3g", "--ttl-s", "60")
    assert status == 0 and out == "lease-1 m0:0/3g.20gb m0-device\n"
    assert "lease-1 until" in say("ann", "renew", "lease-1", "--ttl-s", "600")[1]
    assert (
        "lease-1" in say("ann", "list", "--kind", "lease")[1]
        and say("ann", "release", "lease-1")[1] == "lease-1 done\n"
    )
    assert say("operator", "drain", "m0", "--reason", "fan")[1] == "m0 drained: fan\n"
    assert "fan" in say("operator", "nodes")[1] and say("operator", "undrain", "m0")[1] == "m0 open\n"
    assert say("operator", "policy", "sjf")[1] == "policy=sjf backfill=skip allocator=best_fit\n"
    assert say("operator", "policy", "--rollback")[1].startswith("policy=fifo")
    assert "gittins" in say("ann", "policy")[1]


@pytest.mark.parametrize(
    ("who", "words", "message"),
    [
        ("reader", ("submit", "--", "true"), "a token of role reader may not do this"),
        ("ann", ("status", "job-77"), "job 'job-77' is unknown"),
        ("ann", ("submit", "--gpus", "99", "--", "true"), "fits on no idle node"),
        ("ann", ("submit", "--file", "/nowhere"), "/nowhere"),
        ("ann", ("what-if", "{"), "see --help"),
        ("ann", ("drain", "m0"), "ask operator"),
    ],
)
def test_refusals_are_one_line(say, who, words, message):
    """A script would get a traceback, or take an error for an answer."""
    status, out, told = say(who, *words)
    assert status == 1 and out == "" and told.startswith("error: ") and message in told and told.count("\n") == 1


def test_the_line_protocol_is_answered_as_before(site):
    """Scripts of the old protocol would have to be rewritten."""
    asked = [
        "acquire user-1 3g", "acquire user-1 3g", "acquire user-1 2g r2", "acquire user-2 7g", "", "release user-1 r2", "release user-1",
        "release user-1", "release user-2 x", "acquire user-3 9g", "nix", "acquire user-1", "x" * 5000,
    ]  # fmt: skip
    out = io.StringIO()
    serve_lines(Lines(client(site, "operator")), asked, out)
    found = out.getvalue().splitlines()
    assert len(found) == len(asked) - 1
    gpu, configuration, device = found[0].split()
    assert gpu == "0" and configuration.isdecimal() and device == "m0-device"
    assert (
        found[1].startswith("error: tenant user-1 has a lease already")
        and len(found[2].split()) == len(found[3].split()) == 3
    )
    assert found[4:6] == ["released 1", "released 1"]
    assert found[6] == "error: tenant user-1 holds nothing; acquire first" and "no request x" in found[7]
    assert all(line.startswith("error: ") for line in found[6:]) and "accepted are: acquire TENANT" in found[-1]
    assert [r.tenant for r in site.engine.ledger.alive()] == ["user-2"]


def test_leases_of_an_earlier_client_are_found_again(site):
    """After a script has been started anew its slices could not be given back."""
    Lines(client(site, "operator")).answer("acquire user-1 3g night")
    assert Lines(client(site, "operator")).answer("release user-1 night") == "released 1"


def test_requests_are_repeated_only_where_that_does_no_harm(site, monkeypatch):
    """While the service is started anew scripts would fail, or do things twice."""
    monkeypatch.setattr(client_http, "PAUSE_S", 0.0)
    calls = []

    class Shaky(Through):
        def handle_request(self, request):
            calls.append(request.method)
            answer = super().handle_request(request)
            if len(calls) == 1:
                raise httpx.ReadError("lost")
            return answer

    def shaky():
        calls.clear()
        return Client("http://testserver", site.tokens["ann"], transport=Shaky(site))

    assert shaky().ask("POST", "/jobs", {"command": ["true"]}, key="k") == {"jobs": ["job-1"]} and len(calls) == 2
    assert shaky().ask("GET", "/jobs/job-1")["id"] == "job-1"
    with pytest.raises(ClientError, match="does not answer"):
        shaky().ask("POST", "/jobs", {"command": ["true"]})
    assert len(site.engine.ledger.records) == 2


def test_the_client_loads_nothing_heavy():
    """Each command of a script would take seconds."""
    text = "import sys, rltune.client.__main__; print([m for m in ('numpy', 'numba', 'pandas', 'torch', 'ray', 'hydra', 'fastapi') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True).stdout == "[]\n"
