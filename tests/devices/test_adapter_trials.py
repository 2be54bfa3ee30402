"""Plans against a driver's state machine: whatever happens, the GPUs are as before or as planned, and neighbours untouched."""

from __future__ import annotations

import numpy as np
import pytest
from trials import CASES, Machine, fail_everywhere, kill_everywhere, machine_options, random_sequence

from rltune.devices.status import STATUSES
from rltune.nouns.mig_profiles import TYPES
from tests.some import some

CODES = [code for code in STATUSES if code] + [77]
"""Every status that NVML has but success, and one that it has not yet."""
QUICK = [2, 15, 19, 23, 999]


def _random(fake_nvml, model, tmp_path, steps, seed):
    machine = Machine(fake_nvml([model, model]), tmp_path)
    counts = random_sequence(machine, np.random.default_rng(seed), steps)
    machine.close()
    print(f"{model}: {steps} random plans: {counts}")
    # Each outcome was held to the geometry on the way; here: every kind of outcome was met.
    return counts.applied > steps / 5 and counts.refused > steps / 50 and counts.rolled_back and counts.busy_kept


@pytest.mark.parametrize("model", TYPES)
def test_random_plans_end_as_planned_or_are_refused(fake_nvml, model, tmp_path):
    """A plan would end in another state than it says, touch a running neighbour, or refuse what is possible."""
    assert _random(fake_nvml, model, tmp_path, 150, TYPES.index(model))


@pytest.mark.slow
@pytest.mark.parametrize("model", TYPES)
def test_thousands_of_random_plans(fake_nvml, model, tmp_path):
    """The same over 3,000 plans a model: rarer states."""
    assert _random(fake_nvml, model, tmp_path, 3000, 100 + TYPES.index(model))


def _kills(fake_nvml, name, again, stride):
    models, *_, options = CASES[name]
    counts = kill_everywhere(fake_nvml(models.split(","), **machine_options(options)), CASES[name], again, stride)
    print(f"{name}: {counts}")
    return counts


@pytest.mark.parametrize("name", some(CASES, "repartition beside a job", "MIG off"))
def test_a_kill_at_any_call_leaves_the_state_before_or_after(fake_nvml, name):
    """A crash in the middle would leave half a partition, an orphaned GPU instance, or lose one that was there."""
    counts = _kills(fake_nvml, name, 0, 29)
    assert counts.before and counts.kills >= 6


@pytest.mark.slow
@pytest.mark.parametrize("again", [0, 3])
@pytest.mark.parametrize("name", CASES)
def test_a_kill_at_every_call(fake_nvml, name, again):
    """The same at every single call; and with the recovery killed three times as well."""
    counts = _kills(fake_nvml, name, again, 1)
    assert counts.before and counts.kills >= 6 and bool(counts.killed_again) == bool(again)


def _errors(fake_nvml, name, codes, stride):
    models, *_, options = CASES[name]
    counts = fail_everywhere(fake_nvml(models.split(","), **machine_options(options)), CASES[name], codes, stride)
    print(f"{name}: {counts}")
    return counts


@pytest.mark.parametrize("name", some(CASES, "fill", "two GPUs"))
def test_an_error_at_any_call_is_told_and_undone(fake_nvml, name):
    """A refusal in the middle would leave half a partition, or a message that does not say what NVML said."""
    counts = _errors(fake_nvml, name, QUICK, 17)
    assert counts.rolled_back and counts.refused


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_error_at_every_call(fake_nvml, name):
    """The same for every status at every single call."""
    counts = _errors(fake_nvml, name, CODES, 1)
    assert counts.rolled_back and counts.refused
