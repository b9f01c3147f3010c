"""What each person may do, in one table. Pure.

People and API keys share one vocabulary, the scopes: a route names the scope it needs, and whoever has
it may pass.
"""

from enum import StrEnum

from trunkline.kit.messages import N_


class Role(StrEnum):
    """What somebody is to this organisation."""

    OWNER = "owner"
    MANAGER = "manager"
    INTEGRATOR = "integrator"
    VIEWER = "viewer"


SCOPES: dict[str, str] = {
    "calls:read": N_("Calls with their transcript, tool runs, CRM changes and webhook deliveries."),
    "calls:write": N_("Place calls; mark calls as reviewed, tag and comment them."),
    "recordings:read": N_("The sound of a call."),
    "contacts:read": N_("Contacts, companies, deals and activities."),
    "contacts:write": N_("Make and change contacts, deals and activities; undo a change."),
    "profiles:read": N_("Profiles, numbers and blocked callers."),
    "profiles:write": N_("Change and publish profiles, assign numbers, block callers."),
    "events:read": N_("Every event, as a log to be read from any point on."),
    "webhooks:read": N_("Webhook endpoints and their deliveries."),
    "webhooks:write": N_("Make and change endpoints, send tests, send deliveries again."),
    "keys:read": N_(
        "Which keys of the API there are, what they may do, when they were used; no key itself."
    ),
    "keys:write": N_("Make and revoke keys of the API."),
    "people:read": N_("Who has an account here, with their address and role."),
    "people:write": N_("Invite people, change their role, shut them out."),
    "audit:read": N_("Who looked at or changed what."),
}
"""What may be allowed: scope → what it opens."""

FOR_PEOPLE = frozenset({"keys:write", "people:write"})
"""Scopes that no key of the API can have: whoever holds them could give themselves all others.

Their reading halves, and ``audit:read``, give nobody further rights, so that a key may have them.
"""

ABOUT_ACCESS = frozenset({"keys:read", "people:read", "audit:read"})
"""Scopes that tell of the people here and what they do. A key has one only when it was asked for by name."""

_READS = frozenset({"calls:read", "contacts:read", "profiles:read", "webhooks:read"})

MAY: dict[Role, frozenset[str]] = {
    Role.OWNER: frozenset(SCOPES),
    Role.MANAGER: _READS
    | {"calls:write", "recordings:read", "contacts:write", "profiles:write", "webhooks:read"},
    Role.INTEGRATOR: _READS
    | {"events:read", "webhooks:write", "contacts:write", "keys:read", "keys:write"},
    Role.VIEWER: frozenset({"calls:read", "contacts:read", "profiles:read"}),
}
"""Role → scopes."""

MEANS: dict[Role, str] = {
    Role.OWNER: N_("Everything, people and the audit included"),
    Role.MANAGER: N_("Calls and recordings, contacts and deals, profiles and numbers"),
    Role.INTEGRATOR: N_("Webhooks, keys of the API and the CRM; no recordings"),
    Role.VIEWER: N_("Reads calls, contacts and profiles; hears and changes nothing"),
}
"""Role → what it is for, in words."""
