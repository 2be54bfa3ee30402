"""The policy over HTTP: changed while jobs run, refused where it cannot be, rolled back; and what it thinks."""

from __future__ import annotations

import pytest

from tests.service.site import Site

JOB = {"command": ["true"]}


@pytest.fixture
def site(tmp_path):
    with Site(tmp_path) as made:
        yield made


def test_a_policy_is_changed_and_rolled_back_while_jobs_run(site):
    """Another policy would need a restart, or jobs would be lost in the change."""
    site.ann.post(
        "/v1/jobs",
        json=[
            {**JOB, "gpus": 4, "estimate_s": 9},
            {**JOB, "gpus": 4, "estimate_s": 99},
            {**JOB, "gpus": 3, "estimate_s": 5},
        ],
    )
    site.until(lambda: site.state("job-1") == "running")
    told = site.operator.put("/v1/policy", json={"policy": "sjf"}).json()
    assert (told["policy"], told["before"]["policy"], site.engine.policy_name) == ("sjf", "fifo", "sjf-skip-best_fit")
    for machine in site.machines:
        machine.end("job-1.1")
    site.until(lambda: site.state("job-3") == "running")
    assert site.state("job-2") == "waiting"
    told = site.operator.put("/v1/policy", json={"rollback": True}).json()
    assert (told["policy"], told["before"]["policy"]) == ("fifo", "sjf")
    assert {"sjf", "easy", "milp"} <= {x for names in told["known"].values() for x in names}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"policy": "sfj"}, "policy 'sfj' is unknown; known are fifo"),
        ({"backfill": "eazy"}, "backfill='eazy' is unknown; known are strict"),
        ({"allocator": "best"}, "allocator='best' does not place jobs"),
        ({"policy": "helios", "backfill": "conservative"}, "backfill='conservative' is unknown; known are blocking, skip, easy"),
        ({"rollback": True}, "there is no policy before this one"),
        ({"rollback": True, "policy": "sjf"}, "rollback=true goes without policy"),
        ({}, "nothing to change; give policy"),
        ({"shadow": "sfj"}, "policy 'sfj' is unknown"),
        ({"policy": "./nowhere.safetensors"}, "nowhere"),
    ],
)  # fmt: skip
def test_a_policy_that_cannot_decide_is_refused_and_the_old_one_goes_on(site, body, message):
    """A slip would leave the service without a policy."""
    before = site.rows()
    answer = site.operator.put("/v1/policy", json=body)
    assert answer.status_code in (409, 422) and message in answer.json()["error"]
    assert site.rows() == before and site.engine.policy_name == "fifo"
    site.ann.post("/v1/jobs", json=JOB)
    site.until(lambda: site.state("job-1") == "running")


def test_a_shadow_policy_is_written_down_and_decides_nothing(site):
    """What another policy would do could not be seen before it does it."""
    told = site.operator.put("/v1/policy", json={"shadow": "sjf"}).json()
    assert (told["policy"], told["shadow"]["policy"]) == ("fifo", "sjf")
    site.ann.post("/v1/jobs", json=[{**JOB, "gpus": 3, "estimate_s": 99}, {**JOB, "gpus": 2, "estimate_s": 5}])
    site.until(lambda: site.operator.get("/v1/policy").json()["shadow"]["compared"] > 0)
    assert site.state("job-1") in ("starting", "running")
    differs = site.until(lambda: site.ann.get("/v1/events?follow=false&what=shadow differs").json()["items"])
    assert (differs[0]["only_shadow"], differs[0]["only_active"]) == (["job-2"], ["job-1"])
    assert site.operator.put("/v1/policy", json={"shadow": "off"}).json()["shadow"] is None


def test_what_was_chosen_holds_over_a_restart_unless_the_command_line_changes():
    """After a restart an old policy would decide, or the command line would have no effect."""
    from rltune.service.policies import Choice, choice_at_start

    kept = {"choice_given": {**vars_of(Choice())}, "choice": vars_of(Choice("sjf"))}
    assert choice_at_start(kept.get, Choice()) == Choice("sjf")
    assert choice_at_start(kept.get, Choice("las")) == Choice("las")
    assert choice_at_start({}.get, Choice()) == Choice()


def vars_of(choice):
    from dataclasses import asdict

    return asdict(choice)


def test_who_waits_is_told_why_and_when(site):
    """A user would have to guess, or ask an operator."""
    site.ann.post("/v1/jobs", json=[{**JOB, "gpus": 4, "estimate_s": 100}, {**JOB, "gpus": 2, "estimate_s": 50}])
    site.bob.post("/v1/jobs", json={**JOB, "gpus": 4})
    site.until(lambda: site.state("job-1") == "running")
    assert site.ann.get("/v1/jobs/job-2/why").json()["state"] == "waiting"
    when = site.ann.get("/v1/jobs/job-2/when?samples=4").json()
    assert 1 <= when["samples"] <= 4 and 0 < when["p50_s"] <= 100
    assert site.ann.get("/v1/jobs/job-1/when").status_code == 409
    assert site.bob.get("/v1/jobs/job-2/why").status_code == site.bob.get("/v1/jobs/job-2/when").status_code == 404
    assert site.operator.get("/v1/plan").json()["allocator"] == "best_fit"
    queue = site.operator.get("/v1/queue").json()
    assert [x["id"] for x in queue["first"]] == ["job-2", "job-3"]


def test_what_others_are_called_is_not_told(site):
    """A tenant would learn of others' jobs from an explanation of their own."""
    site.bob.post("/v1/jobs", json=[{**JOB, "gpus": 4, "name": "secret"}, {**JOB, "gpus": 4, "name": "secret"}])
    site.ann.post("/v1/jobs", json={**JOB, "gpus": 4})
    site.until(lambda: site.state("job-1") == "running")
    for path in ("jobs/job-3/why", "queue", "plan", "cluster", "jobs", "leases", "events?follow=false"):
        text = site.ann.get(f"/v1/{path}").text
        assert "bob" not in text and "job-1" not in text and "job-2" not in text and "secret" not in text, path


@pytest.mark.parametrize(
    "question",
    [{"job": {**JOB, "gpus": 4, "estimate_s": 60}}, {"nodes": {"pool": "a", "add": 1}}, {"policy": "sjf"}, {"policy": "sjf", "backfill": "easy"}],
)  # fmt: skip
def test_questions_are_answered_and_change_nothing(site, question):
    """Whoever plans would have to try it out on everybody."""
    site.ann.post("/v1/jobs", json=[{**JOB, "gpus": 4, "estimate_s": 100}] * 2)
    site.until(lambda: site.state("job-1") == "running")
    before = site.rows()
    answer = site.ann.post("/v1/what-if", json=question)
    assert answer.status_code == 200 and answer.json()["waiting"] == 1, answer.text
    assert site.rows() == before


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({}, "ask one thing"),
        ({"policy": "sjf", "nodes": {"pool": "a", "add": 1}}, "ask one thing"),
        ({"nodes": {"pool": "b", "add": 1}}, "pool 'b' is unknown; known are a"),
        ({"nodes": {"pool": "a", "add": -2}}, "at least one must stay"),
        ({"job": {**JOB, "gpus": 99}}, "fits on no idle node"),
        ({"policy": "nix"}, "policy 'nix' is unknown"),
    ],
)
def test_questions_that_cannot_be_meant_are_refused(site, question, message):
    """A wrong question would get a wrong answer."""
    answer = site.ann.post("/v1/what-if", json=question)
    assert answer.status_code == 422 and message in answer.json()["error"]
