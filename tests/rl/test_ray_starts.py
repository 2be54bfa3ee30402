"""A local Ray that does not come up is tried again, then told in one line."""

from __future__ import annotations

import pytest

from rltune.nouns.errors import InputError
from rltune.rl import rllib


def test_a_busy_machine_gets_further_tries_and_then_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training on a loaded machine would end in forty lines of Python, after 30 seconds that a second try makes good."""
    tries: list[int] = []

    def init(**options: object) -> None:
        tries.append(len(tries))
        if len(tries) < failing:
            raise Exception("The current node timed out during startup.\nmore")

    monkeypatch.setattr(rllib.ray, "init", init)
    monkeypatch.setattr(rllib.ray, "shutdown", lambda: None)
    failing = 3
    rllib.start_local()
    assert len(tries) == 3
    tries.clear()
    failing = 9
    with pytest.raises(
        InputError, match=r"did not start .* in 3 tries \(The current node timed out during startup\.\)"
    ):
        rllib.start_local()
