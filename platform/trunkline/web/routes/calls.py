"""/v1: calls, their transcript and recording, and who is asking."""

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field, StrictInt
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import Response

from trunkline.access.models import ApiKey
from trunkline.calls.lifecycle import EndReason, State
from trunkline.calls.review import Review
from trunkline.crm import service as crm
from trunkline.desk import asked, call_list, call_page, dial
from trunkline.desk.door import Kind
from trunkline.web import media, paging
from trunkline.web.auth import AnyKey, needs
from trunkline.web.deps import Parts
from trunkline.web.errors import documented
from trunkline.web.once import DoOnce
from trunkline.web.paging import PageCursor
from trunkline.web.people import note_hearing
from trunkline.web.routes.pushed import Moment, OurId, Text

router = APIRouter(prefix="/v1")

_CALL = "call_01kf0q8m3s7t9v1w3x5y7z9abc"
_AT = "2026-01-15T09:30:00Z"


class Shown(BaseModel):
    """Read from the desk's dataclasses by the names of their fields."""

    model_config = ConfigDict(from_attributes=True)


class Contact(Shown):
    """Who was at the other end."""

    id: str = Field(examples=["con_01kf0q8m3s7t9v1w3x5y7z9abd"])
    name: str | None = Field(examples=["Dana Whitfield"])


class DeliveryCount(Shown):
    """Webhook deliveries of the call, by state."""

    pending: int = Field(examples=[0])
    delivered: int = Field(examples=[6])
    failed: int = Field(examples=[0])


class Piece(Shown):
    """Some characters of a snippet."""

    text: str = Field(examples=["refund"])
    hit: bool = Field(description="Whether they are what was searched for.", examples=[True])


class Snippet(Shown):
    """A turn in which something was found."""

    role: Literal["user", "agent"]
    started_ms: int = Field(description="From the answer, as in the recording.", examples=[21_340])
    pieces: list[Piece]


class CallSummary(Shown):
    """One call of the list."""

    id: str = Field(examples=[_CALL])
    direction: Literal["inbound", "outbound"]
    channel: Literal["sip", "web", "loopback", "test"]
    state: State
    end_reason: EndReason | None = Field(description="Why it ended; null while it goes on.")
    from_number: str | None = Field(
        description="E.164; null when the caller withheld it.", examples=["+12025550134"]
    )
    to_number: str | None = Field(description="E.164.", examples=["+12025550100"])
    contact: Contact | None
    started_at: datetime = Field(examples=[_AT])
    answered_at: datetime | None = Field(examples=[_AT])
    ended_at: datetime | None = Field(examples=[_AT])
    duration_ms: int | None = Field(
        description="From the answer to the end; null when nobody answered or the call goes on.",
        examples=[64_210],
    )
    turn_count: int = Field(examples=[9])
    change_count: int = Field(description="CRM fields changed and things made.", examples=[2])
    failed_tool_count: int = Field(examples=[0])
    delivery_count: DeliveryCount
    recorded: bool
    reason: str | None = Field(
        description="Why we call; of calls that we place.", examples=["your order"]
    )
    activity_id: str | None = Field(description="The task it is made for.", examples=[None])
    due_at: datetime | None = Field(
        description="While it is queued: when it is dialled, or tried again.", examples=[None]
    )
    attempt: int = Field(description="Which of the calls to reach one person.", examples=[1])
    retry_of: str | None = Field(
        description="The first of those calls; null for that one.", examples=[None]
    )
    attestation: Literal["A", "B", "C"] | None = Field(
        description="How far the carrier vouches for the caller's number (STIR/SHAKEN): A knows the "
        "caller and their right to the number, B the caller, C neither; null when it does not say.",
        examples=["A"],
    )
    door: Kind | None = Field(
        description="How a call that came in was let in or turned away: open, after_hours (another "
        "profile answers), message (only that is taken), blocked, or capacity (lines are busy); "
        "null for calls that we place, and until it is decided.",
        examples=["open"],
    )
    door_reason: str | None = Field(
        description="Why it was not simply let in.", examples=["closed, so 'Night' answers"]
    )
    test: bool = Field(description="Placed to try something, or demo data.", examples=[False])
    transferred: bool = Field(description="Whether a person took the caller over.")
    crm_failed: bool = Field(
        description="A tool that writes to the CRM failed, and did not succeed after that."
    )
    review: Review | None = Field(description="Null: nobody has said anything.", examples=["done"])
    reviewed_by: str | None = Field(examples=["Maria Santos"])
    reviewed_at: datetime | None = Field(examples=[_AT])
    tags: list[str] = Field(description="In alphabetical order.", examples=[["billing"]])
    snippets: list[Snippet] = Field(
        description="Where it was said what `q` searches for; at most two turns of a call."
    )


class CallRequest(BaseModel):
    """A person to call."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"to": "+12025550134", "reason": "the new line at your office"}]
        },
    )

    to: str | None = Field(
        None, max_length=60, description="E.164. Not needed with a task whose contact has a number.",
        examples=["+12025550134"],
    )  # fmt: skip
    from_number: str | None = Field(
        None, max_length=60, examples=["+12025550100"],
        description="The number of ours that is shown; its profile talks unless another is named.",
    )  # fmt: skip
    profile: str | None = Field(
        None, max_length=100, description="Name of the profile that talks.", examples=["Front desk"]
    )
    reason: Text | None = Field(
        None, max_length=600, examples=["the new line at your office"],
        description="Why we call, as it may be said after 'I am calling about'.",
    )  # fmt: skip
    activity_id: OurId | None = Field(
        None, description="A task; it is done once the person has answered."
    )
    not_before: Moment | None = Field(None, description="Not before this moment.", examples=[_AT])


class TaskCall(BaseModel):
    """How to call for a task; everything may be left out."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{}]})

    from_number: str | None = Field(None, max_length=60, examples=["+12025550100"])
    profile: str | None = Field(None, max_length=100, examples=["Front desk"])
    not_before: Moment | None = Field(None, examples=[_AT])


class Calls(BaseModel):
    """A page of calls, newest first."""

    data: list[CallSummary]
    next_cursor: str | None = Field(
        description="Send as `cursor` for the next, older page; null on the last one."
    )
    searched_back_to: datetime | None = Field(
        description="Set when a search stopped before the page was full, so that it stays fast: it has "
        "looked at calls back to then. `next_cursor` goes on from there.",
        examples=[None],
    )


class Turn(Shown):
    """What one side said, or pressed (`[keys 2]`), until the other's turn."""

    id: str = Field(examples=["turn_01kf0q8m3s7t9v1w3x5y7z9abe"])
    seq: int = Field(examples=[3])
    role: Literal["user", "agent"] = Field(description="user is the person, agent is Trunkline.")
    text: str = Field(
        description="Redacted. Of an interrupted turn, what was heard of it.",
        examples=["Yes, please go ahead."],
    )
    language: str | None = Field(examples=["en"])
    started_ms: int = Field(description="From the answer, as in the recording.", examples=[21_340])
    ended_ms: int | None = Field(description="Null while it is being spoken.", examples=[22_900])
    interrupted: bool
    latency: dict[str, Any] | None = Field(
        description="Parts of the reply time, in milliseconds.",
        examples=[{"stt": 240, "llm_first_token": 390, "tts_first_byte": 110, "reply": 870}],
    )
    felt_ms: int | None = Field(
        description="Of a reply: from the caller's last sound to the agent's first, as the recording has it.",
        examples=[940],
    )
    models: dict[str, str] | None = Field(
        description="Which provider and model heard it (`stt`), or thought (`llm`) and spoke (`tts`) it.",
        examples=[{"llm": "openai gpt-4.1-mini", "tts": "cartesia sonic-2"}],
    )


class ToolRun(Shown):
    """One run of one tool."""

    id: str = Field(examples=["run_01kf0q8m3s7t9v1w3x5y7z9abn"])
    seq: int = Field(examples=[1])
    name: str = Field(examples=["move_deal"])
    arguments: dict[str, Any] = Field(examples=[{"stage": "won"}])
    state: Literal["started", "ok", "error"]
    result: str | None = Field(examples=["The deal is now won."])
    error: str | None = Field(description="A stable code.", examples=["refused"])
    turn_id: str | None
    offset_ms: int | None = Field(description="When it began, in the recording.", examples=[22_950])
    ms: int | None = Field(description="How long it took.", examples=[38])


class Change(Shown):
    """One field of the CRM that the call changed; `*` when the thing itself was made."""

    id: str = Field(examples=["chg_01kf0q8m3s7t9v1w3x5y7z9abk"])
    entity: str = Field(examples=["deal"])
    entity_id: str = Field(examples=["deal_01kf0q8m3s7t9v1w3x5y7z9abj"])
    title: str | None = Field(examples=["Office Fiber"])
    field: str = Field(examples=["stage"])
    before: Any = Field(examples=["proposal"])
    after: Any = Field(examples=["won"])
    tool_run_id: str | None
    turn_id: str | None
    offset_ms: int | None = Field(description="Where it was agreed to.", examples=[21_340])
    created_at: datetime = Field(examples=[_AT])
    undone_at: datetime | None


class Activity(Shown):
    """Something written down, or to be done."""

    id: str = Field(examples=["act_01kf0q8m3s7t9v1w3x5y7z9abh"])
    kind: str = Field(examples=["task"])
    summary: str = Field(examples=["Call back about the invoice"])
    due_at: datetime | None
    done_at: datetime | None
    created_at: datetime = Field(examples=[_AT])


class Delivery(Shown):
    """One event of the call on its way to one endpoint."""

    id: str = Field(examples=["dlv_01kf0q8m3s7t9v1w3x5y7z9abr"])
    event_id: str = Field(examples=["evt_01kf0q8m3s7t9v1w3x5y7z9abs"])
    event_type: str = Field(examples=["deal.updated"])
    endpoint_id: str = Field(examples=["whk_01kf0q8m3s7t9v1w3x5y7z9abp"])
    url: str = Field(examples=["https://example.com/hooks"])
    state: Literal["pending", "delivered", "failed"]
    attempts: int = Field(examples=[1])
    last_status: int | None = Field(examples=[200])
    last_error: str | None
    next_at: datetime | None = Field(description="When it is tried next.")
    delivered_at: datetime | None = Field(examples=[_AT])


class Recording(Shown):
    """The recording: stereo, the caller left, the agent right."""

    id: str = Field(examples=["rec_01kf0q8m3s7t9v1w3x5y7z9abg"])
    state: Literal["open", "ready", "incomplete"]
    duration_ms: int | None = Field(examples=[64_210])
    sample_rate_hz: int = Field(examples=[8000])


class RateLimit(Shown):
    """One of a provider's limits, as it told it last in the call."""

    name: str = Field(examples=["tokens"])
    limit: int = Field(examples=[40_000])
    remaining: int = Field(examples=[38_412])
    reset_s: float = Field(description="Seconds until it is whole again.", examples=[2.4])


class Used(Shown):
    """What one model did in the call."""

    part: Literal["stt", "llm", "tts", "realtime"]
    model: str = Field(description="Its provider and name.", examples=["openai gpt-4.1-mini"])
    requests: int = Field(examples=[4])
    input_tokens: int = Field(examples=[5210])
    cached_tokens: int = Field(description="Of the input tokens.", examples=[3072])
    output_tokens: int = Field(examples=[118])
    characters: int = Field(description="Spoken.", examples=[0])
    audio_ms: int = Field(description="Heard or spoken.", examples=[0])
    cost_micros: int | None = Field(
        description="Millionths of a dollar; null when no price is set for the model.",
        examples=[1351],
    )
    rate_limits: list[RateLimit] = Field(
        default_factory=list, description="Told by Realtime models only."
    )


class Usage(Shown):
    """What the call took of its providers."""

    parts: list[Used]
    cost_micros: int | None = Field(
        description="Millionths of a dollar, of all models that have a price.", examples=[21_874]
    )
    complete: bool = Field(description="Whether every model has a price.")
    currency: Literal["USD"]


class CallDetail(CallSummary):
    """One call with everything that is known of it."""

    usage: Usage | None = Field(
        description="Null until the call is over, and for one that no model answered."
    )
    turns: list[Turn]
    tool_runs: list[ToolRun]
    changes: list[Change]
    activities: list[Activity]
    deliveries: list[Delivery]
    recording: Recording | None


class Transcript(BaseModel):
    """What was said in a call, in order."""

    call_id: str = Field(examples=[_CALL])
    data: list[Turn]


class Me(BaseModel):
    """The key that asks."""

    key_id: str = Field(examples=["key_01kf0q8m3s7t9v1w3x5y7z9abt"])
    name: str = Field(examples=["Zapier"])
    scopes: list[str] = Field(examples=[["calls:read"]])
    expires_at: datetime | None = Field(
        description="From then on it opens nothing; null for one that lasts.", examples=[_AT]
    )


CallId = Annotated[str, Path(description="The call's id.", examples=[_CALL])]


def asked_for(
    q: Annotated[
        str | None,
        Query(
            max_length=4000,
            description='What was said: words, `"a phrase"`, `begin*`, `caller:word`, `agent:word`, '
            "`OR`, `NOT` or `-`, brackets.",
            examples=['caller:refund -"one moment"'],
        ),
    ] = None,
    from_: Annotated[
        str | None,
        Query(alias="from", description="Begun then or later: a day or a moment.", examples=[_AT]),
    ] = None,
    to: Annotated[
        str | None,
        Query(
            description="Begun before that moment, or on that day at the latest.", examples=[_AT]
        ),
    ] = None,
    number: Annotated[
        str | None, Query(description="At either end.", examples=["+12025550134"])
    ] = None,
    profile: Annotated[
        str | None, Query(description="Name of the profile that answered.", examples=["Front desk"])
    ] = None,
    direction: Annotated[str | None, Query(description="inbound or outbound.")] = None,
    end_reason: Annotated[str | None, Query(description="Why it ended.")] = None,
    answered: Annotated[str | None, Query(description="yes or no.")] = None,
    min_duration: Annotated[str | None, Query(description="In seconds.", examples=["60"])] = None,
    max_duration: Annotated[str | None, Query(description="In seconds.", examples=["600"])] = None,
    contact: Annotated[str | None, Query(description="A contact's id.")] = None,
    tag: Annotated[str | None, Query(description="A tag.", examples=["billing"])] = None,
    transferred: Annotated[str | None, Query(description="yes or no.")] = None,
    crm_failed: Annotated[
        str | None, Query(description="yes or no: whether a write to the CRM failed.")
    ] = None,
    review: Annotated[str | None, Query(description="needed or done.")] = None,
    tests: Annotated[
        str | None, Query(description="`hide` leaves tests and demo data out.")
    ] = None,
    timezone: Annotated[
        str | None, Query(description="In which days are meant.", examples=["Europe/Lisbon"])
    ] = None,
) -> dict[str, str]:
    """The filters of the list, by the names that its address has in the browser too."""
    given = {
        "q": q, "from": from_, "to": to, "number": number, "profile": profile,
        "direction": direction, "end_reason": end_reason, "answered": answered,
        "min_duration": min_duration, "max_duration": max_duration, "contact": contact,
        "tag": tag, "transferred": transferred, "crm_failed": crm_failed, "review": review,
        "tests": tests, "timezone": timezone,
    }  # fmt: skip
    return {name: value.strip() for name, value in given.items() if value and value.strip()}


@router.get(
    "/calls", operation_id="list_calls", summary="List and search calls", tags=["calls"],
    responses=documented(401, 403, 404, 422),
)  # fmt: skip
async def list_calls(
    parts: Parts,
    given: Annotated[dict[str, str], Depends(asked_for)],
    key: ApiKey = needs("calls:read"),
    cursor: PageCursor = None,
    limit: Annotated[int, Query(ge=1, le=200, description="Calls on a page.")] = 50,
) -> Calls:
    """Calls, newest first, narrowed by any filters together. Follow `next_cursor` for older ones."""
    before = paging.read(cursor)
    async with parts.db.look() as session:
        wanted = await asked.read(session, given)
        page = await call_list.page(
            session, wanted.filters, wanted.wanted, before=before, limit=limit
        )
    return Calls(
        data=[CallSummary.model_validate(call) for call in page.calls],
        next_cursor=paging.write(page.next) if page.next else None,
        searched_back_to=page.searched_back_to,
    )


async def _queue(parts: Parts, once: DoOnce, request: CallRequest) -> Response:
    async def work(session: AsyncSession) -> tuple[int, BaseModel]:
        call = await dial.queue_call(
            session, **request.model_dump(), cause=crm.Cause(source="api"), now=parts.now()
        )
        (row,) = await call_list.rows(session, [call])
        return 201, CallSummary.model_validate(row)

    return await once.run(work)


@router.post(
    "/calls", operation_id="place_call", summary="Call somebody", tags=["calls"],
    status_code=201, response_model=CallSummary,
    responses=documented(401, 403, 404, 409, 422),
)  # fmt: skip
async def place_call(
    body: CallRequest, parts: Parts, once: DoOnce, key: ApiKey = needs("calls:write")
) -> Response:
    """Queues the call; it is dialled at once, or at `not_before`. `call.queued` and, in the end,
    `call.ended` tell how it went.

    409 when the person does not want to be called (`do_not_call`), at an hour at which nobody is
    called where they are (`outside_hours`), or when they were called too often (`called_enough`).
    The first two are looked at again when it is dialled. While busy or unanswered it is tried again
    as the profile says, each time as a call of its own whose `retry_of` names this one.
    """
    return await _queue(parts, once, body)


@router.post(
    "/activities/{activity_id}/call", operation_id="call_for_activity",
    summary="Call for a task", tags=["activities"],
    status_code=201, response_model=CallSummary,
    responses=documented(401, 403, 404, 409, 422),
)  # fmt: skip
async def call_for_activity(
    activity_id: Annotated[str, Path(description="The task's id.", max_length=40)],
    body: TaskCall,
    parts: Parts,
    once: DoOnce,
    key: ApiKey = needs("calls:write"),
) -> Response:
    """Calls the contact of a task, such as a call back that was asked for. The task is done once they
    have answered; a voicemail leaves it open."""
    given = CallRequest(activity_id=activity_id, **body.model_dump())
    return await _queue(parts, once, given)


@router.get(
    "/calls/{call_id}", operation_id="get_call", summary="Get a call", tags=["calls"],
    responses=documented(401, 403, 404, 422),
)  # fmt: skip
async def get_call(call_id: CallId, parts: Parts, key: ApiKey = needs("calls:read")) -> CallDetail:
    """One call with its transcript, tool runs, CRM changes, activities and webhook deliveries."""
    async with parts.db.look() as session:
        page = await call_page.page(session, call_id)
    summary = CallSummary.model_validate(page.call)
    return CallDetail(
        **dict(summary),
        turns=[Turn.model_validate(turn) for turn in page.turns],
        tool_runs=[ToolRun.model_validate(run) for run in page.tool_runs],
        changes=[Change.model_validate(change) for change in page.changes],
        activities=[Activity.model_validate(activity) for activity in page.activities],
        deliveries=[Delivery.model_validate(line) for line in page.deliveries],
        recording=Recording.model_validate(page.recording) if page.recording else None,
        usage=Usage.model_validate(page.usage) if page.usage else None,
    )


@router.get(
    "/calls/{call_id}/transcript", operation_id="get_transcript", summary="Get a transcript",
    tags=["calls"], responses=documented(401, 403, 404, 422),
)  # fmt: skip
async def get_transcript(
    call_id: CallId, parts: Parts, key: ApiKey = needs("calls:read")
) -> Transcript:
    """What was said, turn by turn; of a call that goes on, what was said so far."""
    async with parts.db.look() as session:
        turns = await call_page.transcript(session, call_id)
    return Transcript(call_id=call_id, data=[Turn.model_validate(turn) for turn in turns])


_AUDIO = {"content": {"audio/wav": {"schema": {"type": "string", "format": "binary"}}}}


@router.get(
    "/calls/{call_id}/recording", operation_id="get_recording", summary="Get a recording",
    tags=["recordings"], response_class=Response,
    responses={
        200: {"description": "The whole recording.", **_AUDIO},
        206: {"description": "The part that `Range` asks for.", **_AUDIO},
        304: {"description": "It is the one that `If-None-Match` names."},
        **documented(401, 403, 404, 416, 422),
    },
)  # fmt: skip
async def get_recording(
    call_id: CallId, request: Request, parts: Parts, key: ApiKey = needs("recordings:read")
) -> Response:
    """The sound of the call: WAV, stereo, the caller left, the agent right. Takes `Range`.

    Who begins to listen stands in the audit."""
    answer = await media.recording(request, parts, call_id)
    await note_hearing(parts, request, answer, call_id, by=key)
    return answer


class LinkRequest(BaseModel):
    """How long a link is to play."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{}]})

    expires_in_s: StrictInt = Field(
        int(media.LINK_LASTS.total_seconds()),
        ge=10,
        le=int(media.LINK_LASTS_AT_MOST.total_seconds()),
        description="Seconds from now.",
        examples=[300],
    )


class Link(Shown):
    """A link that plays one recording without a key."""

    url: str = Field(
        examples=[f"https://trunkline.example.com/v1/calls/{_CALL}/recording/signed?expires=…"]
    )
    expires_at: datetime = Field(examples=[_AT])


@router.post(
    "/calls/{call_id}/recording/link", operation_id="link_recording",
    summary="Make a short-lived link to a recording", tags=["recordings"],
    responses=documented(401, 403, 404, 422),
)  # fmt: skip
async def link_recording(
    call_id: CallId,
    request: Request,
    parts: Parts,
    body: LinkRequest | None = None,
    key: ApiKey = needs("recordings:read"),
) -> Link:
    """Whoever has the link can hear the recording until it expires, or the key that made it is revoked.
    Hearing it stands in the audit under that key."""
    lasts = timedelta(seconds=(body or LinkRequest()).expires_in_s)  # type: ignore[call-arg]
    return Link.model_validate(await media.link(request, parts, call_id, by=key, lasts=lasts))


@router.get(
    "/calls/{call_id}/recording/signed", operation_id="get_signed_recording",
    summary="Get a recording by a link", tags=["recordings"], response_class=Response,
    responses={
        200: {"description": "The whole recording.", **_AUDIO},
        206: {"description": "The part that `Range` asks for.", **_AUDIO},
        304: {"description": "It is the one that `If-None-Match` names."},
        **documented(403, 404, 416, 422),
    },
)  # fmt: skip
async def get_signed_recording(
    call_id: CallId,
    request: Request,
    parts: Parts,
    expires: Annotated[int, Query(ge=0, le=2**33, description="Seconds since 1970.")],
    by: Annotated[str, Query(max_length=40, description="Which key made it.")],
    signature: Annotated[str, Query(max_length=64, description="As it was given.")],
) -> Response:
    """What `link_recording` leads to. Needs no key, takes `Range`, and may be embedded anywhere."""
    key = await media.opened(parts, call_id, expires=expires, by=by, signature=signature)
    answer = await media.recording(request, parts, call_id)
    # The signature is the permission; whose page it plays on is no matter.
    answer.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
    await note_hearing(parts, request, answer, call_id, by=key)
    return answer


@router.get(
    "/me", operation_id="get_me", summary="Who is asking", tags=["access"],
    responses=documented(401),
)  # fmt: skip
async def get_me(key: AnyKey) -> Me:
    """The key that came with the request; good for trying a connection."""
    return Me(key_id=key.id, name=key.name, scopes=key.scopes, expires_at=key.expires_at)
