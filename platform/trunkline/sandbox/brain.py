"""A dialogue engine in a language model's place: deterministic, offline, told by one file.

It answers an OpenAI chat completions request from its messages and its tools alone, so the same
request gets the same reply, whatever was asked before. What it understands (intents, slots) and
what it answers (rules) is in ``brain.toml``; ``brain_file`` tells what that may hold.
"""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

from pydantic import ValidationError

from trunkline.sandbox.brain_file import (
    UNKNOWN,
    BrainFileError,
    DialogueFile,
    Rule,
    check,
    expand,
    fill,
    iso_date,
    template,
)

_MAX_WORDS = 60
"""Words in which a phrase is looked for: no phrase can be most of a longer speech."""

_KEYS = re.compile(r"\[keys ([0-9A-D*#]+)\]")


@dataclass(frozen=True)
class ToolCall:
    """A tool that the model asks for. ``arguments`` is a JSON object, as in OpenAI's protocol."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Reply:
    """What the model answers: words to be said (may be empty), tools to be run (may be none)."""

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True)
class Understood:
    """What a caller's words mean: an intent (or ``unknown``) and the slots found in them.

    ``exact`` says that a phrase explains all the words, not only most of them.
    """

    intent: str
    text: str
    slots: Mapping[str, str] = field(default_factory=dict)
    exact: bool = False


@dataclass
class _Node:
    """A word tree of all sentences: an edge is a word or a ``<slot>``."""

    edges: dict[str, "_Node"] = field(default_factory=dict)
    intent: str | None = None


@dataclass(frozen=True)
class _Run:
    """One call of a tool and what came back."""

    tool: str
    arguments: Mapping[str, object]
    output: str
    outcome: str
    groups: Mapping[str, str]


@dataclass(frozen=True)
class _Situation:
    """All that a rule can ask of a request."""

    kind: str
    understood: Understood
    earlier: frozenset[str]
    run: _Run | None
    along: frozenset[str]
    values: Mapping[str, str]


class Brain:
    """The dialogue engine. Holds the file's content and nothing of any conversation."""

    def __init__(self, data: Mapping[str, object], source: str = "brain.toml") -> None:
        """Take the parsed file *data*. Raises BrainFileError naming *source* and the place."""
        try:
            self._file = DialogueFile.model_validate(data)
            check(self._file)
            self._tree = _Node()
            self._sentences = [
                (intent, sentence)
                for intent, phrases in self._file.intents.items()
                for phrase in phrases
                for sentence in self._grow(intent, phrase)
            ]
        except ValidationError as fault:
            first = fault.errors()[0]
            place = ".".join(
                str(part + 1 if isinstance(part, int) else part) for part in first["loc"]
            )
            raise BrainFileError(f"{source}: {place}: {first['msg']}") from fault
        except BrainFileError as fault:
            raise BrainFileError(f"{source}: {fault}") from None

    @classmethod
    def load(cls, path: Path | None = None) -> "Brain":
        """Read the dialogue file *path*, or the packaged one. Raises BrainFileError."""
        path = path or Path(__file__).with_name("brain.toml")
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as fault:
            raise BrainFileError(f"{path}: cannot be read ({fault.strerror})") from fault
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as fault:
            raise BrainFileError(f"{path}: is no TOML: {fault}") from fault
        return cls(data, str(path))

    # ---- Understanding

    def grammar(self) -> str:
        """All sentences it understands, in JSGF 1.0 with the one public rule ``<utterance>``."""
        # A slot and an intent may have the same name, hence the prefix.
        slots = (f"<{name}> = {' | '.join(v).lower()};" for name, v in self._file.slots.items())
        intents = (f"<i_{name}> = {' | '.join(p)};" for name, p in self._file.intents.items())
        public = " | ".join(f"<i_{name}>" for name in self._file.intents)
        head = ("#JSGF V1.0;", "grammar brain;")
        return "\n".join([*head, *slots, *intents, f"public <utterance> = {public};", ""])

    def sentences(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Every (intent, words) that the grammar allows; slots stay as ``<slot>``."""
        return iter(self._sentences)

    def understand(self, text: str) -> Understood:
        """Find the intent of *text*; case, punctuation and small words don't matter.

        A phrase inside a longer sentence counts if it is most of it (three words of five) and no
        guard word is left over; else the intent is ``unknown``.
        """
        if keys := _KEYS.fullmatch(text.strip()):
            intent = self._file.keys.get(keys[1].rstrip("#"), self._file.keys.get("other", UNKNOWN))
            return Understood(intent, text, exact=True)
        words = self._words(text)
        if len(words) > _MAX_WORDS:
            return Understood(UNKNOWN, text)
        best: tuple[int, int, str, Mapping[str, str]] | None = None
        for start in range(len(words)):
            for end, intent, slots in self._walk(self._tree, words, start, {}):
                if end - start == len(words):
                    return Understood(intent, text, slots, exact=True)
                if best is None or end - start > best[1] - best[0]:
                    best = (start, end, intent, slots)
        if best:
            start, end, intent, slots = best
            size = end - start
            rest = words[:start] + words[end:]
            if size >= 2 and size * 5 >= len(words) * 3 and self._file.guard.isdisjoint(rest):
                return Understood(intent, text, slots)
        return Understood(UNKNOWN, text)

    def _words(self, text: str) -> list[str]:
        found = re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower().replace("’", "'"))
        full = (part for word in found for part in self._file.rewrite.get(word, word).split())
        return [word for word in full if word not in self._file.small]

    def _walk(
        self, node: _Node, words: Sequence[str], at: int, slots: Mapping[str, str]
    ) -> Iterator[tuple[int, str, Mapping[str, str]]]:
        if node.intent:
            yield at, node.intent, slots
        if at == len(words):
            return
        if following := node.edges.get(words[at]):
            yield from self._walk(following, words, at + 1, slots)
        for edge, following in node.edges.items():
            if not edge.startswith("<"):
                continue
            name = edge[1:-1]
            for value in self._file.slots[name]:
                spoken = self._words(value)
                if list(words[at : at + len(spoken)]) == spoken:
                    yield from self._walk(
                        following, words, at + len(spoken), {**slots, name: value}
                    )

    def _grow(self, intent: str, phrase: str) -> list[tuple[str, ...]]:
        """Put the phrase's sentences into the tree. Two intents for the same words are a fault."""
        place = f"intents.{intent}: {phrase!r}"
        sentences = expand(place, phrase, self._file.slots)
        for sentence in sentences:
            node = self._tree
            for word in sentence:
                for edge in [word] if word.startswith("<") else self._words(word):
                    node = node.edges.setdefault(edge, _Node())
            if node is self._tree:
                raise BrainFileError(f"{place} can be said with nothing but small words")
            if node.intent not in (None, intent):
                raise BrainFileError(
                    f"{place}: {' '.join(sentence)!r} already means {node.intent!r}"
                )
            node.intent = intent
        return sentences

    # ---- Answering

    def reply(self, request: Mapping[str, object]) -> Reply:
        """Answer a chat completions request body. Never raises, however odd the messages are.

        ``tool_choice`` "none" and a named tool are honoured; "required" is treated as "auto". Ids
        of calls follow from the number of messages: the same request gets the same ids, a later
        one others.
        """
        messages = [m for m in _items(request.get("messages")) if isinstance(m, Mapping)]
        tools = _offered(request)
        situation = self._situation(messages)
        forced = _forced(request)
        reply = next(
            found
            for rule in self._file.rules(situation.kind)
            if (found := self._apply(rule, situation, tools, len(messages))) is not None
        )
        if forced in tools:
            same = [call for call in reply.tool_calls if call.name == forced]
            arguments = same[0].arguments if same else _invented(tools[forced], situation.values)
            return Reply("", (ToolCall(f"call_{len(messages)}_1", forced, arguments),))
        return reply

    def _situation(self, messages: Sequence[Mapping[str, object]]) -> _Situation:
        spoken = [m for m in messages if m.get("role") in ("user", "assistant", "tool")]
        outputs = {str(m.get("tool_call_id")): _text(m) for m in spoken if m.get("role") == "tool"}
        responses = [self._runs(m, outputs) for m in spoken if m.get("role") == "assistant"]
        last = spoken[-1] if spoken else {}
        runs = next((r for r in reversed(responses) if r), [])
        if last.get("role") == "tool" and runs:
            kind, run, along = "result", runs[0], frozenset(r.tool for r in runs)
        else:
            kind, run, along = "turn" if last.get("role") == "user" else "idle", None, frozenset()
        if not any(m.get("role") == "user" or _text(m) for m in spoken):
            kind = "start" if run is None else kind

        understood, earlier = self._caller(spoken)
        values = dict(self._file.defaults)
        values.update(self._prompt(messages))
        for done in (r for response in responses for r in response if r.outcome != "failed"):
            values.update(done.groups)
            values.update({f"{done.tool}.{k}": str(v) for k, v in done.arguments.items()})
        values.update(understood.slots)
        values["heard"] = understood.text.strip()
        values["spoken"] = next((t for m in reversed(spoken) if (t := _said(m))), "")
        if run:
            values["output"] = run.output.strip()
        return _Situation(
            kind, understood, earlier, run, along, {k: v for k, v in values.items() if v}
        )

    def _caller(self, spoken: Sequence[Mapping[str, object]]) -> tuple[Understood, frozenset[str]]:
        """What the caller wants now, and the intents of everything said before.

        Words that got no answer yet belong together: all of them if they make one phrase, else
        the last that makes sense.
        """
        groups: list[list[str]] = []
        fresh = True
        for message in spoken:
            if message.get("role") != "user":
                fresh = True
                continue
            if fresh:
                groups.append([])
            groups[-1].append(_text(message))
            fresh = False
        if not groups:
            return Understood(UNKNOWN, ""), frozenset()
        whole = self.understand(" ".join(groups[-1]))
        parts = [self.understand(text) for text in groups[-1]]
        known = [part for part in parts if part.intent != UNKNOWN]
        chosen = whole if whole.exact or not known else known[-1]
        before = [self.understand(text) for group in groups[:-1] for text in group]
        others = [part for part in known if part is not chosen and chosen is not whole]
        return chosen, frozenset(u.intent for u in [*before, *others])

    def _prompt(self, messages: Sequence[Mapping[str, object]]) -> dict[str, str]:
        prompt = "\n".join(_text(m) for m in messages if m.get("role") in ("system", "developer"))
        facts = {
            name: found[-1].group(1).strip()
            for name, pattern in self._file.facts.items()
            if (found := list(pattern.finditer(prompt)))
        }
        now = iso_date(facts.get("now", ""))
        if now and now.year < date.max.year:
            facts["today"] = now.isoformat()
            facts["tomorrow"] = (now + timedelta(days=1)).isoformat()
        return facts

    def _runs(self, message: Mapping[str, object], outputs: Mapping[str, str]) -> list[_Run]:
        """The calls of one response that have an output, in order."""
        runs = []
        for call in _items(message.get("tool_calls")):
            if not isinstance(call, Mapping) or str(call.get("id")) not in outputs:
                continue
            function = call.get("function")
            if not isinstance(function, Mapping):
                continue
            name, output = str(function.get("name")), outputs[str(call.get("id"))]
            outcome, groups = "failed", {}
            for candidate, pattern in self._file.outcomes.get(name, {}).items():
                if found := pattern.search(output):
                    outcome = candidate
                    groups = {k: v.strip() for k, v in found.groupdict().items() if v}
                    break
            runs.append(_Run(name, _object(function.get("arguments")), output, outcome, groups))
        return runs

    def _apply(
        self, rule: Rule, at: _Situation, tools: Mapping[str, Mapping[str, object]], position: int
    ) -> Reply | None:
        """The rule's answer, or None if it doesn't fit."""
        if not _fits(rule, at):
            return None
        try:
            calls = [
                (call, {k: fill(v, at.values) for k, v in call.arguments.items()})
                for call in rule.call
            ]
            if any(call.tool not in tools and not call.optional for call, _ in calls):
                return Reply(template(rule.otherwise or "", at.values))
            text = template(rule.say, at.values)
        except LookupError:
            return None
        offered = [(call, arguments) for call, arguments in calls if call.tool in tools]
        return Reply(
            text,
            tuple(
                ToolCall(f"call_{position}_{n}", c.tool, _arguments(tools[c.tool], arguments))
                for n, (c, arguments) in enumerate(offered, 1)
            ),
        )


# ---- Rules


def _fits(rule: Rule, at: _Situation) -> bool:
    if rule.result is not None:
        if at.run is None:
            return False
        tool, _, outcome = rule.result.partition(".")
        if tool not in ("*", at.run.tool) or outcome not in ("*", at.run.outcome):
            return False
    patterns = ((rule.after, "spoken"), (rule.heard, "heard"), (rule.output, "output"))
    return (
        (not rule.intent or at.understood.intent in rule.intent)
        and (not rule.earlier or bool(rule.earlier & at.earlier))
        and all(name in at.values for name in rule.has)
        and not any(name in at.values for name in rule.lacks)
        and all(p is None or bool(p.search(at.values.get(name, ""))) for p, name in patterns)
        and (rule.along is None or rule.along in at.along)
    )


# ---- The request, read with tolerance: whoever sends it, an answer must come


def _items(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _text(message: Mapping[str, object]) -> str:
    """The message's words; content is a string or a list of parts."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = (part.get("text") for part in _items(content) if isinstance(part, Mapping))
    return " ".join(part for part in parts if isinstance(part, str))


def _said(message: Mapping[str, object]) -> str:
    """The message's words if they are the agent's."""
    return _text(message).strip() if message.get("role") == "assistant" else ""


def _object(text: object) -> dict[str, object]:
    try:
        value = json.loads(text) if isinstance(text, str) else text
    except (ValueError, RecursionError):
        return {}
    return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else {}


def _offered(request: Mapping[str, object]) -> dict[str, Mapping[str, object]]:
    """The function tools that may be called, each with its parameter schema's properties."""
    if request.get("tool_choice") == "none":
        return {}
    tools = {}
    for tool in _items(request.get("tools")):
        function = tool.get("function") if isinstance(tool, Mapping) else None
        if isinstance(function, Mapping) and isinstance(function.get("name"), str):
            parameters = function.get("parameters")
            properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
            tools[function["name"]] = properties if isinstance(properties, Mapping) else {}
    return tools


def _forced(request: Mapping[str, object]) -> str:
    choice = request.get("tool_choice")
    function = choice.get("function") if isinstance(choice, Mapping) else None
    return str(function.get("name")) if isinstance(function, Mapping) else ""


def _nullable(schema: object) -> bool:
    if not isinstance(schema, Mapping):
        return False
    types = schema.get("type")
    return "null" in (types if isinstance(types, list) else [types]) or any(
        _nullable(option) for option in _items(schema.get("anyOf"))
    )


def _arguments(properties: Mapping[str, object], given: Mapping[str, object]) -> str:
    """The arguments as a strict schema wants them: its names only, null for what may be null."""
    arguments = {
        name: given.get(name)
        for name, schema in properties.items()
        if name in given or _nullable(schema)
    }
    return json.dumps(arguments, ensure_ascii=False)


def _invented(properties: Mapping[str, object], values: Mapping[str, str]) -> str:
    """Arguments for a tool that the request forces without a rule: the least that is valid."""

    def value(name: str, schema: object) -> object:
        if not isinstance(schema, Mapping) or _nullable(schema):
            return None
        if options := _items(schema.get("enum")):
            return options[0]
        plain = {"integer": 0, "number": 0, "boolean": False, "array": [], "object": {}}
        kind = schema.get("type")
        if isinstance(kind, str) and kind in plain:
            return plain[kind]
        return values.get("tomorrow", "") if name == "date" else values.get("heard", "")

    return json.dumps({n: value(n, s) for n, s in properties.items()}, ensure_ascii=False)
