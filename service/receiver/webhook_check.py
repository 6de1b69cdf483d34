"""Checks each of the two signatures of a received webhook."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from delivery.message.signing import (
    DEFAULT_TOLERANCE_S,
    SignatureRejected,
    verify_duro_signature,
    verify_standard,
)

STANDARD: Final = "webhook-signature"


@dataclass(frozen=True, slots=True)
class SignatureCheck:
    header: str
    fault: str | None
    """None if the signature is valid."""


@dataclass(frozen=True, slots=True)
class Check:
    """Valid if there is a signature and none is invalid."""

    signatures: Sequence[SignatureCheck]

    @property
    def valid(self) -> bool:
        return bool(self.signatures) and all(each.fault is None for each in self.signatures)

    @property
    def fault(self) -> str | None:
        """The first fault, or None."""
        if not self.signatures:
            return "it has no signature. Pass all its headers."
        return next((f"{s.header}: {s.fault}" for s in self.signatures if s.fault is not None), None)


def check_webhook(
    headers: Mapping[str, str],
    body: bytes,
    secrets: Sequence[str],
    now: float,
    *,
    prefix: str = "Duro",
    tolerance_s: float | None = DEFAULT_TOLERANCE_S,
    both: bool = False,
) -> Check:
    """Checks the signatures that are present, or requires both.

    Raises InvalidInput if a secret is malformed.
    """
    found = {name.lower(): value for name, value in headers.items()}
    duro = f"{prefix}-Signature"
    signatures = []
    if both or duro.lower() in found:
        signatures.append(_duro(duro, found.get(duro.lower(), ""), body, secrets, now, tolerance_s))
    if both or any(name.startswith("webhook-") for name in found):
        signatures.append(_standard(found, body, secrets, now, tolerance_s))
    return Check(signatures)


def _duro(
    name: str, header: str, body: bytes, secrets: Sequence[str], now: float, tolerance_s: float | None
) -> SignatureCheck:
    try:
        verify_duro_signature(header, body, secrets, now, tolerance_s)
    except SignatureRejected as rejected:
        return SignatureCheck(name, str(rejected))
    return SignatureCheck(name, None)


def _standard(
    headers: Mapping[str, str], body: bytes, secrets: Sequence[str], now: float, tolerance_s: float | None
) -> SignatureCheck:
    try:
        verify_standard(headers, body, secrets, now, tolerance_s)
    except SignatureRejected as rejected:
        return SignatureCheck(STANDARD, str(rejected))
    return SignatureCheck(STANDARD, None)
