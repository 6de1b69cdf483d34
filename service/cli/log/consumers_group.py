"""The group `duro consumers`. Its commands are in consumers_commands.py and consumers_rebuild.py."""

from service.cli.app import group


@group("consumers")
def consumers() -> None:
    """Show consumer lag and dead-lettered events, retry them, and rebuild projections."""
