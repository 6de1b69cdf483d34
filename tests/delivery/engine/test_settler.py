"""Results are written once, in batches, fenced by their leases, even if PostgreSQL rejects their details."""

from collections import Counter
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from delivery.engine import settler
from delivery.engine.settler import PendingSettlement
from schema.deliveries import deliveries
from schema.deliveries.deliveries import WORTH_A_COPY, Attempt, Settlement, Verdict
from schema.ids import new_id
from tests.support.engine import Engine, running
from tests.support.servers.tcp_proxy import Cut, TcpProxy
from tests.support.settler_results import attempt, claim, delivered, failed, settle, some_claims


async def test_results_are_written_in_bounded_batches(
    ours: Engine, tenant: UUID, endpoint: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settler, "_BATCH", 50)
    for claimed in await some_claims(ours, tenant, endpoint, 70):
        ours.settler.put(delivered(claimed))
    async with running(ours.settler):
        await ours.settled.count(70)
    rows = await ours.rows()
    assert [row["status"] for row in rows] == ["delivered"] * 70
    moments = Counter(row["settled_at"] for row in rows)
    assert sorted(moments.values()) == [20, 50], "one time per transaction"
    assert (ours.settler.settled, ours.settler.fenced_off) == (70, 0)


async def test_a_result_is_stored_unchanged(ours: Engine, tenant: UUID, endpoint: UUID) -> None:
    (claimed,) = await some_claims(ours, tenant, endpoint, 1)
    result = delivered(claimed, dns_ms=0.5)
    await settle(ours, result)
    (row,) = await ours.rows()
    assert (row["status"], row["attempts"], row["schedule_attempts"], row["lease"]) == (
        "delivered",
        1,
        1,
        None,
    )
    (stored,) = await ours.attempts()
    assert stored["settled"]
    assert stored["created_at"] == claimed.created_at
    kept = result.settlement.attempt
    assert kept is not None
    for name in Attempt.__slots__:
        assert stored[name] == getattr(kept, name)


@pytest.mark.parametrize("late_comes", ["first", "last", "in the same batch"])
async def test_a_late_result_does_not_overwrite_a_newer_one(
    ours: Engine, tenant: UUID, endpoint: UUID, late_comes: str
) -> None:
    """Both attempts are recorded; the current lease decides the delivery's status."""
    (old,) = await some_claims(ours, tenant, endpoint, 1)
    assert await deliveries.take_over(ours.pool, [1]) == 1
    (new,) = await claim(ours, endpoint, 1, worker=2)
    if late_comes == "in the same batch":
        await settle(ours, failed(old), delivered(new))
    elif late_comes == "first":
        await settle(ours, failed(old))
        assert await ours.leased() == 1, "the newer attempt is still under way"
        await settle(ours, delivered(new))
    else:
        await settle(ours, delivered(new))
        await settle(ours, failed(old))
    (row,) = await ours.rows()
    assert (row["status"], row["attempts"]) == ("delivered", 1)
    assert {a["outcome"]: a["settled"] for a in await ours.attempts()} == {"ok": True, "timeout": False}
    assert (ours.settler.settled, ours.settler.fenced_off) == (1, 1)


@pytest.mark.parametrize("others", [0, WORTH_A_COPY])
async def test_leases_distinguish_two_results_of_one_delivery(
    ours: Engine, tenant: UUID, endpoint: UUID, others: int
) -> None:
    """In either order and with either way to write attempts, one of them counts."""
    first = await some_claims(ours, tenant, endpoint, 2)
    await deliveries.take_over(ours.pool, [1])
    again = {claimed.id: claimed for claimed in await claim(ours, endpoint, 2, worker=2)}
    more = await some_claims(ours, tenant, endpoint, others) if others else []
    new = [again[claimed.id] for claimed in first]
    late_first = (failed(first[0]), delivered(new[0]))
    late_last = (delivered(new[1]), failed(first[1]))
    await settle(ours, *late_first, *late_last, *(delivered(claimed) for claimed in more))
    assert await ours.statuses() == ["delivered"] * (2 + others)
    recorded = [(attempt["outcome"], attempt["settled"]) for attempt in await ours.attempts()]
    assert Counter(recorded) == {("ok", True): 2 + others, ("timeout", False): 2}
    assert (ours.settler.settled, ours.settler.fenced_off) == (2 + others, 2)


# Large batches: COPY, unless an earlier try may have written them


async def test_copy_and_insert_record_equal_attempts(
    ours: Engine, tenant: UUID, endpoint: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = await some_claims(ours, tenant, endpoint, 2 * WORTH_A_COPY)
    details: list[dict[str, Any]] = [
        {},
        {"dns_ms": 0.25, "tls_ms": None},
        {
            "status_code": None,
            "error": "naïve \u2603",
            "response_body": b"",
            "address": None,
            "total_ms": 1e4,
        },
        {"response_body": bytes(range(256)), "first_byte_ms": None, "connect_ms": None},
    ]
    made = [attempt(**details[n % len(details)]) for n in range(WORTH_A_COPY)]
    for n, worth_it in enumerate((WORTH_A_COPY, 10_000)):
        monkeypatch.setattr(deliveries, "WORTH_A_COPY", worth_it)
        some = claims[n::2]
        results = [
            PendingSettlement(Settlement(claimed, Verdict.DELIVERED, attempt=replace(tried, id=new_id())))
            for claimed, tried in zip(some, made, strict=True)
        ]
        await settle(ours, *results)
    stored = {row["delivery_id"]: row for row in await ours.attempts()}
    copied, inserted = (
        [
            {
                k: v
                for k, v in stored[claimed.id].items()
                if k not in {"id", "delivery_id", "created_at", "xid"}
            }
            for claimed in claims[n::2]
        ]
        for n in range(2)
    )
    assert len(copied) == WORTH_A_COPY
    assert copied == inserted


async def test_a_large_batch_whose_commit_is_uncertain_is_written_once(
    far: Engine, ours: Engine, proxy: TcpProxy, tenant: UUID, endpoint: UUID
) -> None:
    """The copied rows exist already, and the retry skips them."""
    count = WORTH_A_COPY + 5
    claims = await some_claims(far, tenant, endpoint, count)
    proxy.cut_at(b"COMMIT", Cut.AFTER)
    await settle(far, *(delivered(claimed) for claimed in claims))
    assert proxy.was_cut.is_set()
    assert [(row["status"], row["attempts"]) for row in await ours.rows()] == [("delivered", 1)] * count
    assert [attempt["settled"] for attempt in await ours.attempts()] == [True] * count
    assert (far.settler.settled, far.settler.fenced_off) == (count, 0)


# Results that PostgreSQL rejects


@pytest.mark.parametrize(
    "poison",
    [
        pytest.param({"error": "a\x00b"}, id="a zero byte"),
        pytest.param({"error": "a\ud800b"}, id="half a character"),
        pytest.param({"response_body": b"x" * 4097}, id="a body over the limit"),
    ],
)
@pytest.mark.parametrize("count", [9, WORTH_A_COPY + 9])
async def test_a_result_that_cannot_be_stored_is_settled_without_details(
    ours: Engine, tenant: UUID, endpoint: UUID, poison: dict[str, Any], count: int
) -> None:
    claims = await some_claims(ours, tenant, endpoint, count)
    results = [delivered(claimed) for claimed in claims]
    results[4] = delivered(claims[4], **poison)
    await settle(ours, *results)
    assert await ours.statuses() == ["delivered"] * count
    stored = {attempt["delivery_id"]: attempt for attempt in await ours.attempts()}
    assert len(stored) == count
    bare = stored.pop(claims[4].id)
    assert (bare["error"], bare["response_body"]) == ("ok; the details could not be stored", b"")
    assert {attempt["response_body"] for attempt in stored.values()} == {b"thanks"}


async def test_of_two_results_only_the_faulty_one_loses_its_details(
    ours: Engine, tenant: UUID, endpoint: UUID
) -> None:
    claims = await some_claims(ours, tenant, endpoint, 2)
    await settle(ours, delivered(claims[0]), delivered(claims[1], error="\x00"))
    stored = {attempt["delivery_id"]: attempt["response_body"] for attempt in await ours.attempts()}
    assert stored == {claims[0].id: b"thanks", claims[1].id: b""}
