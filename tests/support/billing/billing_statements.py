"""Every statement on the billing tables, by `file.name`."""

from schema.billing.rows import Row
from schema.queries import load

FILES = (*(kind.TABLE for kind in Row.__subclasses__()), "billing_cases")


def billing_statements() -> list[tuple[str, str]]:
    return [(f"{file}.{name}", statement) for file in FILES for name, statement in load(file).items()]
