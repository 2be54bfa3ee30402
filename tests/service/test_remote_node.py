"""What is kept of a node at the other end of a wire: nothing is lost in between, and a lost node is told once and comes back."""

from __future__ import annotations

import numpy as np
import pytest
from node_cases import SMALL, begin

from rltune.service.nodes.ray_nodes import Actor
from rltune.service.nodes.remote import RemoteNode
from rltune.service.nodes.virtual import VirtualNode
from rltune.service.orders import Cut, Held, Stop, Suspend

PLACE = (Held(1),)


class Wire:
    """Carries what a node has to send to an actor and back, unless it is cut; loses answers by chance."""

    def __init__(self, chance=0.0, seed=0):
        self.now, self.cut = 0.0, False
        self.inner = VirtualNode("v1", ["A100-80GB"] * 4, mig=False)
        self.chance, self.draws = chance, np.random.default_rng(seed)
        self.begin_anew()
        self.node = RemoteNode("v1", 30.0, self.ask, lambda: self.now)

    def begin_anew(self):
        self.actor = Actor("v1", lambda name: self.inner)

    def ask(self, method, *arguments):
        if self.cut:
            raise OSError("cut")
        return getattr(self.actor, method)(*arguments)

    def lost(self):
        return self.draws.random() < self.chance

    def pump(self, times=1):
        for _ in range(times):
            self.now += 1.0
            self.node.look()
            if self.cut:
                continue
            if not self.lost():
                answer = self.actor.take(*self.node.heard, 0.0)
                if not self.lost():
                    self.node.answered(*answer)
            if self.node.to_reconcile():
                found = self.actor.inventory()
                self.node.not_reconciled() if self.lost() else self.node.reconciled(found)
            if self.node.present:
                orders, forgotten = self.node.to_send()
                self.actor.forget(forgotten)
                if self.lost():
                    self.node.not_delivered()
                else:
                    self.actor.carry_out(orders)
                    if self.lost():  # it arrived, and nobody knows
                        self.node.not_delivered()


def told(node):
    return [(one.what, one.run) for one in node.reports()]


@pytest.fixture
def wire():
    made = Wire()
    made.pump(2)
    assert made.node.present
    return made


def test_orders_and_reports_pass(wire):
    """A node on another machine would behave unlike one on this."""
    wire.node.carry_out([begin("a"), Cut(1, False)])
    wire.pump(2)
    assert told(wire.node) == [("cut", "a"), ("began", "a"), ("cut", "")]
    wire.node.carry_out([Suspend("a"), begin("b", resumes="a"), Stop("b")])
    wire.pump(2)
    assert told(wire.node) == [("suspended", "a"), ("cut", "b"), ("began", "b"), ("ended", "b")]
    assert wire.node.inventory().runs == {"b": "ended"} and wire.node.log_span("b") == (0, 0)
    wire.node.forget(["b"])
    wire.pump(1)
    assert wire.node.inventory().runs == {}


def test_a_lost_node_is_told_once_and_its_given_up_runs_are_stopped_when_it_is_back(wire):
    """A job would run twice: on the node that came back, and where it was requeued."""
    wire.node.carry_out([begin("a"), begin("b", held=PLACE, cuts=())])
    wire.pump(2)
    told(wire.node)
    wire.node.carry_out([begin("c", held=(Held(2),), cuts=()), Cut(3, True, (SMALL,))])
    wire.cut = True
    wire.pump(29)
    assert told(wire.node) == [] and wire.node.present
    wire.pump(5)
    assert told(wire.node) == [("lost", "a"), ("lost", "b"), ("lost", "c"), ("not_cut", "")]
    wire.node.carry_out([begin("d"), Cut(0, True), Stop("a"), Suspend("b")])
    assert told(wire.node) == [("refused", "d"), ("not_cut", ""), ("lost", "a"), ("lost", "b")]
    with pytest.raises(OSError):
        wire.node.inventory()
    wire.inner.end("b")
    wire.cut = False
    wire.pump(2)
    assert wire.node.present and "a" not in wire.node.inventory().runs
    wire.node.carry_out([begin("e", held=(Held(2),), cuts=())])
    wire.pump(3)
    assert told(wire.node) == [("began", "e")]
    assert wire.inner.inventory().runs == {"e": "began"}


def test_an_actor_that_begins_anew_is_told_what_was_not_answered(wire):
    """An order in flight while an actor was restarted would be waited for for ever."""
    wire.node.carry_out([begin("a")])
    wire.pump(2)
    told(wire.node)
    wire.inner.reports()
    wire.node.carry_out([begin("b", held=PLACE, cuts=())])
    orders, _ = wire.node.to_send()  # they go under with the actor
    assert len(orders) == 1
    wire.inner._runs.pop("a")
    wire.begin_anew()
    wire.pump(3)
    assert sorted(told(wire.node)) == [("began", "b"), ("lost", "a")]


@pytest.mark.parametrize("seed", range(20))
def test_on_a_bad_wire_every_order_is_answered(seed):
    """An answer that is lost on the way would leave a job waiting, or begin it twice."""
    wire = Wire(0.4, seed)
    wire.pump(20)
    heard = []
    for number in range(10):
        wire.node.carry_out([begin(f"r{number}", held=(Held(number % 4),), cuts=())])
        wire.pump(2)
        if seed % 2 and number == 5:
            wire.begin_anew()
        heard += told(wire.node)
    wire.pump(60)
    wire.node.carry_out([Stop(f"r{number}") for number in range(10)])
    wire.pump(60)
    heard += told(wire.node)
    for number in range(10):
        mine = [what for what, run in heard if run == f"r{number}"]
        assert mine[0] == "began" and mine[-1] == "ended"
    assert not wire.node._open
