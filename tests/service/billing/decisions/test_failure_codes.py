"""Every gateway failure maps to one of seven failure codes."""

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
def test_response_codes_and_words_are_matched_in_any_case(reported: str, failure: FailureCode) -> None:
    assert classify(reported) is failure


@pytest.mark.parametrize("failure", FailureCode)
def test_each_failure_has_a_word_and_a_response_code(failure: FailureCode) -> None:
    assert classify(failure) is failure
    assert classify(RESPONSE_CODES[failure]) is failure


@given(st.text())
def test_an_unknown_failure_is_a_generic_decline(reported: str) -> None:
    """The function is total: no gateway answer can stop a settlement."""
    assert classify(f"?{reported}") is FailureCode.DO_NOT_HONOR


def test_the_catalog_has_the_same_words() -> None:
    words = catalog()["subscription_payment_failed"].schema["properties"]["failureCode"]["enum"]
    assert words == list(FailureCode)
