"""The reference of the service: what it names is there, and what is there is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rltune.service.web.metrics import COUNTERS
from tests.service.site import Site

TEXT = (Path(__file__).parents[2] / "docs" / "howto" / "service.md").read_text()


@pytest.fixture
def site(tmp_path):
    with Site(tmp_path) as made:
        yield made


def test_every_endpoint_stands_in_the_reference(site):
    """Somebody would look for a request that is there and not find it."""
    for path in site.app.openapi()["paths"]:
        last = path.replace("{id}", "ID").replace("{name}", "NAME")
        assert last in TEXT or f"/{last.rsplit('/', 1)[1]}`" in TEXT or ".../" + last.rsplit("/", 1)[1] in TEXT, path


def test_every_metric_stands_in_the_reference_and_is_there(site):
    """An alert would be written on a name that never comes."""
    told = {name.removesuffix("_total") for name in re.findall(r"`(rltune_\w+)`", TEXT)}
    families = set(re.findall(r"^# TYPE (rltune_\w+) \w+$", site.operator.get("/metrics").text, re.M))
    there = {name.removesuffix("_total") for name in families if not name.endswith("_created")}
    assert told == there >= {f"rltune_{name}" for name in COUNTERS}
