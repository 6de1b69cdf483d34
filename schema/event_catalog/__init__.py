"""The event catalog: what `data` holds, type by type, as a JSON Schema (draft 2020-12), with an example of each.

It describes what duro's own billing engine, endpoint commands and workers record, and receivers may build on it. Nobody
else is held to it: record_event() takes any object, and a producer in SQL tells what it likes. The database has the
names and descriptions too (core.event_types); a test keeps both alike.

Each schema is whole, without a `$ref`, so that it can be handed out alone. A field that may have no value is there
nonetheless, as null; only what one recorder of several tells is left out by the others.
"""

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from schema.event_catalog.endpoints import ENDPOINT_TYPES
from schema.event_catalog.event_type import EventType
from schema.event_catalog.payments import PAYMENT_TYPES
from schema.event_catalog.subscriptions import SUBSCRIPTION_TYPES

__all__ = ["EventType", "catalog"]


@cache
def catalog() -> Mapping[str, EventType]:
    """All types by name, in the order in which they are best read."""
    types = (*SUBSCRIPTION_TYPES, *PAYMENT_TYPES, *ENDPOINT_TYPES)
    return MappingProxyType({event_type.name: event_type for event_type in types})
