"""The group `duro billing`. Its commands are in billing_commands.py and billing_simulate.py."""

from service.cli.app import group


@group("billing")
def billing() -> None:
    """Run the billing engine: renew subscriptions and recover failed charges. Or simulate a business.

    No money moves: a scenario gateway answers charges, by the number of a test card or a generated payer.
    """
