"""Every error this product raises on purpose, each with a stable code.

* TrunklineError        "error"          something we can name went wrong
  x Invalid             "invalid"        what was given has the wrong form
    + KeyReused         "idempotency_key_reused"  the key belongs to another request
  x NotFound            "not_found"      nothing has that id or number
  x Conflict            "conflict"       it clashes with what is there
    + IllegalTransition "illegal_transition"  a call cannot do that in its state
    + StaleLease        "stale_lease"    another agent has taken this call over
    + DoNotCall         "do_not_call"    the person does not want to be called
    + OutsideHours      "outside_hours"  nobody is called at that hour
    + CalledEnough      "called_enough"  the number was called too often already
  x Refused             "refused"        a business rule said no
  x Unauthorized        "unauthorized"   no valid key or login came with the request
  x Forbidden           "forbidden"      the key may not do this
  x TooMany             "too_many_requests"  slow down
  x Misconfigured       "misconfigured"  the settings are wrong
  x Unavailable         "unavailable"    something outside did not answer as it should
    + ProviderFailed    "provider_failed"  a speech or language provider

A message says what happened and what to do; none of them is ever spoken to a caller or holds
a telephone number in clear.
"""

from datetime import timedelta


class TrunklineError(Exception):
    """Base of all our errors."""

    code = "error"


class Invalid(TrunklineError):
    """What was given has the wrong form."""

    code = "invalid"


class KeyReused(Invalid):
    """An ``Idempotency-Key`` came a second time, with another request than the first."""

    code = "idempotency_key_reused"


class NotFound(TrunklineError):
    """Nothing has that id or number."""

    code = "not_found"


class Conflict(TrunklineError):
    """It clashes with what is already there."""

    code = "conflict"


class IllegalTransition(Conflict):
    """A call cannot do that in the state it is in."""

    code = "illegal_transition"


class StaleLease(Conflict):
    """The call was taken over by another agent; whoever holds the old lease must stop writing."""

    code = "stale_lease"


class DoNotCall(Conflict):
    """The person does not want to be called."""

    code = "do_not_call"


class OutsideHours(Conflict):
    """It is no hour at which the person may be called."""

    code = "outside_hours"


class CalledEnough(Conflict):
    """The number was called as often as a day allows."""

    code = "called_enough"


class Refused(TrunklineError):
    """A business rule said no."""

    code = "refused"


class Unauthorized(TrunklineError):
    """No valid key or login came with the request."""

    code = "unauthorized"


class Forbidden(TrunklineError):
    """The key or person may not do this."""

    code = "forbidden"


class TooMany(TrunklineError):
    """Too often in too short a time; may be tried again after ``retry_after``."""

    code = "too_many_requests"

    def __init__(self, message: str, *, retry_after: timedelta) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Misconfigured(TrunklineError):
    """The settings are wrong; the message lists every fault at once."""

    code = "misconfigured"


class Unavailable(TrunklineError):
    """Something outside did not answer as it should."""

    code = "unavailable"


class ProviderFailed(Unavailable):
    """A speech or language provider failed; the message names it, its address and the remedy."""

    code = "provider_failed"
