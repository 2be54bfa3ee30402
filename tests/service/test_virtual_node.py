"""A virtual node answers like a local one, and is cheap."""

from __future__ import annotations

import resource
import signal
import time

import pytest
from node_cases import SMALL, begin

from rltune.service.nodes.virtual import VirtualNode
from rltune.service.orders import Cut, Held, Stop, Suspend

MANY = 10_000


def told(node):
    return [(one.what, one.run, one.code) for one in node.reports()]


def test_orders_are_reported_at_once():
    """A load test would measure a node that behaves like no real one."""
    node = VirtualNode("v1", ["A100-80GB", "V100"], mig=False, clock=lambda: 7.0)
    node.carry_out([begin("a"), begin("a"), begin("b", held=(Held(1),), cuts=()), begin("c", argv=(), cuts=())])
    assert told(node) == [("cut", "a", 0), ("began", "a", 0), ("began", "a", 0), ("began", "b", 0), ("refused", "c", 0)]
    node.carry_out([Cut(0, True, ()), begin("d", held=(Held(2),), cuts=()), begin("e", held=(Held(0),), cuts=())])
    assert told(node) == [("not_cut", "", 0), ("refused", "d", 0), ("refused", "e", 0)]
    node.end("b", 3)
    node.carry_out([Suspend("a"), begin("f", argv=(), resumes="a"), Stop("b"), Suspend("g")])
    assert told(node) == [
        ("ended", "b", 3),
        ("suspended", "a", 0),
        ("cut", "f", 0),
        ("began", "f", 0),
        ("ended", "b", 3),
        ("lost", "g", 0),
    ]
    found = node.inventory()
    assert found.runs == {"b": "ended", "f": "began"} and found.codes == {"b": 3}
    assert [(gpu.kind, gpu.mig, gpu.instances) for gpu in found.gpus] == [
        ("A100-80GB", True, (SMALL,)),
        ("V100", False, ()),
    ]
    node.carry_out([Stop("f"), begin("h")])
    node.forget(["b", "f", "h", "unknown"])
    assert told(node)[0] == ("ended", "f", 0) and node.inventory().runs == {"h": "began"}
    node.carry_out([Stop("h"), Stop("h")])
    assert told(node) == [("ended", "h", -signal.SIGTERM)] * 2
    with pytest.raises(KeyError):
        node.end("unknown")


def test_ten_thousand_fit_into_one_process():
    """A cluster of thousands of nodes could not be rehearsed on one machine."""
    kinds = ["A100-80GB"] * 8
    before, clock = resource.getrusage(resource.RUSAGE_SELF), time.process_time()
    nodes = [VirtualNode(f"v{number}", kinds, mig=True) for number in range(MANY)]
    for number, node in enumerate(nodes):
        node.carry_out([begin(f"r{number}")])
    reports = [node.reports() for node in nodes]
    for number, node in enumerate(nodes):
        node.end(f"r{number}")
    assert all([one.what for one in had] == ["cut", "began"] for had in reports)
    assert all([one.what for one in node.reports()] == ["ended"] for node in nodes)
    spent, grown = time.process_time() - clock, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before.ru_maxrss
    # A second and 50 MB on the machine where this was written: room for others.
    assert spent < 30 and grown < 500_000
