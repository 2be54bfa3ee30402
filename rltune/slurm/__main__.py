"""``python -m rltune.slurm``."""

from rltune.slurm.main import main

if __name__ == "__main__":
    main()
