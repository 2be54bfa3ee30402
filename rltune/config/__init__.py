"""Options: what there are (`commands`, `learning`), how one is declared and checked (`declare`), what names stand for
(`choices`, `traces`, `clusters`).

Hydra puts a command line together of these in `rltune.entry`; this package does not import it.
"""

from rltune.config.clusters import changed_cluster, load_cluster
from rltune.config.files import CONF, named

__all__ = ["CONF", "changed_cluster", "load_cluster", "named"]
