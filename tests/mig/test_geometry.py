"""The tables of MIG geometry: counts known from driver listings, and what states allow."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rltune.mig.geometry import PLAIN, Listed, differences, from_driver, geometry
from rltune.nouns.errors import InputError
from rltune.nouns.mig_profiles import TYPES

SEVEN = [name for name in TYPES if name not in ("A30", "RTX-PRO-6000")]


@pytest.mark.parametrize("model", SEVEN)
def test_seven_slice_counts(model):
    """A wrong start or size changes the 19 maximal partitions, 14 multisets or 298 states that drivers allow."""
    table = geometry(model)
    maximal = table.maximal()
    assert (len(maximal), len({table.multiset(s) for s in maximal}), len(list(table.states()))) == (19, 14, 298)
    kinds = (*PLAIN, "1g double")
    maximal = table.maximal(kinds)
    assert (len(maximal), len({table.multiset(s) for s in maximal}), len(list(table.states(kinds)))) == (78, 38, 723)


@pytest.mark.parametrize("model", ["A30", "RTX PRO 6000"])
def test_four_slice_counts(model):
    """The four-slice GPUs have 5 maximal partitions, 4 multisets and 26 states."""
    table = geometry(model)
    maximal = table.maximal()
    assert (len(maximal), len({table.multiset(s) for s in maximal}), len(list(table.states()))) == (5, 4, 26)


def test_the_nineteen():
    """The published list of A100 partitions, in the order our configuration numbers follow."""
    table = geometry("a100-80gb")
    left = ["2g@0 2g@2", "2g@0 1g@2 1g@3", "1g@0 1g@1 2g@2", "1g@0 1g@1 1g@2 1g@3"]
    right = ["3g@4", "2g@4 1g@6", "1g@4 1g@5 1g@6"]
    wanted = ["7g@0", *(f"4g@0 {r}" for r in right), *(f"3g@0 {r}" for r in right)]
    wanted += [f"{lft} {r}" for lft in left for r in right]
    assert [table.describe(state) for state in table.maximal()] == wanted


@given(st.sampled_from(TYPES), st.data())
def test_creation_keeps_states_legal(model, data):
    """Whatever `can_create` offers, `check` must accept beside what is there, and nothing else of that profile fits."""
    table = geometry(model)
    state = ()
    while offered := table.can_create(state):
        chosen = data.draw(st.sampled_from(offered))
        refused = [p for p in table.placements() if p not in offered]
        for placement in refused:
            with pytest.raises(InputError):
                table.check((*state, placement))
        state = table.check((*state, chosen))
        assert table.parse(table.describe(state)) == state
        if data.draw(st.booleans()):
            break
    for old, targets in table.moves(state).items():
        for new in targets:
            assert new.profile == old.profile
            assert table.check((*state, new))


def test_one_set_of_media_engines():
    """A second instance with media engines, of whatever size, is refused."""
    table = geometry("A30")
    with pytest.raises(InputError, match="no further"):
        table.parse("1g+me@0 2g+me@2")


@pytest.mark.parametrize(("model", "profile"), [("a30", "3g"), ("a100-80gb", "5g"), ("h100-80gb", "3g.20gb")])
def test_unknown_profile(model, profile):
    """A profile the GPU does not have is refused with the list of those it has."""
    with pytest.raises(InputError, match=r"it has .*1g \("):
        geometry(model).profile(profile)


def test_unknown_model():
    """A GPU without a MIG table is refused with the list of those that have one."""
    with pytest.raises(InputError, match="known are A30"):
        geometry("V100")


def listing(table):
    return [Listed(p.name, p.starts, p.size, p.most) for p in table.profiles]


@pytest.mark.parametrize("model", TYPES)
def test_driver_that_agrees(model):
    """A driver that lists what the table has gives the same geometry and no difference."""
    table = geometry(model)
    driver = from_driver(model, listing(table))
    assert driver == table
    assert differences(driver) == []


def test_driver_that_differs():
    """The driver's starts win, and every difference is told: a moved start, a profile more, a profile less."""
    rows = [row for row in listing(geometry("H100-80GB")) if row.name != "4g.40gb"]
    rows = [row._replace(starts=(0, 3)) if row.name == "3g.40gb" else row for row in rows]
    driver = from_driver("h100-80gb", [*rows, Listed("1g.40gb", (0, 4), 4, 2)])
    told = differences(driver)
    assert driver.profiles[driver.profile("3g")].starts == (0, 3)
    assert len(told) == 3
    assert "the driver has no 4g.40gb" in told[0]
    assert any("(0, 3) by the driver, (0, 4) by the table" in line for line in told)
    assert any("has 1g.40gb" in line for line in told)


def test_driver_nonsense():
    """A listing that cannot be a MIG profile is an error, not a geometry."""
    with pytest.raises(InputError, match="not named like"):
        from_driver("a30", [Listed("big", (0,), 4, 1)])
    with pytest.raises(InputError, match="make no sense"):
        from_driver("a30", [Listed("1g.6gb", (0,), 0, 1)])
