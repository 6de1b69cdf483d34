"""A phone number is written in one way, whatever way it is typed."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.core.phones import normalise_phone
from schema.errors import InvalidInput

NUMBERS = st.from_regex(r"\+[1-9][0-9]{7,14}", fullmatch=True)
REFUSED = [
    "",
    "+",
    "08031234567",
    "2348031234567",
    "002348031234567",
    "+0348031234567",
    "+1234567",
    "+1234567890123456",
    "+234803123456a",
    "++2348031234567",
    "+234+8031234567",
    "+234 (0) 803 123 4567",
    "+2348031234567\n",
    "+2348031234567;ext=5",
    "+23480312345\u0666\u0667",
    "+234803123456\ud800",
]


@given(NUMBERS, st.data())
def test_spaces_hyphens_and_dots_make_no_difference(phone: str, data: st.DataObject) -> None:
    between = st.text(st.sampled_from(" -."), max_size=2)
    typed = "".join(data.draw(between) + character for character in phone) + data.draw(between)
    assert normalise_phone(typed) == phone


@pytest.mark.parametrize("text", REFUSED)
def test_an_invalid_phone_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"as in \+2348031234567") as refused:
        normalise_phone(text)
    assert len(text) < 3 or text.removeprefix("+") not in str(refused.value).replace("+2348031234567", "")


@given(st.text(max_size=20))
def test_no_text_does_worse_than_being_refused(text: str) -> None:
    with suppress(InvalidInput):
        assert normalise_phone(normalise_phone(text)) == normalise_phone(text)
