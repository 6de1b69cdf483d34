"""Events about webhook endpoints. They do not contain URLs, which may hold a token."""

from typing import Final

from schema.event_catalog.event_type import event_type
from schema.event_catalog.field import Fields, count, id_of, moment, one_of, or_null, text

_WARNED_AT: Final = (50, 70, 90)
_LONGEST_REASON: Final = 200

_ENDPOINT: Final[Fields] = {"endpointId": id_of("we", "The endpoint.")}
_FAILING: Final[Fields] = {
    "failingSince": moment("The time since which every attempt has failed.", "2026-06-28T09:00:00.000Z"),
    "consecutiveFailures": count("The number of attempts failed since then.", 214, least=1),
    "lastError": or_null(text("The last error; null if unknown.", "HTTP status 503")),
}
_REASON: Final = text(
    "gone: the receiver answered 410. failing: it failed for too long. Any other text is an operator's reason.",
    "failing",
    longest=_LONGEST_REASON,
)

ENDPOINT_TYPES: Final = (
    event_type(
        "webhook_endpoint_failing",
        "An endpoint has been failing for some time.",
        {
            **_ENDPOINT,
            **_FAILING,
            "percent": one_of(
                _WARNED_AT, "The share of the time until it is disabled that has passed, in percent.", 50
            ),
            "disablesAt": moment(
                "The time from which a failure disables it, unless an attempt succeeds before.",
                "2026-07-03T09:00:00.000Z",
            ),
        },
    ),
    event_type(
        "webhook_endpoint_disabled",
        "An endpoint was disabled.",
        {**_ENDPOINT, "reason": _REASON, **_FAILING},
        together=_FAILING,
    ),
    event_type("webhook_endpoint_enabled", "An endpoint was enabled again.", _ENDPOINT),
    event_type(
        "webhook_test",
        "A test event sent on request.",
        {**_ENDPOINT, "message": text("A message to show.", "A test event.")},
    ),
)
