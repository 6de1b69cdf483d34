"""The shops' business: for each merchant in each mode a simulation on the billing engine, by a clock that runs ahead, with
events recorded as of now. Enough customers sign up for two months of it to bring about the events that are asked for.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from random import Random
from typing import Final

from schema.billing import books
from schema.database import Database
from schema.modes import Mode
from service.billing.clock import VirtualClock
from service.demo.board import Board
from service.demo.producers import EVENTS_PER_SECOND, DemoLedger, Pacer, Shop
from service.simulation.merchants import Trade
from service.simulation.stage import Cast, stage
from service.simulation.trades import TRADES

_KINDS: Final = {"Ikeja Fitness Club": "Fitness Club", "Bodija Books": "Books"}
_DAYS: Final = 60
_EVENTS_PER_SIGNUP: Final = 6
_LONGEST: Final = timedelta(days=3650)


async def trade(database: Database, board: Board, shops: Sequence[Shop], total: int) -> None:
    """Until the board has `total` events, give or take what one transaction more commits."""
    begins = await books.clock(database.core)
    pacer = Pacer(EVENTS_PER_SECOND)
    per_day = total / _DAYS / _EVENTS_PER_SIGNUP / len(shops)
    async with asyncio.TaskGroup() as group:
        for number, shop in enumerate(shops):
            group.create_task(_keep_shop(database, board, shop, pacer, per_day, begins, total, number))


async def _keep_shop(
    database: Database,
    board: Board,
    shop: Shop,
    pacer: Pacer,
    signups_per_day: float,
    begins: datetime,
    total: int,
    seed: int,
) -> None:
    clock = VirtualClock(begins, history=False)
    ledger = DemoLedger(database, clock, board, shop, pacer, Random(seed))  # noqa: S311  a script, not a secret
    plans = TRADES[_KINDS[shop.merchant.name]]
    business = Trade(
        shop.merchant.name, plans, payday_aware=False, signups_per_day=dict.fromkeys(Mode, signups_per_day)
    )
    enough = asyncio.Event()

    async def pause(_moment: datetime) -> None:
        if len(board.committed) >= total:
            enough.set()

    cast = Cast([(shop.merchant.id, business)], {shop.mode: ledger}, clock, seed)
    async with stage(database, cast, lambda _progress: None) as simulation:
        await simulation.run(begins + _LONGEST, pause, enough)
