"""Events in Retell's form, which tells of the whole call where ours tells what happened to it."""

import json
from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.calls import queries as calls
from trunkline.errors import NotFound
from trunkline.webhooks import retell, service
from trunkline.webhooks.claims import Claimed


async def in_format(session: AsyncSession, claimed: Sequence[Claimed]) -> None:
    """Give those whose endpoint wants Retell's form their body, with the call as it is now."""
    for each in claimed:
        if each.format == service.RETELL:
            each.body = await _as_retell(session, each)


async def _as_retell(session: AsyncSession, claimed: Claimed) -> bytes:
    event = json.loads(claimed.body)
    try:
        call = await calls.call(session, event["data"].get("call_id") or "")
    except NotFound:
        return retell.body(event, None)
    turns = await calls.turns(session, call.id)
    return retell.body(
        event,
        retell.CallFacts(
            id=call.id,
            channel=call.channel,
            direction=call.direction,
            from_number=call.from_number,
            to_number=call.to_number,
            profile_version_id=call.profile_version_id,
            started_at=call.started_at,
            answered_at=call.answered_at,
            ended_at=call.ended_at,
            end_reason=call.end_reason,
            turns=[
                retell.Spoken(turn.role, turn.text, turn.started_ms, turn.ended_ms)
                for turn in turns
            ],
        ),
    )
