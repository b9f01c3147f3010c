"""What a profile says and how it behaves: one frozen model, checked when it is read.

Stored as JSON in ``profile_versions.body``. Every field has its meaning and bounds beside it, and
its default, if any, is written there and nowhere else.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from trunkline.errors import Invalid
from trunkline.profiles import known
from trunkline.profiles.behaviour import (
    Endpointing,
    Interruption,
    KeyEntry,
    KeypadMenu,
    Limits,
    Outbound,
    TransferTarget,
)
from trunkline.profiles.choices import (
    PARTS,
    PROVIDERS,
    CartesiaVoice,
    DeepgramAura,
    DeepgramFlux,
    DeepgramNova,
    Fallback,
    LlmChoice,
    OpenaiChat,
    OpenaiTranscription,
    OpenaiVoice,
    SttChoice,
    TtsChoice,
)
from trunkline.profiles.hours import Holiday, Hours
from trunkline.profiles.parts import ClockTime, Part, Short, Spoken, greets, is_region, is_zone
from trunkline.profiles.realtime import AzureRealtime, OpenaiRealtime, RealtimeChoice

ToolName = Literal[
    "look_up_contact",
    "create_contact",
    "find_deals",
    "log_activity",
    "move_deal",
    "request_callback",
    "take_message",
    "transfer_to_person",
    "press_keys",
    "collect_digits",
    "end_call",
]
TOOL_NAMES: tuple[str, ...] = get_args(ToolName)


class ProfileBody(Part):
    """One state of a profile."""

    company: Short = Field(description="Who is answering; said in greetings.")
    agent_name: Short = Field(description="What the agent calls itself.")
    greeting: Annotated[Spoken, AfterValidator(greets)] = Field(
        description="To known callers; may use {name}, {first_name}, {company} (ours)."
    )
    greeting_unknown: Spoken = Field(description="To callers we don't know; said as it stands.")
    recording_notice: Spoken = Field(
        default="This call is recorded.", description="Said after the greeting when record is on."
    )
    farewell: Spoken = Field(description="The last words before we hang up.")
    end_warning: Spoken = Field(
        default="We can talk for one more minute.",
        description="Said limits.warn_before_end_s before the longest call ends.",
    )
    silence_prompts: list[Spoken] = Field(
        max_length=5, description="Said in turn when the caller is silent."
    )
    silence_farewell: Spoken = Field(description="Said after the last of them; then we hang up.")
    instructions: str = Field(
        max_length=20_000, description="What the agent knows and how it behaves, in free text."
    )
    language: str = Field(
        default="en", pattern=r"^[a-z]{2,3}(-[A-Za-z0-9]{2,8})*$", description="BCP 47 tag."
    )
    timezone: Annotated[str, AfterValidator(is_zone)] = Field(
        description="IANA name; hours, callbacks and spoken times are in it."
    )
    region: Annotated[str, AfterValidator(is_region)] = Field(
        description="ISO 3166 country in which numbers that callers say are read."
    )
    stt: SttChoice = Field(default_factory=DeepgramNova, description="Who hears.")
    llm: LlmChoice = Field(default_factory=OpenaiChat, description="Who thinks.")
    tts: TtsChoice = Field(description="Who speaks.")
    realtime: RealtimeChoice | None = Field(
        default=None,
        description="One model that hears, thinks and speaks, on calls that come in; none: stt, llm "
        "and tts do. Those stay needed: they say what is said word for word, and go on when it fails.",
    )
    fallback: Fallback = Field(
        default_factory=Fallback, description="Who takes over when one of them fails."
    )
    tools: list[ToolName] = Field(description="What the agent may do.")
    pipeline: Short | None = Field(
        default=None, description="Deals of this pipeline are the ones it looks at; none: all."
    )
    callback_time: ClockTime = Field(
        default="09:00", description="HH:MM of a callback for which the caller names a day only."
    )
    menu: KeypadMenu | None = Field(
        default=None, description="Choices by key after the greeting; none: straight to the agent."
    )
    hours: list[Hours] = Field(
        default_factory=list, max_length=50, description="Business hours; empty is always open."
    )
    holidays: list[Holiday] = Field(
        default_factory=list, max_length=200, description="Days on which the hours don't hold."
    )
    after_hours: Short | None = Field(
        default=None,
        description="Name of the profile that answers when it is closed; none: this one, "
        "which knows that it is closed.",
    )
    transfers: list[TransferTarget] = Field(
        default_factory=list,
        max_length=20,
        description="Whom callers can be put through to; needs the tool transfer_to_person.",
    )
    entries: list[KeyEntry] = Field(
        default_factory=list,
        max_length=20,
        description="What callers may be asked to key in; needs the tool collect_digits.",
    )
    hidden_callers: Literal["answer", "reject", "message"] = Field(
        default="answer",
        description="A caller who hides the number is answered, rejected, or may leave a message.",
    )
    outbound: Outbound | None = Field(
        default=None, description="How it calls people; none: it never does."
    )
    limits: Limits = Field(default_factory=Limits, description="Bounds of a call.")
    record: bool = Field(default=False, description="Keep the audio; the greeting then says so.")
    noise_suppression: bool = Field(
        default=False,
        description="Take steady noise out of the caller's side before it is listened to; the recording "
        "keeps it.",
    )
    interruption: Interruption = Field(
        default_factory=Interruption, description="When the agent stops for the caller."
    )
    endpointing: Endpointing = Field(
        default_factory=Endpointing, description="When a turn is taken as over."
    )

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [target.name.casefold() for target in self.transfers]
        if len(set(names)) < len(names):
            raise PydanticCustomError("names", "two transfers have the same name")
        names = [entry.name.casefold() for entry in self.entries]
        if len(set(names)) < len(names):
            raise PydanticCustomError("names", "two entries have the same name")
        return self


def read(data: Mapping[str, Any]) -> ProfileBody:
    """The body in *data* (JSON's own types). Raises Invalid with one sentence naming every fault."""
    try:
        return ProfileBody.model_validate(dict(data))
    except ValidationError as error:
        faults = "; ".join(_told(fault) for fault in error.errors(include_url=False))
        raise Invalid(f"the profile is not valid: {faults}") from None


def check(body: ProfileBody) -> None:
    """Raises Invalid, one sentence naming each field that its provider would refuse."""
    if faults := provider_faults(body):
        raise Invalid(f"the profile is not valid: {'; '.join(faults)}")


def provider_faults(body: ProfileBody) -> list[str]:
    """What the providers of *body* don't know or take, each naming its field; see ``known``."""
    language = body.language
    choices: list[tuple[str, SttChoice | LlmChoice | TtsChoice | RealtimeChoice]] = [
        ("stt", body.stt),
        ("llm", body.llm),
        ("tts", body.tts),
    ]
    if body.realtime is not None:
        choices.append(("realtime", body.realtime))
    for part in PARTS:
        for at, choice in enumerate(getattr(body.fallback, part)):
            choices.append((f"fallback.{part}.{at}", choice))
    return [
        f"{place}.{field}: {value!r} {says}"
        for place, choice in choices
        for field, value, says in _unknown(choice, language)
        if says is not None
    ]


def _unknown(
    choice: SttChoice | LlmChoice | TtsChoice | RealtimeChoice, language: str
) -> list[tuple[str, object, str | None]]:
    """Per field of *choice*: its value and what is wrong with it, if anything."""
    match choice:
        case DeepgramNova(model=model, keyterms=terms):
            late = bool(terms) and not model.startswith("nova-3")
            return [
                ("model", model, known.nova_model(model)),
                ("keyterms", terms, f"are taken by nova-3 only, not {model}" if late else None),
            ]
        case DeepgramFlux(model=model):
            return [("model", model, known.flux_model(model, language))]
        case OpenaiTranscription(model=model, mode=mode, base_url=None):
            return [("model", model, known.transcription_model(model, mode))]
        case OpenaiChat(model=model, temperature=temperature, base_url=None):
            hot = temperature is not None and not known.takes_temperature(model)
            says = (
                f"is not taken: {model} lets no temperature be set; leave it out" if hot else None
            )
            return [
                ("model", model, known.chat_model(model)),
                ("temperature", temperature, says),
            ]
        case OpenaiTranscription(model=model) | OpenaiChat(model=model):
            realtime = known.is_realtime(model)
            return [("model", model, known.chat_model(model) if realtime else None)]
        case CartesiaVoice(model=model, voice=voice):
            return [
                ("model", model, known.sonic_model(model)),
                ("voice", voice, known.cartesia_voice(voice)),
            ]
        case OpenaiVoice(model=model, voice=voice, base_url=None):
            return [
                ("model", model, known.speech_model(model)),
                ("voice", voice, known.openai_voice(voice, model)),
            ]
        case DeepgramAura(voice=voice):
            return [("voice", voice, known.aura_voice(voice, language))]
        case OpenaiRealtime(model=model, voice=voice, transcription=hears, base_url=None):
            return [
                ("model", model, known.realtime_model(model)),
                ("voice", voice, known.realtime_voice(voice)),
                (
                    "transcription.model",
                    hears.model,
                    known.transcription_model(hears.model, "batch"),
                ),
            ]
        case AzureRealtime(voice=voice):
            return [("voice", voice, known.realtime_voice(voice))]
        case _:
            return []


def _told(fault: Any) -> str:
    path = _place(fault["loc"])
    match fault["type"]:
        case "missing":
            return f"{path} is missing"
        case "extra_forbidden":
            return f"{path} is not a field of a profile"
        case "literal_error" if fault["loc"][0] == "tools":
            known = ", ".join(TOOL_NAMES)
            return f"{path}: {fault['input']!r} is no tool, the tools are {known}"
        case "union_tag_invalid":
            return f"{path}.provider: {fault['ctx']['tag']!r} is none of {fault['ctx']['expected_tags']}"
        case "zone" | "region" | "greeting" | "day" | "target" | "code" | "url":
            return f"{path}: {fault['input']!r} {fault['msg']}"
        case "string_pattern_mismatch" if str(fault["loc"][-1]) in (
            "opens",
            "closes",
            "callback_time",
        ):
            return f"{path}: {fault['input']!r} is no time of day; write HH:MM, like 09:00"
        case _:
            message = fault["msg"]
            return f"{path}: {message[0].lower()}{message[1:]}"


def _place(loc: tuple[int | str, ...]) -> str:
    """The field's place as people write it: without the provider that pydantic puts between."""
    kept = [
        str(part)
        for before, part in zip((None, *loc), loc, strict=False)
        if not (part in PROVIDERS and (before in (*PARTS, "realtime") or isinstance(before, int)))
    ]
    return ".".join(kept)
