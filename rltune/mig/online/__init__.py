"""Tenants on a growing fleet of MIG GPUs: acquire, release, few GPUs."""

from rltune.mig.online.fleet import Fleet, Lease
from rltune.mig.online.options import FleetOptions, Growth, Quota

__all__ = ["Fleet", "FleetOptions", "Growth", "Lease", "Quota"]
