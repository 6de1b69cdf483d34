"""The event catalog: for each type a JSON Schema (draft 2020-12) of its `data`, and an example.

It describes what duro's billing engine, endpoint commands and workers record, and receivers may rely on it. Other producers
are not bound by it: record_event() accepts any object. The database holds the names and descriptions too
(core.event_types); a test compares them.

Each schema is complete, without `$ref`, so that it can be handed out alone. A field without a value is present as null. A
field is absent only if some recorders of the type do not provide it.
"""

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from schema.event_catalog.endpoint_events import ENDPOINT_TYPES
from schema.event_catalog.event_type import EventType
from schema.event_catalog.payment_events import PAYMENT_TYPES
from schema.event_catalog.subscription_events import SUBSCRIPTION_TYPES

__all__ = ["EventType", "catalog"]


@cache
def catalog() -> Mapping[str, EventType]:
    """Returns all types by name, in reading order."""
    types = (*SUBSCRIPTION_TYPES, *PAYMENT_TYPES, *ENDPOINT_TYPES)
    return MappingProxyType({event_type.name: event_type for event_type in types})
