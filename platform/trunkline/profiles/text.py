"""A profile as a file that people write: YAML with comments, read and written. Pure.

Read is what YAML 1.2's core schema has, not PyYAML's 1.1, in which ``17:30`` is a number, ``NO`` (Norway)
is false and ``2026-12-24`` is no text (https://yaml.org/spec/1.2.2/#103-core-schema).
"""

import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import yaml
from pydantic import BaseModel

from trunkline.errors import Invalid
from trunkline.profiles.body import ProfileBody, read

LONGEST = 200_000
"""Characters of a file. The longest text of a profile has a tenth of it."""


class _Loader(yaml.SafeLoader):
    """Takes words as words; refuses a field that is there twice."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own protocol

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Raises Invalid for a key that was there before."""
        seen: dict[Any, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue  # refused below: no field has such a name
            line = key.start_mark.line + 1
            if key.value in seen:
                raise Invalid(
                    f"line {line}: {key.value} is there already, in line {seen[key.value]}"
                )
            seen[key.value] = line
        return super().construct_mapping(node, deep=deep)


for _tag, _form, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+0123456789."),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_form})$"), list(_first)
    )
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))
_Loader.add_constructor("tag:yaml.org,2002:float", lambda loader, node: float(node.value))


class _Dumper(yaml.SafeDumper):
    """Writes as people do: short lists in one line, long text as it stands, times in quotes."""

    def represent_text(self, value: str) -> yaml.ScalarNode:
        """Quoted where an older reader would take it for a number."""
        style = "|" if "\n" in value else '"' if value[:1].isdigit() else None
        return self.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    def represent_items(self, value: list[Any]) -> yaml.SequenceNode:
        """In one line if it fits and all are single words."""
        short = len(str(value)) < 80 and all(re.fullmatch(r"[\w.-]+", str(item)) for item in value)
        return self.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=short)


_Dumper.add_representer(str, _Dumper.represent_text)
_Dumper.add_representer(list, _Dumper.represent_items)


def parse(text: str) -> ProfileBody:
    """The profile in a YAML (or JSON) file. Raises Invalid naming every fault with its place."""
    if len(text) > LONGEST:
        raise Invalid(f"the file has more than {LONGEST:,} characters; it is no profile")
    try:
        data = yaml.load(text, _Loader)  # noqa: S506 - made of SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise Invalid(f"the file is no YAML: {where}{error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        first = str(error).partition("\n")[0]
        raise Invalid(f"the file is no YAML: {first or type(error).__name__}") from None
    if not isinstance(data, Mapping) or not all(isinstance(key, str) for key in data):
        raise Invalid(
            "the file is no profile: it must have fields, like 'company: Acme'; "
            "trunkline profile example prints one to begin with"
        )
    return read(data)


def write(body: ProfileBody) -> str:
    """The profile as YAML, each field with its meaning; what :func:`parse` reads back."""
    return "\n".join(_fields(ProfileBody, body.model_dump(mode="json"), 0)) + "\n"


def example() -> str:
    """A profile to begin with: complete, each field with its meaning."""
    return f"{_HEAD}\n{write(read(_EXAMPLE))}"


def _fields(model: type[BaseModel], values: Mapping[str, Any], depth: int) -> Iterator[str]:
    indent = "  " * depth
    for name, field in model.model_fields.items():
        if depth == 0:
            yield ""
        must = " Must be given." if field.is_required() else ""
        yield from _comment(f"{field.description}{must}", indent)
        value = values[name]
        part = _part(field.annotation, value)
        if part is not None and isinstance(value, Mapping):
            yield f"{indent}{name}:"
            yield from _fields(part, value, depth + 1)
            continue
        if part is not None:
            for inner, meaning in part.model_fields.items():
                yield from _comment(f"- {inner}: {meaning.description}", indent)
        shown = yaml.dump(
            {name: _without_none(value)},
            Dumper=_Dumper,
            allow_unicode=True,
            sort_keys=False,
            width=96 - len(indent),
        )
        yield from (f"{indent}{line}" for line in shown.rstrip("\n").split("\n"))


def _without_none(value: Any) -> Any:
    """The items of a list without the fields that they leave out."""
    if not isinstance(value, list):
        return value
    return [
        {name: inner for name, inner in item.items() if inner is not None}
        if isinstance(item, Mapping)
        else item
        for item in value
    ]


def _part(annotation: Any, value: Any) -> type[BaseModel] | None:
    """The model that a field holds, or a list of which; of several the one that *value* is of."""
    models = list(_models(annotation))
    if len(models) > 1:
        one = value[0] if isinstance(value, list) and value else value
        given = one.get("provider") if isinstance(one, Mapping) else None
        return next((m for m in models if m.model_fields["provider"].default == given), None)
    return models[0] if models else None


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        return
    for one in get_args(annotation):
        yield from _models(one)


def _comment(text: str, indent: str) -> Iterator[str]:
    for line in textwrap.wrap(text, 96 - len(indent)):
        yield f"{indent}# {line}"


_HEAD = """\
# A profile says who answers a number and how. Change what you like, then:
#   trunkline profile publish "Front desk" this-file.yaml
#   trunkline number set +12025550100 --profile "Front desk"
# Only fields that say "Must be given" need to be here; null stands for none."""

_EXAMPLE: Mapping[str, Any] = {
    "company": "Acme Plumbing",
    "agent_name": "Ava",
    "greeting": "Hello {first_name}, this is {company}. How can I help?",
    "greeting_unknown": "Hello, this is Acme Plumbing. How can I help?",
    "farewell": "Thank you for calling. Goodbye.",
    "silence_prompts": ["Are you still there?", "I can't hear you."],
    "silence_farewell": "I can't hear you, so I will hang up now. Please call again. Goodbye.",
    "instructions": (
        "We repair and install pipes, boilers and bathrooms in and around Springfield.\n"
        "A visit costs ninety dollars and is taken off the bill if we do the work.\n"
        "In an emergency, like a burst pipe, tell the caller to close the main tap and book a\n"
        "call back at once."
    ),
    "timezone": "America/New_York",
    "region": "US",
    "tts": {"voice": "f786b574-daa5-4673-aa0c-cbe3e8534c02"},
    "tools": [
        "look_up_contact",
        "create_contact",
        "log_activity",
        "request_callback",
        "take_message",
        "end_call",
    ],
    "hours": [
        {"days": ["mon", "tue", "wed", "thu", "fri"], "opens": "08:00", "closes": "17:30"},
        {"days": ["sat"], "opens": "09:00", "closes": "12:00"},
    ],
    "holidays": [
        {"date": "12-24", "name": "Christmas Eve", "opens": "08:00", "closes": "12:00"},
        {"date": "12-25", "name": "Christmas Day"},
    ],
}
