"""The base of all repositories: bound to one tenant in one mode, it reads single rows and keyset pages."""

from collections.abc import Sequence
from typing import Any, ClassVar, Generic, TypeVar
from uuid import UUID

from asyncpg import Record

from schema.connections.database import Executor
from schema.errors import NotFound
from schema.ids import format_id
from schema.pages import After, Keyed, Page, page
from schema.queries import load

R = TypeVar("R", bound=Keyed)


class Repository(Generic[R]):
    """`data` logs in as the mode's role. There is no query without the tenant."""

    ROW: ClassVar[type[Any]]
    """R, a class of rows.py."""
    PREFIX: ClassVar[str]
    NAME: ClassVar[str]
    """The noun for messages, as in "There is no plan …"."""

    def __init__(self, data: Executor, tenant_id: UUID) -> None:
        self.data = data
        self.tenant_id = tenant_id
        self._sql = load(self.ROW.TABLE)

    async def get(self, id_: UUID) -> R:
        """Raises NotFound."""
        return self.found(await self.data.fetchrow(self._sql["get"], self.tenant_id, id_), id_)

    async def list(self, after: After, limit: int) -> Page[R]:
        """Newest first."""
        rows = await self.data.fetch(self._sql["list"], self.tenant_id, after.created_at, after.id, limit + 1)
        return page(self.read(rows), limit)

    def read(self, records: Sequence[Record]) -> Sequence[R]:
        return [self.ROW.read(record) for record in records]

    def found(self, record: Record | None, id_: UUID) -> R:
        if record is None:
            raise NotFound(
                f"There is no {self.NAME} {format_id(self.PREFIX, id_)} of this tenant in this mode."
            )
        row: R = self.ROW.read(record)
        return row
