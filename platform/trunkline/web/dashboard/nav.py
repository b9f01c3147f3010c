"""Where one can go: the table behind the navigation of every page."""

from dataclasses import dataclass

from trunkline.access.logins import Person


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
        "Work",
        (
            Place("home", "Today", "/", "calls:read", "home"),
            Place("calls", "Calls", "/calls", "calls:read", "phone"),
            Place("contacts", "Contacts", "/contacts", "contacts:read", "contacts"),
            Place("deals", "Deals", "/deals", "contacts:read", "deals"),
        ),
    ),
    (
        "Telephone",
        (
            Place("profiles", "Profiles", "/profiles", "profiles:read", "profiles"),
            Place("numbers", "Numbers", "/numbers", "profiles:read", "numbers"),
        ),
    ),
    (
        "Integration",
        (
            Place("webhooks", "Webhooks", "/webhooks", "webhooks:read", "webhooks"),
            Place("deliveries", "Deliveries", "/deliveries", "webhooks:read", "next"),
            Place("keys", "Keys", "/keys", "keys:write", "keys"),
        ),
    ),
    (
        "Administration",
        (
            Place("people", "People", "/people", "people:write", "people"),
            Place("audit", "Audit", "/audit", "audit:read", "shield"),
        ),
    ),
)
"""Group → places, in the order in which they stand. A page that lands gets its line here."""


def places(person: Person) -> list[tuple[str, list[Place]]]:
    """What *person* may see, by group; groups without anything are left out."""
    seen = [(label, [one for one in group if person.may(one.scope)]) for label, group in PLACES]
    return [(label, group) for label, group in seen if group]
