"""What a client is told when its request cannot be done."""

from __future__ import annotations

CLOSED = "the service is going down; try again when it is back"


class Refused(Exception):
    """A request that cannot be done; ``status``: of HTTP, ``message`` says what to change."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message
