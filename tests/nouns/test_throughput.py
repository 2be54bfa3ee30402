"""Speeds by GPU type from a table made by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rltune.nouns.cluster import Cluster, Pool
from rltune.nouns.errors import InputError
from rltune.nouns.jobs import JobTable
from rltune.nouns.throughput import PEAK_TFLOPS, SAME_CHIP, Throughput, family

NAN = np.nan
CLASSES = ("ResNet-18 (batch size 16)", "ResNet-18 (batch size 64)", "LM (batch size 5)")
# Per class: one GPU, and eight on one node or spread; K80, V100.
RATES = np.array(
    [
        [[[1, 2], [1, 2]], [[1, 16], [1, 4]]],
        [[[1, 6], [1, 6]], [[NAN, 8], [NAN, 8]]],
        [[[1, 5], [1, 5]], [[1, 9], [1, 7]]],
    ]
)
TABLE = Throughput("hand", ("K80", "V100"), CLASSES, (1, 8), RATES, reference="V100")
CLUSTER = Cluster("c", (Pool("k", 4, 8, gpu_type="K80"), Pool("v", 4, 4, gpu_type="V100")))


def jobs(*rows: tuple[str | None, int, str | None]) -> JobTable:
    """Jobs as (name, GPUs, GPU type), a second apart, of an hour each."""
    name, gpus, gpu = zip(*rows, strict=True)
    n = len(rows)
    columns = {"submit_s": range(n), "duration_s": [3600] * n, "num_gpus": gpus, "name": name, "gpu_type": gpu}
    return JobTable.from_columns(columns)


@pytest.mark.parametrize(
    ("name", "gpus", "on_k80"),
    [
        ("ResNet-18 (batch size 16)", 1, 1 / 2),  # its own class
        (" resnet-18 (Batch size 64)", 1, 1 / 6),  # however it is written
        ("ResNet-18 (batch size 16)", 8, 1 / 16),  # eight GPUs on one node of the K80 pool
        ("ResNet-18 (batch size 16)", 5, 1 / 2),  # the largest size measured that is not above five is one
        ("ResNet-18 (batch size 16)", 16, 1 / 4),  # over two nodes
        ("ResNet-18 (batch size 64)", 8, 1 / 6),  # no K80 with eight: the same class with one
        ("imagenet/resnet50", 1, np.median([1 / 2, 1 / 6])),  # the family's median
        ("who knows", 1, 1 / 5),  # the median of all three
        (None, 1, 1 / 5),
    ],
)
def test_speeds_by_hand(name: str | None, gpus: int, on_k80: float) -> None:
    """A job would run at the speed of another class, gang size or placement."""
    speed = TABLE.speed(jobs((name, gpus, None)), CLUSTER)
    assert speed.shape == (1, 2)
    assert speed[0] == pytest.approx([on_k80, 1.0])


def test_what_was_used_is_counted() -> None:
    """A table of results would rest on guesses that nobody sees."""
    mine = jobs(
        ("LM (batch size 5)", 1, "K80|V100"),
        ("my lstm", 1, None),
        ("x", 2, None),
        ("x", 1, "K80"),
        ("LM", 1, "K80|V100"),
    )
    found = TABLE.speeds(mine, CLUSTER)
    assert found.notes == (
        "throughput hand: 1 pairs of job and pool by class",
        "throughput hand: 2 pairs of job and pool by family (language model)",
        "throughput hand: 1 pairs of job and pool by the median of all classes",
        "throughput hand: 5 pairs of job and pool on the recorded type",
        "throughput hand: 4 jobs that name no single GPU type taken as V100",
    )


def test_pools_that_a_job_may_not_use_have_no_speed() -> None:
    """A type that only other jobs use would be refused, or a job would be given a speed where it cannot run."""
    speed = TABLE.speed(jobs(("LM (batch size 5)", 1, "K80")), CLUSTER)
    assert speed[0, 0] == 1
    assert np.isnan(speed[0, 1])


def test_a_recorded_k80_run_is_shorter_on_a_v100() -> None:
    """Speeds would be relative to the reference instead of to the type of the recorded run."""
    open_to_both = jobs(("LM (batch size 5)", 1, "K80|V100"))
    from_k80 = Throughput("hand", TABLE.types, CLASSES, (1, 8), RATES, reference="K80")
    assert from_k80.speed(open_to_both, CLUSTER)[0] == pytest.approx([1, 5])
    assert TABLE.speed(open_to_both, CLUSTER)[0] == pytest.approx([1 / 5, 1])


def test_types_without_measurement() -> None:
    """A type that nobody measured would silently be as fast as another."""
    cluster = Cluster("c", (Pool("v", 1, 8, gpu_type="V100-32GB"), Pool("a", 1, 8, gpu_type="A100-40GB")))
    mine = jobs(("LM (batch size 5)", 1, None))
    with pytest.raises(
        InputError, match=r"no measurement of A100; measured are K80, V100; use missing=flops .* missing=one"
    ):
        TABLE.speed(mine, cluster)
    by_flops, equal = (
        Throughput("hand", TABLE.types, CLASSES, (1, 8), RATES, missing=m).speeds(mine, cluster)
        for m in ("flops", "one")
    )
    assert by_flops.speed[0] == pytest.approx([1, 19.5 / 15.7])
    assert equal.speed[0].tolist() == [1, 1]
    assert "throughput hand: 1 pairs of job and pool without measurement: by peak FLOPS" in by_flops.notes
    assert "throughput hand: 1 pairs of job and pool without measurement: equally fast" in equal.notes


def test_types_whose_flops_are_unknown_are_named() -> None:
    """missing=flops would invent the speed of an unnamed type."""
    cluster = Cluster("c", (Pool("m", 1, 8, gpu_type="MISC"),))
    with pytest.raises(InputError, match="neither throughput nor peak FLOPS of MISC are known; use missing=one"):
        Throughput.published(missing="flops").speed(jobs(("x", 1, None)), cluster)


def test_pools_without_a_type_and_jobs_without_a_gpu_run_as_recorded() -> None:
    """A trace that publishes no GPU type could not be used, or a CPU job would run faster on a V100."""
    cluster = Cluster("c", (Pool("any", 1, 8), Pool("k", 1, 8, gpu_type="K80")))
    columns = {"submit_s": [0, 1], "duration_s": [1, 1], "num_gpus": [1, 1], "gpu_milli": [1000, 0]}
    found = TABLE.speeds(JobTable.from_columns(columns), cluster)
    assert found.speed[:, 0].tolist() == [1, 1]
    assert found.speed[:, 1] == pytest.approx([1 / 5, 1])
    assert "throughput hand: 1 pairs of job and pool on pools without a GPU type" in found.notes
    assert "throughput hand: 2 pairs of job and pool on no GPU" in found.notes


def test_uniform_changes_nothing() -> None:
    """throughput=none would not be the simulator without GPU types."""
    cluster = Cluster("c", tuple(Pool(t, 1, 8, gpu_type=t) for t in ("K80", "MISC", "H100-80GB")))
    assert (Throughput.uniform().speed(jobs(("x", 1, None), ("LM", 8, None)), cluster) == 1).all()


def test_published_ratios() -> None:
    """The built-in table would not be what its source says: V100 4.05 and P100 3.32 times a K80."""
    types = ("K80", "P100", "V100")
    cluster = Cluster("c", tuple(Pool(t, 1, 8, gpu_type=t) for t in types))
    speed = Throughput.published(reference="K80").speed(jobs(("x", 1, None)), cluster)
    assert speed[0] == pytest.approx([1, 3.32, 4.05])
    assert Throughput.published().relative()[0] == pytest.approx([1 / 4.05, 3.32 / 4.05, 1])


def test_relative_to_the_reference() -> None:
    """The table that people read would be relative to some other type."""
    assert TABLE.relative(8)[:, 0] == pytest.approx([1 / 16, NAN, 1 / 9], nan_ok=True)
    assert TABLE.relative(8, spread=True)[0].tolist() == [1 / 4, 1]
    with pytest.raises(InputError, match="V100 on 2 GPUs is not measured; measured are K80, V100 on 1, 8"):
        TABLE.relative(2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": RATES[:, :1]}, "rates have shape"),
        ({"rate": -RATES}, "not a positive number"),
        ({"missing": "guess"}, "known are refuse, flops, one"),
        ({"reference": "V99"}, "GPU type 'V99' is unknown"),
    ],
)
def test_bad_tables_are_refused(options: dict[str, object], message: str) -> None:
    """A wrong table would give a schedule that looks right."""
    whole = {"name": "hand", "types": TABLE.types, "classes": CLASSES, "scales": (1, 8), "rate": RATES}
    with pytest.raises(InputError, match=message):
        Throughput(**(whole | options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("CycleGAN", "image translation"), ("A3C", "reinforcement learning"), ("LM (batch size 5)", "language model"),
        ("Recommendation (batch size 512)", "recommendation"), ("Transformer (batch size 16)", "transformer"),
        ("bert-large", "transformer"), ("ResNet-50 (batch size 32)", "image classification"), ("ncf", "recommendation"),
        ("train_vgg16.py", "image classification"), ("helm-chart", None), ("organ", "image translation"), ("", None),
    ],
)  # fmt: skip
def test_families(name: str, group: str | None) -> None:
    """A job would be looked up in the family of other models (a word that ends in "gan" is taken for one)."""
    assert family(name) == group


TYPES = sorted({*PEAK_TFLOPS, *SAME_CHIP} - {"A100", "H100", "H200"})


@given(
    st.lists(
        st.tuples(st.sampled_from([*CLASSES, "bert", None]), st.integers(1, 16), st.sampled_from(TYPES)),
        min_size=1,
        max_size=8,
    )
)
def test_on_its_own_type_a_job_runs_as_recorded(rows: list[tuple[str | None, int, str]]) -> None:
    """A log would not be replayed as it was recorded on the very machines that it comes from."""
    cluster = Cluster("all", tuple(Pool(t, 4, 8, gpu_type=t) for t in TYPES))
    mine = jobs(*rows)
    speed = TABLE.speed(mine, cluster)
    own = [TYPES.index(str(t)) for t in mine.gpu_type.values()]
    assert (speed[np.arange(len(mine)), own] == 1).all()
    assert np.isnan(speed).sum() == len(mine) * (len(TYPES) - 1)


@given(st.sampled_from([*CLASSES, "bert", "resnet", None]), st.integers(1, 32), st.sampled_from(["K80", "V100"]))
def test_there_and_back_is_where_it_began(name: str | None, gpus: int, reference: str) -> None:
    """Speeds of K80 over V100 and of V100 over K80 would not be each other's inverse for one measured class."""
    cluster = Cluster("c", (Pool("k", 8, 4, gpu_type="K80"), Pool("v", 8, 4, gpu_type="V100")))
    single = Throughput("hand", TABLE.types, CLASSES[:1], (1, 8), RATES[:1], reference=reference)
    k80, v100 = single.speed(jobs((name, gpus, None)), cluster)[0]
    assert {k80, v100} == {1.0, v100 if reference == "K80" else k80}
    back = Throughput(
        "hand", TABLE.types, CLASSES[:1], (1, 8), RATES[:1], reference="V100" if reference == "K80" else "K80"
    )
    other = back.speed(jobs((name, gpus, None)), cluster)[0]
    assert np.prod(other) * k80 * v100 == pytest.approx(1)
