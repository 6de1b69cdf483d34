"""The group `duro consumers`. Its commands are in consumers.py, and in consumers_rebuild.py."""

from service.cli.app import group


@group("consumers")
def consumers() -> None:
    """How far each consumer of the log has come, what one could not apply, and building its results anew."""
