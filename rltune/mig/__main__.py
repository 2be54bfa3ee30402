"""``python -m rltune.mig``."""

from rltune.mig_commands.main import main

if __name__ == "__main__":
    main()
