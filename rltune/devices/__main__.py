"""``python -m rltune.devices``."""

from rltune.device_commands.main import main

if __name__ == "__main__":
    main()
