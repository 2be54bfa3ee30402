"""Requests made up from the OpenAPI description: none is answered by a failure, every answer is as the description says."""

from __future__ import annotations

import importlib.util
from contextlib import ExitStack
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "experiments" / "service_schemathesis.py"


def script():
    pytest.importorskip("schemathesis")
    spec = importlib.util.spec_from_file_location("service_schemathesis", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FEW = ("GET /v1/jobs", "POST /v1/leases/{id}/renew", "DELETE /v1/leases/{id}")


@pytest.mark.parametrize(
    ("cases", "only"), [(40, FEW), pytest.param(1500, (), marks=pytest.mark.slow)], ids=["few", "all"]
)
def test_no_made_up_request_makes_the_service_fail(tmp_path, cases, only):
    """Somebody's odd request would end in a failure of the service, or an answer that no client expects."""
    made = script()
    with ExitStack() as stack:
        site = made.Site(tmp_path, stack)
        found = made.fuzz(site.app, site.ask, site.tokens, cases, only=only)
    assert found.cases >= cases / 4 and found.statuses[422] and found.statuses[200]
    assert (found.server_errors, found.untold, found.accepted_though_wrong) == (0, 0, 0), found.shown
