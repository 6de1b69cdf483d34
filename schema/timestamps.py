"""How a moment is written in JSON, in webhooks and the API alike."""

from datetime import UTC, datetime


def iso_millis(moment: datetime) -> str:
    """`2026-06-28T09:00:00.000Z`; what is finer than a millisecond is cut off, never rounded up."""
    if moment.tzinfo is None:
        raise ValueError("a moment without a time zone would be read as this machine's local time")
    if moment.tzinfo is not UTC:
        moment = moment.astimezone(UTC)
    return moment.isoformat(timespec="milliseconds")[: -len("+00:00")] + "Z"
