"""Who may what: every endpoint by every role, tenants apart from each other, tokens, rates, hosts, Unix users."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from rltune.nouns.errors import InputError
from rltune.pages.serving import LOOPBACK
from rltune.service.errors import Refused
from rltune.service.specs import JobSpec
from rltune.service.web import security
from rltune.service.web.context import WebOptions
from rltune.service.web.security import Rates, Tokens, Users, add_token, list_tokens, revoke_token
from tests.service.site import Site

JOB = {"command": ["true"], "environment": {"KEY": "secret"}}
ALL, WRITERS, OPERATOR = {"operator", "ann", "bob", "reader", "ann-reader"}, {"operator", "ann", "bob"}, {"operator"}
WHOLE = {"operator", "reader"}
MATRIX = {
    ("POST", "/v1/jobs"): (WRITERS, JOB),
    ("GET", "/v1/jobs"): (ALL, None),
    ("GET", "/v1/jobs/{id}"): (ALL, None),
    ("DELETE", "/v1/jobs/{id}"): (WRITERS, None),
    ("GET", "/v1/jobs/{id}/runs"): (ALL, None),
    ("GET", "/v1/jobs/{id}/logs"): (ALL, None),
    ("GET", "/v1/jobs/{id}/why"): (ALL, None),
    ("GET", "/v1/jobs/{id}/when"): (ALL, None),
    ("POST", "/v1/leases"): (WRITERS, {"profile": "7g"}),
    ("GET", "/v1/leases"): (ALL, None),
    ("GET", "/v1/leases/{id}"): (ALL, None),
    ("DELETE", "/v1/leases/{id}"): (WRITERS, None),
    ("POST", "/v1/leases/{id}/renew"): (WRITERS, {"ttl_s": 9}),
    ("GET", "/v1/cluster"): (ALL, None),
    ("POST", "/v1/nodes/{name}/drain"): (OPERATOR, None),
    ("POST", "/v1/nodes/{name}/undrain"): (OPERATOR, None),
    ("GET", "/v1/policy"): (ALL, None),
    ("PUT", "/v1/policy"): (OPERATOR, {}),
    ("GET", "/v1/plan"): (ALL, None),
    ("GET", "/v1/queue"): (ALL, None),
    ("POST", "/v1/what-if"): (ALL, {}),
    ("GET", "/v1/events"): (ALL, None),
    ("GET", "/v1/me"): (ALL, None),
    ("GET", "/metrics"): (WHOLE, None),
}
OPEN = {("GET", "/health"), ("GET", "/ready"), ("GET", "/version")}
NAMES = {"id": "job-99", "name": "m9"}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with Site(tmp_path_factory.mktemp("access")) as made:
        yield made


def endpoints(site):
    return {(m.upper(), path) for path, methods in site.app.openapi()["paths"].items() for m in methods}


def test_every_endpoint_is_in_the_matrix(site):
    """A new endpoint would be open to whoever asks, without anybody having decided so."""
    assert endpoints(site) == {*MATRIX, *OPEN}


@pytest.mark.parametrize(("method", "path"), sorted(MATRIX), ids=lambda x: x)
def test_every_endpoint_by_every_role(site, method, path):
    """A reader would cancel jobs, or a tenant drain nodes."""
    may, body = MATRIX[method, path]
    query = {"follow": "false"} if path.endswith(("events", "logs")) else {}
    for who in (None, "wrong", *sorted(ALL)):
        headers = {"Authorization": "Bearer rlt_wrong"} if who == "wrong" else {}
        more = {} if body is None else {"json": body}
        answer = site.ask(
            None if who == "wrong" else who, method, path.format(**NAMES), headers=headers, params=query, **more
        )
        if who in (None, "wrong"):
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), who
        elif who in may:
            assert answer.status_code not in (401, 403, 500), (who, answer.text)
        else:
            assert answer.status_code == 403, (who, answer.text)
        if answer.status_code >= 400:
            assert list(answer.json()) == ["error"] and "\n" not in answer.json()["error"]


def test_probes_need_no_token(site):
    """A probe would call a healthy service dead."""
    for method, path in OPEN:
        assert site.ask(None, method, path).status_code == 200


def test_tenants_touch_only_what_is_theirs(tmp_path):
    """A tenant would cancel another's job, or read what it prints."""
    with Site(tmp_path) as site:
        job = site.ann.post("/v1/jobs", json={**JOB, "gpus": 2}).json()["jobs"][0]
        lease = site.ann.post("/v1/leases", json={"profile": "3g"}).json()["id"]
        site.until(lambda: site.state(job) == "running")
        before = site.rows()
        for method, path in [
            *(("GET", f"/v1/jobs/{job}{end}") for end in ("", "/runs", "/logs", "/why", "/when")),
            *(("DELETE", f"/v1/jobs/{job}"), ("GET", f"/v1/leases/{lease}"), ("DELETE", f"/v1/leases/{lease}")),
        ]:
            answer = site.ask("bob", method, path)
            other = site.ask("bob", method, path.replace(job, "job-77").replace(lease, "lease-77"))
            assert answer.status_code == other.status_code == 404, (method, path)
            # Whether it is there is not theirs to know.
            assert answer.text.replace(job, "X").replace(lease, "X") == other.text.replace("job-77", "X").replace(
                "lease-77", "X"
            )
        for kind, body in (("jobs", JOB), ("leases", {"profile": "1g"})):
            assert site.bob.post(f"/v1/{kind}?tenant=ann", json=body).status_code == 403
            assert site.bob.get(f"/v1/{kind}?tenant=ann").status_code == 403
            assert site.bob.get(f"/v1/{kind}").json()["items"] == []
        assert site.rows() == before
        held = {x for n in site.bob.get("/v1/cluster").json()["nodes"] for g in n["gpus"] for x in g["held_by"]}
        assert held == {"(another tenant)"}
        assert site.operator.post("/v1/jobs?tenant=ann", json=JOB).status_code == 201
        assert {x["tenant"] for x in site.operator.get("/v1/jobs").json()["items"]} == {"ann"}


def test_readers_do_not_read_secrets(tmp_path):
    """A dashboard's token would show every job's passwords."""
    with Site(tmp_path) as site:
        site.ann.post("/v1/jobs", json=JOB)
        assert "secret" in site.ann.get("/v1/jobs/job-1").text
        for path in ("/v1/jobs/job-1", "/v1/jobs"):
            assert "secret" not in site.reader.get(path).text and "KEY" in site.reader.get(path).text


# --- tokens ----------------------------------------------------------------------------------------


def test_tokens_are_kept_as_digests_and_can_be_revoked(site, monkeypatch):
    """Whoever reads the disk would have the tokens; a lost one would be good for ever."""
    token = add_token(site.store, "carl", "tenant", "carl")
    assert token not in site.store.path.read_bytes().decode("latin-1") and "carl" in str(list_tokens(site.store))
    monkeypatch.setattr(security, "FRESH_S", 0.0)
    tokens = Tokens(site.store)
    assert tokens.caller(token) == security.Caller("carl", "tenant", "carl") and tokens.caller(token + "x") is None
    revoke_token(site.store, "carl")
    assert tokens.caller(token) is None
    with pytest.raises(InputError, match="none that is valid"):
        revoke_token(site.store, "carl")
    assert add_token(site.store, "carl", "reader") != token


@pytest.mark.parametrize(
    ("name", "role", "tenant", "message"),
    [
        ("ann", "operator", None, "is there already"),
        ("x", "root", None, "known are operator, tenant, reader"),
        ("x", "tenant", None, "needs tenant=NAME"),
        ("x", "operator", "ann", "an operator is of no tenant"),
        ("a b", "reader", None, "are needed"),
        ("x", "tenant", "../x", "are needed"),
    ],
)
def test_tokens_that_cannot_be_meant_are_refused(site, name, role, tenant, message):
    """A slip would make an operator of a tenant."""
    with pytest.raises(InputError, match=message):
        add_token(site.store, name, role, tenant)


def test_the_first_start_writes_a_token_that_others_cannot_read(tmp_path, site):
    """Nobody could ask the new service, or everybody on the machine could."""
    from rltune.serve import first_token
    from rltune.service.store import Store

    store = Store(tmp_path / "state.sqlite")
    path = first_token(store, tmp_path)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600 == stat.S_IMODE(os.stat(store.path).st_mode)
    token = Path(path).read_text().strip()
    assert Tokens(store).caller(token).role == "operator"
    assert first_token(store, tmp_path) == path and len(list_tokens(store)) == 1
    store.close()


# --- rates, hosts, sites ---------------------------------------------------------------------------


def test_one_token_cannot_take_all_requests(tmp_path):
    """A loop in one tenant's script would keep everybody else out."""
    with Site(tmp_path, WebOptions(rate=0.001, burst=3)) as site:
        statuses = [site.ann.get("/v1/jobs").status_code for _ in range(5)]
        assert statuses == [200, 200, 200, 429, 429]
        last = site.ann.get("/v1/jobs")
        assert last.headers["retry-after"] == "1" and "send fewer" in last.json()["error"]
        assert site.bob.get("/v1/jobs").status_code == 200
        assert [site.ask(None, "GET", "/v1/jobs").status_code for _ in range(4)] == [401, 401, 401, 429]


def test_a_bucket_fills_again_and_their_number_is_bounded(monkeypatch):
    """A token would be shut out for good, or made-up names fill the memory."""
    rates = Rates(2.0, 2)
    rates.take("a", 0.0)
    rates.take("a", 0.0)
    with pytest.raises(Refused):
        rates.take("a", 0.1)
    rates.take("a", 0.6)
    monkeypatch.setattr(security, "MOST_BUCKETS", 3)
    for k in range(9):
        rates.take(f"n{k}", 1.0 + k)
    assert len(rates._buckets) == 3


def test_pages_of_other_sites_cannot_ask(tmp_path):
    """A page in somebody's browser would submit jobs: by a name of its own for this address, or from its own origin."""
    with Site(tmp_path, WebOptions(auth=False, hosts=LOOPBACK)) as site:
        ok = {"host": "127.0.0.1:8471"}
        assert site.ask(None, "POST", "/v1/jobs", json=JOB, headers=ok).status_code == 201
        for host in ("localhost", "[::1]:8471", "LOCALHOST:1"):
            assert site.ask(None, "GET", "/health", headers={"host": host}).status_code == 200
        for host in ("evil.example", "127.0.0.1.evil.example", "", "127.0.0.1:8471:8471", "a@127.0.0.1"):
            answer = site.ask(None, "POST", "/v1/jobs", json=JOB, headers={"host": host})
            assert answer.status_code == 400 and "is not this service" in answer.json()["error"]
        for origin in ("http://evil.example", "null", "http://127.0.0.1:9"):
            answer = site.ask(None, "POST", "/v1/nodes/m0/drain", headers={**ok, "origin": origin})
            assert answer.status_code == 403 and "another site" in answer.json()["error"]
        same = {**ok, "origin": "http://127.0.0.1:8471"}
        answer = site.ask(None, "GET", "/v1/jobs", headers=same)
        assert answer.status_code == 200 and not [h for h in answer.headers if h.startswith("access-control")]
        assert answer.headers["x-content-type-options"] == "nosniff" and answer.headers["cache-control"] == "no-store"


# --- Unix users ------------------------------------------------------------------------------------


def test_jobs_run_as_their_tenants_user_or_not_at_all():
    """A tenant's job would run as root, or as another tenant."""
    spec = JobSpec.model_validate({"command": ["true"]})
    named = JobSpec.model_validate({"command": ["true"], "user": "nobody"})
    mapped = Users({"ann": "daemon"}, as_service=False)
    assert mapped.apply(spec, "ann").user == "daemon" and mapped.apply(spec, "ann").command == ["true"]
    for users, job, tenant, message in (
        (mapped, spec, "bob", "has no Unix user here"),
        (mapped, named, "ann", "run as daemon; leave user out"),
        (Users(), named, "ann", "run as the service; leave user out"),
    ):
        with pytest.raises(Refused, match=message) as refused:
            users.apply(job, tenant)
        assert refused.value.status == 403
    assert Users(any_user=True).apply(named, "ann").user == "nobody" and Users().apply(spec, "ann").user is None


def test_users_that_there_are_not_are_refused_at_the_start(monkeypatch):
    """The first job of a tenant would fail in the night."""
    with pytest.raises(InputError, match="no such user"):
        Users({"ann": "no-such-user-here"}).check()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(InputError, match="only root"):
        Users({"ann": "daemon"}).check()
