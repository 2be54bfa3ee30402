"""What of a trace is replayed: no more than the cluster holds, and whatever is changed is told."""

from __future__ import annotations

import pytest

from rltune.config.live import Live
from rltune.entry import composed
from rltune.live.stretch import TENANTS, stretch_of
from rltune.nouns.cluster import Cluster, Pool
from rltune.nouns.errors import InputError
from rltune.service.specs import JobSpec, request_of

CLUSTER = Cluster("two", (Pool("a100", 2, 4, "A100-40GB", mig=True),))
JOBS = "job_id,submit_s,duration_s,num_gpus\n" + "".join(
    f"j{k},{60 * k},{(30, 900, 90_000)[k % 3]},{(1, 2, 16, 1)[k % 4]}\n" for k in range(300)
)


@pytest.fixture
def options(tmp_path):
    (tmp_path / "jobs.csv").write_text(JOBS)

    def made(**given):
        return composed(Live, {"trace": str(tmp_path / "jobs.csv"), "begin": 0.0, "speed": 60, **given})

    return made


def test_every_job_is_accepted_and_fits(options, tmp_path):
    """The service would refuse jobs of the replay."""
    stretch = stretch_of(options(), CLUSTER, tmp_path)
    assert 10 < len(stretch.jobs) <= 180
    for one in stretch.jobs:
        spec = JobSpec.model_validate(one.body)
        request = request_of(spec, one.tenant, CLUSTER)
        assert one.tenant in TENANTS and request.gpus <= 4 and 1 <= spec.estimate_s <= 40
        assert 0 <= one.at_s <= 0.9 * 120
    assert {"profile", "ways"} <= {name for one in stretch.jobs for name in one.body}


def test_what_is_changed_is_told(options, tmp_path):
    """Whoever looks would take drawn and cut jobs for the trace's own."""
    told = "\n".join(stretch_of(options(), CLUSTER, tmp_path).notes)
    for word in (
        "drawn so that",
        "ask for 4",
        "jobs cut to 40 s",
        "jobs made 1 s long",
        "ask for a MIG slice",
        "(ways)",
    ):
        assert word in told


def test_the_same_seed_draws_the_same_jobs(options, tmp_path):
    """A replay could not be shown twice."""
    once, again = (stretch_of(options(seed=3), CLUSTER, tmp_path) for _ in range(2))
    assert once == again != stretch_of(options(seed=4), CLUSTER, tmp_path)


def test_a_stretch_without_jobs_is_refused(options, tmp_path):
    """An empty screen would be all that is seen."""
    with pytest.raises(InputError, match="raise load"):
        stretch_of(options(load=1e-9), CLUSTER, tmp_path)
