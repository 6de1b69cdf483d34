"""Keyset pages, newest first. A page starts after the previous page's last row, so page 500 costs as much as page 1."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Generic, Protocol, TypeVar
from uuid import UUID

from schema.errors import InvalidInput

DEFAULT_LIMIT: Final = 20
MOST: Final = 100


class Keyed(Protocol):
    @property
    def created_at(self) -> datetime: ...
    @property
    def id(self) -> UUID: ...


T = TypeVar("T", bound=Keyed)


@dataclass(frozen=True, slots=True)
class After:
    """The key after which a page begins; both None for the first page."""

    created_at: datetime | None = None
    id: UUID | None = None

    @classmethod
    def read(cls, cursor: str | None) -> "After":
        """Raises InvalidInput unless `cursor` came from a page."""
        if cursor is None:
            return cls()
        try:
            moment, _, id_ = urlsafe_b64decode(cursor.encode()).decode().partition(" ")
            created_at = datetime.fromisoformat(moment)
            if created_at.tzinfo is not None:
                return cls(created_at.astimezone(UTC), UUID(id_))
        except (ValueError, OverflowError, NotBase64):
            pass
        raise InvalidInput("Invalid cursor: use a cursor that a list returned, or none to start at the top.")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    items: Sequence[T]
    next_cursor: str | None

    @property
    def has_more(self) -> bool:
        return self.next_cursor is not None


def check_limit(limit: int) -> int:
    if not 1 <= limit <= MOST:
        raise InvalidInput(f"limit must be from 1 to {MOST}.")
    return limit


def page(rows: Sequence[T], limit: int) -> Page[T]:
    """Makes a page of `limit` + 1 requested rows: the extra row shows that there is more."""
    items = rows[:limit]
    more = len(rows) > limit
    return Page(items, _cursor(items[-1]) if more else None)


def _cursor(row: Keyed) -> str:
    return urlsafe_b64encode(f"{row.created_at.isoformat()} {row.id}".encode()).decode()
