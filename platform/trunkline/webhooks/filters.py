"""Which events an endpoint wants: exact names, ``call.*``, or ``*``."""

from collections.abc import Sequence
from difflib import get_close_matches

from trunkline.errors import Invalid
from trunkline.events import CATALOGUE, OPT_IN


def checked(filters: Sequence[str]) -> list[str]:
    """*filters* without repeats. Raises Invalid, naming what was probably meant, if one covers no event."""
    if not filters:
        raise Invalid("an endpoint needs at least one event; write * for all")
    unknown = [text for text in filters if not covered(text)]
    if unknown:
        raise Invalid("; ".join(_hint(text) for text in unknown))
    return list(dict.fromkeys(filters))


def covered(text: str) -> list[str]:
    """The types of the catalogue that the filter *text* lets through."""
    return [type_ for type_ in CATALOGUE if wants([text], type_)]


def wants(filters: Sequence[str], event_type: str) -> bool:
    """Whether *filters* let *event_type* through. Opt-in types pass only by their exact name."""
    if event_type in filters:
        return True
    group = event_type.partition(".")[0] + ".*"
    return event_type not in OPT_IN and ("*" in filters or group in filters)


def _hint(text: str) -> str:
    if text.endswith(".*"):
        hidden = [type_ for type_ in sorted(OPT_IN) if type_.startswith(text[:-1])]
        if hidden:
            return f"{text!r} covers no event; {', '.join(hidden)} must be named in full"
    groups = sorted({type_.partition(".")[0] + ".*" for type_ in CATALOGUE})
    near = get_close_matches(text, [*CATALOGUE, *groups], n=1, cutoff=0.5)
    if near:
        return f"there is no event {text!r}; did you mean {near[0]!r}?"
    return f"there is no event {text!r}; known are *, {', '.join(sorted(CATALOGUE))}"
