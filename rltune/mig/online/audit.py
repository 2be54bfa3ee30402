"""Checks a journal by itself, without the fleet's own code: every rule that tenants rely on, derived line by line.

Uses the geometry's tables and the journal's text only; `Fleet` is not asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rltune.mig.geometry import Geometry, geometry

Place = tuple[int, int, int]
"""GPU number, profile index, first memory slice."""


class Audit:
    """``check`` a record at a time; ``faults`` says what was wrong, one line each; ``holds`` who has what."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.holds: dict[tuple[str, str], Place] = {}
        self.models: dict[int, Geometry] = {}
        self.limits: dict[str, int | None] = {}
        self.quotas: dict[str, dict[str, int | None]] = {}
        self._line = 0

    def check(self, record: dict[str, Any]) -> None:
        """One record; a record may say nothing that the ones before do not allow."""
        self._line += 1
        checks = {"fleet": self._fleet, "acquire": self._acquire, "release": self._release, "migrate": self._migrate}
        if record["event"] in checks:
            checks[record["event"]](record)
        elif record["event"] not in ("deprovision", "bind", "settled"):
            self._fault(f"unknown event {record['event']!r}")
        for number in record.get("gone", ()):
            if any(place[0] == number for place in self.holds.values()):
                self._fault(f"GPU {number} is given back while a tenant holds an instance of it")
            if self.models.pop(number, None) is None:
                self._fault(f"GPU {number} is given back but was not there")

    def _fleet(self, record: dict[str, Any]) -> None:
        options = record["options"]
        self.quotas = options["quotas"]
        self.limits = {geometry(g["model"]).model: g["limit"] for g in options["growth"]}
        for model, count in options["initial"].items():
            for _ in range(count):
                self.models[len(self.models)] = geometry(model)
        if "state" in record:
            self._shortened(record["state"])

    def _shortened(self, state: dict[str, Any]) -> None:
        """A journal that was shortened begins with what there was then."""
        self.models = {number: geometry(model) for model, number, *_ in state["gpus"]}
        for model, number, _, held, _ in state["gpus"]:
            for profile, start, tenant, request in held:
                self._put((tenant, request), geometry(model).model, number, (profile, start))

    def _acquire(self, record: dict[str, Any]) -> None:
        key, number = (record["tenant"], record["request"]), record["gpu"]
        if key in self.holds:
            self._fault(f"{key} acquires what it holds already")
        if record["provisioned"]:
            if number in self.models:
                self._fault(f"GPU {number} is provisioned twice")
            self.models[number] = geometry(record["model"])
            limit = self.limits[record["model"]]
            if limit is not None and sum(g.model == record["model"] for g in self.models.values()) > limit:
                self._fault(f"more {record['model']} than the limit of {limit}")
        self._migrate(record)
        self._put(key, record["model"], number, record["placement"])
        quota = self.quotas.get(key[0], self.quotas.get("*", {}))
        mine = [self.models[p[0]].profiles[p[1]].compute for k, p in self.holds.items() if k[0] == key[0]]
        for what, used in (("instances", len(mine)), ("slices", sum(mine))):
            most = quota.get(what)
            if most is not None and used > most:
                self._fault(f"tenant {key[0]} holds {used} {what}, quota {most}")

    def _release(self, record: dict[str, Any]) -> None:
        for request in record["requests"]:
            if self.holds.pop((record["tenant"], request), None) is None:
                self._fault(f"{record['tenant']} {request!r} releases what it does not hold")

    def _migrate(self, record: dict[str, Any]) -> None:
        for move in record["moves"]:
            key = (move["tenant"], move["request"])
            if key not in self.holds:
                self._fault(f"{key} is moved but holds nothing")
                continue
            old = self.holds[key]
            was = self.models[old[0]].profiles[old[1]]
            # Both at once for a moment: the new one must fit beside everything, the old one included.
            self._put((key[0], f"{key[1]} (old)"), self.models[old[0]].model, old[0], old[1:], moving=key)
            self._put(key, move["model"], move["gpu"], move["placement"])
            del self.holds[key[0], f"{key[1]} (old)"]
            now = self.models[move["gpu"]].profiles[move["placement"][0]]
            if now.name != was.name:
                self._fault(f"{key} had {was.name} and is moved to {now.name}")

    def _put(
        self,
        key: tuple[str, str],
        model: str,
        number: int,
        placement: Iterable[int],
        moving: tuple[str, str] | None = None,
    ) -> None:
        profile, start = placement
        table = self.models.get(number)
        if moving is not None:
            self.holds.pop(moving)
        if table is None or table.model != model:
            self._fault(f"{key} is put on GPU {number}, which is no {model} of this fleet")
            return
        wanted = table.profiles[profile]
        slices = set(range(start, start + wanted.size))
        if start not in wanted.starts:
            self._fault(f"{wanted.name} cannot begin at {start}")
        for other, (gpu, index, begin) in self.holds.items():
            if gpu != number:
                continue
            theirs = table.profiles[index]
            if slices & set(range(begin, begin + theirs.size)):
                self._fault(f"{key} at {start} of GPU {number} overlaps {other}")
            if wanted.media and theirs.media:
                self._fault(f"{key} and {other} both have the media engines of GPU {number}")
        self.holds[key] = (number, profile, start)

    def _fault(self, what: str) -> None:
        self.faults.append(f"line {self._line}: {what}")


def audit(journal: str | Path) -> Audit:
    """Check a whole journal."""
    found = Audit()
    for line in Path(journal).read_text().splitlines():
        found.check(json.loads(line))
    return found
