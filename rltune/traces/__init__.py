"""Traces: one file a source, each read into a checked job table."""

from rltune.traces.alibaba_tables import pai_cluster, read_pai_machines
from rltune.traces.load import TRACES, from_config, load_trace
from rltune.traces.philly_machines import philly_cluster, read_philly_machines
from rltune.traces.split import split
from rltune.traces.trace import Trace

__all__ = [
    "TRACES",
    "Trace",
    "from_config",
    "load_trace",
    "pai_cluster",
    "philly_cluster",
    "read_pai_machines",
    "read_philly_machines",
    "split",
]
