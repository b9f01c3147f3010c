"""What the list of calls can be narrowed to, as conditions of SQL."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, exists, or_, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.visitors import InternalTraversal

from trunkline.calls.models import Call, Tag
from trunkline.calls.review import Review

Condition = ColumnElement[bool]

MOST_BRANCHES = 60
"""Values of one filter that are each walked along their own index."""


@dataclass(frozen=True)
class Filters:
    """Which calls; None asks nothing."""

    since: datetime | None = None
    """Begun then or later."""
    until: datetime | None = None
    """Begun before."""
    number: str | None = None
    """E.164, at either end."""
    profile_version_ids: tuple[str, ...] | None = None
    direction: str | None = None
    end_reason: str | None = None
    answered: bool | None = None
    min_ms: int | None = None
    """Shortest duration, from the answer to the end."""
    max_ms: int | None = None
    contact_id: str | None = None
    tag: str | None = None
    transferred: bool | None = None
    crm_failed: bool | None = None
    review: Review | None = None
    hide_tests: bool = False

    def span(self) -> Iterator[Condition]:
        """The time in which the calls began."""
        if self.since is not None:
            yield Call.started_at >= self.since
        if self.until is not None:
            yield Call.started_at < self.until

    def parts(self) -> Iterator["Part"]:
        """Every other filter that is set."""
        if self.number is not None:
            either = (Unindexed(Call.from_number), Unindexed(Call.to_number))
            yield Part(
                (Call.from_number == self.number, Call.to_number == self.number),
                check=or_(*(end == self.number for end in either)),
            )
        if self.profile_version_ids is not None:
            versions = self.profile_version_ids
            each = tuple(Call.profile_version_id == one for one in versions)
            few = len(each) <= MOST_BRANCHES
            yield Part(
                each if few else (Call.profile_version_id.in_(versions),),
                ordered=few,
                check=Unindexed(Call.profile_version_id).in_(versions),
            )
        for column, wanted in (
            (Call.direction, self.direction),
            (Call.end_reason, self.end_reason),
            (Call.contact_id, self.contact_id),
            (Call.review, self.review.value if self.review else None),
        ):
            if wanted is not None:
                yield Part((column == wanted,), check=Unindexed(column) == wanted)
        for flag, said in (
            (Call.transferred, self.transferred),
            (Call.crm_failed, self.crm_failed),
            (Call.test, False if self.hide_tests else None),
        ):
            if said is not None:
                # Compared, not merely named: SQLite finds an index on a flag only so.
                yield Part((flag == said,), check=Unindexed(flag) == said)
        if self.answered is not None:
            there = Unindexed(Call.answered_at)
            yield Part((), check=there.is_not(None) if self.answered else there.is_(None))
        if self.min_ms is not None or self.max_ms is not None:
            yield self._duration()
        if self.tag is not None:
            tagged = select(Tag.call_id).where(Tag.tag == self.tag)
            has = exists().where(Tag.call_id == Call.id, Tag.tag == self.tag)
            yield Part((Call.id.in_(tagged),), ordered=False, check=has)

    def _duration(self) -> "Part":
        def within(column: ColumnElement[Any]) -> Condition:
            wanted: Condition = column.is_not(None)
            if self.min_ms is not None:
                wanted &= column >= self.min_ms
            if self.max_ms is not None:
                wanted &= column <= self.max_ms
            return wanted

        return Part(
            (within(Call.duration_ms.expression),),
            ordered=False,
            check=within(Unindexed(Call.duration_ms)),
        )


@dataclass(frozen=True)
class Part:
    """One filter: how its calls are found by an index, and how one call is checked for it."""

    found_by: tuple[Condition, ...]
    """Each finds some of the calls by an index, together all; none: there is no index for it."""
    ordered: bool = True
    """Whether those indexes have the calls in the list's own order."""
    check: Condition = field(kw_only=True)
    """True for the calls that it leaves; no index is looked for."""


class Unindexed(ColumnElement[Any]):
    """A column by which SQLite is not to look for an index: it has no statistics to choose one by.

    PostgreSQL has them and is let choose.
    """

    inherit_cache = True

    def __init__(self, column: Any) -> None:
        self.column = column.expression
        self.type = self.column.type

    # For the cache of compiled statements and for the tables that a statement is from.
    _traverse_internals = [("column", InternalTraversal.dp_clauseelement)]  # noqa: RUF012 - SQLAlchemy's own protocol


@compiles(Unindexed)
def _plain(element: Unindexed, compiler: Any, **given: Any) -> str:
    return str(compiler.process(element.column, **given))


@compiles(Unindexed, "sqlite")
def _plus(element: Unindexed, compiler: Any, **given: Any) -> str:
    return f"+{compiler.process(element.column, **given)}"
