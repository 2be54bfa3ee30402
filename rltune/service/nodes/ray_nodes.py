"""Nodes on a Ray cluster: one detached actor a Ray node, found again by the next service.

An actor's name is that of its Ray node (``ray start --node-name``) with the node's id, so that a machine that joins anew gets an
actor of its own; the state of its runs is in its folder, not in the actor. One thread here speaks with all actors: each has a
question open that it answers as soon as anything has happened (`Actor.take`), so that only what is new travels.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import ActorDiedError, GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rltune.devices.open import store_path
from rltune.nouns.errors import InputError
from rltune.service.nodes.local import open_node
from rltune.service.nodes.remote import RemoteNode
from rltune.service.orders import Inventory, Node, Order, Report

NAMESPACE = "rltune-service"
LOST_AFTER_S = 30.0
ANSWER_S = 20.0
"""Longest wait of a single call for its answer."""
LOOK_S = 0.02
"""Of an actor, between two looks for news."""
RETRY_S = 1.0
DISCOVER_S = 2.0
"""Between two looks for Ray nodes that came or went."""
SWEEP_S = 0.25
"""Between two looks at all nodes; each is looked at besides when something comes from it or for it."""
CONCURRENT = 16
"""Calls at once into one actor: open questions of earlier services, and logs, beside those of this one."""


def machine(name: str, device: str = "nvml", state_dir: str = "", pace: float = 1.0) -> Node:
    """What an actor wraps: the node of its machine; ``state_dir`` with ``{node}`` for its name, default under `store_path`."""
    folder = Path(state_dir.replace("{node}", name)) if state_dir else store_path() / "nodes" / name
    return open_node(name, device, folder, pace)


class Actor:
    """A node in a Ray actor. ``make(name)``: the node; small, since Ray keeps it to begin the actor anew."""

    def __init__(self, name: str, make: Callable[[str], Node]) -> None:
        self._node = make(name)
        self._incarnation = uuid.uuid4().hex
        self._turn = threading.Lock()
        self._kept: deque[tuple[int, Report]] = deque()
        self._count = 0

    def take(self, incarnation: str, acknowledged: int, wait_s: float) -> tuple[str, list[tuple[int, Report]]]:
        """Reports since number ``acknowledged`` of this incarnation, as soon as there are any, or none after ``wait_s``."""
        deadline = time.monotonic() + wait_s
        while True:
            with self._turn:
                while incarnation == self._incarnation and self._kept and self._kept[0][0] <= acknowledged:
                    self._kept.popleft()
                for report in self._node.reports():
                    self._count += 1
                    self._kept.append((self._count, report))
                if self._kept or incarnation != self._incarnation or time.monotonic() >= deadline:
                    return self._incarnation, list(self._kept)
            time.sleep(LOOK_S)

    def inventory(self) -> Inventory:
        return self._node.inventory()

    def carry_out(self, orders: Sequence[Order]) -> None:
        self._node.carry_out(orders)

    def log_path(self, run: str) -> str:
        return self._node.log_path(run)

    def read_log(self, run: str, offset: int, most: int) -> bytes:
        return self._node.read_log(run, offset, most)

    def log_span(self, run: str) -> tuple[int, int]:
        return self._node.log_span(run)

    def forget(self, runs: Sequence[str]) -> None:
        self._node.forget(runs)


def connect(
    address: str | None,
    make: Callable[[str], Node] = machine,
    lost_after_s: float = LOST_AFTER_S,
    require_token: bool = True,
) -> RayNodes:
    """Join a Ray cluster (None: RAY_ADDRESS) and find, or create, the actor of each of its nodes.

    Returns when all have answered, at the latest after ``lost_after_s`` seconds; those that have not are absent till they do.
    InputError where the cluster cannot be joined, or ``require_token`` and RAY_AUTH_MODE is not ``token``: an open cluster runs
    code of anyone who reaches it.
    """
    if require_token and os.environ.get("RAY_AUTH_MODE") != "token":
        raise InputError(
            "RAY_AUTH_MODE is not token: anyone who reaches this Ray cluster could run code on it; start Ray with tokens "
            "(docs/howto/sweeps.md, On a Ray cluster), or allow an open cluster"
        )
    joined = not ray.is_initialized()
    if joined:
        try:
            ray.init(address=address or "auto", namespace=NAMESPACE, logging_level=logging.ERROR, log_to_driver=False)
        except Exception as error:
            # Ray has a dozen ways to say that a cluster is not there or the token is wrong.
            reason = str(error).strip().split("\n")[0]
            raise InputError(
                f"Ray at {address or 'RAY_ADDRESS'}: cannot join ({reason}); check address and token"
            ) from error
    nodes = RayNodes(make, lost_after_s, joined)
    nodes.wait(lost_after_s)
    return nodes


@dataclass
class _Link:
    """One node and its actor; ``actor`` None: to be created. What is under way with it: a question, orders, an inventory."""

    node: RemoteNode
    ray_node: str
    actor: Any = None
    taking: bool = False
    sending: bool = False
    asking: bool = False
    retry_at: float = 0.0


class RayNodes:
    """``nodes`` by name, more as Ray nodes join; ``notes``: what went wrong with actors. `close` lets the actors go on; ``leaves``: it
    leaves Ray too."""

    def __init__(self, make: Callable[[str], Node], lost_after_s: float, leaves: bool = True) -> None:
        self.notes: deque[str] = deque(maxlen=1000)
        self._make, self._lost_after_s = make, lost_after_s
        self._links: dict[str, _Link] = {}
        self._events: queue.SimpleQueue[tuple[_Link, Any, str, Future[Any] | None]] = queue.SimpleQueue()
        self._actor = ray.remote(Actor)
        self._closing, self._leaves = False, leaves
        self._discover()
        self._thread = threading.Thread(target=self._loop, name="ray-nodes", daemon=True)
        self._thread.start()

    @property
    def nodes(self) -> Mapping[str, RemoteNode]:
        return {name: link.node for name, link in list(self._links.items())}

    def wait(self, timeout_s: float) -> bool:
        """Until all nodes are present; whether they are."""
        deadline = time.monotonic() + timeout_s
        while not (done := all(node.present for node in self.nodes.values())) and time.monotonic() < deadline:
            time.sleep(LOOK_S)
        return done

    def close(self) -> None:
        self._closing = True
        self._thread.join()
        if self._leaves:
            ray.shutdown()

    # The thread.

    def _loop(self) -> None:
        swept = discovered = time.monotonic()
        while not self._closing:
            with suppress(queue.Empty):
                link, actor, what, future = self._events.get(timeout=SWEEP_S)
                # An answer of an actor that is no longer the node's is worth nothing.
                if actor is link.actor or future is None:
                    self._heard(link, what, future)
                    self._drive(link)
            now = time.monotonic()
            if now >= swept + SWEEP_S:
                swept = now
                for link in list(self._links.values()):
                    if link.node.look():
                        self.notes.append(f"node {link.node.name} is lost")
                    self._drive(link)
            if now >= discovered + DISCOVER_S:
                self._discover()
                discovered = time.monotonic()

    def _discover(self) -> None:
        """Give every Ray node that is there an actor."""
        try:
            alive = {one["NodeID"]: one["NodeName"] for one in ray.nodes() if one["Alive"]}
        except Exception as error:
            self.notes.append(f"Ray does not tell its nodes: {_line(error)}")
            return
        for ray_node, name in alive.items():
            link = self._links.get(name)
            if link is None:
                link = self._links[name] = self._link(name, ray_node)
            elif link.ray_node != ray_node:
                if link.ray_node in alive:
                    told = f"two Ray nodes are called {name}: one is left out; give each its own --node-name"
                    if told not in self.notes:
                        self.notes.append(told)
                    continue
                # The machine joined anew.
                self._end_actor(link)
                link.ray_node = ray_node
            if link.actor is None and time.monotonic() >= link.retry_at:
                self._create(link)

    def _link(self, name: str, ray_node: str) -> _Link:
        node = RemoteNode(name, self._lost_after_s, lambda method, *arguments: self._ask(link, method, *arguments))
        link = _Link(node, ray_node)
        node.wake = lambda: self._events.put((link, None, "poke", None))
        return link

    def _create(self, link: _Link) -> None:
        link.taking = link.sending = link.asking = False
        try:
            link.actor = self._actor.options(
                name=f"{link.node.name}@{link.ray_node}",
                namespace=NAMESPACE,
                lifetime="detached",
                get_if_exists=True,
                max_restarts=-1,
                max_concurrency=CONCURRENT,
                num_cpus=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(link.ray_node, soft=False),
            ).remote(link.node.name, self._make)
        except Exception as error:
            self._failed(link, error)
            return
        self._drive(link)

    def _end_actor(self, link: _Link) -> None:
        """One whose Ray node is no more would wait for it for ever."""
        actor, link.actor = link.actor, None
        if actor is not None:
            with suppress(Exception):
                ray.kill(actor, no_restart=True)

    def _drive(self, link: _Link) -> None:
        """Ask and send what is to be asked and sent."""
        node = link.node
        if link.actor is None or time.monotonic() < link.retry_at:
            return
        if not link.taking:
            link.taking = True
            self._call(link, "take", *node.heard, self._lost_after_s / 3)
        if not link.asking and node.to_reconcile():
            link.asking = True
            self._call(link, "inventory")
        if node.present and not link.sending:
            orders, forgotten = node.to_send()
            if orders:
                link.sending = True
                self._call(link, "carry_out", orders)
            if forgotten:
                self._call(link, "forget", forgotten)

    def _call(self, link: _Link, method: str, *arguments: Any) -> None:
        actor = link.actor
        future = getattr(actor, method).remote(*arguments).future()
        future.add_done_callback(lambda done: self._events.put((link, actor, method, done)))

    def _heard(self, link: _Link, what: str, future: Future[Any] | None) -> None:
        if future is None:
            return
        link.taking &= what != "take"
        link.asking &= what != "inventory"
        link.sending &= what != "carry_out"
        try:
            answer = future.result()
        except Exception as error:
            if what == "carry_out":
                link.node.not_delivered()
            elif what == "inventory":
                link.node.not_reconciled()
            self._failed(link, error)
            return
        if what == "take":
            link.node.answered(*answer)
        elif what == "inventory":
            link.node.reconciled(answer)

    def _failed(self, link: _Link, error: Exception) -> None:
        link.retry_at = time.monotonic() + RETRY_S
        told = f"node {link.node.name}: {_line(error)}"
        if not self.notes or self.notes[-1] != told:
            self.notes.append(told)
        if isinstance(error, ActorDiedError):
            link.actor = None

    # Calls from other threads.

    def _ask(self, link: _Link, method: str, *arguments: Any) -> Any:
        actor = link.actor
        if actor is None:
            raise OSError(f"node {link.node.name} has no actor yet; it is absent")
        try:
            return ray.get(getattr(actor, method).remote(*arguments), timeout=ANSWER_S)
        except GetTimeoutError:
            raise OSError(f"node {link.node.name} has not answered for {ANSWER_S:g} s") from None
        except InputError:
            raise
        except (RayError, OSError) as error:
            raise OSError(f"node {link.node.name}: {_line(error)}") from error


def on_machines(device: str = "nvml", state_dir: str = "", pace: float = 1.0) -> Callable[[str], Node]:
    """``make`` for `connect`: the machines' own GPUs, or simulated ones."""
    return partial(machine, device=device, state_dir=state_dir, pace=pace)


def _line(error: Exception) -> str:
    """The last line of Ray's words, which names the cause, or all of them."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
