"""The failure codes that recovery decides by, and how gateways' codes map to them."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class FailureCode(StrEnum):
    INSUFFICIENT_FUNDS = "insufficient_funds"
    EXPIRED_CARD = "expired_card"
    CARD_NOT_SUPPORTED = "card_not_supported"
    DO_NOT_HONOR = "do_not_honor"
    STOLEN_CARD = "stolen_card"
    PROCESSOR_ERROR = "processor_error"
    TIMEOUT = "timeout"


RESPONSE_CODES: Final[Mapping[FailureCode, str]] = {
    FailureCode.INSUFFICIENT_FUNDS: "51",
    FailureCode.EXPIRED_CARD: "54",
    FailureCode.DO_NOT_HONOR: "05",
    FailureCode.STOLEN_CARD: "43",
    FailureCode.CARD_NOT_SUPPORTED: "57",
    FailureCode.PROCESSOR_ERROR: "96",
    FailureCode.TIMEOUT: "68",
}
"""The issuer's response code of each (ISO 8583, field 39)."""

_OTHER_NAMES: Final[Mapping[str, FailureCode]] = {
    "5": FailureCode.DO_NOT_HONOR,
    "41": FailureCode.STOLEN_CARD,  # lost
    "lost_card": FailureCode.STOLEN_CARD,
    "pick_up_card": FailureCode.STOLEN_CARD,
    "04": FailureCode.STOLEN_CARD,
    "58": FailureCode.CARD_NOT_SUPPORTED,
    "91": FailureCode.PROCESSOR_ERROR,  # the issuer or its switch is down
    "06": FailureCode.PROCESSOR_ERROR,
    "issuer_unavailable": FailureCode.PROCESSOR_ERROR,
    "card_expired": FailureCode.EXPIRED_CARD,
    "33": FailureCode.EXPIRED_CARD,
    "61": FailureCode.INSUFFICIENT_FUNDS,  # over the limit: also retried on a later day
}
_KNOWN: Final[Mapping[str, FailureCode]] = {
    **{code.value: code for code in FailureCode},
    **{response: code for code, response in RESPONSE_CODES.items()},
    **_OTHER_NAMES,
}


def classify(reported: str) -> FailureCode:
    """Classifies a response code or a gateway's word. An unknown one is a refusal without a reason, as code 05 is."""
    return _KNOWN.get(reported.strip().lower(), FailureCode.DO_NOT_HONOR)
