"""Leases over HTTP: had at once, later or not; by whoever asked first; never by one who has gone."""

from __future__ import annotations

import asyncio

import pytest

from rltune.service.web.context import WebOptions
from tests.service.site import Connection, Site

WHOLE = {"profile": "7g"}


@pytest.fixture
def site(tmp_path):
    with Site(tmp_path) as made:
        yield made


def fill(site):
    """All four GPUs are bob's."""
    return [site.bob.post("/v1/leases", json=WHOLE).json()["id"] for _ in range(4)]


def waiting(site):
    return [r.id for r in site.engine.ledger.alive() if r.state == "waiting"]


def test_a_lease_is_had_and_given_back(site):
    """A slice would be held without anybody knowing of it, or never come back."""
    answer = site.ann.post("/v1/leases", json={"profile": "3g"})
    told = answer.json()
    assert (answer.status_code, told["state"], told["devices"]) == (201, "running", {"m0": "m0-device"})
    assert told["places"][0]["profile"] == "3g.20gb" and site.ann.get(f"/v1/leases/{told['id']}").json() == told
    assert site.ann.delete(f"/v1/leases/{told['id']}").json() == {"id": told["id"], "state": "done"}
    assert site.ann.get("/v1/leases?state=alive").json()["items"] == []


def test_on_a_full_cluster_one_is_told_so_or_waits(site):
    """Whoever asks would hang, or be refused though there is room in time."""
    held = fill(site)
    answer = site.ann.post("/v1/leases", json=WHOLE)
    assert answer.status_code == 409 and "nothing that fits is free now; wait longer" in answer.json()["error"]
    late = site.ann.post("/v1/leases", json={**WHOLE, "wait_s": 0.05})
    assert late.status_code == 409 and "0.05 s" in late.json()["error"]

    async def both():
        link = Connection(site.app, "POST", "/v1/leases", site.headers("ann"), {**WHOLE, "wait_s": 600})
        while not waiting(site):
            await asyncio.sleep(0.01)
        await site.http.delete(f"/v1/leases/{held[0]}", headers=site.headers("bob"))
        await link.task
        return link.status

    assert site.portal.call(both) == 201


def test_who_goes_away_while_waiting_waits_no_more(site):
    """A slice would go to a client that is gone, and stay taken."""
    fill(site)

    async def away():
        link = Connection(site.app, "POST", "/v1/leases", site.headers("ann"), {**WHOLE, "wait_s": 600})
        while not waiting(site):
            await asyncio.sleep(0.01)
        link.cut()
        await link.task

    site.portal.call(away)
    assert waiting(site) == [] and "went away" in site.ann.get("/v1/leases").json()["items"][0]["reason"]


def test_who_comes_back_with_the_key_gets_the_same_lease(site):
    """After a lost connection a client would hold two slices and know of one."""
    key = {"Idempotency-Key": "k"}
    first, again = (site.ann.post("/v1/leases", json={"profile": "3g"}, headers=key) for _ in range(2))
    assert first.json()["id"] == again.json()["id"] and again.status_code == 201
    assert site.ann.post("/v1/leases", json={"profile": "2g"}, headers=key).status_code == 409
    site.ann.delete(f"/v1/leases/{first.json()['id']}")
    fill(site)

    async def away():
        body = {**WHOLE, "wait_s": 600}
        link = Connection(site.app, "POST", "/v1/leases", site.headers("ann") | {"Idempotency-Key": "w"}, body)
        while not waiting(site):
            await asyncio.sleep(0.01)
        link.cut()
        await link.task
        back = Connection(site.app, "POST", "/v1/leases", site.headers("ann") | {"Idempotency-Key": "w"}, body)
        await asyncio.sleep(0.05)
        for lease in (await site.http.get("/v1/leases?state=running", headers=site.headers("operator"))).json()[
            "items"
        ]:
            await site.http.delete(f"/v1/leases/{lease['id']}", headers=site.headers("operator"))
        await back.task
        return back.status

    assert site.portal.call(away) == 201


def test_a_key_whose_lease_never_came_may_be_used_again(site):
    """A client that tries again later would be told for ever that it was too early."""
    held, key = fill(site), {"Idempotency-Key": "k"}
    assert site.ann.post("/v1/leases", json=WHOLE, headers=key).status_code == 409
    site.bob.delete(f"/v1/leases/{held[0]}")
    assert site.ann.post("/v1/leases", json=WHOLE, headers=key).status_code == 201


def test_leases_are_renewed_by_their_owner_alone(site):
    """A lease would end under its owner's hands, or be kept by a stranger."""
    name = site.ann.post("/v1/leases", json={"profile": "3g", "ttl_s": 600}).json()["id"]
    before = site.ann.get(f"/v1/leases/{name}").json()["expires_s"]
    told = site.ann.post(f"/v1/leases/{name}/renew", json={"ttl_s": 6000}).json()
    assert told["expires_s"] - before > 5000
    assert site.bob.post(f"/v1/leases/{name}/renew", json={"ttl_s": 1}).status_code == 404
    site.ann.delete(f"/v1/leases/{name}")
    assert site.ann.post(f"/v1/leases/{name}/renew", json={"ttl_s": 1}).status_code == 409


def test_who_waited_when_the_service_went_down_holds_nothing_after(tmp_path):
    """A slice would go to a client of before the restart, which is gone."""
    with Site(tmp_path) as site:
        fill(site)

        async def begin():
            link = Connection(site.app, "POST", "/v1/leases", site.headers("ann"), {**WHOLE, "wait_s": 600})
            while not waiting(site):
                await asyncio.sleep(0.01)
            site.app.state.web.feed.end()
            await link.task
            return link.status, link.text

        status, text = site.portal.call(begin)
        assert status == 503 and "going down" in text
        waited = [r.id for r in site.engine.ledger.records.values() if r.tenant == "ann"]
        machines = site.machines
    again = Site(tmp_path, machines=machines)
    assert [again.engine.ledger.records[name].over for name in waited] == [True]
    assert len([r for r in again.engine.ledger.alive() if r.holds]) == 4
    again.store.close()


@pytest.mark.parametrize("clients", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_many_clients_at_once_on_a_full_cluster_are_served_in_turn(tmp_path, clients):
    """Somebody would starve, be passed over, or sleep through the moment when a GPU was theirs."""
    with Site(tmp_path, WebOptions(rate=0)) as site:
        fill(site)
        granted = site.portal.call(all_acquire, site, clients)
        assert sorted(granted) == list(range(clients))
        # First come, first served: the names count in the order in which requests were accepted.
        order = [event["job"] for event in happened(site) if event["what"] == "started" and event["tenant"] == "ann"]
        assert order == sorted(order, key=lambda name: int(name.removeprefix("lease-"))) and len(order) == clients
        assert len([r for r in site.engine.ledger.alive() if r.holds]) == 0


def happened(site):
    found, since = [], 0
    while (page := site.operator.get(f"/v1/events?follow=false&since={since}").json())["items"]:
        found, since = found + page["items"], page["next"]
    return found


async def all_acquire(site, clients):
    """Each acquires a whole GPU, holds it for a moment and gives it back; their numbers as they were served."""
    granted = []

    async def one(number):
        answer = await site.http.post("/v1/leases", json={**WHOLE, "wait_s": 3600}, headers=site.headers("ann"))
        assert answer.status_code == 201, answer.text
        granted.append(number)
        await site.http.delete(f"/v1/leases/{answer.json()['id']}", headers=site.headers("ann"))

    tasks = [asyncio.create_task(one(k)) for k in range(clients)]
    while len(waiting(site)) < clients:
        await asyncio.sleep(0.05)
        assert not any(task.done() for task in tasks)
    for lease in (await site.http.get("/v1/leases?tenant=bob", headers=site.headers("bob"))).json()["items"]:
        await site.http.delete(f"/v1/leases/{lease['id']}", headers=site.headers("bob"))
    await asyncio.gather(*tasks)
    return granted
