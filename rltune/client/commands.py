"""The commands: what they ask, and what they print of the answer."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rltune.client.http import Client, ClientError
from rltune.client.lines import Lines, serve_lines
from rltune.client.show import clock, gpus_of, line_of, outline, show, table, told, what_of, where_of

FIELDS = (
    *(
        "gpus",
        "profile",
        "slice_memory_gb",
        "share",
        "cpus",
        "memory_gb",
        "estimate_s",
        "limit_s",
        "array",
        "suspend",
        "grace_s",
    ),
    *("retries", "priority", "name", "directory", "user", "gpu_types"),
)
"""Of a job, as options give them."""


def submit(client: Client, args: argparse.Namespace) -> None:
    body = document(args.file) if args.file else spec_of(args)
    answer = client.ask("POST", "/jobs", body, key=args.key or uuid.uuid4().hex, tenant=args.tenant)
    show(args, answer, "\n".join(answer["jobs"]))
    if args.follow:
        follow(client, answer["jobs"][0], None, 0)
        end = ended(client, answer["jobs"][0])
        sys.exit(0 if end["state"] == "done" else 1)


def document(file: str) -> Any:
    """JSON of a file, or of standard input (-)."""
    return json.loads(sys.stdin.read() if file == "-" else Path(file).read_text())


def spec_of(args: argparse.Namespace) -> dict[str, Any]:
    """A job as the options describe it; what is not given is left to the service."""
    spec = {name: getattr(args, name) for name in FIELDS if getattr(args, name) is not None}
    environment = dict(pair.split("=", 1) if "=" in pair else (pair, os.environ.get(pair, "")) for pair in args.env)
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    return {"command": command, **({"environment": environment} if environment else {}), **spec}


def ended(client: Client, job: str) -> dict[str, Any]:
    """A job, once it is over."""
    while (found := client.ask("GET", f"/jobs/{quote(job)}"))["state"] not in ("done", "failed", "cancelled"):
        time.sleep(0.5)
    return dict(found)


def status(client: Client, args: argparse.Namespace) -> None:
    for name in args.id:
        room = "leases" if name.startswith("lease-") else "jobs"
        found = client.ask("GET", f"/{room}/{quote(name)}")
        show(
            args,
            found,
            "\n".join(f"{key:10} {told(value)}" for key, value in found.items() if value not in (None, "", [], {})),
        )


def listed(client: Client, args: argparse.Namespace) -> None:
    query = {"state": args.state, "tenant": args.tenant, "kind": args.kind, "limit": min(1000, args.most)}
    found = []
    for each in client.pages("/jobs", **query):
        found.append(each)
        if len(found) >= args.most:
            break
    rows = [(x["id"], x["tenant"], x["state"], what_of(x), where_of(x), x["reason"]) for x in found]
    show(args, found, table(("id", "tenant", "state", "asks for", "holds", "reason"), rows))


def logs(client: Client, args: argparse.Namespace) -> None:
    if args.follow:
        follow(client, args.id, args.run, args.rank, args.tail)
        return
    offset = 0
    while True:
        query = {"run": args.run, "rank": args.rank, "limit": 1 << 20}
        query |= {"tail": args.tail} if args.tail is not None else {"offset": offset}
        text = client.ask("GET", f"/jobs/{quote(args.id)}/logs", **query)
        sys.stdout.write(text)
        offset += len(text.encode())
        if not text or args.tail is not None:
            return


def follow(client: Client, job: str, run: int | None, rank: int, tail: int | None = None) -> None:
    """Print what a job prints until its run is over; waits for the run to begin."""
    while True:
        try:
            for what, data in client.events(f"/jobs/{quote(job)}/logs", run=run, rank=rank, tail=tail, follow="true"):
                if what == "log":
                    sys.stdout.write(json.loads(data)["text"])
                    sys.stdout.flush()
            return
        except ClientError as error:
            if error.status != 409 or client.ask("GET", f"/jobs/{quote(job)}")["state"] != "waiting":
                raise
            time.sleep(0.5)


def cancel(client: Client, args: argparse.Namespace) -> None:
    for name in args.id:
        room = "leases" if name.startswith("lease-") else "jobs"
        answer = client.ask("DELETE", f"/{room}/{quote(name)}")
        show(args, answer, f"{answer['id']} {answer['state']}")


def acquire(client: Client, args: argparse.Namespace) -> None:
    spec: dict[str, Any] = {"profile": args.profile} if args.profile else {"gpus": args.gpus or 1}
    spec |= {
        name: getattr(args, name)
        for name in ("wait_s", "ttl_s", "name", "gpu_types")
        if getattr(args, name) is not None
    }
    answer = client.ask(
        "POST", "/leases", spec, wait_s=args.wait_s or 0, key=args.key or uuid.uuid4().hex, tenant=args.tenant
    )
    show(args, answer, f"{answer['id']} {where_of(answer)} {' '.join(answer['devices'].values())}")


def renew(client: Client, args: argparse.Namespace) -> None:
    answer = client.ask("POST", f"/leases/{quote(args.id)}/renew", {"ttl_s": args.ttl_s})
    show(args, answer, f"{answer['id']} until {clock(answer['expires_s'])}")


def nodes(client: Client, args: argparse.Namespace) -> None:
    found: list[dict[str, Any]] = []
    cursor = None
    while not found or cursor is not None:
        page = client.ask("GET", "/cluster", cursor=cursor, limit=1000, node=args.node)
        found, cursor = found + page["nodes"], page["next"]
    rows = [(x["name"], x["gpu_type"], x["state"], gpus_of(x), x["reason"]) for x in found]
    show(args, found, table(("node", "type", "state", "GPUs (. free, # held, / in slices)", "reason"), rows))


def drain(client: Client, args: argparse.Namespace) -> None:
    body = {"reason": args.reason} if args.reason else None
    answer = client.ask("POST", f"/nodes/{quote(args.node)}/drain", body)
    show(args, answer, f"{answer['name']} {answer['state']}: {answer['reason']}")


def undrain(client: Client, args: argparse.Namespace) -> None:
    answer = client.ask("POST", f"/nodes/{quote(args.node)}/undrain")
    show(args, answer, f"{answer['name']} {answer['state']}")


def policy(client: Client, args: argparse.Namespace) -> None:
    body = {
        name: getattr(args, name)
        for name in ("policy", "backfill", "allocator", "shadow")
        if getattr(args, name) is not None
    }
    body |= {"rollback": True} if args.rollback else {}
    # A policy may have to be loaded and compiled first.
    answer = client.ask("PUT", "/policy", body, wait_s=600) if body else client.ask("GET", "/policy")
    known = "\n".join(f"{name:10} {', '.join(values)}" for name, values in answer["known"].items())
    now = f"policy={answer['policy']} backfill={answer['backfill']} allocator={answer['allocator']}"
    show(args, answer, now if body else f"{now}\n{known}")


def explained(what: str) -> Callable[[Client, argparse.Namespace], None]:
    """A command that shows an explanation: of a job (why, when), or of the whole (plan, queue)."""

    def command(client: Client, args: argparse.Namespace) -> None:
        path = f"/jobs/{quote(args.id)}/{what}" if hasattr(args, "id") else f"/{what}"
        answer = client.ask("GET", path, wait_s=300)
        show(args, answer, outline(answer))

    return command


def what_if(client: Client, args: argparse.Namespace) -> None:
    answer = client.ask("POST", "/what-if", json.loads(args.question), wait_s=300)
    show(args, answer, outline(answer))


def events(client: Client, args: argparse.Namespace) -> None:
    query = {"job": args.job, "what": args.what}
    if not args.follow:
        since = args.since or 0
        while page := client.ask("GET", "/events", since=since, follow="false", **query):
            for event in page["items"]:
                print(json.dumps(event) if args.json else line_of(event))
            if page["next"] == since:
                return
            since = page["next"]
    for _, data in client.events("/events", since=args.since, **query):
        print(data if args.json else line_of(json.loads(data)), flush=True)


def lines(client: Client, args: argparse.Namespace) -> None:
    serve_lines(Lines(client), sys.stdin, sys.stdout)
