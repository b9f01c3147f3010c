"""The ledger: one row per field that changed, beside the change, with who or what brought it about."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from trunkline import events
from trunkline.crm.models import Change
from trunkline.kit.ids import new_id

CREATED = "*"
"""The ledger's field when the row itself came into being or, undone, went."""


MERGED = "merged"
"""The field when another contact was merged into this one."""


@dataclass(frozen=True)
class Cause:
    """Who or what brought a change about, and on what evidence."""

    source: str
    """call, api, import, person or demo."""
    call_id: str | None = None
    tool_run_id: str | None = None
    turn_id: str | None = None
    offset_ms: int | None = None
    actor: str | None = None
    """Who it was, by name: a person, or a key of the API."""

    @property
    def by(self) -> str | None:
        """The actor as rows keep it."""
        return self.actor and self.actor[:100]

    @property
    def evidence(self) -> events.Evidence | None:
        """Where in a call it was agreed to; None when no call caused it."""
        if self.call_id is None:
            return None
        return events.Evidence(self.call_id, self.turn_id, self.offset_ms)


def write(
    session: AsyncSession,
    entity: str,
    entity_id: str,
    field: str,
    before: Any,
    after: Any,
    *,
    cause: Cause,
    now: datetime,
) -> Change:
    change = Change(
        id=new_id("chg", now=now),
        entity=entity,
        entity_id=entity_id,
        field=field,
        before=before,
        after=after,
        source=cause.source,
        actor=cause.by,
        call_id=cause.call_id,
        tool_run_id=cause.tool_run_id,
        turn_id=cause.turn_id,
        offset_ms=cause.offset_ms,
        created_at=now,
        undone_at=None,
    )
    session.add(change)
    return change
