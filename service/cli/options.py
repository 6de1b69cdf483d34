"""Options that several commands have, each parsed into its own type."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final, TypeVar
from uuid import UUID

import click

from schema.durations import parse_duration
from schema.ids import ENDPOINT, TENANT, parse_id
from schema.modes import Mode
from schema.pages import DEFAULT_LIMIT, MOST, After, check_limit

F = TypeVar("F", bound=Callable[..., Any])


beside = click.option(
    "--beside",
    is_flag=True,
    help="Migrate although the schemas core, live or sandbox have objects that are not duro's. These stay as they are.",
)
"""Where the product has schemas of the same names."""


class Id(click.ParamType[UUID]):
    """Parses `evt_01HK…` into a UUID, and refuses ids with another prefix."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.name = f"{prefix}_…"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:  # noqa: ARG002
        return self.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> UUID:  # noqa: ARG002
        return value if isinstance(value, UUID) else parse_id(self.prefix, value)


class ModeChoice(click.Choice[str]):
    def __init__(self) -> None:
        super().__init__([mode.value for mode in Mode])

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return Mode(super().convert(value, param, ctx))


class Duration(click.ParamType[timedelta]):
    """Parses `24h`. Both bounds are inclusive."""

    name = "duration"

    def __init__(self, minimum: timedelta, maximum: timedelta) -> None:
        self._minimum = minimum
        self._maximum = maximum

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:  # noqa: ARG002
        if isinstance(value, timedelta):
            return value
        return parse_duration(value, minimum=self._minimum, maximum=self._maximum)


class _Limit(click.types.IntParamType):
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return check_limit(super().convert(value, param, ctx))


class _Cursor(click.ParamType[After]):
    name = "cursor"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> After:  # noqa: ARG002
        return value if isinstance(value, After) else After.read(value)


PAGE_HELP: Final = f"Maximum number of results, up to {MOST}."

tenant_id = Id(TENANT)
tenant = click.option("--tenant", type=tenant_id, required=True, help="The tenant.")
mode = click.option("--mode", type=ModeChoice(), required=True, help="The mode.")
endpoint = click.option("--endpoint", type=Id(ENDPOINT), help="Only this endpoint.")


def page(function: F) -> F:
    """Adds the options for `limit: int` and `after: After`."""
    after = click.option(
        "--cursor", "after", type=_Cursor(), default=After(), help="The nextCursor of the previous page."
    )
    limit = click.option("--limit", type=_Limit(), default=DEFAULT_LIMIT, show_default=True, help=PAGE_HELP)
    return limit(after(function))
