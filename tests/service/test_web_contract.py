"""Requests made up from the OpenAPI description: none is answered by a failure, every answer is as the description says."""

from __future__ import annotations

import importlib
from contextlib import ExitStack
from pathlib import Path

import pytest

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"


@pytest.fixture
def script(monkeypatch):
    """experiments/service_schemathesis.py; a script finds those beside it."""
    pytest.importorskip("schemathesis")
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    return importlib.import_module("service_schemathesis")


FEW = ("GET /v1/jobs", "POST /v1/leases/{id}/renew", "DELETE /v1/leases/{id}")


@pytest.mark.parametrize(
    ("cases", "only"), [(40, FEW), pytest.param(1500, (), marks=pytest.mark.slow)], ids=["few", "all"]
)
def test_no_made_up_request_makes_the_service_fail(tmp_path, script, cases, only):
    """Somebody's odd request would end in a failure of the service, or an answer that no client expects."""
    with ExitStack() as stack:
        site = script.Site(tmp_path, stack)
        found = script.fuzz(site.app, site.ask, site.tokens, cases, only=only)
    assert found.cases >= cases / 4 and found.statuses[422] and found.statuses[200]
    assert (found.server_errors, found.untold, found.accepted_though_wrong) == (0, 0, 0), found.shown
