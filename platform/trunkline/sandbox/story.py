"""The demo's little world: who calls Harbor Fiber, what is known of them, and what each caller does."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.crm import service as crm
from trunkline.kit.money import Money
from trunkline.kit.phone import parse
from trunkline.profiles import service as profiles
from trunkline.profiles.body import ProfileBody, read
from trunkline.sandbox.caller import HangUp, Listen, Overhear, Pause, Press, Say, StayOn, Step

OUR_NUMBER = "+12025550100"
"""All numbers are of the range 555-0100 to 555-0199, which is kept for fiction."""

STAGES = (
    crm.Stage("qualified", "open"),
    crm.Stage("proposal", "open"),
    crm.Stage("won", "won"),
    crm.Stage("lost", "lost"),
)

PROFILE: Mapping[str, object] = {
    "company": "Harbor Fiber",
    "agent_name": "Robin",
    "greeting": "Hello {first_name}, this is {company}. How can I help you?",
    "greeting_unknown": "Hello, this is Harbor Fiber. How can I help you?",
    "farewell": "Thank you for calling Harbor Fiber. Goodbye.",
    "silence_prompts": [
        "Are you still there? If you would rather not speak, press two and we will call you back.",
        "I can't hear you.",
    ],
    "silence_farewell": "I can't hear you, so I will hang up now. Please call again. Goodbye.",
    "instructions": (
        "Opening hours: Monday to Friday, nine to five.\n"
        "Plans: The first is the basic plan, one hundred megabits, for forty dollars a month. "
        "The second is the standard plan, five hundred megabits, for sixty dollars a month. "
        "The third is the bigger plan, one gigabit, for ninety dollars a month"
    ),
    "timezone": "America/New_York",
    "region": "US",
    "tts": {"voice": "f786b574-daa5-4673-aa0c-cbe3e8534c02"},
    "tools": [
        "look_up_contact",
        "create_contact",
        "find_deals",
        "log_activity",
        "move_deal",
        "request_callback",
        "take_message",
        "end_call",
    ],
    "pipeline": "Sales",
    "outbound": {
        "opening": "Hello {first_name}, this is {agent_name} from {company}. "
        "I am calling about {reason}. Do you have a minute?",
        "voicemail": "Hello, this is {agent_name} from {company}. I was calling about {reason}. "
        "Please call us back. Goodbye.",
        "reason": "your order",
        "hours": [],
    },
    "limits": {"silence_s": 4.0},
    "fallback": {
        "stt": [{"provider": "openai"}],
        "llm": [{"model": "gpt-4o-mini"}],
        "tts": [{"provider": "deepgram", "voice": "aura-2-thalia-en"}],
        # The sandbox's providers are never slow unless they are told to be.
        "hearing_ms": 1000,
        "first_token_ms": 600,
        "first_audio_ms": 500,
    },
    # Recorded lines end flat, which the end-of-turn model often takes for a sentence that goes on.
    "endpointing": {"min_delay_ms": 300, "max_delay_ms": 600},
    "record": True,
}

_REALTIME: Mapping[str, object] = {
    "provider": "openai",
    "voice": "marin",
    "turns": {"by": "server_vad"},
    "noise_reduction": "near_field",
}
VARIANTS: Mapping[str, Mapping[str, object]] = {
    "pipeline": {},
    "realtime": {"realtime": _REALTIME},
    "halfcascade": {"realtime": {**_REALTIME, "modality": "text"}},
}
"""What the demo's profile may be instead, by name: which models talk."""


FIRST: Mapping[str, str] = {"stt": "nova-3", "llm": "gpt-4.1-mini", "tts": "sonic-2"}
"""Part → the model that the profile chooses first, which a fault of the demo strikes."""


@dataclass(frozen=True)
class Story:
    """One demo call: who calls, and what the caller does."""

    key: str
    title: str
    from_raw: str
    steps: tuple[Step, ...]
    tool_delays: Mapping[str, timedelta] = field(default_factory=dict)


def _ms(milliseconds: int) -> timedelta:
    return timedelta(milliseconds=milliseconds)


STORIES: tuple[Story, ...] = (
    Story(
        "a",
        "A known customer goes ahead with the bigger plan",
        "+1 202 555 0134",
        (
            Listen(),
            Say("where_does_my_order_stand.wav"),
            Listen(),
            Say("yes_please_go_ahead_with_the_bigger_plan.wav"),
            Listen(),
            Say("no_thank_you_goodbye.wav"),
            StayOn(),
        ),
    ),
    Story(
        "b",
        "An unknown caller leaves a message and wants to be called back",
        "(202) 555-0177",
        (
            Listen(),
            Say("i_would_like_to_leave_a_message.wav"),
            Listen(),
            Say("my_name_is_peter_novak.wav"),
            Listen(),
            Say("my_internet_has_been_down_since_monday.wav"),
            Listen(),
            Say("yes_please_call_me_back_tomorrow.wav"),
            Listen(),
            Say("no_that_is_all_goodbye.wav"),
            StayOn(),
        ),
    ),
    Story(
        "c",
        "A caller who does not speak presses two",
        "0012025550162",
        (Listen(), Listen(), Press("2"), StayOn()),
    ),
    Story(
        "d",
        "A caller who breaks in",
        "+12025550145",
        (
            Listen(),
            Say("what_plans_do_you_have.wav"),
            # Cuts "one hundred megabits," in its last word, the longest there is, so that what was
            # heard is the same words each time.
            Overhear(_ms(7500)),
            Say("wait_what_are_your_opening_hours.wav"),
            Listen(),
            Say("thank_you_goodbye.wav"),
            StayOn(),
        ),
    ),
    Story(
        "e",
        "A caller who hangs up while a tool runs",
        "sip:+12025550156@carrier.example;user=phone",
        (
            Listen(),
            Say("please_call_me_back_tomorrow.wav"),
            # "One moment, please" is said as the tool starts; the tool takes two seconds.
            Overhear(_ms(0)),
            Pause(_ms(500)),
            HangUp(),
        ),
        tool_delays={"request_callback": _ms(2000)},
    ),
)


async def seed(session: AsyncSession, *, now: datetime, variant: str = "pipeline") -> ProfileBody:
    """Fill an empty database with Harbor Fiber's pipeline, people, deals, profile and number.

    *variant* is one of ``VARIANTS``.
    """
    cause = crm.Cause(source="demo")
    await crm.create_pipeline(session, name="Sales", stages=STAGES, now=now)
    for name, number, company, title, amount, stage in (
        ("Dana Whitfield", "+12025550134", "Whitfield Design", "Office Fiber", 240_000, "proposal"),
        ("James Carter", "+12025550145", "Carter and Sons", "Shop Fiber", 96_000, "qualified"),
        ("Maria Lopez", "+12025550156", None, "Home Fiber", 72_000, "proposal"),
    ):
        contact = await crm.create_contact(
            session,
            name=name,
            phones=(parse(number, region="US"),),
            company=company,
            cause=cause,
            now=now,
        )
        deal = await crm.create_deal(
            session,
            title=title,
            contact_id=contact.id,
            pipeline="Sales",
            stage=stage,
            amount=Money(amount, "USD"),
            cause=cause,
            now=now,
        )
        await crm.log_activity(
            session,
            kind="note",
            summary=f"Sent an offer for {title}.",
            contact_id=contact.id,
            deal_id=deal.id,
            cause=cause,
            now=now,
        )
    body = read({**PROFILE, **VARIANTS[variant]})
    version = await profiles.create_profile(session, name="Front desk", body=body, now=now)
    await profiles.assign_number(
        session, parse(OUR_NUMBER, region=None), version.profile_id, region="US", now=now
    )
    return body
