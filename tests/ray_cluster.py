"""A real Ray cluster of two nodes on this machine, with token authentication: for tests of what outlives a node."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class RayNode:
    """A node of a Ray cluster, with a temporary folder of its own; in a process group that ends with the test."""

    def __init__(self, token: str, *words: str) -> None:
        # Ray's sockets lie in it, and their names may have 107 characters.
        self.folder = tempfile.mkdtemp(prefix="ray")
        environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (os.getcwd(), os.environ.get("PYTHONPATH"))))
        start = [sys.executable, "-m", "ray.scripts.scripts", "start", *words, "--num-cpus=1"]
        self.process = subprocess.Popen(
            [*start, f"--temp-dir={self.folder}", "--block"],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def end(self, patience_s: float = 400) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(patience_s)
        shutil.rmtree(self.folder, ignore_errors=True)


def nodes_alive(environment: Mapping[str, str]) -> int:
    """As a driver sees them; 0 while there is no cluster."""
    code = "import ray; ray.init(log_to_driver=False); print('alive', sum(n['Alive'] for n in ray.nodes()))"
    told = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, check=False
    )
    return int(told.stdout.split("alive")[-1]) if "alive" in told.stdout else 0


@contextmanager
def two_nodes(patience_s: float) -> Iterator[tuple[dict[str, str], list[RayNode]]]:
    """Nodes ``n0`` (the head) and ``n1``: what a driver's environment needs for them, and the list, to which more may be added."""
    token = secrets.token_hex(16)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_ADDRESS": f"127.0.0.1:{port}"}
    nodes = [RayNode(token, "--head", "--node-name=n0", f"--port={port}", "--include-dashboard=false")]
    try:
        for number in (1, 2):
            until = time.monotonic() + patience_s
            while nodes_alive(environment) < number:
                assert time.monotonic() < until
            if number == 1:
                nodes.append(second_node(environment))
        yield environment, nodes
    finally:
        for node in reversed(nodes):
            node.end(patience_s)


def second_node(environment: Mapping[str, str]) -> RayNode:
    """One that joins such a cluster as ``n1``."""
    return RayNode(environment["RAY_AUTH_TOKEN"], f"--address={environment['RAY_ADDRESS']}", "--node-name=n1")
