import base64
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.errors import InvalidInput, Unavailable
from schema.secret_box import SecretBox, derive_code_key, derive_role_password, parse_secret_key

KEY = bytes(range(32))
CONTEXT = b"endpoint-1"
CANNOT = "cannot be decrypted with this DURO_SECRET_KEY"


@given(plaintext=st.text(), context=st.binary(), key=st.binary(min_size=32, max_size=32))
def test_what_was_sealed_opens(plaintext: str, context: bytes, key: bytes) -> None:
    assert SecretBox(key).open(SecretBox(key).seal(plaintext, context), context) == plaintext


def test_sealing_twice_never_gives_the_same_bytes() -> None:
    """A nonce used again would break AES-GCM."""
    sealed = {SecretBox(KEY).seal("whsec_x", CONTEXT) for _ in range(1000)}
    assert len({text[1:13] for text in sealed}) == 1000


def test_another_key_does_not_open_it() -> None:
    sealed = SecretBox(KEY).seal("whsec_x", CONTEXT)
    with pytest.raises(Unavailable, match=CANNOT):
        SecretBox(bytes(32)).open(sealed, CONTEXT)


def test_moved_to_another_endpoint_it_does_not_open() -> None:
    sealed = SecretBox(KEY).seal("whsec_x", CONTEXT)
    with pytest.raises(Unavailable, match=CANNOT):
        SecretBox(KEY).open(sealed, b"endpoint-2")


@given(bit=st.integers(8, 8 * (1 + 12 + 7 + 16) - 1))
def test_a_flipped_bit_does_not_open(bit: int) -> None:
    sealed = bytearray(SecretBox(KEY).seal("whsec_x", CONTEXT))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(Unavailable, match=CANNOT):
        SecretBox(KEY).open(bytes(sealed), CONTEXT)


@pytest.mark.parametrize("length", range(1, 36))
def test_cut_short_it_does_not_open(length: int) -> None:
    with pytest.raises(Unavailable, match=CANNOT):
        SecretBox(KEY).open(SecretBox(KEY).seal("whsec_x", CONTEXT)[:length], CONTEXT)


@pytest.mark.parametrize("sealed", [b"", b"\x00" * 40, b"\x02" * 40])
def test_a_format_of_another_version_is_called_so(sealed: bytes) -> None:
    with pytest.raises(Unavailable, match="format unknown to this version"):
        SecretBox(KEY).open(sealed, CONTEXT)


def test_a_box_does_not_show_its_key() -> None:
    assert repr(SecretBox(KEY)) == "SecretBox()"
    assert not hasattr(SecretBox(KEY), "__dict__")


@pytest.mark.parametrize("length", [0, 16, 24, 31, 33])
def test_a_box_takes_a_256_bit_key_alone(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        SecretBox(bytes(length))


class TestSecretKey:
    @given(st.binary(min_size=32, max_size=32))
    def test_every_spelling_gives_the_same_key(self, key: bytes) -> None:
        standard, urlsafe = base64.b64encode(key).decode(), base64.urlsafe_b64encode(key).decode()
        for text in (
            standard,
            urlsafe,
            standard[:-1],
            urlsafe[:-1],
            key.hex(),
            key.hex().upper(),
            f" {standard}\n",
        ):
            assert parse_secret_key(text) == key

    @pytest.mark.parametrize("text", [
        "",
        "hunter2hunter2",
        KEY.hex()[:-1],
        KEY.hex() + "0",
        base64.b64encode(KEY[:31]).decode(),
        base64.b64encode(KEY + b"x").decode(),
        base64.b64encode(KEY).decode() + "=",
        base64.b64encode(KEY).decode()[:-2] + "9=",
        "é" * 43,
        "٣" * 64,
    ])  # fmt: skip
    def test_anything_else_is_refused_without_repeating_it(self, text: str) -> None:
        with pytest.raises(InvalidInput, match="openssl rand -base64 32") as refused:
            parse_secret_key(text)
        assert not text or text not in str(refused.value)
        assert refused.value.__context__ is None, (
            "a chained decoder error would carry the text into the traceback"
        )


class TestDerivedKeys:
    def test_it_is_hkdf_sha256(self) -> None:
        """Computed by RFC 5869 with the standard library, so a change of the derivation cannot pass unseen."""
        extracted = hmac.digest(bytes(32), KEY, "sha256")
        expanded = hmac.digest(extracted, b"duro role password:duro_live\x01", "sha256")
        assert base64.urlsafe_b64decode(derive_role_password(KEY, "duro_live") + "=") == expanded

    def test_the_key_of_one_time_codes_is_derived_separately(self) -> None:
        extracted = hmac.digest(bytes(32), KEY, "sha256")
        assert derive_code_key(KEY) == hmac.digest(extracted, b"duro one-time code\x01", "sha256")
        assert len({derive_code_key(KEY), derive_code_key(bytes(32)), KEY}) == 3

    def test_roles_and_keys_do_not_share_one(self) -> None:
        passwords = {
            derive_role_password(key, role) for key in (KEY, bytes(32)) for role in ("duro_live", "duro_core")
        }
        assert len(passwords) == 4

    def test_it_needs_no_quoting_in_a_url(self) -> None:
        assert derive_role_password(KEY, "duro_core").replace("-", "").replace("_", "").isalnum()
