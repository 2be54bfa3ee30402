"""From what was seen to a snapshot."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from slurm_cases import FOUR, job, look_of, node, recorded_look, running

from rltune.slurm.moment import Place, moment_of
from rltune.slurm.reading import Asked


def free_of(moment) -> dict[tuple[str, str], int]:
    found: Counter = Counter()
    for place, free in zip(moment.places, moment.snapshot.free, strict=True):
        found[place.node, place.kind] += int(free)
    return dict(found)


def test_recorded_moment() -> None:
    """Free GPUs and slices, and who is ours to decide on, would be wrong beside a real Slurm."""
    moment = moment_of(recorded_look())
    free = free_of(moment)
    assert free["n4", "a100_1g.10gb"] == 5, "two slices are in use"
    assert free["n3", "a100"] == 0, "a drained node has nothing to give"
    assert free["n1", "a100"] == 0
    assert [each.id for each in moment.jobs] == ["6", "7", "8", "9_1", "9_2", "19"], "of the array two may run at once"
    apart, others = ({each.id: why for each, why in part} for part in (moment.apart, moment.others))
    assert apart["13"] == "excludes nodes" and "16" in apart and "fewest nodes" in apart["16"]
    assert apart["17"] == "is one of the jobs without a GPU"
    assert others["10"] == "held (JobHeldUser)" and others["11"] == "Dependency" and others["12"] == "BeginTime"
    assert others["15"] == "PartitionTimeLimit"


def test_types_do_not_mix() -> None:
    """A job for whole GPUs would be given slices, or the other way round."""
    jobs = [job("1", 1, "a100"), job("2", 2, "a100_1g.10gb"), job("3", asked=Asked({"": 2}, 1, 2)), job("4", 1, "h100")]
    moment = moment_of(look_of(jobs, FOUR))
    queue, kinds = moment.snapshot.queue, {}
    for k, each in enumerate(moment.jobs):
        pools = queue.pools[queue.pool_lo[k] : queue.pool_hi[k]]
        kinds[each.id] = {moment.places[moment.snapshot.cluster.pool_lo[pool]].kind for pool in pools}
    assert kinds == {"1": {"a100"}, "2": {"a100_1g.10gb"}, "3": {"a100"}}
    assert {each.id: why for each, why in moment.apart}["4"].startswith("asks for h100, which no node")


def test_use_that_no_job_explains() -> None:
    """GPUs of jobs that are hidden, or began between the two readings, would be given away twice."""
    moment = moment_of(look_of([running("1", "n1", 2)], [node("n1", {"a100": 8}, {"a100": 5})]))
    assert free_of(moment)["n1", "a100"] == 3
    moment = moment_of(look_of([running("1", "n1", 6)], [node("n1", {"a100": 8}, {"a100": 2})]))
    assert free_of(moment)["n1", "a100"] == 2, "a job that was seen to run holds its GPUs until the next look"


def test_what_was_sent_holds_its_places() -> None:
    """GPUs would be promised twice while Slurm has not started a job yet."""
    seen = look_of([job("1", 8), job("2", 8)], FOUR)
    moment = moment_of(seen, sent={"1": (Place("n2", "a100", 8),)})
    assert [each.id for each in moment.jobs] == ["2"]
    assert free_of(moment)["n2", "a100"] == 0


def test_many_slices_on_a_node() -> None:
    """A node of 56 slices, more than kernels take, would be refused or counted wrongly."""
    moment = moment_of(
        look_of(
            [running("1", "n1", 30, "a100_1g.10gb"), job("2", 1, "a100_1g.10gb")],
            [node("n1", {"a100_1g.10gb": 56}, {"a100_1g.10gb": 30})],
        )
    )
    assert free_of(moment)["n1", "a100_1g.10gb"] == 26 and len(moment.places) == 2
    assert [each.id for each in moment.jobs] == ["2"]


def test_an_empty_queue_and_nodes_without_gpus() -> None:
    """The service would end on a quiet night, or in a partition of CPUs."""
    assert len(moment_of(look_of([], FOUR)).jobs) == 0
    moment = moment_of(look_of([job("1")], [node("c1", {})]))
    assert not moment.jobs and "no node of the partition" in moment.apart[0][1]


NODES = st.lists(st.dictionaries(st.sampled_from(["a100", "a100_1g.10gb"]), st.integers(1, 60)), min_size=1, max_size=4)


@given(
    NODES,
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["a100", "a100_1g.10gb"]), st.integers(1, 40))),
    st.data(),
)
def test_nothing_is_lost_or_made(nodes, jobs, data) -> None:
    """On any mixture of nodes and jobs, free and held GPUs would not add up, and the kernels would read beyond their arrays."""
    made, ran = [], []
    for k, gpus in enumerate(nodes):
        mine = [(kind, count) for where, kind, count in jobs if where == k]
        used = {kind: data.draw(st.integers(0, count)) for kind, count in gpus.items()}
        made.append(node(f"n{k}", gpus, used, open=data.draw(st.booleans())))
        ran += [running(f"{k}-{i}", f"n{k}", count, kind) for i, (kind, count) in enumerate(mine)]
    moment = moment_of(look_of([*ran, job("w")], made))
    held = moment.snapshot.running
    assert (moment.snapshot.free >= 0).all()
    total = Counter({at: int(free) for at, free in enumerate(moment.snapshot.free)})
    for at, count in zip(held.nodes, held.gpus, strict=True):
        total[int(at)] += int(count)
    assert [total[at] for at in range(len(moment.places))] == [place.gpus for place in moment.places]
