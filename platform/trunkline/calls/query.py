"""The language of the search box. Pure.

``refund`` · ``"lost card"`` · ``refund*`` · ``caller:refund`` · ``agent:"one moment"`` ·
``refund OR credit`` · ``refund -agent:sorry`` · ``(refund OR credit) NOT angry``. Words stand for
themselves unless they are AND, OR or NOT in capitals. It is calls that match; a word or phrase is
within one turn.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from trunkline.calls.words import words
from trunkline.errors import Invalid

LONGEST = 1000
"""Characters of a query."""
MOST_TERMS = 24
DEEPEST = 8
"""Brackets within brackets."""
SHORTEST_PREFIX = 3

Role = Literal["user", "agent"]
_ROLES: dict[str, Role] = {"caller": "user", "customer": "user", "user": "user", "agent": "agent"}


@dataclass(frozen=True)
class Term:
    """A word or phrase that one side has said within one turn."""

    words: tuple[str, ...]
    prefix: bool = False
    """Whether the last word may go on."""
    role: Role | None = None
    """Who must have said it."""

    @property
    def needle(self) -> str:
        """What stands in the indexed text of each turn that matches, and of no other."""
        return f" {' '.join(self.words)}" + ("" if self.prefix else " ")


@dataclass(frozen=True)
class Not:
    """A call without it."""

    part: "Query"


@dataclass(frozen=True)
class All:
    """A call with every one of them."""

    parts: tuple["Query", ...]


@dataclass(frozen=True)
class Any:
    """A call with one of them at least."""

    parts: tuple["Query", ...]


Query = Term | Not | All | Any

_TOKEN = re.compile(
    r"\s+|(?P<open>\()|(?P<close>\))|(?P<minus>-)(?=[^\s)])|(?P<role>(?i:caller|customer|user|agent)):(?=\S)"
    r'|"(?P<quoted>[^"]*)(?:"|$)|(?P<word>[^\s()"]+)'
)


def parse(text: str) -> Query:
    """What is searched for. Raises Invalid, with what to write instead, for anything that is no query."""
    if len(text) > LONGEST:
        raise Invalid(
            f"a search may have {LONGEST} characters, this one has {len(text)}; shorten it"
        )
    reader = _Reader(text)
    found = reader.any(0, None)
    if reader.here is not None:
        raise Invalid("a bracket is closed that was not opened; remove it, or put it into quotes")
    return found


def terms(query: Query) -> Iterator[Term]:
    """The words and phrases that are wanted, in the order in which they stand; not those that are not."""
    if isinstance(query, Term):
        yield query
    elif isinstance(query, All | Any):
        for part in query.parts:
            yield from terms(part)


class _Reader:
    """Recursive descent over the tokens of one query."""

    def __init__(self, text: str) -> None:
        self._tokens = [
            (found.lastgroup, found[found.lastgroup])
            for found in _TOKEN.finditer(text)
            if found.lastgroup
        ]
        self._at = 0
        self._terms = 0

    @property
    def here(self) -> tuple[str, str] | None:
        """The next token; None at the end."""
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def any(self, depth: int, role: Role | None) -> Query:
        """Parts with OR between them."""
        if depth > DEEPEST:
            raise Invalid(f"brackets may stand {DEEPEST} deep; write the search with fewer")
        parts = [self._all(depth, role)]
        while self.here == ("word", "OR"):
            self._at += 1
            parts.append(self._all(depth, role))
        return parts[0] if len(parts) == 1 else Any(tuple(parts))

    def _all(self, depth: int, role: Role | None) -> Query:
        parts = [self._one(depth, role)]
        while self.here is not None and self.here[0] != "close" and self.here != ("word", "OR"):
            if self.here == ("word", "AND"):
                self._at += 1
            parts.append(self._one(depth, role))
        return parts[0] if len(parts) == 1 else All(tuple(parts))

    def _one(self, depth: int, role: Role | None) -> Query:
        negated = False
        while self.here in (("minus", "-"), ("word", "NOT")):
            negated = not negated
            self._at += 1
        if self.here is not None and self.here[0] == "role":
            role = _ROLES[self.here[1].lower()]
            self._at += 1
        found = self._bracketed(depth, role) if self.here == ("open", "(") else self._term(role)
        return Not(found) if negated else found

    def _bracketed(self, depth: int, role: Role | None) -> Query:
        self._at += 1
        found = self.any(depth + 1, role)
        if self.here != ("close", ")"):
            raise Invalid("a bracket is opened and not closed; close it, or put it into quotes")
        self._at += 1
        return found

    def _term(self, role: Role | None) -> Query:
        if self.here is None or self.here[0] not in ("word", "quoted"):
            raise Invalid("a word is missing; write what is to be found, as in: refund OR credit")
        kind, text = self.here
        if kind == "word" and text in ("AND", "OR", "NOT"):
            raise Invalid(f'a word is missing beside {text}; for the word itself write "{text}"')
        self._at += 1
        self._terms += 1
        if self._terms > MOST_TERMS:
            raise Invalid(f"a search may have {MOST_TERMS} words and phrases; leave some out")
        found = tuple(word.key for word in words(text))
        if not found:
            raise Invalid(f"{text[:40]!r} has no letter or digit to search for; leave it out")
        prefix = kind == "word" and text.endswith("*")
        if prefix and len(found[-1]) < SHORTEST_PREFIX:
            raise Invalid(f"write {SHORTEST_PREFIX} letters or more before the *, as in: refund*")
        return Term(found, prefix, role)
