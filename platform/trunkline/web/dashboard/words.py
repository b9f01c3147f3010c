"""What the pages say: states, end reasons, tools and events in plain words.

The tables are in English; whoever shows an entry translates it (``| translated``).
"""

from dataclasses import dataclass
from typing import Literal

from trunkline.calls.lifecycle import EndReason, State
from trunkline.kit.messages import N_
from trunkline.web.dashboard.language import _

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
    _R.CALLER_HANGUP: Told(N_("Caller hung up"), N_("The caller hung up."), "good"),
    _R.AGENT_HANGUP: Told(N_("Completed"), N_("The agent said goodbye and hung up."), "good"),
    _R.CALLEE_HANGUP: Told(N_("Callee hung up"), N_("The person we called hung up."), "good"),
    _R.TRANSFERRED: Told(N_("Transferred"), N_("The call was handed over to a person."), "good"),
    _R.TRANSFER_FAILED: Told(
        N_("Transfer failed"), N_("The call could not be handed over, and ended there."), "bad"
    ),
    _R.NO_ANSWER: Told(N_("No answer"), N_("It rang, but nobody picked up."), "plain"),
    _R.CANCELLED: Told(N_("Caller gave up"), N_("The caller hung up before we answered."), "warn"),
    _R.BUSY: Told(N_("Busy"), N_("The line was busy."), "plain"),
    _R.REJECTED: Told(N_("Declined"), N_("The call was declined."), "plain"),
    _R.UNREACHABLE: Told(
        N_("Unreachable"), N_("The number could not be reached; it never rang."), "warn"
    ),
    _R.INVALID_NUMBER: Told(
        N_("Invalid number"), N_("The carrier does not know this number."), "bad"
    ),
    _R.VOICEMAIL: Told(N_("Voicemail"), N_("Voicemail answered; no message was left."), "plain"),
    _R.VOICEMAIL_LEFT: Told(
        N_("Left voicemail"), N_("Voicemail answered; a message was left."), "plain"
    ),
    _R.FAX: Told(N_("Fax"), N_("A fax machine was at the other end."), "plain"),
    _R.MESSAGE_TAKEN: Told(N_("Message taken"), N_("The caller left a message."), "good"),
    _R.CALLBACK_BOOKED: Told(N_("Callback booked"), N_("The caller will be called back."), "good"),
    _R.SILENCE: Told(N_("Silence"), N_("The caller said nothing, so the agent hung up."), "warn"),
    _R.MAX_DURATION: Told(
        N_("Too long"), N_("The call reached the longest time its profile allows."), "warn"
    ),
    _R.LINE_LOST: Told(N_("Line lost"), N_("The connection to the caller broke."), "warn"),
    _R.AGENT_LOST: Told(
        N_("Agent lost"),
        N_("The agent stopped in mid-call; what was said until then is kept."),
        "bad",
    ),
    _R.PROVIDER_DOWN: Told(
        N_("Provider down"),
        N_("A speech or language provider failed, and the call could not go on."),
        "bad",
    ),
    _R.CAPACITY: Told(N_("No capacity"), N_("All agents were busy with other calls."), "bad"),
    _R.OUTSIDE_HOURS: Told(
        N_("Outside hours"), N_("The call came outside business hours."), "plain"
    ),
    _R.NO_PROFILE: Told(
        N_("No profile"), N_("No profile answers the number that was dialled."), "bad"
    ),
    _R.BLOCKED: Told(N_("Blocked"), N_("Calls from this number are blocked."), "plain"),
    _R.DO_NOT_CALL: Told(N_("Do not call"), N_("This contact asked not to be called."), "plain"),
    _R.CONSENT_REFUSED: Told(
        N_("No consent"), N_("The caller did not agree to be recorded."), "plain"
    ),
    _R.SUPERVISOR_ENDED: Told(N_("Ended by us"), N_("A supervisor ended the call."), "plain"),
    _R.TRUNK_ERROR: Told(N_("Trunk error"), N_("The telephone trunk reported an error."), "bad"),
    _R.INTERNAL_ERROR: Told(N_("Internal error"), N_("Something failed on our side."), "bad"),
}

_S = State

LIVE: dict[State, Told] = {
    _S.QUEUED: Told(N_("Queued"), N_("The call waits to be dialled."), "live"),
    _S.RINGING: Told(N_("Ringing"), N_("The call is ringing."), "live"),
    _S.TALKING: Told(N_("In progress"), N_("The call is in progress."), "live"),
    _S.HELD: Told(N_("On hold"), N_("The caller is on hold."), "live"),
    _S.TRANSFERRING: Told(N_("Transferring"), N_("The call is being handed over."), "live"),
    _S.RESCUED: Told(
        N_("In rescue"), N_("The agent failed; the caller hears the keypad menu."), "warn"
    ),
}


_PLAINLY_ENDED = Told(N_("Ended"), N_("The call ended."), "plain")


def told(state: str, end_reason: str | None) -> Told:
    """How a call in this state, ended for this reason, is spoken of, in the viewer's language."""
    if state != State.ENDED:
        found = LIVE[State(state)]
    else:
        found = ENDED[EndReason(end_reason)] if end_reason else _PLAINLY_ENDED
    return Told(_(found.short), _(found.sentence), found.tone)


CHANNELS = {
    "sip": N_("Telephone (SIP)"),
    "web": N_("Browser"),
    "loopback": N_("Loopback line, no telephone network"),
    "test": N_("Test"),
}
"""The way a call came."""

PARTS = {
    "stt": N_("Hearing"),
    "llm": N_("Thinking"),
    "tts": N_("Speaking"),
    "realtime": N_("Speech to speech"),
}
"""What a model did in a call."""

LATENCY = {
    "stt": N_("Speech to text"),
    "endpointing": N_("Endpointing"),
    "llm": N_("Language model"),
    "tts": N_("Text to speech"),
}
"""Parts of the reply time, in the order in which they pass."""

ATTESTATION = {
    "A": N_("The carrier vouches for the number (A)"),
    "B": N_("The carrier knows the caller, not the number (B)"),
    "C": N_("The carrier only passed the call on (C)"),
}
"""STIR/SHAKEN attestation levels (RFC 8588 §4)."""

DOOR = {
    "open": N_("Open: the number's own profile"),
    "after_hours": N_("Closed: the profile for after hours"),
    "message": N_("A message only"),
    "blocked": N_("Blocked"),
    "capacity": N_("All lines busy"),
}
"""How an inbound call was received, by ``desk.door.Kind``."""

DONE = {
    "undone": N_("The change was undone. Webhooks tell of it as change.undone."),
    "resent": N_("The event is on its way again."),
}
"""What a form has done, said on the page that follows."""


IMPORTS = {
    "draft": N_("To be set up"),
    "checking": N_("Being checked"),
    "checked": N_("Checked, not imported"),
    "running": N_("Being imported"),
    "stopped": N_("Stopped"),
    "done": N_("Imported"),
}
"""How far a file of contacts is."""

NAMES = {
    "owner": N_("Owner"),
    "manager": N_("Manager"),
    "integrator": N_("Integrator"),
    "viewer": N_("Viewer"),
    "contact": N_("Contact"),
    "deal": N_("Deal"),
    "activity": N_("Activity"),
    "company": N_("Company"),
    "pipeline": N_("Pipeline"),
    "call": N_("Call"),
    "note": N_("Note"),
    "task": N_("Task"),
    "meeting": N_("Meeting"),
    "name": N_("Name"),
    "email": N_("Email"),
    "phones": N_("Phones"),
    "phone": N_("Phone"),
    "tags": N_("Tags"),
    "do_not_call": N_("Do not call"),
    "do_not_call_reason": N_("Do not call reason"),
    "title": N_("Title"),
    "stage": N_("Stage"),
    "amount": N_("Amount"),
    "amount_minor": N_("Amount minor"),
    "currency": N_("Currency"),
    "kind": N_("Kind"),
    "summary": N_("Summary"),
    "due_at": N_("Due at"),
    "done_at": N_("Done at"),
    "outcome": N_("Outcome"),
    "label": N_("Label"),
    "source": N_("Source"),
    "text": N_("Text"),
    "pending": N_("Pending"),
    "held": N_("Held"),
    "delivered": N_("Delivered"),
    "failed": N_("Failed"),
    "queued": N_("Queued"),
    "running": N_("Running"),
    "done": N_("Done"),
    "skipped": N_("Skipped"),
    "discarded": N_("Discarded"),
    "cancelled": N_("Cancelled"),
    "sending": N_("Sending"),
    "retrying": N_("Retrying"),
    "look_up_contact": N_("Look up contact"),
    "create_contact": N_("Create contact"),
    "find_deals": N_("Find deals"),
    "log_activity": N_("Log activity"),
    "move_deal": N_("Move deal"),
    "request_callback": N_("Request callback"),
    "take_message": N_("Take message"),
    "transfer_to_person": N_("Transfer to person"),
    "press_keys": N_("Press keys"),
    "collect_digits": N_("Collect digits"),
    "end_call": N_("End call"),
    "callback": N_("Callback"),
    "change": N_("Change"),
    "consent": N_("Consent"),
    "dtmf": N_("Dtmf"),
    "endpoint": N_("Endpoint"),
    "recording": N_("Recording"),
    "tool": N_("Tool"),
    "transcript": N_("Transcript"),
    "voicemail": N_("Voicemail"),
}
"""Roles, kinds, states, fields, tools: our own name for a thing → its words, the same in English."""

ROLES = {
    "owner": N_("owner"),
    "manager": N_("manager"),
    "integrator": N_("integrator"),
    "viewer": N_("viewer"),
}
"""Roles within a line of text."""

AUDIT: dict[str, str] = {
    "recording.heard": N_("Listened to a recording"),
    "call.review": N_("Marked a call as reviewed or to be reviewed"),
    "call.tagged": N_("Tagged a call"),
    "call.untagged": N_("Took a tag off a call"),
    "call.commented": N_("Commented a call"),
    "call.uncommented": N_("Took back a comment"),
    "view.saved": N_("Saved a view of the calls"),
    "view.removed": N_("Removed a view of the calls"),
    "calls.exported": N_("Exported calls"),
    "export.fetched": N_("Fetched exported calls"),
    "change.undone": N_("Undid a change in the CRM"),
    "delivery.resent": N_("Sent a webhook again"),
    "endpoint.created": N_("Made a webhook endpoint"),
    "endpoint.changed": N_("Changed a webhook endpoint"),
    "endpoint.enabled": N_("Switched a webhook endpoint on"),
    "endpoint.switched_off": N_("Switched a webhook endpoint off"),
    "endpoint.rotated": N_("Made a new secret for a webhook endpoint"),
    "endpoint.tested": N_("Sent a test or a sample to a webhook endpoint"),
    "endpoint.deleted": N_("Deleted a webhook endpoint"),
    "deliveries.recovered": N_("Sent again what a webhook endpoint had not got"),
    "contact.made": N_("Made a contact"),
    "contact.changed": N_("Changed a contact"),
    "contact.do_not_call": N_("Said that a contact is not to be called"),
    "contact.may_call": N_("Said that a contact may be called again"),
    "contact.merged": N_("Merged two contacts"),
    "contacts.imported": N_("Imported contacts from a file"),
    "import.checked": N_("Had a file of contacts checked"),
    "import.stopped": N_("Stopped an import of contacts"),
    "import.discarded": N_("Discarded a file of contacts"),
    "deal.moved": N_("Moved a deal"),
    "key.made": N_("Made a key of the API"),
    "key.rotated": N_("Made a new key of the API in place of one"),
    "key.revoked": N_("Took a key of the API back"),
    "profile.published": N_("Published a profile"),
    "number.set": N_("Let a profile answer a number"),
    "number.removed": N_("Let nobody answer a number"),
    "events.replayed": N_("Replayed events to a webhook endpoint"),
    "login.opened": N_("Logged in"),
    "login.ended": N_("Logged out"),
    "login.failed": N_("Failed to log in"),
    "login.revoked": N_("Logged out one other browser"),
    "user.logged_out": N_("Logged somebody out everywhere"),
    "logins.ended": N_("Logged out all other browsers"),
    "password.set": N_("Set a new password"),
    "user.joined": N_("Made an account"),
    "user.linked": N_("Logged in through the identity provider for the first time"),
    "user.detached": N_("Detached somebody from the identity provider"),
    "user.invited": N_("Invited somebody"),
    "user.role": N_("Changed a role"),
    "user.disabled": N_("Shut somebody out"),
    "user.enabled": N_("Let somebody in again"),
    "user.link": N_("Made a link for a new password"),
}
"""Action in the audit → what it says on the page."""
