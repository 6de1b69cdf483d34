"""Checks whether the database agrees with what the producers and the receiver observed."""

from collections import Counter
from collections.abc import Sequence
from uuid import UUID

from schema.connections.database import Database
from schema.core import audit_log
from schema.ids import EVENT, format_id
from schema.modes import Mode
from service.demo.demo_verdict import Audit
from service.demo.observations import Observations


async def log_ends(database: Database) -> dict[Mode, int]:
    return {mode: await audit_log.last_position(database.data(mode)) for mode in Mode}


async def audit_database(
    database: Database, observed: Observations, tenants: Sequence[UUID], start_positions: dict[Mode, int]
) -> Audit:
    without, rolled_back, holes, deliveries = [], [], 0, Counter[str]()
    for mode in Mode:
        pool = database.data(mode)
        without += await audit_log.without_position(
            pool, [e.id for e in observed.committed.values() if e.mode is mode]
        )
        rolled_back += await audit_log.recorded(
            pool, [id_ for id_, where in observed.rolled_back.values() if where is mode]
        )
        holes += await audit_log.positions_missing(pool, start_positions[mode])
        deliveries.update(await audit_log.deliveries_by_status(pool, tenants))
    return Audit(
        [format_id(EVENT, id_) for id_ in without],
        [format_id(EVENT, id_) for id_ in rolled_back],
        holes,
        dict(deliveries),
    )
