"""``python -m rltune.live``."""

from rltune.live.main import main

if __name__ == "__main__":
    main()
