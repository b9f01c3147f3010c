"""What the agent may say of errors, and who it thinks it talks to."""

from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, get_args

import pytest
from livekit.agents import APIConnectionError, APIStatusError, APITimeoutError

from trunkline import errors
from trunkline.agent import persona
from trunkline.agent.errors import FALLBACK, code_of, provider_failed, say
from trunkline.agent.tools import NEEDS, tools_for
from trunkline.crm.models import Contact
from trunkline.desk.arrival import Reception
from trunkline.desk.callbacks import due_at
from trunkline.desk.identity import Rung, require
from trunkline.profiles.behaviour import KeyEntry, TransferTarget
from trunkline.profiles.body import ToolName, read
from trunkline.sandbox.story import PROFILE

if TYPE_CHECKING:
    from tests.conftest import Make

BODY = read(PROFILE)
NOBODY = Reception(
    call_id="call_1",
    answering=None,
    caller=None,
    contact=None,
    company=None,
    first_name=None,
    open_deals=(),
    last_activities=(),
)
DANA = replace(NOBODY, contact=Contact(id="con_1", name="Dana Whitfield"), first_name="Dana")


@pytest.mark.parametrize(
    ("error", "spoken"),
    [
        (errors.NotFound("deal_01kf… is gone"), "I can't find that one."),
        (errors.StaleLease("x"), "That has changed in the meantime."),  # by its base, Conflict
        (TimeoutError(), "That is taking too long, so I stopped it."),
        (ValueError("secret table name"), FALLBACK),  # nothing we know: no word of it is spoken
    ],
)
def test_no_exceptions_own_text_is_spoken(error: Exception, spoken: str) -> None:
    """The nearest class decides what is said."""
    assert say(error) == spoken


def test_errors_are_stored_by_a_stable_code() -> None:
    """What a manager filters by does not change with the wording."""
    assert code_of(errors.Refused("no")) == "refused"
    assert code_of(TimeoutError()) == "timeout"
    assert code_of(KeyError("x")) == "internal"


@pytest.mark.parametrize(
    ("part", "error", "says"),
    [
        (
            "llm",
            APIStatusError("no", status_code=401, request_id=None, body=None),
            "language model (openai gpt-4.1) at http://x/v1 refused the key (401); set OPENAI_API_KEY",
        ),
        (
            "stt",
            APIStatusError("no", status_code=429, request_id=None, body=None),
            "(429); raise the account's limits or wait",
        ),
        (
            "tts",
            APIStatusError("no", status_code=503, request_id=None, body=None),
            "answered with an error (503)",
        ),
        ("tts", APITimeoutError(), "did not answer in time; check the address and the network"),
        ("stt", APIConnectionError(), "broke off the connection"),
        (
            "tts",  # a websocket's close code, which the plugins give as a status
            APIStatusError("closed", status_code=1006, request_id=None, body=None),
            "broke off the connection",
        ),
        ("llm", KeyError("x"), "failed (KeyError); see the log"),
    ],
)
def test_a_failed_provider_is_named_with_the_remedy(part: str, error: Exception, says: str) -> None:
    """One sentence: which provider, where, what it said, what to do."""
    assert says in str(provider_failed(part, error, "http://x/v1", "openai gpt-4.1"))


def test_a_known_caller_is_greeted_by_name_and_told_of_the_recording() -> None:
    """The notice comes before the question, so that the answer comes after the notice."""
    assert persona.greeting(BODY, DANA) == (
        "Hello Dana, this is Harbor Fiber. This call is recorded. How can I help you?"
    )


def test_an_unrecorded_call_has_no_notice() -> None:
    """Recording is a switch of the profile; off means that nobody is told of one."""
    body = BODY.model_copy(update={"record": False})
    assert "recorded" not in persona.greeting(body, NOBODY)


def test_the_prompt_tells_the_present_and_the_caller(now: datetime) -> None:
    """Time is local, the office's hours are known, and the caller by name."""
    prompt = persona.instructions(BODY, DANA, now=now)
    assert "Now: 2026-01-15 04:30 Thursday (America/New_York)" in prompt
    assert "Caller: Dana Whitfield" in prompt
    assert "Caller: unknown" in persona.instructions(BODY, NOBODY, now=now)


def test_the_prompt_says_why_it_is_closed(make: "Make", now: datetime) -> None:
    """A caller who wonders why nobody is there can be told."""
    body = make.body(holidays=[{"date": "01-15", "name": "Founder's Day"}])
    assert "Office: closed (today is Founder's Day)" in persona.instructions(body, DANA, now=now)
    open_day = make.body(hours=[{"days": ["thu"], "opens": "00:00", "closes": "00:00"}])
    assert "Office: open\n" in persona.instructions(open_day, DANA, now=now)


def test_a_name_with_braces_does_no_harm(now: datetime) -> None:
    """A contact's name is data, also when it looks like a template."""
    odd = replace(DANA, contact=Contact(id="con_1", name="{company} {0}"), first_name="{0}")
    assert "Caller: {company} {0}" in persona.instructions(BODY, odd, now=now)
    assert persona.greeting(BODY, odd).startswith("Hello {0}, this is")


def test_the_profiles_tools_are_the_agents() -> None:
    """Each tool that a profile may name exists and says how sure it must be who calls."""
    assert set(get_args(ToolName)) == set(NEEDS)
    somebody = TransferTarget(name="Support", number="+12025550188", when="Always.")
    number = KeyEntry(name="order number", when="Always.", prompt="Key it in.")
    body = BODY.model_copy(
        update={"tools": list(get_args(ToolName)), "transfers": [somebody], "entries": [number]}
    )
    assert {tool.id for tool in tools_for(body, ("won", "lost"))} == set(NEEDS)


def test_only_the_pipelines_stages_are_offered() -> None:
    """The model can name no stage that the pipeline does not have."""
    from livekit.agents.llm import ToolContext

    body = BODY.model_copy(update={"tools": ["move_deal"]})
    (schema,) = ToolContext(tools_for(body, ("won", "lost"))).parse_function_tools("openai")
    assert schema["function"]["parameters"]["properties"]["stage"]["enum"] == ["won", "lost"]
    assert tools_for(body, ()) == []


@pytest.mark.parametrize("held", Rung)
@pytest.mark.parametrize("needed", Rung)
def test_the_ladder(held: Rung, needed: Rung) -> None:
    """Each rung may do what those below it may, and no more."""
    if held >= needed:
        require(held, needed)
    else:
        with pytest.raises(errors.Refused, match="this needs a caller who is"):
            require(held, needed)


@pytest.mark.parametrize(
    ("day", "at", "says"),
    [
        ("tomorrow", None, "must be YYYY-MM-DD"),  # a model that does not know the date
        ("2026-01-14", "09:00", "has passed"),
        ("2026-01-16", "25:00", "must be YYYY-MM-DD and the time HH:MM"),
    ],
)
def test_a_call_back_in_the_past_or_at_no_time(
    day: str, at: str | None, says: str, now: datetime
) -> None:
    """What the model made up is refused with what it should have been."""
    with pytest.raises(errors.Invalid, match=says):
        due_at(day, at, default="09:00", timezone="America/New_York", now=now)


def test_a_call_back_is_due_in_the_profiles_zone(now: datetime) -> None:
    """Nine o'clock is nine where the business is."""
    due = due_at("2026-01-16", None, default="09:00", timezone="America/New_York", now=now)
    assert due.isoformat() == "2026-01-16T09:00:00-05:00"
