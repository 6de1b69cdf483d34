"""The sentence about an event's deliveries."""

from uuid import UUID

import pytest

from schema.ids import ENDPOINT, format_id
from schema.read_models.activity_feed import DELIVERIES_COUNTED, DeliverySummary
from service.admin.activity_shape import problem

A, B, C = (UUID(int=number) for number in (1, 2, 3))
WE = {id_: format_id(ENDPOINT, id_) for id_ in (A, B, C)}


@pytest.mark.parametrize(
    ("deliveries", "says"),
    [
        (DeliverySummary(), ""),
        (DeliverySummary(3), ""),
        (DeliverySummary(1, failed=1, endpoints=(A,)), f"1 of 1 delivery failed ({WE[A]})"),
        (DeliverySummary(3, failed=2, endpoints=(A, B)), f"2 of 3 deliveries failed ({WE[A]}, {WE[B]})"),
        (DeliverySummary(2, skipped=1, endpoints=(A,)), f"1 of 2 deliveries skipped ({WE[A]})"),
        (
            DeliverySummary(9, failed=1, skipped=2, retrying=3, endpoints=(A, B, C)),
            f"1 of 9 deliveries failed, 2 skipped, 3 failed so far ({WE[A]}, {WE[B]}, {WE[C]} and 3 more)",
        ),
        (
            DeliverySummary(DELIVERIES_COUNTED, retrying=1, endpoints=(C,)),
            f"1 of the first {DELIVERIES_COUNTED} deliveries failed so far ({WE[C]})",
        ),
    ],
)
def test_failed_deliveries_make_a_sentence(deliveries: DeliverySummary, says: str) -> None:
    assert problem(deliveries) == says
