"""``sip/trunks/*.yaml`` and ``sip/rules/*.yaml``: what may stand in them, read and checked.

A trunk is a line to a carrier; a rule says what happens to a call: which agent, in what kind of room.
Secrets are never in a file: it names the environment variable that holds one.
"""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
)
from pydantic_core import PydanticCustomError

from trunkline.desk.sip import NUMBER_ATTRIBUTE
from trunkline.errors import Invalid
from trunkline.kit import phone

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_HEADER = re.compile(r"[A-Za-z0-9!%*_+`'~.-]{1,64}")
"""RFC 3261 25.1, token."""
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")


def _e164(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str):
        raise PydanticCustomError(
            "quotes", "must stand in quotes, like '+12025550100': YAML reads it as a sum otherwise"
        )
    try:
        return phone.PhoneNumber(value).e164
    except ValueError as error:
        raise PydanticCustomError("e164", "{why}", {"why": str(error)}) from error


def _network(value: str) -> str:
    try:
        ip_network(value) if "/" in value else ip_address(value)
    except ValueError as error:
        raise PydanticCustomError(
            "network", "is no address; write 192.0.2.7 or 192.0.2.0/24"
        ) from error
    return value


def _header(value: str) -> str:
    if not _HEADER.fullmatch(value):
        raise PydanticCustomError("header", "is no name of a SIP header")
    return value


def _variable(value: str) -> str:
    if not _VARIABLE.fullmatch(value):
        raise PydanticCustomError(
            "variable",
            "must be the name of an environment variable, in capitals, and not the secret itself",
        )
    return value


def _attribute(value: str) -> str:
    if value.startswith("sip.") or value == NUMBER_ATTRIBUTE:
        raise PydanticCustomError("attribute", "is set by LiveKit or by us; choose another")
    return value


def _host(value: str) -> str:
    if "@" in value or ";" in value or "/" in value or value.startswith(("sip:", "sips:")):
        raise PydanticCustomError(
            "host", "must be a host name or address, like example.pstn.twilio.com, and no SIP URI"
        )
    return value


Number = Annotated[str, BeforeValidator(_e164)]
Numbers = Annotated[
    Annotated[Literal["all"], Tag("all")] | Annotated[list[Number], Tag("list")],
    Discriminator(lambda value: "list" if isinstance(value, list) else "all"),
]
Header = Annotated[str, AfterValidator(_header)]
Attribute = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_attribute)]
Variable = Annotated[str, AfterValidator(_variable)]
Host = Annotated[str, Field(min_length=1, max_length=253), AfterValidator(_host)]

Encryption = Literal["disable", "allow", "require"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", title="")


class Digest(_Part):
    """Digest authentication (RFC 8760): the variables that hold its two halves."""

    username_env: Variable
    password_env: Variable


class Trunk(_Part):
    """What both kinds of trunk have."""

    numbers: Numbers = Field(default="all")
    auth: Digest | None = None
    encryption: Encryption = "allow"
    """Of the voice (SRTP): never, when the carrier offers it, or nothing else."""
    headers: dict[Header, str] = Field(default_factory=dict)
    """Headers we add to what we send on this trunk."""
    headers_to_attributes: dict[Header, Attribute] = Field(default_factory=dict)
    """SIP header → attribute of the caller's participant."""
    include_headers: Literal["none", "x", "all"] = "x"
    """Which headers become attributes ``sip.h.<name in lower case>``: none, those with X-, all."""


class InboundTrunk(Trunk):
    """A line on which calls come in.

    ``numbers``: ``all`` means every number of ours that no other trunk names; at most one trunk may
    say so. A trunk without numbers is not made: LiveKit would take every call on it.
    """

    direction: Literal["inbound"]
    dialled_as: Literal["+e164", "e164"] = "+e164"
    """How the carrier writes the number that was dialled. LiveKit compares it letter by letter."""
    allow_addresses: list[Annotated[str, AfterValidator(_network)]] = Field(
        default_factory=list, max_length=100
    )
    """Whence INVITEs may come; empty means from anywhere, which then needs ``auth``."""
    allow_callers: list[Number] = Field(default_factory=list, max_length=1000)
    """The only numbers that may call; empty means everybody."""
    ringing_timeout_s: int = Field(default=45, ge=5, le=180)
    """Ringing without an agent is given up after this; LiveKit's own default is three minutes."""
    max_call_s: int = Field(default=14_400, ge=60, le=86_400)


class OutboundTrunk(Trunk):
    """A line on which we call out. ``numbers``: which of ours it may show; ``all`` for all of them."""

    direction: Literal["outbound"]
    address: Host | None = None
    """The carrier's host for our calls; this or ``address_env``."""
    address_env: Variable | None = None
    """Variable that holds it; while it is unset the trunk is not made."""
    transport: Literal["auto", "udp", "tcp", "tls"] = "auto"
    country: Annotated[str, Field(pattern=r"^[A-Z]{2}$")] | None = None
    """ISO 3166 country that most calls go to; LiveKit Cloud places them near it."""
    from_host: Host | None = None
    """Host of our own address in From, where a carrier asks for one."""


class Rule(_Part):
    """What happens to calls on the numbers it covers. Each gets a room of its own.

    ``numbers``: ``all`` means every number that no other rule names; at most one rule may say so.
    """

    numbers: Numbers = "all"
    agent: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")] = "trunkline"
    """Registered name of the agent that is sent for. Without one LiveKit would send for nobody."""
    room_prefix: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")] = "call"
    room_named_after: Literal["dialled", "caller"] = "dialled"
    """Which number is in the room's name. The caller's is chosen by strangers and ends up in logs."""
    hide_caller: bool = False
    """Keep the caller's number from everybody in the room, the agent included."""
    attributes: dict[Attribute, str] = Field(default_factory=dict)
    """Further attributes of the caller's participant."""
    empty_timeout_s: int = Field(default=30, ge=1, le=3600)
    """A room into which nobody came is closed after this."""
    departure_timeout_s: int = Field(default=20, ge=1, le=3600)
    """A room that everybody left is closed after this."""


_Model = TypeVar("_Model", bound=_Part)


@dataclass(frozen=True)
class Files:
    """All files, by name (the file's, without ``.yaml``)."""

    inbound: Mapping[str, InboundTrunk]
    outbound: Mapping[str, OutboundTrunk]
    rules: Mapping[str, Rule]


def read(folder: Path) -> Files:
    """Read ``trunks/*.yaml`` and ``rules/*.yaml`` of *folder*. Raises Invalid naming every fault."""
    if not folder.is_dir():
        raise Invalid(f"there is no folder {folder}; run this where sip/ is, or name it with --sip")
    faults: list[str] = []
    inbound: dict[str, InboundTrunk] = {}
    outbound: dict[str, OutboundTrunk] = {}
    rules: dict[str, Rule] = {}
    for path in sorted([*folder.glob("trunks/*.y*ml"), *folder.glob("rules/*.y*ml")]):
        try:
            match _read_one(path):
                case InboundTrunk() as trunk:
                    inbound[path.stem] = trunk
                case OutboundTrunk() as trunk:
                    outbound[path.stem] = trunk
                case Rule() as rule:
                    rules[path.stem] = rule
        except _Faulty as error:
            shown = f"{folder.name}/{path.parent.name}/{path.name}"
            faults += [f"{shown}: {fault}" for fault in error.faults]
    if faults:
        raise Invalid("; ".join(faults))
    return Files(inbound, outbound, rules)


# --- reading --------------------------------------------------------------------------------------


class _Faulty(Exception):
    def __init__(self, *faults: str) -> None:
        super().__init__(*faults)
        self.faults = faults


def _read_one(path: Path) -> InboundTrunk | OutboundTrunk | Rule:
    if not _NAME.fullmatch(path.stem):
        raise _Faulty("name the file with small letters, digits and hyphens, like twilio.yaml")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise _Faulty(f"cannot be read ({error})") from error
    except yaml.YAMLError as error:
        raise _Faulty(_yaml_fault(error)) from error
    if not isinstance(data, dict):
        raise _Faulty("must hold fields, one 'name: value' on each line")
    if path.parent.name == "rules":
        return _checked(Rule, data)
    if data.get("direction") == "outbound":
        trunk = _checked(OutboundTrunk, data)
        if (trunk.address is None) == (trunk.address_env is None):
            raise _Faulty("needs either address or address_env")
        return trunk
    line = _checked(InboundTrunk, data)
    if not line.allow_addresses and line.auth is None:
        raise _Faulty("needs allow_addresses or auth; anybody could call on it otherwise")
    return line


def _checked(model: type[_Model], data: Mapping[Any, Any]) -> _Model:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise _Faulty(*(_told(model, f) for f in error.errors(include_url=False))) from None


def _yaml_fault(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f" in line {mark.line + 1}" if mark else ""
    return f"is not YAML{where}: {getattr(error, 'problem', None) or error}"


_NOT_SHOWN = ("[key]", "all", "list")
"""Parts of pydantic's path that are in no file: "this is about the key", and the arms of Numbers."""


def _told(model: type[BaseModel], fault: Any) -> str:
    path = [part for part in fault["loc"] if part not in _NOT_SHOWN]
    where = ".".join(str(part) for part in path)
    shown = phone.mask(repr(fault["input"]))
    known = sorted(_fields(model, path[:-1]))
    match fault["type"]:
        case "missing":
            return f"{where} is missing"
        case "extra_forbidden":
            near = difflib.get_close_matches(str(path[-1]), known, 1)
            hint = f"did you mean {near[0]}? " if near else ""
            return f"{where} is no field; {hint}there are {', '.join(known)}"
        case "literal_error":
            also = " or a list of numbers in quotes" if path[-1] == "numbers" else ""
            return f"{where}: {shown} is not {fault['ctx']['expected']}{also}"
        case "quotes" | "variable" | "host" | "e164":
            return f"{where}: {fault['msg']}"
        case "network" | "header" | "attribute":
            return f"{where}: {fault['input']!r} {fault['msg']}"
        case "string_pattern_mismatch":
            return f"{where}: {fault['input']!r} must match {fault['ctx']['pattern']}"
        case _:
            return f"{where}: {fault['msg'][0].lower()}{fault['msg'][1:]} (it is {shown})"


def _fields(model: type[BaseModel], path: Sequence[Any]) -> Iterator[str]:
    """The names allowed where *path* leads."""
    inner = Digest if list(path) == ["auth"] else model
    yield from inner.model_fields
