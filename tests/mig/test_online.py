"""The fleet: what a tenant is answered, what it pays, what is refused, and that refusals change nothing."""

import io
import json
import math

import pytest

from rltune.mig.configurations import configuration_number, configurations
from rltune.mig.geometry import geometry
from rltune.mig.online import Fleet, FleetOptions, Growth, Quota
from rltune.mig.online.lines import answer, serve
from rltune.mig.online.options import POLICIES
from rltune.nouns.errors import InputError

A100 = (Growth("a100-80gb"),)


def fleet(**options):
    options.setdefault("growth", A100)
    return Fleet(FleetOptions(**options))


@pytest.mark.parametrize("policy", POLICIES)
def test_fills_one_gpu_before_the_next(policy):
    """A policy that opened a second GPU while the first has room would waste GPUs."""
    f = fleet(policy=policy)
    assert f.acquire("a", "4g").provisioned
    assert not f.acquire("b", "3g").provisioned
    assert f.acquire("c", "1g").gpu == 1
    assert f.gpus == 2


def test_large_requests_keep_room():
    """1g beside a 1g, not on the empty GPU: the 7g that comes next needs it."""
    for policy in ("fragmentation", "lookahead", "learned", "best_fit"):
        f = fleet(policy=policy, initial={"a100-80gb": 2})
        f.acquire("a", "1g")
        f.acquire("b", "1g")
        assert not f.acquire("c", "7g").provisioned


def test_costs_are_charged():
    """Creation, destruction on release, and a free second use of an instance kept: seconds as measured on A100."""
    f = fleet()
    assert f.acquire("a", "3g").seconds == pytest.approx(0.20)
    f.release("a")
    assert f.totals.destroy_s == pytest.approx(0.21)
    f = fleet(lazy=True)
    first = f.acquire("a", "3g")
    f.release("a")
    again = f.acquire("b", "3g")
    assert again.reused and again.seconds == 0 and (again.gpu, again.start) == (first.gpu, first.start)
    f.release("b")
    seven = f.acquire("c", "7g")
    assert seven.gpu == 0 and seven.seconds == pytest.approx(0.24 + 0.21)


def test_growth_order_and_limits():
    """The first type that has the profile and may still grow is provisioned; beyond every limit the answer is a refusal."""
    f = fleet(growth=(Growth("a30", 1), Growth("h100-80gb", 1)), policy="first_fit")
    assert f.acquire("a", "4g").model == "A30"
    assert f.acquire("b", "3g").model == "H100-80GB"
    with pytest.raises(InputError, match=r"at its limit \(1 H100-80GB\)"):
        f.acquire("d", "7g")
    assert f.gpus == 2


def test_several_requests_and_quota():
    """A tenant may hold several named requests within its quota, give back one, and then all."""
    f = fleet(quotas={"*": Quota(instances=2), "big": Quota(slices=7)})
    f.acquire("t", "1g", "x")
    f.acquire("t", "1g", "y")
    with pytest.raises(InputError, match="2 of 2 instances"):
        f.acquire("t", "1g", "z")
    f.acquire("big", "4g", "x")
    with pytest.raises(InputError, match="4 of 7 slices"):
        f.acquire("big", "4g", "y")
    assert f.release("t", "x") == ("x",)
    f.acquire("t", "2g", "z")
    assert f.release("t") == ("y", "z")
    assert f.leases("t") == {}


def test_spares_are_kept_and_the_rest_given_back():
    """With one spare, two emptied GPUs leave one; a GPU must have been empty long enough."""
    f = fleet(spares=1, idle_s=10.0)
    for tenant in "abc":
        f.acquire(tenant, "7g", at=0.0)
    f.release("a", at=1.0)
    f.release("b", at=2.0)
    assert f.gpus == 3
    f.release("c", at=30.0)
    assert f.gpus == 1
    assert f.deprovision() == (2,)
    assert f.gpus == 0
    assert f.acquire("d", "7g").gpu == 3


def two_lone_tenants(migrate):
    """Three GPUs: two with a lone 1g each, b's and d's, and one that e holds whole."""
    f = fleet(policy="first_fit", migrate=migrate, slack=0)
    f.acquire("a", "7g")
    f.acquire("b", "1g")
    f.acquire("c", "7g")
    f.release("a")
    f.acquire("d", "1g")
    f.release("c")
    f.acquire("e", "7g")
    return f


def test_migration_makes_room():
    """Two GPUs with a lone 1g each: a 7g gets the one whose 1g moves, if migration is allowed, else a third GPU."""
    for allowed in (0.0, 1.0):
        f = two_lone_tenants(allowed)
        lease = f.acquire("f", "7g")
        assert lease.migrations == (1 if allowed else 0)
        assert f.gpus == (3 if allowed else 4)
        assert len(f.leases("b")) == len(f.leases("d")) == 1


def test_asked_migrations_cost_no_budget():
    """An operator who moves tenants by hand must not use up what the fleet may migrate of itself."""
    f = two_lone_tenants(0.4)
    for _ in range(5):
        f.migrate("d")
    assert f.acquire("f", "7g").migrations == 1
    assert (f.totals.migrations, f.totals.asked_migrations) == (1, 5)


def test_service_gives_back_idle_gpus(tmp_path):
    """By the service's clock a GPU empty for idle_s seconds goes at the next request, be it an acquire; also after a restart."""
    options = FleetOptions(A100, initial={"a100-80gb": 3}, spares=0, idle_s=10.0, policy="first_fit")
    f = Fleet(options, tmp_path / "j", at=1000.0)
    seconds = iter([1001.0, 1005.0, 1009.0, 990.0, 1010.0])
    serve(
        f,
        ["acquire a 7g", "acquire b 7g", "release b", "acquire c 1g", "acquire d 1g"],
        io.StringIO(),
        lambda: next(seconds),
    )
    assert f.gpus == 2
    f.close()
    again = Fleet.restore(tmp_path / "j")
    assert again.ledger.state() == f.ledger.state() and again.ledger.clock == 1010.0
    again.release("c", at=1011.0)
    again.release("d", at=1012.0)
    again.release("a", at=1023.0)
    assert again.gpus == 1


BAD = [
    "acquire u 5g",
    "acquire u 3g",
    "release stranger",
    "acquire a 1g",
    "acquire",
    "lend u 1g",
    "acquire u 1g x y",
    "acquire big 4g",
]


@pytest.mark.parametrize("line", BAD)
def test_bad_lines_change_nothing(line):
    """Unknown profile, 3g on A30s, a stranger's release, a second acquire, no verb, quota, limit: an error, same state."""
    f = fleet(growth=(Growth("a30", 1),), quotas={"big": Quota(slices=3)})
    assert answer(f, "acquire a 2g") == "0 " + str(configuration_number(geometry("a30"), geometry("a30").parse("2g@0")))
    before = json.dumps(f.ledger.state())
    assert answer(f, line).startswith("error: ")
    assert answer(f, "acquire z 4g").startswith("error: no room")
    assert json.dumps(f.ledger.state()) == before


def test_line_protocol():
    """RMS clients read `<gpu> <configuration>`; releasing twice answers an error the second time."""
    f = fleet(policy="first_fit")
    assert answer(f, "acquire user-1 7g") == "0 0"
    assert (
        answer(f, "acquire user-2 4g")
        == f"1 {configuration_number(geometry('a100-80gb'), geometry('a100-80gb').parse('4g@0'))}"
    )
    assert answer(f, "acquire user-2 3g more") == "1 1"
    assert answer(f, "release user-2 more") == "released 1"
    assert answer(f, "release user-2") == "released 1"
    before = f.ledger.state()
    assert answer(f, "release user-2") == "error: tenant 'user-2' holds nothing: never acquired, or released already"
    assert f.ledger.state() == before


def test_configuration_numbers():
    """0 to 18 are the published partitions; every state has one number, plain ones before double memory before media."""
    table = geometry("a100-80gb")
    order = configurations(table)
    assert order[:19] == table.maximal() and len(set(order)) == len(order)
    assert set(order[:298]) == set(table.states())
    assert set(order[:723]) == set(table.states(("7g", "4g", "3g", "2g", "1g", "1g double")))
    assert [configuration_number(table, s) for s in order] == list(range(len(order)))


@pytest.mark.parametrize(
    "options",
    [
        {"policy": "best"},
        {"growth": ()},
        {"growth": (Growth("a30"), Growth("A30"))},
        {"initial": {"h200-141gb": 1}},
        {"learn": True},
        {"migrate": 2.0},
        {"chain": 0},
        {"half_life": 0},
        {"half_life": math.inf},
        {"half_life": "500"},
        {"migrate": math.nan},
        {"migrate_credit": -1},
        {"slack": None},
        {"chain": 1.5},
        {"spares": True},
        {"idle_s": math.inf},
        {"seed": 0.5},
        {"lazy": "yes"},
        {"weights": 3},
        {"initial": {"a100-80gb": 1.5}},
        {"growth": (Growth("a30", 1),), "initial": {"a30": 2}},
    ],
)
def test_bad_options(options):
    """A wrong option is refused at the start, not at the first request."""
    with pytest.raises(InputError):
        fleet(**options)
