"""``python -m rltune.serve``: the live service in one command; its tokens, backups and export."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import os
import shutil
import socket
import ssl
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from rltune.config.serving import Serve
from rltune.entry import fail, run_main
from rltune.nouns.errors import InputError
from rltune.pages.serving import LOOPBACK
from rltune.service.app import make_app
from rltune.service.exporting import export, faults
from rltune.service.opening import DATABASE, TOKEN_FILE, Opened, alone, open_store, opened, state_directory
from rltune.service.store import Store, StoreError
from rltune.service.web.context import WebOptions
from rltune.service.web.security import OPERATOR, Users, add_token, list_tokens, revoke_token

FREE_S = 10.0
"""For an address to come free."""
GRACE_S = 5
"""For answers under way when the service goes down."""
MOST_HEADERS = 65_536
"""Bytes of a request's headers."""
MOST_CONNECTIONS = 10_000
BACKLOG = 2048
FOOTER = """Commands beside (state=DIR as above):
  token add NAME role=operator|tenant|reader [tenant=NAME]   a new token, shown once
  token list; token revoke NAME
  backup FILE            a consistent copy of the database, while the service runs too
  restore FILE           the database of a backup; the one before is kept beside it
  export FILE [leases=false]   jobs that are over as a CSV trace: +trace=file trace.path=FILE
  check                  what is wrong with the database: nothing, or exit status 1"""


def serve(cfg: dict[str, Any]) -> None:
    """Serve until a signal: the first ends it in order, the second at once (nothing is lost by that either)."""
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.WARNING, stream=sys.stderr)
    users = users_of(cfg)
    tls = check_address(cfg)
    with listening(str(cfg["host"]), int(cfg["port"])) as listener, opened(cfg) as service:
        token = first_token(service.store, state_directory(cfg["state"])) if cfg["auth"] == "token" else None
        loopback = is_loopback(str(cfg["host"]))
        hosts = [cfg["hosts"]] if isinstance(cfg["hosts"], str) else cfg["hosts"]
        options = WebOptions(
            auth=cfg["auth"] == "token", hosts=tuple(hosts) if hosts else LOOPBACK if loopback else None,
            most_body=cfg["most_body"], rate=cfg["rate"], burst=cfg["burst"], streams=cfg["most_streams"], users=users,
        )  # fmt: skip
        app = make_app(service.engine, service.policies, options)
        server = Server(
            uvicorn.Config(
                app, loop="uvloop", http=Limited, ws="none", log_config=None, access_log=False, server_header=False,
                timeout_graceful_shutdown=GRACE_S, limit_concurrency=MOST_CONNECTIONS, backlog=BACKLOG, **tls,
            ),
            app.state.web.feed.end,
        )  # fmt: skip
        # Whoever reads the address below may connect at once.
        listener.listen(BACKLOG)
        tell(service, cfg, address(cfg, listener), token)
        server.run(sockets=[listener])
    print("stopped; jobs go on, and the next start finds them", flush=True)


def tell(service: Opened, cfg: Mapping[str, Any], url: str, token: str | None) -> None:
    """What a person needs to know, once."""
    cluster = service.engine.cluster
    print(f"cluster   {cluster.name}: {cluster.nodes} nodes, {cluster.gpus} GPUs, device={cfg['device']}")
    print(f"policy    {service.engine.policy_name}")
    for note in service.notes:
        print(f"note      {note}")
    print(f"state     {state_directory(cfg['state'])}")
    if token is not None:
        print(f"token     {token}")
    print(f"page      {url}/ (what can be asked: {url}/docs)")
    print(f"address   {url}", flush=True)


# --- address ---------------------------------------------------------------------------------------


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_address(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Refuse what would show tokens to others; certificate and key for uvicorn."""
    host, given = cfg["host"], [name for name in ("tls_cert", "tls_key") if cfg[name]]
    if len(given) == 1:
        raise InputError(f"{given[0]} needs the other of tls_cert and tls_key too")
    if not is_loopback(host):
        if cfg["auth"] == "none":
            raise InputError(
                f"auth=none with host={host}: anybody could run commands here; use tokens, or host=127.0.0.1"
            )
        if not given and not cfg["insecure"]:
            raise InputError(
                f"host={host} without TLS would show tokens to others; give tls_cert and tls_key (or insecure=true)"
            )
    if not given:
        return {}
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cfg["tls_cert"], cfg["tls_key"])
    except OSError as error:
        # Of ssl's own errors too: wrong format, key of another certificate.
        why = error.strerror or str(error)
        raise InputError(f"tls_cert={cfg['tls_cert']}, tls_key={cfg['tls_key']}: cannot be used ({why})") from None
    return {"ssl_certfile": cfg["tls_cert"], "ssl_keyfile": cfg["tls_key"]}


def listening(host: str, port: int) -> socket.socket:
    """A socket of the address; InputError where it is taken for longer than `FREE_S`.

    A service that was killed leaves its address for a moment to a process that it was just beginning.
    """
    deadline = time.monotonic() + (FREE_S if port else 0.0)
    while True:
        try:
            kind, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
            listener = socket.socket(kind, socket.SOCK_STREAM)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(where)
            break
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                raise InputError(
                    f"host={host} port={port}: cannot listen there ({error.strerror}); give another, port=0 takes any"
                ) from None
            time.sleep(0.2)
    listener.set_inheritable(False)
    return listener


def address(cfg: Mapping[str, Any], listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    host = f"[{host}]" if ":" in host else host
    return f"{'https' if cfg['tls_cert'] else 'http'}://{host}:{port}"


# --- tokens and users ------------------------------------------------------------------------------


def first_token(store: Store, folder: Path) -> str:
    """The file with an operator's token, which the first start writes for whoever may read the state directory."""
    path = folder / TOKEN_FILE
    if any(each["role"] == OPERATOR and each["revoked_s"] is None for each in list_tokens(store)):
        return str(path) if path.exists() else "(none is written down; python -m rltune.serve token add makes one)"
    token = add_token(store, "operator", OPERATOR)
    try:
        part = path.with_name(f".{path.name}.part")
        part.unlink(missing_ok=True)
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(f"{token}\n")
        os.replace(part, path)
    except OSError as error:
        revoke_token(store, "operator")
        raise InputError(f"{path}: cannot be written ({error.strerror}); name another directory: state=") from None
    return str(path)


def users_of(cfg: Mapping[str, Any]) -> Users:
    """Unix users of tenants' jobs; InputError for those that cannot be."""
    of = cfg["users"] or {}
    if not isinstance(of, Mapping) or not all(isinstance(x, str) for pair in of.items() for x in pair):
        raise InputError(f"users={of!r}; tenants and their Unix users are needed, such as {{ann: ann}}")
    harmless = os.geteuid() != 0 or cfg["device"] == "virtual"
    as_service = harmless if cfg["as_service"] is None else bool(cfg["as_service"])
    users = Users(dict(of), as_service, bool(cfg["any_user"]))
    users.check()
    return users


# --- server ----------------------------------------------------------------------------------------


class Server(uvicorn.Server):
    """Ends by its own rule; ``closing`` lets open streams end."""

    def __init__(self, config: uvicorn.Config, closing: Callable[[], None]) -> None:
        super().__init__(config)
        self._closing = closing
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Not noted for uvicorn to raise again: an end in order is exit status 0."""
        if self.should_exit:
            os._exit(128 + sig)
        self.should_exit = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._closing)


class Limited(HttpToolsProtocol):
    """Headers that never end are refused before they fill the memory."""

    _heading = 0

    def data_received(self, data: bytes) -> None:
        self._heading += len(data)
        super().data_received(data)
        if self._heading > MOST_HEADERS and not self.transport.is_closing():
            self.transport.close()

    def on_headers_complete(self) -> None:
        self._heading = float("-inf")  # type: ignore[assignment]
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._heading = 0
        super().on_message_complete()


# --- commands beside -------------------------------------------------------------------------------


def words_of(words: list[str], usage: str, options: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """Words and ``name=value`` of a command; InputError, which shows the usage, for others."""
    given = dict(options)
    plain = []
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            plain.append(word)
        elif name in options:
            given[name] = value
        else:
            raise InputError(f"option {name} is unknown; known are {', '.join(options)}; usage: {usage}")
    return plain, given


def _store(given: Mapping[str, str]) -> Store:
    folder = state_directory(given["state"] or None)
    if not (folder / DATABASE).is_file():
        raise InputError(f"state={folder}: no service has run there; name the directory of one")
    return open_store(folder)


def token_command(words: list[str]) -> None:
    usage = "python -m rltune.serve token add NAME role=ROLE [tenant=NAME] | list | revoke NAME [state=DIR]"
    plain, given = words_of(words, usage, {"state": "", "role": "", "tenant": ""})
    if plain[:1] == ["add"] and len(plain) == 2:
        folder = state_directory(given["state"] or None)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        print(add_token(open_store(folder), plain[1], given["role"], given["tenant"] or None))
    elif plain == ["list"]:
        for each in list_tokens(_store(given)):
            state = "valid" if each["revoked_s"] is None else f"revoked {when(each['revoked_s'])}"
            print(
                f"{each['name']:20} {each['role']:9} {each['tenant'] or '-':20} since {when(each['created_s'])}, {state}"
            )
    elif plain[:1] == ["revoke"] and len(plain) == 2:
        revoke_token(_store(given), plain[1])
    else:
        raise InputError(f"usage: {usage}")


def when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def backup_command(words: list[str]) -> None:
    plain, given = words_of(words, usage := "python -m rltune.serve backup FILE [state=DIR]", {"state": ""})
    if len(plain) != 1:
        raise InputError(f"usage: {usage}")
    _store(given).backup(plain[0])
    print(plain[0])


def restore_command(words: list[str]) -> None:
    """The service must not run: jobs that began since the backup are unknown to it, and are stopped when it starts."""
    plain, given = words_of(words, usage := "python -m rltune.serve restore FILE [state=DIR]", {"state": ""})
    if len(plain) != 1:
        raise InputError(f"usage: {usage}")
    source, folder = Path(plain[0]), state_directory(given["state"] or None)
    if not source.is_file():
        raise InputError(f"{source}: no such file; give a backup")
    with alone(folder):
        part = folder / f".{DATABASE}.part"
        shutil.copyfile(source, part)
        part.chmod(0o600)
        _check_backup(part, source)
        target = folder / DATABASE
        if target.exists():
            kept = folder / f"{DATABASE}.{time.strftime('%Y%m%d-%H%M%S')}"
            for end in ("", "-wal", "-shm"):
                if (old := Path(f"{target}{end}")).exists():
                    old.rename(f"{kept}{end}")
            print(f"note: the database of before is {kept}", file=sys.stderr)
        part.rename(target)
    print(folder / DATABASE)


def _check_backup(part: Path, source: Path) -> None:
    try:
        store = Store(part)
        wrong = faults(store)
        store.close()
    except (InputError, StoreError) as error:
        part.unlink(missing_ok=True)
        raise InputError(str(error).replace(str(part), str(source))) from None
    for end in ("-wal", "-shm"):
        Path(f"{part}{end}").unlink(missing_ok=True)
    if wrong:
        part.unlink()
        raise InputError(f"{source}: {wrong[0]}; give another backup")


def export_command(words: list[str]) -> None:
    usage = "python -m rltune.serve export FILE [leases=false] [state=DIR]"
    plain, given = words_of(words, usage, {"state": "", "leases": "true"})
    if len(plain) != 1 or given["leases"] not in ("true", "false"):
        raise InputError(f"usage: {usage}")
    written, left_out = export(_store(given), Path(plain[0]), given["leases"] == "true")
    print(f"note: {written} jobs; {left_out} left out (not over, never ran, or leases=false)", file=sys.stderr)
    print(plain[0])


def check_command(words: list[str]) -> None:
    plain, given = words_of(words, usage := "python -m rltune.serve check [state=DIR]", {"state": ""})
    if plain:
        raise InputError(f"usage: {usage}")
    found = faults(_store(given))
    for line in found:
        print(line)
    if found:
        sys.exit(1)
    print("nothing is wrong with it")


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "token": token_command,
    "backup": backup_command,
    "restore": restore_command,
    "export": export_command,
    "check": check_command,
}


def main() -> None:
    """A command beside, or the service."""
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    if word in COMMANDS:
        if {"-h", "--help"} & set(sys.argv[2:]):
            print(FOOTER)
            return
        try:
            COMMANDS[word](sys.argv[2:])
        except (InputError, StoreError) as error:
            fail(error)
        return
    if word and word[0].isalpha() and "=" not in word:
        fail(
            InputError(
                f"command {word!r} is unknown; known are {', '.join(COMMANDS)}, and options NAME=VALUE (see --help)"
            )
        )
    run_main(serve, Serve, FOOTER)


if __name__ == "__main__":
    main()
