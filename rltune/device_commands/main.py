"""``python -m rltune.devices show|watch|plan|apply|verify|...``."""


def main() -> None:
    """Hand over to a command."""
