"""``python -m rltune.kubernetes``."""

from __future__ import annotations

from rltune.config.kubernetes import BesideKubernetes
from rltune.entry import run_main
from rltune.kubernetes.service import run

FOOTER = """It begins with dry_run=true: what it would do is printed, nothing is changed. docs/howto/kubernetes.md tells what it needs
(rights, an AdmissionCheck, gates in pods). Tested against a made-up API server only, not yet on a live cluster."""


def main() -> None:
    run_main(run, BesideKubernetes, FOOTER)
