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
class Finding:
    header: str
    fault: str | None
    """None when the signature is valid."""


@dataclass(frozen=True, slots=True)
class Check:
    """Valid when there is a signature and none is wrong."""

    findings: Sequence[Finding]

    @property
    def valid(self) -> bool:
        return bool(self.findings) and all(finding.fault is None for finding in self.findings)

    @property
    def fault(self) -> str | None:
        """The first, for one line."""
        if not self.findings:
            return "it has no signature: give all its headers."
        return next((f"{f.header}: {f.fault}" for f in self.findings if f.fault is not None), None)


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
    """Checks whichever signatures are there, or insists on both. Raises InvalidInput when a secret is malformed."""
    found = {name.lower(): value for name, value in headers.items()}
    duro = f"{prefix}-Signature"
    findings = []
    if both or duro.lower() in found:
        findings.append(_duro(duro, found.get(duro.lower(), ""), body, secrets, now, tolerance_s))
    if both or any(name.startswith("webhook-") for name in found):
        findings.append(_standard(found, body, secrets, now, tolerance_s))
    return Check(findings)


def _duro(
    name: str, header: str, body: bytes, secrets: Sequence[str], now: float, tolerance_s: float | None
) -> Finding:
    try:
        verify_duro_signature(header, body, secrets, now, tolerance_s)
    except SignatureRejected as rejected:
        return Finding(name, str(rejected))
    return Finding(name, None)


def _standard(
    headers: Mapping[str, str], body: bytes, secrets: Sequence[str], now: float, tolerance_s: float | None
) -> Finding:
    try:
        verify_standard(headers, body, secrets, now, tolerance_s)
    except SignatureRejected as rejected:
        return Finding(STANDARD, str(rejected))
    return Finding(STANDARD, None)
