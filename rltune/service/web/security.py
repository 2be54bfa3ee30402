"""Who asks, and what they may: tokens of which only digests are kept, three roles, a rate for each token, Unix users of jobs."""

from __future__ import annotations

import hmac
import os
import pwd
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rltune.nouns.errors import InputError
from rltune.service.errors import Refused
from rltune.service.specs import NAME, JobSpec
from rltune.service.store import Store, digest_of

OPERATOR, TENANT, READER = "operator", "tenant", "reader"
ROLES = (OPERATOR, TENANT, READER)
"""Operators do everything, for every tenant; tenants what is theirs; readers change nothing."""
LOCAL = "local"
"""Tenant of jobs whose sender names none."""
FRESH_S = 1.0
"""Tokens that were added or revoked meanwhile are known after so long."""
MOST_BUCKETS = 10_000


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. ``tenant``: the only one that they see; None: all."""

    name: str
    role: str
    tenant: str | None = None

    def sees(self, tenant: str | None) -> bool:
        """Whether the caller may see what belongs to a tenant (None: to no tenant)."""
        return self.tenant is None or tenant is None or tenant == self.tenant

    def on_behalf(self, tenant: str | None) -> str:
        """The tenant that a job or lease is for; `Refused` (403) for another's."""
        if tenant is not None and not self.sees(tenant):
            raise Refused(403, f"tenant={tenant}: this token is of tenant {self.tenant}; leave tenant out")
        return tenant or self.tenant or LOCAL


NOBODY = Caller("nobody", OPERATOR)
"""The caller of a service that runs with auth=none."""


# --- tokens ----------------------------------------------------------------------------------------


def add_token(store: Store, name: str, role: str, tenant: str | None = None) -> str:
    """A new token, which is shown once: only its digest is kept. InputError for a name that is taken, or a role that is none."""
    if role not in ROLES:
        raise InputError(f"role={role}; known are {', '.join(ROLES)}")
    for what, text in (("name", name), ("tenant", tenant)):
        if text is not None and not re.fullmatch(NAME, text):
            raise InputError(
                f"{what}={text[:100]!r}; 1 to 100 letters, digits or ._:@/- are needed, the first a letter or digit"
            )
    if role == TENANT and tenant is None:
        raise InputError(f"token {name}: a token of role tenant needs tenant=NAME")
    if role == OPERATOR and tenant is not None:
        raise InputError(f"token {name}: an operator is of no tenant; leave tenant out, or use role=tenant")
    token = f"rlt_{secrets.token_urlsafe(32)}"
    with store.transaction() as link:
        if link.execute("SELECT 1 FROM tokens WHERE name = ? AND revoked_s IS NULL", (name,)).fetchone():
            raise InputError(f"token {name} is there already; revoke it first, or use another name")
        link.execute("DELETE FROM tokens WHERE name = ?", (name,))
        link.execute(
            "INSERT INTO tokens VALUES (?, ?, ?, ?, ?, NULL)", (digest_of(token), name, role, tenant, time.time())
        )
    return token


def revoke_token(store: Store, name: str) -> None:
    """A token is refused from now on. InputError where there is none of the name."""
    with store.transaction() as link:
        done = link.execute("UPDATE tokens SET revoked_s = ? WHERE name = ? AND revoked_s IS NULL", (time.time(), name))
        if not done.rowcount:
            raise InputError(f"token {name} is none that is valid; python -m rltune.serve token list shows them")


def list_tokens(store: Store) -> list[dict[str, Any]]:
    """All tokens, without what they are."""
    return [
        dict(row) for row in store.read("SELECT name, role, tenant, created_s, revoked_s FROM tokens ORDER BY name")
    ]


class Tokens:
    """The tokens of a store, as they were at most `FRESH_S` ago."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, Caller] = {}
        self._read_at = float("-inf")

    def caller(self, token: str) -> Caller | None:
        """The token's owner; None: it is unknown."""
        if time.monotonic() - self._read_at > FRESH_S:
            rows = self._store.read("SELECT digest, name, role, tenant FROM tokens WHERE revoked_s IS NULL")
            self._known = {row["digest"]: Caller(row["name"], row["role"], row["tenant"]) for row in rows}
            self._read_at = time.monotonic()
        # Looked up by digest, whose beginning cannot be chosen; every one is compared in constant time all the same.
        digest = digest_of(token)
        found = None
        for known, caller in self._known.items() if len(self._known) <= 64 else self._one(digest):
            if hmac.compare_digest(known, digest):
                found = caller
        return found

    def _one(self, digest: str) -> list[tuple[str, Caller]]:
        return [(digest, self._known[digest])] if digest in self._known else []


# --- rates -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class Bucket:
    """Of requests: ``left`` may come at once."""

    left: float
    at_s: float


@dataclass(slots=True)
class Rates:
    """``rate`` requests a second in the long run for each name, ``burst`` at once; a rate of 0: as many as come."""

    rate: float
    burst: int
    _buckets: dict[str, Bucket] = field(default_factory=dict)

    def take(self, name: str, now_s: float | None = None) -> None:
        """One request; `Refused` (429) where it is one too many."""
        if self.rate <= 0:
            return
        now = time.monotonic() if now_s is None else now_s
        bucket = self._buckets.get(name)
        if bucket is None:
            if len(self._buckets) >= MOST_BUCKETS:
                # Those that have not been used for longest are full again, and nothing is lost with them.
                self._buckets.pop(min(self._buckets, key=lambda each: self._buckets[each].at_s))
            bucket = self._buckets[name] = Bucket(float(self.burst), now)
        bucket.left = min(float(self.burst), bucket.left + (now - bucket.at_s) * self.rate)
        bucket.at_s = now
        if bucket.left < 1:
            raise Refused(
                429,
                f"more than {self.rate:g} requests a second (and {self.burst} at once); send fewer, try again later",
            )
        bucket.left -= 1


# --- Unix users ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Users:
    """Which Unix user a tenant's jobs run as.

    ``of``: tenant -> user; ``as_service``: the others' jobs run as the service itself; ``any_user``: jobs may name a user.
    """

    of: Mapping[str, str] = field(default_factory=dict)
    as_service: bool = True
    any_user: bool = False

    def check(self) -> None:
        """InputError for users that there are not, or that this service cannot run jobs as."""
        for tenant, user in self.of.items():
            try:
                pwd.getpwnam(user)
            except KeyError:
                raise InputError(f"users={{{tenant}: {user}}}: there is no such user on this machine") from None
        if (self.of or self.any_user) and os.geteuid() != 0:
            raise InputError(
                "users, any_user: only root can run jobs as others; start the service as root, or leave them out"
            )

    def apply(self, spec: JobSpec, tenant: str) -> JobSpec:
        """The job with the user that it runs as; `Refused` (403) where it may not run."""
        mapped = self.of.get(tenant)
        if spec.user is not None and spec.user != mapped:
            if not self.any_user:
                raise Refused(
                    403, f"user={spec.user}: jobs of tenant {tenant} run as {mapped or 'the service'}; leave user out"
                )
            return spec
        if mapped is None and not self.as_service:
            raise Refused(
                403,
                f"tenant {tenant} has no Unix user here; the service needs users={{{tenant}: NAME}}, or as_service=true for all",
            )
        return spec if mapped is None else spec.model_copy(update={"user": mapped})
