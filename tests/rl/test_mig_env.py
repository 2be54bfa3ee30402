"""Batches on a MIG GPU as an environment: whatever is played is a plan a GPU could follow, and earns its makespan."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rltune.mig.batch.plan import check_plan
from rltune.mig.batch.tasks import Tasks
from rltune.mig.geometry import State, geometry
from rltune.nouns.errors import InputError
from rltune.nouns.mig_profiles import TYPES
from rltune.rl.mig.batches import Mixture, Sampler, family_profiles
from rltune.rl.mig.env import Episode, Setup, VectorBatchEnv
from rltune.rl.mig.kernels import PLACE_FEATURES
from rltune.rl.mig.layout import make_layout, profiles_for


@st.composite
def batches(draw: st.DrawFn, model: str) -> Tasks:
    """Tasks of milliseconds to hours, on whatever profiles they happen to fit."""
    n, profiles = draw(st.integers(1, 9)), len(geometry(model).profiles)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    seconds = np.exp(rng.uniform(-4, 9, (n, profiles)))
    seconds[rng.random((n, profiles)) < draw(st.floats(0, 0.95))] = np.inf
    alone = rng.integers(profiles, size=n)
    seconds[np.arange(n), alone] = np.minimum(seconds[np.arange(n), alone], 100.0)
    return Tasks(tuple(map(str, range(n))), {model: seconds})


def random_action(mask: npt.NDArray[np.int8], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    return np.argmax(rng.random(mask.shape) * mask, 1)


@pytest.mark.parametrize("model", TYPES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_random_play_always_ends_with_a_valid_plan_and_earns_its_makespan(model: str, data: st.DataObject) -> None:
    """The agent would get stuck, plan what no GPU can do, or be trained on something else than the makespan."""
    tasks = data.draw(batches(model))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    profiles = profiles_for(tasks, model)
    window = data.draw(st.integers(1, len(tasks)))
    env = VectorBatchEnv(Setup(model, profiles, window, len(tasks)), 1)
    seen, _ = env.reset(options={"episodes": [Episode(tasks.seconds[model], window)]})
    earned, over, steps = 0.0, False, 0
    while not over:
        for values in seen.values():
            assert np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1
        seen, rewards, ended, _, _ = env.step(random_action(seen["action_mask"], rng))
        assert rewards[0] <= 0
        earned, over, steps = earned + rewards[0], bool(ended[0]), steps + 1
        assert steps < 40 * len(tasks)
    plan = env.plan(0)
    check_plan(tasks, plan)
    compute = np.array([profile.compute for profile in geometry(model).profiles])
    area = (tasks.seconds[model] * compute)[:, list(profiles)].min(1).sum() / geometry(model).compute
    assert 1 - earned == pytest.approx(plan.makespan_s / area, rel=1e-9)


def test_two_tasks_by_hand() -> None:
    """Costs of creation would be forgotten, or charged twice: 1g and 7g in turn on an A100, known to the hundredth."""
    model = "A100-80GB"
    table = geometry(model)
    one, seven = table.profile("1g"), table.profile("7g")
    seconds = np.full((2, len(table.profiles)), np.inf)
    seconds[0, one], seconds[1, seven] = 7.0, 3.0
    env = VectorBatchEnv(Setup(model, (seven, one), 2, 2), 1)
    env.reset(options={"episodes": [Episode(seconds, 2)]})
    places = list(zip(env.layout.profile, env.layout.start, strict=True))
    at = places.index((one, 0))
    env.step([2 * len(places) + at])
    assert env.seen.mask[0, 0 * len(places) + at] == 1
    env.step([0 * len(places) + at])
    # The whole GPU has to wait for the first task: nothing was legal but that, so the clock is at its end already.
    whole = places.index((seven, 0))
    assert np.flatnonzero(env.seen.mask[0]).tolist() == [2 * len(places) + whole]
    env.step([2 * len(places) + whole])
    env.step([1 * len(places) + whole])
    assert env.plan(0).makespan_s == pytest.approx(0.16 + 7.0 + 0.20 + 0.24 + 3.0)


@pytest.mark.parametrize("model", TYPES)
def test_conflicts_between_two_placements_are_all_there_are(model: str) -> None:
    """The agent could create an instance that the GPU has no room for, or would never try one it has room for."""
    table, layout = geometry(model), make_layout(model)
    places = table.placements(range(len(table.profiles)))
    assert [(p.profile, p.start) for p in places] == list(zip(layout.profile, layout.start, strict=True))
    rng = np.random.default_rng(0)
    for _ in range(40):
        state: State = ()
        while free := table.can_create(state):
            there = [places.index(p) for p in state]
            assert {places[k] for k in np.flatnonzero(~layout.conflict[there].any(0))} == set(free), table.describe(
                state
            )
            state = table.check((*state, free[rng.integers(len(free))]))
        assert layout.conflict[[places.index(p) for p in state]].any(0).all()


def test_hidden_tasks_change_nothing_that_is_seen() -> None:
    """An online policy would be judged with knowledge of tasks that have not come into sight."""
    model, rng = "A100-80GB", np.random.default_rng(5)
    sampler = Sampler(Mixture(online=1.0, online_tasks=(20, 20), needy=0.0), model, 0)
    seconds = sampler(rng).seconds
    others = seconds.copy()
    others[10:] *= rng.uniform(0.1, 9.0, (10, 1))
    env = VectorBatchEnv(Setup(model, family_profiles(model), 5, 20), 2)
    seen, _ = env.reset(options={"episodes": [Episode(seconds, 5), Episode(others, 5)]})
    assigned = 0
    while assigned < 5:
        for name, values in seen.items():
            assert np.array_equal(values[0], values[1]), name
        assert seen["tasks"].any(-1).sum() == 10
        action = random_action(seen["action_mask"][:1], rng)
        assigned += int(action[0] < 5 * len(env.layout.profile))
        seen, _, _, _, _ = env.step(np.repeat(action, 2))
    for _ in range(400):
        if not np.array_equal(seen["tasks"][0], seen["tasks"][1]):
            return
        seen, _, _, _, _ = env.step(np.repeat(random_action(seen["action_mask"][:1], rng), 2))
    pytest.fail("tasks that have come into sight are not seen either")


def test_an_illegal_action_is_refused() -> None:
    """A mistake in a policy's mask would pass for a schedule."""
    env = VectorBatchEnv(Setup("A30", None, 3, 3), 1)
    env.reset(options={"episodes": [Episode(np.full((3, 5), 1.0), 3)]})
    with pytest.raises(ValueError, match="illegal"):
        env.step([env.single_action_space.n - 1])


def test_running_neighbours_stay_while_an_instance_is_created() -> None:
    """A task would be cut short by a repartition."""
    model = "A100-80GB"
    table = geometry(model)
    seconds = np.full((3, len(table.profiles)), np.inf)
    seconds[:, [table.profile("1g"), table.profile("3g"), table.profile("7g")]] = (50.0, 20.0, 10.0)
    env = VectorBatchEnv(Setup(model, tuple(sorted(map(table.profile, ("1g", "3g", "7g")))), 3, 3), 1)
    seen, _ = env.reset(options={"episodes": [Episode(seconds, 3)]})
    places = list(zip(env.layout.profile, env.layout.start, strict=True))
    at = places.index((table.profile("3g"), 0))
    env.step([3 * len(places) + at])
    seen, _, _, _, _ = env.step([at])
    can_create = seen["places"][0, :, PLACE_FEATURES.index("can_create")] == 1
    allowed = {(table.profiles[p].kind, int(s)) for (p, s), yes in zip(places, can_create, strict=True) if yes}
    assert allowed == {("3g", 4), ("1g", 4), ("1g", 5), ("1g", 6)}


def test_a_draw_of_the_training_batches_follows_its_seed() -> None:
    """A training could not be repeated."""
    one, two = (Sampler(Mixture(), "A100-80GB", 3)(np.random.default_rng(1)) for _ in range(2))
    assert one.window == two.window and np.array_equal(one.seconds, two.seconds)
    with pytest.raises(InputError):
        Sampler(Mixture(), "A30", 3)
