"""Makes charges and refunds: asks the gateway and settles the answers.

      begun (committed, in flight, leased) ──► gateway ──► answered ──► settled, in batches as answers come
                                                  │
                                                  └─ no answer: the lease expires, take_over() asks again

A process may die at any arrow. The attempt is in the table before the gateway is asked, the gateway knows its reference, and
settling an attempt that is no longer in flight does nothing. So nothing is charged twice and no charge is forgotten. A
slow answer occupies one slot and nothing else.

A gateway that is down fails quickly, so slots alone would not keep the scanners from beginning everything that is due, and
an attempt in flight can only be asked for again. After SILENT_AFTER attempts in a row without an answer, only TRIES attempts
are begun every TRY_AFTER_S until one is answered. It is several, because the longest due attempts may all belong to one
merchant with a problem of its own.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from schema.billing import billing_cases
from schema.billing.billing_cases import Changes, Overdue
from schema.billing.rows import PaymentAttempt, PaymentKind, Rail
from schema.connections.error_kinds import is_data_fault, is_query_canceled, is_transient, needs_operator
from schema.core.wallet import Token
from schema.errors import Conflict, Unavailable
from schema.failures import PartFailures, current_part
from schema.ids import PAYMENT, PAYMENT_METHOD, format_id
from service.billing.decisions.failure_codes import FailureCode
from service.billing.decisions.settlement import settle
from service.billing.gateway.gateway import Gateway, Order, Outcome
from service.billing.ledger import Ledger, Unit

_logger = logging.getLogger(__name__)
PLACES: Final = 200
ANSWER_WITHIN_S: Final = 30.0
SILENT_AFTER: Final = 20
TRY_AFTER_S: Final = 5.0
TRIES: Final = 10
_BATCH: Final = 200
_ASK: Final = "ask the gateway"
_WRITE: Final = "write answers"

Tokens = Callable[[Sequence[UUID]], Awaitable[Mapping[UUID, Token]]]
"""Returns the gateway's tokens of saved payment methods by id, without removed ones."""


@dataclass(frozen=True, slots=True)
class Answer:
    attempt: PaymentAttempt
    outcome: Outcome


class ChargeProcessor:
    """Charges of one mode. Only `run` settles what was submitted."""

    def __init__(
        self,
        ledger: Ledger,
        gateway: Gateway,
        tokens: Tokens,
        *,
        places: int = PLACES,
        answer_within_s: float = ANSWER_WITHIN_S,
        try_after_s: float = TRY_AFTER_S,
    ) -> None:
        self._ledger = ledger
        self._gateway = gateway
        self._tokens = tokens
        self._places = places
        self._answer_within_s = answer_within_s
        self._try_after_s = try_after_s
        self._part = PartFailures("")  # attempts are made in the tasks of their submitters
        self._silent: set[UUID] = set()
        """Attempts without an answer since the last answer."""
        self._try_at = 0.0
        self._asking: set[asyncio.Task[None]] = set()
        self._answers: list[Answer] = []
        self._news = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.turn = asyncio.Lock()
        """Held by a scanner from reading the number of free slots until it has submitted, or two would use the same slots."""
        self.on_settled: Callable[[int], None] = lambda _count: None

    @property
    def room(self) -> int:
        """Returns the slots free for scanners. A charge that a person waits for (`follow_up`) does not need one."""
        free = max(0, self._places - len(self._asking) - len(self._answers))
        if len(self._silent) < SILENT_AFTER:
            return free
        return min(free, TRIES) if asyncio.get_running_loop().time() >= self._try_at else 0

    async def submit(self, begun: Sequence[Overdue]) -> None:
        """Asks the gateway for attempts that are committed as in flight. Raises the database's errors before any is asked;
        then their leases expire. So does the lease of an attempt whose payment method cannot be unsealed."""
        wanted = {
            each.payment_method_id
            for each in begun
            if each.payment_method_id is not None and _goes_by_it(each)
        }
        sealed: set[UUID | None] = set()
        tokens = await self._open(list(wanted), sealed)
        for each in begun:
            if each.payment_method_id in sealed and _goes_by_it(each):
                continue
            token = None if each.payment_method_id is None else tokens.get(each.payment_method_id)
            self._idle.clear()
            task = asyncio.create_task(self._ask(each, token))
            self._asking.add(task)
            task.add_done_callback(self._asked)

    async def follow_up(self, begun: Sequence[Overdue]) -> None:
        """Like `submit`, but logs errors: the caller's change is committed and must be reported as done."""
        try:
            await self.submit(begun)
        except Exception as error:
            if not is_transient(error):
                raise
            _logger.warning("%d attempts will be asked for when their leases expire: %r", len(begun), error)

    async def settled(self) -> None:
        """Returns when no attempt is under way and every answer is written."""
        await self._idle.wait()

    async def run(self, stop: asyncio.Event) -> None:
        """Settles until `stop`, then until every attempt under way is answered or timed out, and written. Answers left
        unwritten by a cancellation are written by the next run."""
        self._part = current_part()
        stopping = asyncio.create_task(stop.wait())
        stopping.add_done_callback(lambda _: self._news.set())
        try:
            while True:
                self._news.clear()
                await self._settle_all()
                if stop.is_set() and self._idle.is_set():
                    return
                await self._news.wait()
        finally:
            stopping.cancel()

    async def _open(self, ids: Sequence[UUID], sealed: set[UUID | None]) -> dict[UUID, Token]:
        """Adds to `sealed` a method that another key has sealed, so that it does not affect the others."""
        if not ids:
            return {}
        try:
            return dict(await self._tokens(ids))
        except Exception as error:
            if not (isinstance(error, Unavailable) or is_data_fault(error)):
                raise
            if len(ids) == 1:
                _logger.error("%s cannot be unsealed: %r", format_id(PAYMENT_METHOD, ids[0]), error)  # noqa: TRY400  the message says it all
                sealed.add(ids[0])
                return {}
        half = len(ids) // 2
        return await self._open(ids[:half], sealed) | await self._open(ids[half:], sealed)

    async def _ask(self, begun: Overdue, token: Token | None) -> None:
        attempt = begun.attempt
        try:
            async with asyncio.timeout(self._answer_within_s):
                outcome = await self._outcome(begun, token)
        except Exception as error:  # noqa: BLE001  after any error money may have moved: ask again later
            self._part.failed(_ASK, error, format_id(PAYMENT, attempt.id))
            self._silent.add(attempt.id)
            self._try_at = asyncio.get_running_loop().time() + self._try_after_s
            return
        if self._part.any:
            self._part.succeeded(_ASK)
        self._silent.clear()
        self._answers.append(Answer(attempt, outcome))

    async def _outcome(self, begun: Overdue, token: Token | None) -> Outcome:
        """Answers without the gateway only if it cannot have been asked before. A card removed from the wallet may have been
        charged by a process that died before it wrote the answer, so the gateway must be asked."""
        attempt = begun.attempt
        if attempt.amount == 0:  # a promo code covers the whole amount
            return Outcome()
        order = Order(
            reference=format_id(PAYMENT, attempt.id),
            amount=attempt.amount,
            currency=attempt.currency,
            rail=attempt.rail,
            token=None if token is None else token.token,
            number=attempt.number,
            at=attempt.created_at,
        )
        if attempt.kind is PaymentKind.REFUND:
            assert attempt.refund_of is not None
            return await self._gateway.refund(order, format_id(PAYMENT, attempt.refund_of))
        never_a_card = begun.payment_method_id is None or (token is not None and token.rail != Rail.CARD)
        if attempt.rail is Rail.CARD and never_a_card:
            return Outcome(FailureCode.CARD_NOT_SUPPORTED)
        return await self._gateway.charge(order)

    def _asked(self, task: asyncio.Task[None]) -> None:
        self._asking.discard(task)
        self._news.set()
        self._rest()

    def _rest(self) -> None:
        if not self._asking and not self._answers:
            self._idle.set()

    async def _settle_all(self) -> None:
        while self._answers:
            batch = self._answers[:_BATCH]
            await self._settle(batch)
            del self._answers[: len(batch)]
        self._rest()

    async def _settle(self, batch: Sequence[Answer]) -> None:
        """Halves a failing batch until the failing answer is alone. That attempt stays in flight and is asked for again when
        its lease has expired, so that the others do not wait for it."""
        try:
            count = await self._ledger.transact(lambda unit: _write(unit, batch))
        except Exception as error:  # noqa: BLE001  whatever it is, it is reported, and the attempts are asked for again
            if len(batch) > 1 and (is_data_fault(error) or is_query_canceled(error) or needs_operator(error)):
                half = len(batch) // 2
                await self._settle(batch[:half])
                await self._settle(batch[half:])
            else:
                about = f"{len(batch)} answers, {format_id(PAYMENT, batch[0].attempt.id)} first"
                self._part.failed(_WRITE, error, about)
            return
        self._part.succeeded(_WRITE)
        self.on_settled(count)


async def _write(unit: Unit, batch: Sequence[Answer]) -> int:
    unit.locked = await billing_cases.lock_of_attempts(unit.tx, [answer.attempt for answer in batch])
    outcomes = {answer.attempt.id: answer.outcome for answer in batch}
    changes, settled = Changes(), 0
    for case in await billing_cases.cases(unit.tx, unit.locked):
        if (
            case.attempt is not None and case.attempt.id in outcomes
        ):  # otherwise another worker has settled it
            changes.add(settle(case, outcomes[case.attempt.id], unit.now))
            settled += 1
    await unit.write(changes)
    return settled


async def settle_by_hand(ledger: Ledger, attempt: PaymentAttempt, outcome: Outcome) -> None:
    """Settles an attempt that the gateway never answers, by an outcome known otherwise. Raises Conflict unless in flight."""
    if not await ledger.transact(lambda unit: _write(unit, [Answer(attempt, outcome)])):
        raise Conflict(f"Payment {format_id(PAYMENT, attempt.id)} is not in flight: it is {attempt.state}.")


def _goes_by_it(begun: Overdue) -> bool:
    """Returns whether a payment method is needed: not for a refund, which names its charge, nor for an amount of zero."""
    return begun.attempt.kind is PaymentKind.CHARGE and begun.attempt.amount > 0
