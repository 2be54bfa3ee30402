"""``python -m rltune.kubernetes``."""

from rltune.kubernetes.main import main

if __name__ == "__main__":
    main()
