"""The text form of times in JSON, in webhooks and in command output."""

from datetime import UTC, datetime


def iso_millis(moment: datetime) -> str:
    """Writes `2026-06-28T09:00:00.000Z`. Microseconds are cut off, never rounded up."""
    if moment.tzinfo is None:
        raise ValueError("a time without a time zone would be read as this machine's local time")
    if moment.tzinfo is not UTC:
        moment = moment.astimezone(UTC)
    return moment.isoformat(timespec="milliseconds")[: -len("+00:00")] + "Z"
