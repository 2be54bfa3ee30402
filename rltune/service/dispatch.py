"""From places of the core to orders for machines, kept back until what they follow from is on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rltune.service.orders import Begin, Command, Held, Node, Order, Stop, Suspend
from rltune.service.orders import Cut as CutOrder
from rltune.service.records import LEASE, Record
from rltune.service.specs import JobSpec
from rltune.simulator.requests import Cut, Place


@dataclass(frozen=True, slots=True)
class Seat:
    """A node of the core is GPUs ``gpus`` (their numbers there) of a machine."""

    machine: str
    gpus: tuple[int, ...]


class Dispatch:
    """``seats``: of the core's nodes in their order. ``machines`` are found by name afterwards."""

    def __init__(self, machines: Sequence[Node], seats: Sequence[Seat]) -> None:
        self.machines, self.seats = {machine.name: machine for machine in machines}, list(seats)
        self._out: dict[str, list[Order]] = {}

    def node_name(self, node: int) -> str:
        """What people call a node of the core: its machine, with its first GPU where a machine is several nodes."""
        seat = self.seats[node]
        several = sum(other.machine == seat.machine for other in self.seats) > 1
        return f"{seat.machine}:{seat.gpus[0]}" if several and seat.gpus else seat.machine

    def numbers(self) -> dict[str, int]:
        """Number of each node in the core, by its name."""
        return {self.node_name(k): k for k in range(len(self.seats))}

    def machines_of(self, places: Sequence[Place]) -> list[str]:
        """Machines of a run, rank 0 first."""
        return list(dict.fromkeys(self.seats[place.node].machine for place in places))

    def cut(self, cut: Cut) -> None:
        self._add(self.seats[cut.node].machine, self.order_of(cut))

    def order_of(self, cut: Cut) -> CutOrder:
        return CutOrder(self.seats[cut.node].gpus[cut.gpu], cut.mig, cut.instances)

    def begin(self, record: Record, cuts: Sequence[Cut], resumes: str | None) -> None:
        """The present run of a job or lease; ``cuts``: GPUs that are cut anew at this instant."""
        machines = self.machines_of(record.places)
        for rank, machine in enumerate(machines):
            held = tuple(
                x for place in record.places if self.seats[place.node].machine == machine for x in self.held(place)
            )
            mine = {x.gpu for x in held}
            orders = [self.order_of(cut) for cut in cuts if self.seats[cut.node].machine == machine]
            begin = Begin(
                record.run,
                record.id,
                command_of(record),
                held,
                tuple(x for x in orders if x.gpu in mine),
                resumes=resumes,
            )
            self._add(machine, replace(begin, rank=rank, world=len(machines), peers=tuple(machines)))

    def held(self, place: Place) -> list[Held]:
        gpus = [self.seats[place.node].gpus[gpu] for gpu in place.gpus]
        instance = None if place.profile is None else (place.profile, place.start)
        return [Held(gpu, instance) for gpu in gpus]

    def suspend(self, record: Record) -> None:
        for machine in self.machines_of(record.places):
            self._add(machine, Suspend(record.run))

    def stop(self, run: str, machines: Sequence[str]) -> None:
        for machine in machines:
            self._add(machine, Stop(run))

    def _add(self, machine: str, order: Order) -> None:
        self._out.setdefault(machine, []).append(order)

    def withhold(self, jobs: set[str]) -> None:
        """Runs of these jobs are not begun after all."""
        for machine, orders in self._out.items():
            self._out[machine] = [x for x in orders if not (isinstance(x, Begin) and x.job in jobs)]

    def send(self) -> None:
        """All orders, now that what they follow from is on disk."""
        out, self._out = self._out, {}
        for machine, orders in out.items():
            self.machines[machine].carry_out(orders)


def command_of(record: Record) -> Command:
    """What a job runs; a lease runs nothing."""
    spec = record.spec
    if record.kind == LEASE or not isinstance(spec, JobSpec):
        return Command((), {})
    environment = dict(spec.environment)
    if "[" in record.id:
        environment["RLTUNE_ARRAY_INDEX"] = record.id.rpartition("[")[2].rstrip("]")
    suspend = "checkpoint" if spec.suspend == "never" else spec.suspend
    return Command(tuple(spec.command), environment, spec.directory, spec.user, suspend, float(spec.grace_s))
