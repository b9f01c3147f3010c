"""Where one can go: the table behind the navigation of every page."""

from dataclasses import dataclass

from trunkline.access.logins import Person
from trunkline.kit.messages import N_


@dataclass(frozen=True)
class Place:
    """A page that the navigation leads to."""

    key: str
    """What its template, and those below it, name themselves: ``{% set here = "calls" %}``."""
    label: str
    path: str
    scope: str
    """Shown to whoever has it."""
    icon: str
    """A macro of icons.html."""


PLACES: tuple[tuple[str, tuple[Place, ...]], ...] = (
    (
        N_("Work"),
        (
            Place("home", N_("Today"), "/", "calls:read", "home"),
            Place("calls", N_("Calls"), "/calls", "calls:read", "phone"),
            Place("contacts", N_("Contacts"), "/contacts", "contacts:read", "contacts"),
            Place("deals", N_("Deals"), "/deals", "contacts:read", "deals"),
        ),
    ),
    (
        N_("Telephone"),
        (
            Place("profiles", N_("Profiles"), "/profiles", "profiles:read", "profiles"),
            Place("numbers", N_("Numbers"), "/numbers", "profiles:read", "numbers"),
        ),
    ),
    (
        N_("Integration"),
        (
            Place("webhooks", N_("Webhooks"), "/webhooks", "webhooks:read", "webhooks"),
            Place("deliveries", N_("Deliveries"), "/deliveries", "webhooks:read", "send"),
            Place("keys", N_("API keys"), "/keys", "keys:write", "keys"),
        ),
    ),
    (
        N_("Administration"),
        (
            Place("people", N_("People"), "/people", "people:write", "people"),
            Place("audit", N_("Audit"), "/audit", "audit:read", "shield"),
        ),
    ),
)
"""Group → places, in the order in which they stand. A page that lands gets its line here."""


def places(person: Person) -> list[tuple[str, list[Place]]]:
    """What *person* may see, by group; groups without anything are left out."""
    seen = [(label, [one for one in group if person.may(one.scope)]) for label, group in PLACES]
    return [(label, group) for label, group in seen if group]
