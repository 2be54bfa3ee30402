"""``python -m rltune.report``: the door to the command; nothing else in the room knows it."""

import sys

from rltune.report_commands.main import main

if __name__ == "__main__":
    sys.exit(main())
