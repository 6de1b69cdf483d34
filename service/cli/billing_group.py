"""The group `duro billing`. Its commands are in billing.py, and in billing_simulate.py."""

from service.cli.app import group


@group("billing")
def billing() -> None:
    """Subscriptions: renew what is due, recover what failed, or play a whole business through time.

    No money moves here: charges are answered by the scenario gateway, by a test card's number or a made-up payer.
    """
