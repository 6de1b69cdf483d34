"""`duro event types`: the catalog, for people and for programs, without a database."""

from json import JSONDecoder

import pytest

from schema.event_catalog import catalog
from tests.service.cli.duro_command import Duro

NOWHERE = Duro.on("postgresql://nobody@127.0.0.1:1/nowhere", bytes(32))


async def test_each_type_is_listed_with_its_description() -> None:
    listed = await NOWHERE("event", "types")
    assert listed.status == 0, listed
    lines = [line.split(maxsplit=1) for line in listed.stdout.splitlines()[1:]]
    assert [(name, description.strip()) for name, description in lines] == [
        (event_type.name, event_type.description) for event_type in catalog().values()
    ]


async def test_as_json_the_list_has_everything() -> None:
    listed = await NOWHERE.json("event", "types")
    assert listed == {
        "items": [
            {
                "type": event_type.name,
                "description": event_type.description,
                "schema": event_type.schema,
                "example": event_type.example,
            }
            for event_type in catalog().values()
        ]
    }


@pytest.mark.parametrize("name", catalog())
async def test_one_type_is_shown_with_its_schema_and_an_example(name: str) -> None:
    shown = await NOWHERE.json("event", "types", name)
    assert shown in (await NOWHERE.json("event", "types"))["items"]
    assert shown["type"] == name

    for_people = (await NOWHERE("event", "types", name)).stdout
    documents = [
        JSONDecoder().raw_decode(for_people.partition(title)[2].lstrip())[0]
        for title in ("Schema of its data\n", "Example\n")
    ]
    assert documents == [shown["schema"], shown["example"]]
    assert shown["description"] in for_people.partition("Schema of its data")[0]
    assert max(map(len, for_people.splitlines())) < 200, "it is printed over many lines"


@pytest.mark.parametrize(
    ("named", "sentence"),
    [
        ("invoice_creatd", "'invoice_creatd' is not an event type; did you mean invoice_created?"),
        ("subscription_canceled", "did you mean subscription_cancelled"),
        ("refund", "the known ones are invoice_created, "),
        ("", "'' is not an event type"),
        ("invoices_*", "'invoices_*' matches no event type; did you mean invoice_*"),
        ("invoice_*", "'invoice_*' is a pattern: give one type, see duro event types."),
    ],
)
@pytest.mark.parametrize("form", [[], ["--json"]])
async def test_an_unknown_type_is_refused_with_close_names(
    named: str, sentence: str, form: list[str]
) -> None:
    outcome = await NOWHERE("event", "types", named, *form)
    assert sentence in outcome.refusal
    assert outcome.status == 2
