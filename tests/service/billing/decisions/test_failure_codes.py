"""Whatever a gateway calls a failure, recovery knows it by one of seven words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.event_catalog import catalog
from service.billing.decisions.failure_codes import RESPONSE_CODES, FailureCode, classify


@pytest.mark.parametrize(
    ("reported", "failure"),
    [
        ("51", FailureCode.INSUFFICIENT_FUNDS),
        ("61", FailureCode.INSUFFICIENT_FUNDS),
        ("insufficient_funds", FailureCode.INSUFFICIENT_FUNDS),
        ("54", FailureCode.EXPIRED_CARD),
        ("33", FailureCode.EXPIRED_CARD),
        ("card_expired", FailureCode.EXPIRED_CARD),
        ("57", FailureCode.CARD_NOT_SUPPORTED),
        ("card_not_supported", FailureCode.CARD_NOT_SUPPORTED),
        ("05", FailureCode.DO_NOT_HONOR),
        ("5", FailureCode.DO_NOT_HONOR),
        ("43", FailureCode.STOLEN_CARD),
        ("41", FailureCode.STOLEN_CARD),
        ("lost_card", FailureCode.STOLEN_CARD),
        ("96", FailureCode.PROCESSOR_ERROR),
        ("91", FailureCode.PROCESSOR_ERROR),
        ("68", FailureCode.TIMEOUT),
        (" TIMEOUT\n", FailureCode.TIMEOUT),
        ("Stolen_Card", FailureCode.STOLEN_CARD),
    ],
)
def test_response_codes_and_words_are_known_however_they_are_written(
    reported: str, failure: FailureCode
) -> None:
    assert classify(reported) is failure


@pytest.mark.parametrize("failure", FailureCode)
def test_each_failure_is_known_by_its_own_word_and_by_its_response_code(failure: FailureCode) -> None:
    assert classify(failure) is failure
    assert classify(RESPONSE_CODES[failure]) is failure


@given(st.text())
def test_what_nobody_knows_is_a_refusal_without_a_reason(reported: str) -> None:
    """Total: no gateway can say anything that stops a settlement."""
    assert classify(f"?{reported}") is FailureCode.DO_NOT_HONOR


def test_the_catalog_has_the_same_words() -> None:
    told = catalog()["subscription_payment_failed"].schema["properties"]["failureCode"]["enum"]
    assert told == list(FailureCode)
