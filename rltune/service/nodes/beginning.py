"""With what a job begins: as which user, in which environment; and what is the job's own slip when it cannot."""

from __future__ import annotations

import errno
import os
import pwd
import re
from collections.abc import Mapping
from dataclasses import dataclass

from rltune.devices.execution.keeper import MARK
from rltune.nouns.errors import InputError
from rltune.service.nodes.records import NAME, Order
from rltune.service.orders import Begin, Command

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
KEPT = ("PATH", "LANG", "LC_ALL", "TZ")
"""Of the node's environment, in that of every job."""
ERRNO = re.compile(r"\[Errno (\d+)\]")
CANNOT_RUN, NOT_THERE = 126, 127
"""Exit statuses of a shell for a command that it cannot run."""
OF_ERRNO = dict.fromkeys((errno.ENOENT, errno.ENOTDIR), NOT_THERE) | dict.fromkeys(
    (errno.EACCES, errno.EISDIR, errno.ENOEXEC, errno.E2BIG, errno.ELOOP, errno.ENAMETOOLONG), CANNOT_RUN
)
"""What a command may be to blame for; a full disk or table of processes it is not."""


class JobsOwn(InputError):
    """What is wrong with the job, not with the machine."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a run finds on this node: ``devices`` it sees, by which variables (``seen``); ``user`` name, uid and gid, None: the node's own;
    ``boot`` of the machine; ``mark`` that its processes carry; ``log_bytes`` of its output that are kept at least."""

    devices: list[str]
    seen: Mapping[str, str]
    user: tuple[str, int, int] | None
    boot: str
    mark: str
    log_bytes: int


def checked(run: str) -> str:
    if not NAME.fullmatch(run):
        raise InputError(
            f"run {run[:40]!r}: a name has 1 to 128 letters, digits, dots, hyphens, underscores and brackets"
        )
    return run


def user_of(command: Command, node: str) -> tuple[str, int, int] | None:
    """Name, uid and gid that a command runs as; None: as the node itself."""
    if command.user is None:
        return None
    try:
        found = pwd.getpwnam(command.user)
    except KeyError:
        raise JobsOwn(f"user {command.user} is not known on {node}; create it there") from None
    if found.pw_uid == os.geteuid() and found.pw_uid:
        return None
    if found.pw_uid == 0:
        raise JobsOwn("user root: jobs do not run as root by name; name another user")
    if os.geteuid():
        raise JobsOwn(f"user {command.user}: only root may run jobs as others; run the node as root, or name no user")
    return command.user, found.pw_uid, found.pw_gid


def record_of(order: Begin, around: Surroundings) -> Order:
    """What its shepherd, and a later node, must know of a run: command, environment, places."""
    command, user = order.command, around.user
    own = pwd.getpwuid(os.geteuid()) if user is None else pwd.getpwnam(user[0])
    home = own.pw_dir if os.path.isdir(own.pw_dir) else "/"
    environment = {"PATH": PATH} | {name: os.environ[name] for name in KEPT if name in os.environ}
    environment |= {"HOME": home, "USER": own.pw_name, "LOGNAME": own.pw_name, "SHELL": own.pw_shell or "/bin/sh"}
    environment |= {**command.environment}
    environment |= around.seen
    environment |= {
        "RLTUNE_JOB": order.job, "RLTUNE_RUN": order.run, "RLTUNE_RANK": str(order.rank), "RLTUNE_WORLD": str(order.world),
        "RLTUNE_PEERS": ",".join(order.peers), MARK: around.mark,
    }  # fmt: skip
    if order.resumes:
        environment["RLTUNE_RESUME"] = "1"
    held = [(one.gpu, one.instance) for one in order.held]
    return Order(
        order.job, held, around.devices, command.suspend, around.boot, list(command.argv), environment,
        command.directory or home, user, command.grace_s, around.log_bytes, around.mark,
    )  # fmt: skip


def code_of(problem: str) -> int:
    """Exit status, as of a shell, for a command that is not there or may not be run; 0: that is not the job's own doing."""
    found = ERRNO.match(problem)
    return OF_ERRNO.get(int(found[1]), 0) if found else 0
