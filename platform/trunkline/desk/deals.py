"""What a caller may do to their own deals."""

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.crm import queries, service
from trunkline.crm.models import Deal
from trunkline.errors import NotFound


async def move_callers_deal(
    session: AsyncSession,
    contact_id: str | None,
    which: int | None,
    stage: str,
    *,
    cause: service.Cause,
    now: datetime,
) -> tuple[Deal, str]:
    """Move the open deal number *which* of the contact; returns it and the stage it was in.

    Deals count from 1 in the order of ``crm.queries.open_deals``; None is the only one there is. Whoever
    asks names a number of that list, never an id. Raises NotFound, or Invalid naming the stages.
    """
    deals = await queries.open_deals(session, contact_id or "")
    index = 0 if which is None else which - 1
    if not 0 <= index < len(deals) or (which is None and len(deals) > 1):
        raise NotFound("the caller has no such open deal; list the deals and ask which")
    before = deals[index].stage
    return await service.move_deal(session, deals[index].id, stage, cause=cause, now=now), before
