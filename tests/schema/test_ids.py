"""ULIDs with a prefix: written and read as the specification has it, unique, and in the order of their making."""

import time
from uuid import UUID, uuid4

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schema.errors import InvalidInput
from schema.ids import ATTEMPT, DELIVERY, ENDPOINT, EVENT, REPLAY, TENANT, format_id, new_id, parse_id

CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
PREFIXES = st.sampled_from([EVENT, ENDPOINT, DELIVERY, ATTEMPT, TENANT, REPLAY])
HIGHEST = UUID(int=2**128 - 1)


def ulid_by_the_book(value: UUID) -> str:
    """Digit by digit, the last five bits last."""
    digits, rest = "", value.int
    for _ in range(26):
        rest, digit = divmod(rest, 32)
        digits = CROCKFORD[digit] + digits
    return digits


@given(st.uuids(), PREFIXES)
@example(UUID(int=0), EVENT)
@example(HIGHEST, EVENT)
@example(UUID(int=1 << 60), EVENT)
@example(UUID(int=(1 << 60) - 1), EVENT)
def test_an_id_is_its_prefix_and_its_ulid_and_reads_back(value: UUID, prefix: str) -> None:
    shown = format_id(prefix, value)
    assert shown == f"{prefix}_{ulid_by_the_book(value)}"
    assert parse_id(prefix, shown) == value
    assert parse_id(prefix, f"{prefix}_{shown.partition('_')[2].lower()}") == value


def test_the_contracts_sample_id_round_trips() -> None:
    sample = "evt_01HKBZ4PQ9Z3K7T8V9X2Y1B5C6"
    assert format_id(EVENT, parse_id(EVENT, sample)) == sample


@given(st.uuids(), st.uuids())
def test_ids_sort_as_their_texts_do(one: UUID, other: UUID) -> None:
    assert (one < other) == (format_id(EVENT, one) < format_id(EVENT, other))


ULID = "01HKBZ4PQ9Z3K7T8V9X2Y1B5C6"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "evt",
        "evt_",
        ULID,
        f"_{ULID}",
        f"dlv_{ULID}",
        f"EVT_{ULID}",
        f" evt_{ULID}",
        f"evt_{ULID} ",
        f"evt_{ULID}\n",
        f"evt_{ULID[:-1]}",
        f"evt_{ULID}0",
        f"evt__{ULID[1:]}",
        "evt_8ZZZZZZZZZZZZZZZZZZZZZZZZZ",
        "evt_" + ULID.replace("1", "I", 1),
        "evt_" + ULID.replace("1", "l", 1),
        "evt_" + ULID.replace("0", "O", 1),
        "evt_" + ULID.replace("0", "U", 1),
        "evt_" + ULID.replace("0", "\u0660", 1),
        "evt_" + ULID.replace("B", "ß", 1)[:25],
        "evt_+1HKBZ4PQ9Z3K7T8V9X2Y1B5C6",
        "evt_0_HKBZ4PQ9Z3K7T8V9X2Y1B5C6",
        str(UUID(int=5)),
    ],
)
def test_an_id_of_another_kind_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="is not an id of the form evt_"):
        parse_id(EVENT, text)


@given(st.text(max_size=40))
def test_ids_are_written_in_upper_case(text: str) -> None:
    try:
        value = parse_id(EVENT, f"evt_{text}")
    except InvalidInput:
        return
    assert format_id(EVENT, value) == f"evt_{text.upper()}"


def test_new_ids_tell_their_time_and_differ() -> None:
    before = time.time_ns() // 1_000_000
    made = [new_id() for _ in range(5000)]
    after = time.time_ns() // 1_000_000
    assert len(set(made)) == 5000
    assert all(before <= value.int >> 80 <= after for value in made)
    assert len({value.int & (1 << 80) - 1 for value in made}) == 5000


def test_new_ids_are_uuids_like_any_other() -> None:
    made = new_id()
    same = UUID(int=made.int)
    assert isinstance(made, UUID)
    assert (made, hash(made), str(made)) == (same, hash(same), str(same))
    assert {made: 1}[same] == 1
    assert made != uuid4()
