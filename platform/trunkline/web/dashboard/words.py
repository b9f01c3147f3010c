"""What the pages say: states, end reasons, tools and events in plain words."""

from dataclasses import dataclass
from typing import Literal

from trunkline.calls.lifecycle import EndReason, State

Tone = Literal["good", "plain", "warn", "bad", "live"]
"""How a state is coloured; its words always stand beside the colour."""


@dataclass(frozen=True)
class Told:
    """A state or reason: a few words for the list, a sentence for the call's page, a colour."""

    short: str
    sentence: str
    tone: Tone


_R = EndReason

ENDED: dict[EndReason, Told] = {
    _R.CALLER_HANGUP: Told("Caller hung up", "The caller hung up.", "good"),
    _R.AGENT_HANGUP: Told("Completed", "The agent said goodbye and hung up.", "good"),
    _R.CALLEE_HANGUP: Told("Callee hung up", "The person we called hung up.", "good"),
    _R.TRANSFERRED: Told("Transferred", "The call was handed over to a person.", "good"),
    _R.TRANSFER_FAILED: Told(
        "Transfer failed", "The call could not be handed over, and ended there.", "bad"
    ),
    _R.NO_ANSWER: Told("No answer", "It rang, but nobody picked up.", "plain"),
    _R.CANCELLED: Told("Caller gave up", "The caller hung up before we answered.", "warn"),
    _R.BUSY: Told("Busy", "The line was busy.", "plain"),
    _R.REJECTED: Told("Declined", "The call was declined.", "plain"),
    _R.UNREACHABLE: Told("Unreachable", "The number could not be reached; it never rang.", "warn"),
    _R.INVALID_NUMBER: Told("Invalid number", "The carrier does not know this number.", "bad"),
    _R.VOICEMAIL: Told("Voicemail", "Voicemail answered; no message was left.", "plain"),
    _R.VOICEMAIL_LEFT: Told("Left voicemail", "Voicemail answered; a message was left.", "plain"),
    _R.FAX: Told("Fax", "A fax machine was at the other end.", "plain"),
    _R.MESSAGE_TAKEN: Told("Message taken", "The caller left a message.", "good"),
    _R.CALLBACK_BOOKED: Told("Callback booked", "The caller will be called back.", "good"),
    _R.SILENCE: Told("Silence", "The caller said nothing, so the agent hung up.", "warn"),
    _R.MAX_DURATION: Told(
        "Too long", "The call reached the longest time its profile allows.", "warn"
    ),
    _R.LINE_LOST: Told("Line lost", "The connection to the caller broke.", "warn"),
    _R.AGENT_LOST: Told(
        "Agent lost", "The agent stopped in mid-call; what was said until then is kept.", "bad"
    ),
    _R.PROVIDER_DOWN: Told(
        "Provider down",
        "A speech or language provider failed, and the call could not go on.",
        "bad",
    ),
    _R.CAPACITY: Told("No capacity", "All agents were busy with other calls.", "bad"),
    _R.OUTSIDE_HOURS: Told("Outside hours", "The call came outside business hours.", "plain"),
    _R.NO_PROFILE: Told("No profile", "No profile answers the number that was dialled.", "bad"),
    _R.BLOCKED: Told("Blocked", "Calls from this number are blocked.", "plain"),
    _R.DO_NOT_CALL: Told("Do not call", "This contact asked not to be called.", "plain"),
    _R.CONSENT_REFUSED: Told("No consent", "The caller did not agree to be recorded.", "plain"),
    _R.SUPERVISOR_ENDED: Told("Ended by us", "A supervisor ended the call.", "plain"),
    _R.TRUNK_ERROR: Told("Trunk error", "The telephone trunk reported an error.", "bad"),
    _R.INTERNAL_ERROR: Told("Internal error", "Something failed on our side.", "bad"),
}

_S = State

LIVE: dict[State, Told] = {
    _S.QUEUED: Told("Queued", "The call waits to be dialled.", "live"),
    _S.RINGING: Told("Ringing", "The call is ringing.", "live"),
    _S.TALKING: Told("In progress", "The call is in progress.", "live"),
    _S.HELD: Told("On hold", "The caller is on hold.", "live"),
    _S.TRANSFERRING: Told("Transferring", "The call is being handed over.", "live"),
    _S.RESCUED: Told("In rescue", "The agent failed; the caller hears the keypad menu.", "warn"),
}


def told(state: str, end_reason: str | None) -> Told:
    """How a call in this state, ended for this reason, is spoken of."""
    if state != State.ENDED:
        return LIVE[State(state)]
    return ENDED[EndReason(end_reason)] if end_reason else Told("Ended", "The call ended.", "plain")


CHANNELS = {
    "sip": "Telephone (SIP)",
    "web": "Browser",
    "loopback": "Loopback line, no telephone network",
    "test": "Test",
}
"""The way a call came."""

PARTS = {
    "stt": "Hearing",
    "llm": "Thinking",
    "tts": "Speaking",
    "realtime": "Speech to speech",
}
"""What a model did in a call."""

LATENCY = {
    "stt": "Speech to text",
    "endpointing": "Endpointing",
    "llm": "Language model",
    "tts": "Text to speech",
}
"""Parts of the reply time, in the order in which they pass."""

ATTESTATION = {
    "A": "The carrier vouches for the number (A)",
    "B": "The carrier knows the caller, not the number (B)",
    "C": "The carrier only passed the call on (C)",
}
"""STIR/SHAKEN attestation levels (RFC 8588 §4)."""

DOOR = {
    "open": "Open: the number's own profile",
    "after_hours": "Closed: the profile for after hours",
    "message": "A message only",
    "blocked": "Blocked",
    "capacity": "All lines busy",
}
"""How an inbound call was received, by ``desk.door.Kind``."""

DONE = {
    "undone": "The change was undone. Webhooks tell of it as change.undone.",
    "resent": "The event is on its way again.",
}
"""What a form has done, said on the page that follows."""


IMPORTS = {
    "draft": "To be set up",
    "checking": "Being checked",
    "checked": "Checked, not imported",
    "running": "Being imported",
    "stopped": "Stopped",
    "done": "Imported",
}
"""How far a file of contacts is."""

AUDIT: dict[str, str] = {
    "recording.heard": "Listened to a recording",
    "call.review": "Marked a call as reviewed or to be reviewed",
    "call.tagged": "Tagged a call",
    "call.untagged": "Took a tag off a call",
    "call.commented": "Commented a call",
    "call.uncommented": "Took back a comment",
    "view.saved": "Saved a view of the calls",
    "view.removed": "Removed a view of the calls",
    "calls.exported": "Exported calls",
    "export.fetched": "Fetched exported calls",
    "change.undone": "Undid a change in the CRM",
    "delivery.resent": "Sent a webhook again",
    "endpoint.created": "Made a webhook endpoint",
    "endpoint.changed": "Changed a webhook endpoint",
    "endpoint.enabled": "Switched a webhook endpoint on",
    "endpoint.switched_off": "Switched a webhook endpoint off",
    "endpoint.rotated": "Made a new secret for a webhook endpoint",
    "endpoint.tested": "Sent a test or a sample to a webhook endpoint",
    "endpoint.deleted": "Deleted a webhook endpoint",
    "deliveries.recovered": "Sent again what a webhook endpoint had not got",
    "contact.made": "Made a contact",
    "contact.changed": "Changed a contact",
    "contact.merged": "Merged two contacts",
    "contacts.imported": "Imported contacts from a file",
    "import.checked": "Had a file of contacts checked",
    "import.stopped": "Stopped an import of contacts",
    "import.discarded": "Discarded a file of contacts",
    "deal.moved": "Moved a deal",
    "key.made": "Made a key of the API",
    "key.rotated": "Made a new key of the API in place of one",
    "key.revoked": "Took a key of the API back",
    "profile.published": "Published a profile",
    "number.set": "Let a profile answer a number",
    "number.removed": "Let nobody answer a number",
    "events.replayed": "Replayed events to a webhook endpoint",
    "login.opened": "Logged in",
    "login.ended": "Logged out",
    "login.failed": "Failed to log in",
    "login.revoked": "Logged out one other browser",
    "user.logged_out": "Logged somebody out everywhere",
    "logins.ended": "Logged out all other browsers",
    "password.set": "Set a new password",
    "user.joined": "Made an account",
    "user.linked": "Logged in through the identity provider for the first time",
    "user.detached": "Detached somebody from the identity provider",
    "user.invited": "Invited somebody",
    "user.role": "Changed a role",
    "user.disabled": "Shut somebody out",
    "user.enabled": "Let somebody in again",
    "user.link": "Made a link for a new password",
}
"""Action in the audit → what it says on the page."""
