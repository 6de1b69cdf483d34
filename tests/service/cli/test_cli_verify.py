"""`duro verify`."""

import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from delivery.message.endpoint_secret import generate_secret
from delivery.message.signing import signed_headers, signing_keys
from tests.service.cli.duro_command import Duro

BODY = b'{"id":"evt_1","type":"invoice_created","createdAt":"2026-06-28T09:00:00.000Z","data":{}}'
duro = Duro({})


@dataclass(frozen=True)
class Case:
    """A webhook kept in files, as a merchant sends them to support."""

    path: Path
    secret: str

    def keep(self, *secrets: str, age: int = 0, body: bytes = BODY, prefix: str = "Duro") -> "Case":
        headers = signed_headers(
            signing_keys(secrets or (self.secret,)),
            event_id="evt_1",
            event_type="invoice_created",
            timestamp=int(time.time()) - age,
            body=BODY,
            prefix=prefix,
        )
        (self.path / "secret").write_text(f"{self.secret}\n")
        (self.path / "body").write_bytes(body)
        lines = [
            "POST /hooks HTTP/1.1",
            "Host: shop.example",
            *(f"{name}: {value}" for name, value in headers),
        ]
        (self.path / "headers").write_text("\n".join(lines) + "\n")
        return self

    @property
    def files(self) -> list[str]:
        return ["--secret-file", f"{self.path}/secret", "--body", f"{self.path}/body"]

    @property
    def arguments(self) -> list[str]:
        return ["verify", *self.files, "--headers", f"{self.path}/headers"]


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path, generate_secret())


async def test_a_genuine_webhook_is_valid_by_both_signatures(case: Case) -> None:
    verdict = await duro.json(*case.keep().arguments)
    assert verdict["valid"] is True
    assert [s["header"] for s in verdict["signatures"]] == ["Duro-Signature", "webhook-signature"]


async def test_during_a_rotation_either_secret_verifies(case: Case) -> None:
    case.keep(generate_secret(), case.secret)
    assert (await duro.json(*case.arguments))["valid"] is True
    (case.path / "secret").write_text(f"{generate_secret()}\n{case.secret}\n")
    assert (await duro.json(*case.arguments))["valid"] is True


async def test_one_header_is_enough(case: Case) -> None:
    lines = (case.keep().path / "headers").read_text().splitlines()
    [value] = [line.partition(": ")[2] for line in lines if line.startswith("Duro-Signature")]
    assert (await duro.json("verify", *case.files, "--signature", value))["valid"] is True


async def test_the_header_prefix_is_a_setting(case: Case) -> None:
    case.keep(prefix="Acme")
    acme = await duro.set(DURO_HEADER_PREFIX="Acme").json(*case.arguments)
    assert [s["header"] for s in acme["signatures"]] == ["Acme-Signature", "webhook-signature"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"body": BODY + b"\n"}, "No signature matches"),
        ({"age": 400}, "too old"),
        ({"age": -400}, "in the future"),
    ],
)
async def test_an_invalid_webhook_fails_with_the_reason(
    change: dict[str, object], why: str, case: Case
) -> None:
    outcome = await duro(*case.keep(**change).arguments)  # type: ignore[arg-type]
    assert outcome.status == 1
    assert "not valid" in outcome.stdout
    assert why in outcome.stderr
    assert outcome.stderr.count("\n") == 1


async def test_one_wrong_signature_of_two_is_not_valid(case: Case) -> None:
    path = case.keep().path / "headers"
    path.write_text(path.read_text().replace("webhook-signature: v1,", "webhook-signature: v1,AAAA"))
    verdict = (await duro(*case.arguments, "--json")).json
    assert [s["valid"] for s in verdict["signatures"]] == [True, False]
    assert verdict["valid"] is False


async def test_an_old_case_is_checked_with_any_tolerance(case: Case) -> None:
    case.keep(age=86_400)
    assert (await duro(*case.arguments, "--tolerance", "1h")).status == 1
    assert (await duro(*case.arguments, "--tolerance", "25h")).status == 0
    assert (await duro(*case.arguments, "--tolerance", "any")).status == 0


async def test_headers_without_a_signature_are_not_valid(case: Case) -> None:
    (case.keep().path / "headers").write_text("Content-Type: application/json\n")
    outcome = await duro(*case.arguments)
    assert (outcome.status, "has no signature" in outcome.stderr) == (1, True)


@pytest.mark.parametrize(
    ("secret", "headers", "sentence"),
    [
        ("whsec_c2hvcnQ=", None, "The secret is not whsec_"),
        ("", None, "holds 0 secrets"),
        (None, "no colon here", "Line 1 of the headers"),
        (None, "A: hunter2\na: hunter3", "given twice"),
        (None, b"A: \xff", "not UTF-8"),
    ],
)
async def test_unreadable_files_are_named(
    secret: str | None, headers: str | bytes | None, sentence: str, case: Case
) -> None:
    case.keep()
    if secret is not None:
        (case.path / "secret").write_text(secret)
    if headers is not None:
        (case.path / "headers").write_bytes(headers if isinstance(headers, bytes) else headers.encode())
    refusal = (await duro(*case.arguments)).refusal
    assert sentence in refusal
    assert "hunter" not in refusal
    assert case.secret not in refusal


async def test_a_missing_file_and_two_uses_of_stdin_are_refused(case: Case) -> None:
    case.keep()
    missing = await duro("verify", *case.files, "--headers", f"{case.path}/nope")
    assert "does not exist" in missing.refusal
    twice = await duro("verify", "--secret-file", "-", "--body", "-", "--headers", f"{case.path}/headers")
    assert "Only one" in twice.refusal
    assert (missing.status, twice.status) == (2, 2)
