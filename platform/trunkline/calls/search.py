"""Finding calls: by filters and by what was said in them, newest first, in a bounded time.

The database's full-text index only ever proposes candidates; ``Spoken.words`` decides. So PostgreSQL
and SQLite find the same, whatever their indexes think of as a word. How a page is found (decision 0026):

* something that few calls have (a rare word, a contact): those calls from its index, checked and sorted;
* otherwise: from the newest call on, along the index of a filter, each call checked. A search looks at
  ``WALK`` calls and no more; the page then says where it stopped, and the next one goes on from there.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    ScalarSelect,
    Select,
    and_,
    case,
    func,
    literal,
    literal_column,
    or_,
    select,
    text,
    tuple_,
    union,
    union_all,
)
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.calls import query
from trunkline.calls.filters import Condition, Filters, Part
from trunkline.calls.models import Call, Spoken, Turn
from trunkline.calls.queries import Cursor
from trunkline.calls.query import All, Not, Query, Term
from trunkline.calls.words import indexed, words
from trunkline.kit.db import insert_for

FEW = 2000
"""Calls, or turns with a word, up to which the index alone finds them fast enough."""
WALK = 4000
"""Calls that one search looks at, from the newest on."""
SUMMED = 2500
"""Calls that are summed up, without a search; a search sums up those among ``SUMMED_SEARCHED``."""
SUMMED_SEARCHED = 1000

_SNIPPETS = 2
"""Of each call."""
_AROUND = 70
"""Characters of a snippet before and after the first word found."""


@dataclass(frozen=True)
class Found:
    """A page of calls, newest first."""

    calls: tuple[Call, ...]
    next: Cursor | None
    """None when there are no more."""
    searched_back_to: datetime | None = None
    """Set when the search stopped before it had found a whole page: how far back it has looked."""


@dataclass(frozen=True)
class Sums:
    """What there is to say of all calls found together."""

    calls: int
    more: bool
    """Whether there are more calls than were summed up: the newest ones."""
    answered: int
    median_ms: int | None
    """Of those that were answered and are over."""
    crm_failed: int
    beside: int
    """What was asked for of other tables."""


@dataclass(frozen=True)
class Piece:
    """Some characters of a snippet."""

    text: str
    hit: bool
    """Whether they are what was searched for."""


@dataclass(frozen=True)
class Snippet:
    """A turn of a call in which something was found."""

    role: str
    started_ms: int
    pieces: tuple[Piece, ...]


async def index(session: AsyncSession, turn: Turn) -> None:
    """Make a turn that is over findable, or findable anew; its text is redacted already."""
    words_ = indexed(turn.text)
    insert = insert_for(session, Spoken).values(
        turn_id=turn.id, call_id=turn.call_id, role=turn.role, words=words_
    )
    await session.execute(
        insert.on_conflict_do_update(index_elements=[Spoken.turn_id], set_={"words": words_})
    )


async def page(
    session: AsyncSession,
    filters: Filters,
    wanted: Query | None = None,
    *,
    before: Cursor | None = None,
    limit: int,
) -> Found:
    """At most *limit* calls, newest first, beginning after the call *before*."""
    if filters.profile_version_ids == ():
        return Found((), None)
    plan = await _plan(session, filters, wanted)
    plan = plan.before(before)
    stop = None
    if wanted is not None and plan.few is None:
        stop = await plan.nth(session, WALK)
        plan = plan.down_to(stop)
    keys = await plan.first(session, limit + 1)
    shown = keys[:limit]
    rows = await session.scalars(select(Call).where(Call.id.in_([key.id for key in shown])))
    by_id = {call.id: call for call in rows}
    calls = tuple(by_id[key.id] for key in shown)
    if len(keys) > limit:
        return Found(calls, shown[-1])
    return Found(calls, stop, stop.started_at if stop else None)


async def sums(
    session: AsyncSession,
    filters: Filters,
    wanted: Query | None = None,
    *,
    beside: Callable[[Select[Any]], ScalarSelect[Any]] | None = None,
) -> Sums:
    """What there is to say of the calls that ``page`` would find on all of its pages.

    They are looked for once: what *beside* makes of a query of their ids, a number of other tables', is
    counted in the same statement.
    """
    if filters.profile_version_ids == ():
        return Sums(0, False, 0, None, 0, 0)
    plan = await _plan(session, filters, wanted)
    stop = None
    if wanted is not None and plan.few is None:
        stop = await plan.nth(session, SUMMED_SEARCHED)
        plan = plan.down_to(stop)
    told = (Call.duration_ms, Call.answered_at, Call.crm_failed)
    # Materialised: each sum would look for the calls anew.
    facts = plan.keys(SUMMED + 1, also=told).cte("facts").prefix_with("MATERIALIZED")
    timed = select(func.count(facts.c.duration_ms)).scalar_subquery()
    middle = (
        select(facts.c.duration_ms)
        .where(facts.c.duration_ms.is_not(None))
        .order_by(facts.c.duration_ms)
        .offset((timed - 1) // 2)
        .limit(1)
        .scalar_subquery()
    )
    counted = select(
        func.count(),
        func.count(facts.c.answered_at),
        middle,
        func.coalesce(func.sum(case((facts.c.crm_failed, 1), else_=0)), 0),
        beside(select(facts.c.id)) if beside else literal(0),
    ).select_from(facts)
    calls, answered, median_ms, failed, other = (await session.execute(counted)).one()
    more = stop is not None or calls > SUMMED
    return Sums(min(calls, SUMMED), more, answered, median_ms, failed, other)


async def neighbours(
    session: AsyncSession, filters: Filters, wanted: Query | None, here: Cursor
) -> tuple[str | None, str | None]:
    """The next newer and the next older call of the filtered set; None where there is none, or too far."""
    older = await page(session, filters, wanted, before=here, limit=1)
    if filters.profile_version_ids == ():
        return None, None
    plan = replace(await _plan(session, filters, wanted), newest_first=False).after(here)
    if wanted is not None and plan.few is None:
        plan = plan.up_to(await plan.nth(session, WALK))
    newer = await plan.first(session, 1)
    return (newer[0].id if newer else None, older.calls[0].id if older.calls else None)


async def snippets(
    session: AsyncSession, wanted: Query, call_ids: Sequence[str]
) -> dict[str, tuple[Snippet, ...]]:
    """Of each of these calls the first turns in which something of *wanted* was said."""
    looked_for = tuple(query.terms(wanted))
    if not looked_for or not call_ids:
        return {}
    nth = func.row_number().over(partition_by=Spoken.call_id, order_by=(Turn.started_ms, Spoken.id))
    hits = (
        select(Turn.call_id, Turn.role, Turn.started_ms, Turn.text, nth.label("nth"))
        .select_from(Spoken)
        .join(Turn, Turn.id == Spoken.turn_id)
        .where(Spoken.call_id.in_(call_ids), or_(*(_in_turn(term) for term in looked_for)))
        .subquery()
    )
    found: dict[str, list[Snippet]] = {}
    rows = select(hits).where(hits.c.nth <= _SNIPPETS).order_by(hits.c.call_id, hits.c.nth)
    for row in await session.execute(rows):
        mine = [term for term in looked_for if term.role in (None, row.role)]
        snippet = Snippet(row.role, row.started_ms, _pieces(row.text, mine))
        found.setdefault(row.call_id, []).append(snippet)
    return {call_id: tuple(some) for call_id, some in found.items()}


def _pieces(said: str, looked_for: Sequence[Term]) -> tuple[Piece, ...]:
    """*said*, cut to what stands around the first hit, the hits marked."""
    found = list(words(said))
    spans: list[tuple[int, int]] = []
    for at in range(len(found)):
        for term in looked_for:
            part = [word.key for word in found[at : at + len(term.words)]]
            last = part[-1:] and (
                part[-1].startswith(term.words[-1]) if term.prefix else part[-1] == term.words[-1]
            )
            if len(part) == len(term.words) and part[:-1] == list(term.words[:-1]) and last:
                spans.append((found[at].start, found[at + len(part) - 1].end))
    first = spans[0][0] if spans else 0
    begin = _at_space(said, first - _AROUND) if first > _AROUND else 0
    end = first + 2 * _AROUND
    end = len(said) if end >= len(said) else said.rfind(" ", first + _AROUND // 2, end)
    end = first + 2 * _AROUND if end < 0 else end
    pieces = [Piece("… ", False)] if begin else []
    here = begin
    for start, stop in sorted(spans):
        if start < here or stop > end:
            continue
        pieces += [Piece(said[here:start], False), Piece(said[start:stop], True)]
        here = stop
    pieces.append(Piece(said[here:end] + (" …" if end < len(said) else ""), False))
    return tuple(piece for piece in pieces if piece.text)


def _at_space(said: str, at: int) -> int:
    space = said.find(" ", at)
    return space + 1 if 0 <= space < at + _AROUND else at


# How calls are found ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    """Either ``few`` calls and checks, or branches to walk along and checks."""

    few: Condition | None
    """Finds by an index a few calls, among which are all that are wanted."""
    branches: tuple[Condition, ...]
    """Each to be walked along its own index; together they lead past all calls that are wanted."""
    checks: tuple[Condition, ...]
    """What else must hold of a call, without a search."""
    said: tuple[Condition, ...] = ()
    """What must have been said in it."""
    newest_first: bool = True

    def before(self, cursor: Cursor | None) -> "_Plan":
        """Of these the calls after *cursor* in the list."""
        return self._bound(_place < tuple_(*cursor)) if cursor else self

    def after(self, cursor: Cursor) -> "_Plan":
        """Of these the calls newer than *cursor*."""
        return self._bound(_place > tuple_(*cursor))

    def down_to(self, cursor: Cursor | None) -> "_Plan":
        """Of these the calls down to *cursor*."""
        return self._bound(_place >= tuple_(*cursor)) if cursor else self

    def up_to(self, cursor: Cursor | None) -> "_Plan":
        """Of these the calls up to *cursor*."""
        return self._bound(_place <= tuple_(*cursor)) if cursor else self

    def _bound(self, bound: Condition) -> "_Plan":
        return replace(self, checks=(*self.checks, bound))

    def keys(self, limit: int, skip: int = 0, *, also: Sequence[Any] = ()) -> Select[Any]:
        """Time and id of at most *limit* calls in order, the first *skip* left out, with columns *also*."""
        columns = (Call.started_at, Call.id, *also)
        if self.few is not None:
            found = (
                select(*columns)
                .where(self.few, *self.checks, *self.said)
                .cte("found")
                # Otherwise a planner might walk through all calls to have them in order.
                .prefix_with("MATERIALIZED")
            )
            return self._sorted(select(*found.c), found.c).limit(limit).offset(skip)
        each = [
            self._sorted(select(*columns).where(*branch, *self.checks, *self.said), Call)
            for branch in ([[one] for one in self.branches] or [[]])
        ]
        if len(each) == 1:
            return each[0].limit(limit).offset(skip)
        # UNION, not ALL: a call between two numbers of ours is on two branches.
        all_ = [one.limit(limit + skip).subquery() for one in each]
        both = union(*(select(*one.c) for one in all_)).subquery()
        return self._sorted(select(*both.c), both.c).limit(limit).offset(skip)

    def _sorted(self, keys: Select[*tuple[Any, ...]], columns: Any) -> Select[Any]:
        if self.newest_first:
            return keys.order_by(columns.started_at.desc(), columns.id.desc())
        return keys.order_by(columns.started_at, columns.id)

    async def first(self, session: AsyncSession, limit: int) -> list[Cursor]:
        """The first calls, as many as there are up to *limit*."""
        return [Cursor(*row) for row in await session.execute(self.keys(limit))]

    async def nth(self, session: AsyncSession, n: int) -> Cursor | None:
        """The *n*-th call that is to be looked at; None when there are fewer."""
        row = (await session.execute(replace(self, said=()).keys(1, n - 1))).one_or_none()
        return Cursor(*row) if row else None


_place = tuple_(Call.started_at, Call.id)


async def _plan(session: AsyncSession, filters: Filters, wanted: Query | None) -> _Plan:
    parts = list(filters.parts())
    by_index = [part for part in parts if part.found_by]
    said = (_said(wanted),) if wanted is not None else ()
    walk_at_once = wanted is None and len(by_index) < 2 and all(one.ordered for one in by_index)
    if not walk_at_once:
        checks = (*filters.span(), *(part.check for part in parts))
        best, number = await _fewest(session, by_index)
        spoken = await _candidates(session, wanted) if wanted is not None else None
        if spoken is not None and spoken.turns <= min(FEW, number):
            exact = isinstance(wanted, Term)
            return _Plan(Call.id.in_(spoken.calls), (), checks, () if exact else said)
        if best is not None and number <= FEW:
            return _Plan(or_(*best.found_by), (), checks, said)
    along = next((part for part in by_index if part.ordered), None)
    others = (part.check for part in parts if part is not along)
    branches = along.found_by if along is not None else ()
    return _Plan(None, branches, (*filters.span(), *others), said)


async def _fewest(session: AsyncSession, parts: Sequence[Part]) -> tuple[Part | None, int]:
    """The filter that leaves the fewest calls, and how many, counted up to a little over FEW."""
    if not parts:
        return None, FEW + 1
    each = [
        select(literal(at).label("at"), func.count().label("number")).select_from(
            select(literal(1).label("one")).where(found).select_from(Call).limit(FEW + 1).subquery()
        )
        for at, part in enumerate(parts)
        for found in part.found_by
    ]
    numbers = [0] * len(parts)
    for at, number in await session.execute(union_all(*each)):
        numbers[at] += number
    least = min(range(len(parts)), key=lambda at: (numbers[at], not parts[at].ordered))
    return parts[least], numbers[least]


# What was said ----------------------------------------------------------------------------------


def _in_turn(term: Term) -> Condition:
    """Whether a row of Spoken holds the term."""
    # Letters, digits and spaces only: nothing in it is a wildcard.
    holds: Condition = Spoken.words.like(f"%{term.needle}%")
    return and_(holds, Spoken.role == term.role) if term.role else holds


def _said(wanted: Query) -> Condition:
    """Whether a call matches."""
    if isinstance(wanted, Term):
        # A scalar, which no planner turns into a join of all turns.
        turn = select(literal(1)).where(Spoken.call_id == Call.id, _in_turn(wanted)).limit(1)
        return turn.scalar_subquery().is_not(None)
    if isinstance(wanted, Not):
        return ~_said(wanted.part)
    parts = [_said(part) for part in wanted.parts]
    return and_(*parts) if isinstance(wanted, All) else or_(*parts)


@dataclass(frozen=True)
class _Candidates:
    """Calls found by the full-text index, among which are all that match."""

    turns: int
    """How many turns about the index will give; more than FEW are counted as FEW + 1."""
    calls: Select[Any]


async def _candidates(session: AsyncSession, wanted: Query) -> _Candidates | None:
    """The smallest set of calls that the index can give; None when it can give none, as for NOT."""
    if isinstance(wanted, Term):
        return _Candidates(await _about(session, wanted), _by_index(session, wanted))
    if isinstance(wanted, Not):
        return None
    parts = [await _candidates(session, part) for part in wanted.parts]
    if isinstance(wanted, All):
        return min((part for part in parts if part), key=lambda part: part.turns, default=None)
    some = [part for part in parts if part is not None]
    if len(some) < len(parts):
        return None
    calls = union(*(part.calls for part in some)).subquery()
    return _Candidates(sum(part.turns for part in some), select(calls.c.call_id))


def _by_index(session: AsyncSession, term: Term) -> Select[Any]:
    """The calls in which the term was said, found by the database's index."""
    return select(Spoken.call_id).where(_indexed(session, term), _in_turn(term))


def _indexed(session: AsyncSession, term: Term) -> Condition:
    """Which rows of Spoken the index proposes: those with all words of the term, whoever said them.

    The words are letters and digits of ASCII only, so nothing in them can be taken for an operator.
    """
    if session.get_bind().dialect.name == "postgresql":
        lexemes = " & ".join(f"'{word}'" for word in term.words) + (":*" if term.prefix else "")
        vector: ColumnElement[Any] = literal_column(
            "array_to_tsvector(string_to_array(btrim(words), ' '))"
        )
        matches: Condition = vector.op("@@")(literal_column(f"$q${lexemes}$q$::tsquery"))
        return matches
    return Spoken.id.in_(_rows_of_fts5(term))


def _rows_of_fts5(term: Term) -> Select[Any]:
    """The rows of Spoken that SQLite's index proposes, one after another."""
    match = " AND ".join(f'"{word}"' for word in term.words) + ("*" if term.prefix else "")
    return (
        select(literal_column("rowid"))
        .select_from(text("spoken_fts"))
        .where(literal_column("spoken_fts").op("MATCH")(match))
    )


async def _about(session: AsyncSession, term: Term) -> int:
    """How many turns the index proposes, about; SQLite counts up to a little over FEW.

    PostgreSQL would read the whole list of a common word to count a few of it. It is asked for its estimate
    instead, which comes from the most common words that ANALYZE has noted.
    """
    if session.get_bind().dialect.name == "postgresql":
        rows = select(literal(1)).select_from(Spoken).where(_indexed(session, term))
        compiled = rows.compile(
            dialect=session.get_bind().dialect, compile_kwargs={"literal_binds": True}
        )
        plan = await session.scalar(text(f"EXPLAIN (FORMAT JSON) {_verbatim(str(compiled))}"))
        return int((json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"]["Plan Rows"])
    # Of the index alone: joined to the turns, all that it proposes would be read before the first is counted.
    counted = select(func.count()).select_from(_rows_of_fts5(term).limit(FEW + 1).subquery())
    return await session.scalar(counted) or 0


def _verbatim(statement: str) -> str:
    """As ``text`` is to take it: a colon in it names no parameter."""
    return statement.replace(":", r"\:").replace("%%", "%")
