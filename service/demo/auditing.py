"""Asks the database itself whether it agrees with what producers and the receiver saw."""

from collections import Counter
from collections.abc import Sequence
from uuid import UUID

from schema import audit
from schema.database import Database
from schema.ids import EVENT, format_id
from schema.modes import Mode
from service.demo.board import Board
from service.demo.verdict import Audit


async def log_ends(database: Database) -> dict[Mode, int]:
    return {mode: await audit.last_position(database.data(mode)) for mode in Mode}


async def examine(
    database: Database, board: Board, tenants: Sequence[UUID], began_at: dict[Mode, int]
) -> Audit:
    without, undead, holes, deliveries = [], [], 0, Counter[str]()
    for mode in Mode:
        pool = database.data(mode)
        without += await audit.without_position(
            pool, [e.id for e in board.committed.values() if e.mode is mode]
        )
        undead += await audit.recorded(
            pool, [id_ for id_, where in board.rolled_back.values() if where is mode]
        )
        holes += await audit.positions_missing(pool, began_at[mode])
        deliveries.update(await audit.deliveries_by_status(pool, tenants))
    return Audit(
        [format_id(EVENT, id_) for id_ in without],
        [format_id(EVENT, id_) for id_ in undead],
        holes,
        dict(deliveries),
    )
