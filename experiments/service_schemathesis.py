"""Requests made up from the service's own OpenAPI description: ``python experiments/service_schemathesis.py [--cases 10000]``.

Schemathesis makes requests that fit the description, and ones that do not, for every endpoint; half of those with a path name jobs,
leases and nodes that there are. They go to the application over an engine with a thread, a database on disk and virtual nodes, as an
operator and as a tenant. Counted: answers of 500 and more, answers that the description does not tell (status, content type, schema),
and requests that do not fit and were accepted. Writes the part "schemathesis" of results/service.json.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import schemathesis
from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from recording import write_part
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from rltune.config import load_cluster
from rltune.service.app import make_app
from rltune.service.clock import WallClock
from rltune.service.dispatch import Seat
from rltune.service.engine import Engine
from rltune.service.nodes.virtual import VirtualNode
from rltune.service.store import Store
from rltune.service.web.context import WebOptions
from rltune.service.web.security import add_token
from rltune.simulator.requests import Rules

CHECKS = (not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance)
THERE = {"id": ["job-1", "job-2", "job-3[0]", "job-9", "lease-4", "lease-8"], "name": ["a100-0", "a100-1"]}
"""Names in paths that there are (or were)."""


class Site:
    """The application in this process; ``ask`` sends one request to it. ``app`` and ``http`` may be another's."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        cluster = load_cluster("live")
        seats = [Seat(f"a100-{k}", (0, 1, 2, 3)) for k in range(cluster.nodes)]
        nodes = [VirtualNode(seat.machine, ["A100-40GB"] * 4, mig=True) for seat in seats]
        store = Store(folder / "state.sqlite")
        stack.callback(store.close)
        engine = Engine(store, cluster, Rules(), nodes, seats, WallClock(time.time()))
        self.tokens = [add_token(store, "operator", "operator"), add_token(store, "ann", "tenant", "ann")]
        self.app = make_app(engine, None, WebOptions(rate=0))
        engine.start()
        stack.callback(engine.stop)
        portal = stack.enter_context(start_blocking_portal())
        stack.enter_context(portal.wrap_async_context_manager(self.app.router.lifespan_context(self.app)))
        http = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app, raise_app_exceptions=False), base_url="http://testserver"
        )
        self.ask = lambda **request: portal.call(partial(http.request, timeout=600, **request))


class Counts:
    """Of what was sent and found; ``shown``: the first failures of each kind."""

    def __init__(self) -> None:
        self.cases, self.server_errors, self.untold, self.accepted_though_wrong = 0, 0, 0, 0
        self.statuses: Counter[int] = Counter()
        self.shown: dict[str, str] = {}

    def told(self) -> dict[str, Any]:
        return {
            "cases": self.cases,
            "server_errors": self.server_errors,
            "not_as_described": self.untold,
            "wrong_and_accepted": self.accepted_though_wrong,
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
        }


def fuzz(app: Any, ask: Any, tokens: list[str], cases: int, first_seed: int = 0, only: tuple[str, ...] = ()) -> Counts:
    """About ``cases`` requests over all endpoints (or ``only`` these); half of them fit the description."""
    counts = Counts()
    described = copy.deepcopy(app.openapi())
    for route in (route for methods in described["paths"].values() for route in methods.values()):
        # Requests without a token are not what is tried here.
        route.pop("security", None)
    operations = [each.ok() for each in schemathesis.openapi.from_dict(described).get_all_operations()]
    operations = [each for each in operations if not only or each.label in only]
    each = max(1, cases // (2 * len(operations)))
    for number, operation in enumerate(operations):
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            try:
                strategy = operation.as_strategy(generation_mode=mode)
                _one_operation(strategy, mode, partial(_try, counts, ask, tokens), each, first_seed + number)
            except Exception as error:
                # Nothing can be made that does not fit an operation without parameters.
                if "Unsatisfiable" not in type(error).__name__:
                    raise
    return counts


def _one_operation(strategy: Any, mode: GenerationMode, act: Any, examples: int, first_seed: int) -> None:
    @seed(first_seed)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(strategy, st.data())
    def one(case: Any, data: st.DataObject) -> None:
        for name, known in THERE.items():
            if name in case.path_parameters and data.draw(st.booleans()):
                case.path_parameters[name] = data.draw(st.sampled_from(known))
        act(case, mode, data.draw(st.booleans()))

    one()


def _try(counts: Counts, ask: Any, tokens: list[str], case: Any, mode: GenerationMode, operator: bool) -> None:
    """One request; what its answer is not supposed to be is counted."""
    if case.path.endswith(("/events", "/logs")):
        # A stream would not end.
        case.query = {**(case.query or {}), "follow": "false"}
    if isinstance(case.body, dict) and isinstance(case.body.get("wait_s"), int | float):
        case.body["wait_s"] = min(case.body["wait_s"], 0.01)
    asked = case.as_transport_kwargs(base_url="http://testserver")
    asked["headers"] = {**asked["headers"], "Authorization": f"Bearer {tokens[0 if operator else 1]}"}
    asked.pop("cookies", None)
    try:
        answer = ask(**asked)
    except (httpx.InvalidURL, httpx.LocalProtocolError, UnicodeEncodeError):
        # No client can send it.
        return
    counts.cases += 1
    counts.statuses[answer.status_code] += 1
    counts.server_errors += answer.status_code >= 500
    for check in CHECKS if mode is GenerationMode.POSITIVE else (*CHECKS, negative_data_rejection):
        try:
            case.validate_response(answer, checks=[check], excluded_checks=[])
        except (Failure, FailureGroup, AssertionError) as error:
            if check is negative_data_rejection:
                counts.accepted_though_wrong += 1
            elif check is not not_a_server_error:
                counts.untold += 1
            what = f"{case.method} {case.path} {check.__name__} {answer.status_code}"
            counts.shown.setdefault(what, f"{str(error)[:600]} | {asked} | {answer.text[:300]}")


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--cases", type=int, default=10_000)
    words.add_argument("--seed", type=int, default=1)
    args = words.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        site = Site(Path(folder), stack)
        found = fuzz(site.app, site.ask, site.tokens, args.cases, args.seed)
    for what, shown in found.shown.items():
        print(what, shown, sep="\n  ", file=sys.stderr)
    write_part("schemathesis", found.told() | {"schemathesis": schemathesis.__version__})
    print(json.dumps(found.told(), indent=1))


if __name__ == "__main__":
    main()
