"""Signatures verify with the libraries that receivers use, and match published vectors."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import standardwebhooks
import stripe
from hypothesis import given
from hypothesis import strategies as st

from delivery.message.signing import (
    MalformedSignature,
    NoMatchingSignature,
    SignatureRejected,
    SigningKey,
    TimestampOutOfTolerance,
    _Hmac,
    signed_headers,
    signing_keys,
    verify_duro_signature,
    verify_standard,
)
from schema.errors import InvalidInput

VECTORS = json.loads((Path(__file__).parent / "vectors" / "standard-webhooks.json").read_text())

EVENT_ID = "evt_01HKBZ4PQ9Z3K7T8V9X2Y1B5C6"
NOW = 1_767_225_600
BODY = b'{"id":"evt_01HKBZ4PQ9Z3K7T8V9X2Y1B5C6","data":{"amount":500000}}'


def as_secret(raw: bytes) -> str:
    return "whsec_" + base64.b64encode(raw).decode()


NEW, OLD, FOREIGN = as_secret(b"n" * 32), as_secret(b"o" * 32), as_secret(b"f" * 32)
secret_bytes = st.binary(min_size=24, max_size=64)
secrets = secret_bytes.map(as_secret)
timestamps = st.integers(1, 10**11)


def sign(body: bytes, *secrets: str, timestamp: int = NOW, prefix: str = "Duro") -> dict[str, str]:
    return dict(
        signed_headers(
            signing_keys(secrets),
            event_id=EVENT_ID,
            event_type="invoice_created",
            timestamp=timestamp,
            body=body,
            prefix=prefix,
        )
    )


def flip(data: bytes, bit: int) -> bytes:
    bit %= len(data) * 8
    return bytes(byte ^ (1 << bit % 8 if index == bit // 8 else 0) for index, byte in enumerate(data))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["from"])
def test_published_vectors_are_reproduced(vector: dict[str, Any]) -> None:
    headers = signed_headers(
        signing_keys([vector["secret"]]),
        event_id=vector["id"],
        event_type="any",
        timestamp=vector["timestamp"],
        body=vector["payload"].encode(),
    )
    assert dict(headers)["webhook-signature"] == vector["signature"]


def test_headers_have_their_names_order_and_form() -> None:
    """They are as documented."""
    headers = signed_headers(
        signing_keys([NEW]), event_id=EVENT_ID, event_type="invoice_created", timestamp=NOW, body=BODY
    )
    duro = hmac.new(NEW.encode(), b"%d." % NOW + BODY, hashlib.sha256).hexdigest()
    standard = hmac.new(b"n" * 32, f"{EVENT_ID}.{NOW}.".encode() + BODY, hashlib.sha256).digest()
    assert headers == (
        ("Duro-Signature", f"t={NOW},v1={duro}"),
        ("Duro-Event-Id", EVENT_ID),
        ("Duro-Event-Type", "invoice_created"),
        ("webhook-id", EVENT_ID),
        ("webhook-timestamp", str(NOW)),
        ("webhook-signature", f"v1,{base64.b64encode(standard).decode()}"),
    )


def test_the_header_prefix_is_configurable() -> None:
    assert list(sign(BODY, NEW, prefix="Acme"))[:3] == ["Acme-Signature", "Acme-Event-Id", "Acme-Event-Type"]


def test_rotation_signs_with_every_secret_newest_first() -> None:
    both, new, old = sign(BODY, NEW, OLD), sign(BODY, NEW), sign(BODY, OLD)
    assert both["Duro-Signature"] == new["Duro-Signature"] + "," + old["Duro-Signature"].partition(",")[2]
    assert both["webhook-signature"] == new["webhook-signature"] + " " + old["webhook-signature"]


@pytest.mark.parametrize(
    "held", [NEW, OLD], ids=["receiver has the new secret", "receiver has the old secret"]
)
def test_stripe_and_standardwebhooks_verify_during_rotation(held: str) -> None:
    headers = sign(BODY, NEW, OLD, timestamp=int(time.time()))
    assert stripe.WebhookSignature.verify_header(BODY, headers["Duro-Signature"], held, tolerance=300)
    assert standardwebhooks.Webhook(held).verify(BODY, headers) == json.loads(BODY)


def test_stripe_and_standardwebhooks_reject_the_secret_of_another_endpoint() -> None:
    headers = sign(BODY, NEW, OLD, timestamp=int(time.time()))
    with pytest.raises(stripe.SignatureVerificationError):
        stripe.WebhookSignature.verify_header(BODY, headers["Duro-Signature"], FOREIGN, tolerance=300)
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(FOREIGN).verify(BODY, headers)


@given(body=st.text(), secret=secrets)
def test_stripe_and_standardwebhooks_verify_any_text(body: str, secret: str) -> None:
    headers = sign(body.encode(), secret, timestamp=int(time.time()))
    assert stripe.WebhookSignature.verify_header(
        body.encode(), headers["Duro-Signature"], secret, tolerance=300
    )
    standardwebhooks.Webhook(secret).verify(body.encode(), headers, json_parse=False)


@given(body=st.binary(), held=st.lists(secrets, min_size=1, max_size=3), timestamp=timestamps, data=st.data())
def test_any_body_verifies_with_any_of_its_secrets(
    body: bytes, held: list[str], timestamp: int, data: st.DataObject
) -> None:
    headers = sign(body, *held, timestamp=timestamp)
    one = data.draw(st.sampled_from(held))
    verify_duro_signature(headers["Duro-Signature"], body, [one], now=timestamp)
    verify_standard(headers, body, [one], now=timestamp)


@given(body=st.binary(min_size=1), secret=secrets, bit=st.integers(0))
def test_a_flipped_bit_in_the_body_is_rejected(body: bytes, secret: str, bit: int) -> None:
    headers = sign(body, secret)
    with pytest.raises(NoMatchingSignature):
        verify_duro_signature(headers["Duro-Signature"], flip(body, bit), [secret], now=NOW)
    with pytest.raises(NoMatchingSignature):
        verify_standard(headers, flip(body, bit), [secret], now=NOW)


@given(raw=secret_bytes, bit=st.integers(0))
def test_a_flipped_bit_in_the_secret_is_rejected(raw: bytes, bit: int) -> None:
    headers, other = sign(BODY, as_secret(raw)), as_secret(flip(raw, bit))
    with pytest.raises(NoMatchingSignature):
        verify_duro_signature(headers["Duro-Signature"], BODY, [other], now=NOW)
    with pytest.raises(NoMatchingSignature):
        verify_standard(headers, BODY, [other], now=NOW)


@given(bit=st.integers(0))
def test_a_flipped_bit_in_a_header_is_rejected(bit: int) -> None:
    """A byte that is not UTF-8 becomes a surrogate, as in HTTP libraries."""
    headers = sign(BODY, NEW)

    def damaged(name: str) -> str:
        return flip(headers[name].encode(), bit).decode("utf-8", "surrogateescape")

    with pytest.raises(SignatureRejected):
        verify_duro_signature(damaged("Duro-Signature"), BODY, [NEW], now=NOW, tolerance_s=None)
    for name in ("webhook-id", "webhook-timestamp", "webhook-signature"):
        with pytest.raises(SignatureRejected):
            verify_standard({**headers, name: damaged(name)}, BODY, [NEW], now=NOW, tolerance_s=None)


@pytest.mark.parametrize(
    "verify",
    [
        lambda headers, **rest: verify_duro_signature(headers["Duro-Signature"], **rest),
        verify_standard,
    ],
    ids=["duro", "standard"],
)
class TestTimestamp:
    """Both schemes accept the same range of timestamps, bounds included."""

    @pytest.mark.parametrize("now", [NOW - 300, NOW, NOW + 300])
    def test_within_the_tolerance_is_accepted(self, verify: Callable[..., None], now: int) -> None:
        verify(sign(BODY, NEW), body=BODY, secrets=[NEW], now=now)

    @pytest.mark.parametrize(
        ("now", "reason"),
        [
            (NOW + 301, "too old: it was made 301 s ago, and 300 s are allowed"),
            (NOW + 300.001, "too old: it was made 301 s ago"),
            (NOW - 301, "301 s in the future, and 300 s are allowed"),
            (NOW - 300.001, "301 s in the future"),
        ],
    )
    def test_beyond_the_tolerance_is_rejected(
        self, verify: Callable[..., None], now: float, reason: str
    ) -> None:
        with pytest.raises(TimestampOutOfTolerance, match=reason):
            verify(sign(BODY, NEW), body=BODY, secrets=[NEW], now=now)

    def test_without_a_tolerance_an_old_request_verifies(self, verify: Callable[..., None]) -> None:
        verify(sign(BODY, NEW), body=BODY, secrets=[NEW], now=NOW + 10**7, tolerance_s=None)

    def test_a_wrong_secret_is_reported_before_an_old_timestamp(self, verify: Callable[..., None]) -> None:
        with pytest.raises(NoMatchingSignature):
            verify(sign(BODY, FOREIGN), body=BODY, secrets=[NEW], now=NOW + 10**7)


@pytest.mark.parametrize("header", [
    "",
    "garbage",
    f"t={NOW}",
    "v1=00",
    f"t={NOW},v0=00",
    "t=,v1=00",
    "t=-1,v1=00",
    "t=٣,v1=00",
    "t=0017,v1=00",
    f"t={NOW},t={NOW},v1=00",
    f"t={'9' * 5000},v1=00",
])  # fmt: skip
def test_a_malformed_duro_signature_is_reported(header: str) -> None:
    with pytest.raises(MalformedSignature):
        verify_duro_signature(header, BODY, [NEW], now=NOW)


@pytest.mark.parametrize("change", [
    {"webhook-id": ""},
    {"webhook-timestamp": ""},
    {"webhook-timestamp": "nan"},
    {"webhook-timestamp": "1e9"},
    {"webhook-signature": ""},
    {"webhook-signature": "v1a,AAAA"},
])  # fmt: skip
def test_malformed_standard_headers_are_reported(change: dict[str, str]) -> None:
    with pytest.raises(MalformedSignature):
        verify_standard({**sign(BODY, NEW), **change}, BODY, [NEW], now=NOW)


@pytest.mark.parametrize("text", ["", "v1=", "é", "\udcff\ud800", "=" * 5000])
def test_any_text_as_a_signature_is_rejected(text: str) -> None:
    with pytest.raises(NoMatchingSignature):
        verify_duro_signature(f"t={NOW},v1={text}", BODY, [NEW], now=NOW)
    with pytest.raises(NoMatchingSignature):
        verify_standard({**sign(BODY, NEW), "webhook-signature": f"v1,{text}"}, BODY, [NEW], now=NOW)
    with pytest.raises(NoMatchingSignature):
        verify_standard({**sign(BODY, NEW), "webhook-id": f"evt_{text}"}, BODY, [NEW], now=NOW)


def test_standard_headers_are_found_in_any_case() -> None:
    verify_standard({name.title(): value for name, value in sign(BODY, NEW).items()}, BODY, [NEW], now=NOW)


def test_every_signature_is_compared_with_every_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timing must not show which one matched."""
    compared = []

    def counting(candidate: bytes, signature: bytes) -> bool:
        compared.append((candidate, signature))
        return candidate == signature

    monkeypatch.setattr("delivery.message.signing.hmac.compare_digest", counting)
    verify_duro_signature(sign(BODY, NEW, OLD, FOREIGN)["Duro-Signature"], BODY, [NEW, OLD], now=NOW)
    assert len(set(compared)) == 3 * 2


def test_signing_without_a_key_fails() -> None:
    with pytest.raises(ValueError, match="unsigned"):
        sign(BODY)


def test_a_key_is_not_in_its_repr() -> None:
    assert repr(SigningKey.from_secret(NEW)) == "SigningKey()"


@pytest.mark.parametrize("secret", ["whsec_short", "whsec_" + "é" * 40, "whsec_\ud800"])
def test_an_invalid_secret_is_rejected_and_not_shown(secret: str) -> None:
    with pytest.raises(InvalidInput) as rejected:
        SigningKey.from_secret(secret)
    assert secret[6:] not in str(rejected.value)


@given(key=st.binary(max_size=200), message=st.binary(max_size=200))
def test_a_precomputed_key_signs_as_the_standard_library(key: bytes, message: bytes) -> None:
    keyed = _Hmac(key)
    assert keyed.digest(message) == hmac.digest(key, message, "sha256")
    assert keyed.digest(message) == hmac.digest(key, message, "sha256"), "and again"
