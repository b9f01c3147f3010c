"""The life of a call as a table: every state × signal has an answer.

``queued → ringing → talking ⇄ held → ended``, ``queued | ringing → ended``,
``talking → transferring → talking | ended``, ``talking ⇄ rescued`` (agent lost or providers down).
An answer in ``held`` or ``transferring`` is that of an agent who took the call over: the caller was waiting.
"""

from enum import StrEnum

from trunkline.errors import IllegalTransition


class State(StrEnum):
    """Where a call is in its life."""

    QUEUED = "queued"
    RINGING = "ringing"
    TALKING = "talking"
    HELD = "held"
    TRANSFERRING = "transferring"
    RESCUED = "rescued"
    ENDED = "ended"


class Signal(StrEnum):
    """What can happen to a call."""

    RING = "ring"
    ANSWER = "answer"
    HOLD = "hold"
    RESUME = "resume"
    TRANSFER = "transfer"
    RESCUE = "rescue"
    TAKE_OVER = "take_over"
    END = "end"


class EndReason(StrEnum):
    """Why a call ended; these words are stable."""

    CALLER_HANGUP = "caller_hangup"
    AGENT_HANGUP = "agent_hangup"
    CALLEE_HANGUP = "callee_hangup"
    TRANSFERRED = "transferred"
    TRANSFER_FAILED = "transfer_failed"
    NO_ANSWER = "no_answer"
    CANCELLED = "cancelled"
    BUSY = "busy"
    REJECTED = "rejected"
    UNREACHABLE = "unreachable"
    INVALID_NUMBER = "invalid_number"
    VOICEMAIL = "voicemail"
    VOICEMAIL_LEFT = "voicemail_left"
    FAX = "fax"
    MESSAGE_TAKEN = "message_taken"
    CALLBACK_BOOKED = "callback_booked"
    SILENCE = "silence"
    MAX_DURATION = "max_duration"
    LINE_LOST = "line_lost"
    AGENT_LOST = "agent_lost"
    PROVIDER_DOWN = "provider_down"
    CAPACITY = "capacity"
    OUTSIDE_HOURS = "outside_hours"
    NO_PROFILE = "no_profile"
    BLOCKED = "blocked"
    DO_NOT_CALL = "do_not_call"
    CONSENT_REFUSED = "consent_refused"
    SUPERVISOR_ENDED = "supervisor_ended"
    TRUNK_ERROR = "trunk_error"
    INTERNAL_ERROR = "internal_error"


_S, _G = State, Signal

NEXT: dict[State, dict[Signal, State]] = {
    _S.QUEUED: {_G.RING: _S.RINGING, _G.END: _S.ENDED},
    # A second ring is LiveKit's webhook telling what the job already saw.
    _S.RINGING: {
        _G.RING: _S.RINGING,
        _G.ANSWER: _S.TALKING,
        _G.RESCUE: _S.RESCUED,
        _G.END: _S.ENDED,
    },
    # An agent that takes the call over reports it anew: it rings no more, whoever says so.
    _S.TALKING: {
        _G.RING: _S.TALKING,
        _G.ANSWER: _S.TALKING,
        _G.HOLD: _S.HELD,
        _G.TRANSFER: _S.TRANSFERRING,
        _G.RESCUE: _S.RESCUED,
        _G.TAKE_OVER: _S.TALKING,
        _G.END: _S.ENDED,
    },
    _S.HELD: {
        _G.RING: _S.HELD,
        _G.ANSWER: _S.TALKING,
        _G.HOLD: _S.HELD,
        _G.RESUME: _S.TALKING,
        _G.RESCUE: _S.RESCUED,
        _G.TAKE_OVER: _S.TALKING,
        _G.END: _S.ENDED,
    },
    _S.TRANSFERRING: {
        _G.RING: _S.TRANSFERRING,
        _G.ANSWER: _S.TALKING,
        _G.RESUME: _S.TALKING,
        _G.RESCUE: _S.RESCUED,
        _G.TAKE_OVER: _S.TALKING,
        _G.END: _S.ENDED,
    },
    _S.RESCUED: {
        _G.RING: _S.RESCUED,
        _G.ANSWER: _S.RESCUED,
        _G.RESCUE: _S.RESCUED,
        _G.RESUME: _S.TALKING,
        _G.TAKE_OVER: _S.TALKING,
        _G.END: _S.ENDED,
    },
    # SIP and LiveKit both report the end, and a late answer, also of the menu, may cross it on the wire.
    _S.ENDED: dict.fromkeys((_G.RING, _G.ANSWER, _G.RESCUE, _G.TAKE_OVER, _G.END), _S.ENDED),
}
"""State → signal → next state. A pair that is missing is refused."""


def after(state: State, signal: Signal) -> State:
    """The state that follows. Raises IllegalTransition when the table has no answer."""
    try:
        return NEXT[state][signal]
    except KeyError:
        raise IllegalTransition(f"a call that is {state} cannot {signal}") from None
