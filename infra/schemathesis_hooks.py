"""Makes generated requests reach further than the first check: ids that exist, and no repeats.

Without it most requests would end at 404, and most POSTs at the Idempotency-Key of the one before.
"""

import itertools
import re
from typing import Any

import requests
import schemathesis

_LISTS = {
    "act": "/v1/activities",
    "blk": "/v1/blocked-callers",
    "call": "/v1/calls",
    "chg": "/v1/changes",
    "con": "/v1/contacts",
    "deal": "/v1/deals",
    "dlv": "/v1/deliveries",
    "evt": "/v1/events",
    "view": "/v1/views",
    "whk": "/v1/endpoints",
}
"""What an id begins with → where such things are listed."""

_EXAMPLE = re.compile(r"([a-z]+)_01kf0q8m3s7t9v1w3x5y7z9[a-z]{3}")
"""An id in the description's examples; it names nothing."""

_AGAIN_AFTER = 20
"""Uses of one list before it is read anew: what was listed may have been deleted."""

_number = itertools.count()
_known: dict[str, tuple[int, list[str]]] = {}


def _existing(prefix: str, base: str, headers: dict[str, str]) -> str | None:
    uses, ids = _known.get(prefix, (0, []))
    if uses % _AGAIN_AFTER == 0:
        answer = requests.get(f"{base}{_LISTS[prefix]}", headers=headers, timeout=10)
        ids = [one["id"] for one in answer.json()["data"]]
    _known[prefix] = uses + 1, ids
    return ids[uses % len(ids)] if ids else None


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Name things that are there where the example stands; give each request a key of its own."""
    told = getattr(case.meta.phase.data, "description", None) if case.meta else None
    if str(told).startswith("Missing") or "Authorization" not in (case.headers or {}):
        return  # a header is left out on purpose, and a case that was touched gets it back
    key = case.headers.get("Idempotency-Key")
    if isinstance(key, str) and 0 < len(key) <= 200:
        case.headers["Idempotency-Key"] = f"{key}-{next(_number)}"
    key_of_ours = {"Authorization": case.headers["Authorization"]}
    for name, value in (case.path_parameters or {}).items():
        found = _EXAMPLE.fullmatch(str(value))
        if found and found[1] in _LISTS:
            there = _existing(found[1], case.operation.base_url.rstrip("/"), key_of_ours)
            case.path_parameters[name] = there or value
