"""``python -m rltune.models [NAME]``: the policies that come with the package, or the card of one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import yaml

from rltune.models.catalogue import models, read_card
from rltune.nouns.errors import InputError


def main(argv: Sequence[str] | None = None) -> int:
    """Print; 0, or 2 with one line on standard error for an unknown name."""
    parser = argparse.ArgumentParser(prog="python -m rltune.models", description=__doc__)
    parser.add_argument("name", metavar="NAME", nargs="?", help="of a shipped policy: its card")
    name = parser.parse_args(argv).name
    try:
        if name is not None:
            print(yaml.safe_dump({"name": name, **read_card(name)}, sort_keys=False, width=110), end="")
            return 0
        for each in models():
            card = read_card(each)
            print(f"{each.ljust(18)} seed {card['seeds'][each]['seed']}  {card['says']}")
    except InputError as error:
        print("error:", error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
