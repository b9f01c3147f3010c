"""Whole examples for the description of the API, put together from those of the fields. Pure."""

import contextlib
from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]

_REF = "#/components/schemas/"


class NoExample(Exception):
    """A field that must be there has no example; the message is its path."""


def add(document: dict[str, Any]) -> None:
    """Give each JSON answer of *document* (OpenAPI 3.1) an example, where its fields have theirs."""
    schemas = document["components"]["schemas"]
    for methods in document["paths"].values():
        for operation in methods.values():
            for status, answer in operation["responses"].items():
                media = answer.get("content", {}).get("application/json", {})
                if int(status) < 400 and media.get("schema") and "example" not in media:
                    with contextlib.suppress(NoExample):
                        media["example"] = whole(media["schema"], schemas)


def whole(schema: Schema, schemas: Mapping[str, Schema], path: str = "") -> Any:
    """An example that *schema* allows. Raises NoExample.

    What has no example is null where it may be, false for a truth value, and empty for a list.
    """
    if schema.get("examples"):
        return schema["examples"][0]
    if "$ref" in schema:
        return whole(schemas[schema["$ref"].removeprefix(_REF)], schemas, path)
    for word in ("example", "const", "default"):
        if word in schema:
            return schema[word]
    if schema.get("enum"):
        return schema["enum"][0]
    if several := schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf"):
        return _first_of(several, schemas, path)
    match schema.get("type"):
        case "object":
            fields = schema.get("properties", {})
            return {name: whole(field, schemas, f"{path}.{name}") for name, field in fields.items()}
        case "array":
            try:
                return [whole(schema["items"], schemas, f"{path}[]")]
            except NoExample:
                return []
        case "boolean":
            return False
        case "null":
            return None
    raise NoExample(path or "the whole")


def _first_of(several: list[Schema], schemas: Mapping[str, Schema], path: str) -> Any:
    nullable = any(one.get("type") == "null" for one in several)
    for one in several:
        if one.get("type") == "null":
            continue
        try:
            return whole(one, schemas, path)
        except NoExample:
            continue
    if nullable:
        return None
    raise NoExample(path)
