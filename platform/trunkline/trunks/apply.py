"""Does what a plan says, in its order, and can be cut short anywhere."""

from collections.abc import Callable

from trunkline.errors import Conflict
from trunkline.kit.livekit import LiveKit
from trunkline.trunks.plan import Plan, Step, with_ids


async def apply(livekit: LiveKit, plan: Plan, on_step: Callable[[Step], None] | None = None) -> int:
    """Carry the plan out and return how many steps that were.

    Raises Conflict, before anything is changed, when something of other people's is in the way; LiveKitFailed
    when LiveKit refuses or goes away, after which the next plan holds what is left to do.
    """
    if plan.conflicts:
        raise Conflict("; ".join(plan.conflicts))
    ids = dict(plan.ids)
    for step in plan.steps:
        body = with_ids(step.body, ids)
        if step.action == "create":
            made = await livekit.create(step.kind, body)
            if step.kind != "rule":
                ids[step.name] = made
        elif step.id is not None and step.action == "update":
            await livekit.replace(step.kind, step.id, body)
        elif step.id is not None:
            await livekit.delete(step.kind, step.id)
        if on_step:
            on_step(step)
    return len(plan.steps)
