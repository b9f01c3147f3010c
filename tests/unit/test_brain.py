"""The sandbox's brain: what it understands, what it answers, and that it remembers nothing."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pocketsphinx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trunkline.sandbox.brain import Brain, Reply
from trunkline.sandbox.brain_file import BrainFileError

BRAIN = Brain.load()
PROMPT = """You are Robin, who answers the telephone for Harbor Fiber.
Now: 2026-11-21 14:05 Saturday (America/New_York)
Caller: {caller}
Company: Whitfield Bakery

What you know
Opening hours: Monday to Friday, nine to five.
Plans: Basic, fifty megabits, twenty dollars a month. Standard, two hundred megabits, forty \
dollars a month. Bigger, one gigabit, seventy dollars a month."""

NULL_INT = {"anyOf": [{"type": "integer"}, {"type": "null"}]}
NULL_TEXT = {"type": ["string", "null"]}
TEXT = {"type": "string"}
SCHEMAS: dict[str, dict[str, object]] = {
    "look_up_contact": {},
    "create_contact": {"name": TEXT, "company": NULL_TEXT},
    "find_deals": {},
    "log_activity": {"kind": {"type": "string", "enum": ["note", "meeting"]}, "summary": TEXT},
    "move_deal": {"stage": {"type": "string", "enum": ["won", "lost"]}, "which": NULL_INT},
    "request_callback": {"date": TEXT, "time": NULL_TEXT, "reason": TEXT},
    "take_message": {"text": TEXT},
    "end_call": {},
}
WORKING = {
    "look_up_contact": "Name: Dana Whitfield. Company: none. Open deals: 1. Last activities: none.",
    "create_contact": "Contact created: Peter Novak.",
    "find_deals": "1. Office Fiber, stage proposal, 2,400.00 USD",
    "log_activity": "Logged a note.",
    "move_deal": "Office Fiber moved from proposal to won.",
    "request_callback": "Callback booked for 2026-11-22 09:00 (America/New_York).",
    "take_message": "Message taken.",
    "end_call": "",
}
ASK_AGAIN = "I'm sorry, I didn't catch that. Could you say it again?"


def tools(*names: str) -> list[dict[str, object]]:
    """The tool list of a request."""
    return [
        {
            "type": "function",
            "function": {
                "name": name,
                "strict": True,
                "parameters": {"type": "object", "properties": SCHEMAS[name]},
            },
        }
        for name in names
    ]


def user(text: object) -> dict[str, object]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, object]:
    return {"role": "assistant", "content": text}


def prompt(caller: str = "unknown") -> dict[str, object]:
    return {"role": "system", "content": PROMPT.format(caller=caller)}


def ask(*messages: Mapping[str, object], offered: tuple[str, ...] = tuple(SCHEMAS)) -> Reply:
    return BRAIN.reply({"model": "m", "messages": list(messages), "tools": tools(*offered)})


def called(reply: Reply) -> list[tuple[str, dict[str, Any]]]:
    return [(call.name, json.loads(call.arguments)) for call in reply.tool_calls]


class Conversation:
    """Keeps the messages as an agent would, and answers the brain's calls from a table."""

    def __init__(
        self,
        caller: str = "unknown",
        results: Mapping[str, str] = WORKING,
        offered: tuple[str, ...] = tuple(SCHEMAS),
    ) -> None:
        self.messages: list[dict[str, object]] = [prompt(caller)]
        self.results, self.offered = results, offered
        self.ids: list[str] = []

    def hear(self, text: str) -> list[object]:
        """Everything the agent then says (texts) and calls ((tool, arguments)), in order."""
        self.messages.append(user(text))
        events: list[object] = []
        while True:
            reply = ask(*self.messages, offered=self.offered)
            if reply.text:
                events.append(reply.text)
            events += called(reply)
            self.ids += [call.id for call in reply.tool_calls]
            message: dict[str, object] = {"role": "assistant", "content": reply.text or None}
            if reply.tool_calls:
                message["tool_calls"] = [
                    {
                        "id": call.id,
                        "type": "function",
                        "function": {"name": call.name, "arguments": call.arguments},
                    }
                    for call in reply.tool_calls
                ]
            self.messages.append(message)
            for call in reply.tool_calls:
                output = self.results[call.name]
                self.messages.append({"role": "tool", "tool_call_id": call.id, "content": output})
            if not reply.tool_calls or reply.tool_calls[-1].name == "end_call":
                return events


BYE: list[object] = ["Thank you for calling Harbor Fiber. Goodbye.", ("end_call", {})]
CALL_BACK = {"date": "2026-11-22", "time": None}
NOTE = ("log_activity", {"kind": "note", "summary": "Goes ahead with the bigger plan."})
MESSAGE = "my internet has been down since monday"

Turn = tuple[str, list[Any]]
DIALOGUES: dict[str, tuple[str, list[Turn]]] = {
    "a": (
        "Dana Whitfield",
        [
            (
                "where does my order stand",
                [
                    ("find_deals", {}),
                    "Your Office Fiber order is at the proposal stage. Would you like to go ahead "
                    "with the standard plan or the bigger plan?",
                ],
            ),
            (
                "yes please go ahead with the bigger plan",
                [
                    ("move_deal", {"stage": "won", "which": None}),
                    NOTE,
                    "Done. Your order is confirmed with the bigger plan. Is there anything else "
                    "I can do?",
                ],
            ),
            ("no thank you goodbye", BYE),
        ],
    ),
    "b": (
        "unknown",
        [
            ("i would like to leave a message", ["Of course. May I have your name?"]),
            (
                "my name is peter novak",
                [
                    ("create_contact", {"name": "Peter Novak", "company": None}),
                    "Thank you, Peter. What is your message?",
                ],
            ),
            (
                MESSAGE,
                [
                    ("take_message", {"text": MESSAGE}),
                    "I have noted that. Would you like us to call you back?",
                ],
            ),
            (
                "yes please call me back tomorrow",
                [
                    ("request_callback", {**CALL_BACK, "reason": MESSAGE}),
                    "We will call you back tomorrow. Is there anything else?",
                ],
            ),
            ("no that is all goodbye", BYE),
        ],
    ),
    "c": (
        "unknown",
        [
            (
                "[keys 2]",
                [
                    (
                        "request_callback",
                        {**CALL_BACK, "reason": "Pressed two to be called back."},
                    ),
                    "We will call you back tomorrow. Goodbye.",
                    ("end_call", {}),
                ],
            )
        ],
    ),
    "e": (
        "Dana Whitfield",
        [
            (
                "please call me back tomorrow",
                [
                    "One moment, please.",
                    ("request_callback", {**CALL_BACK, "reason": "Asked to be called back."}),
                    "We will call you back tomorrow. Is there anything else?",
                ],
            )
        ],
    ),
    "order cancelled": (
        "Dana Whitfield",
        [
            (
                "I changed my mind.",
                [("find_deals", {}), "Shall I cancel your Office Fiber order?"],
            ),
            (
                "Yes, please.",
                [
                    ("move_deal", {"stage": "lost", "which": None}),
                    (
                        "log_activity",
                        {"kind": "note", "summary": "Cancelled the Office Fiber order."},
                    ),
                    "Done. Your order is cancelled. Is there anything else I can do?",
                ],
            ),
            ("No, thank you.", BYE),
        ],
    ),
    "free words as a message": (
        "Dana Whitfield",
        [
            ("can i leave a message", ["Of course. What is your message?"]),
            (
                "The parcel arrived with a broken lid.",
                [
                    ("take_message", {"text": "The parcel arrived with a broken lid."}),
                    "I have noted that. Would you like us to call you back?",
                ],
            ),
            ("yes", ["When should we call you back?"]),
            (
                "Tomorrow, please",
                [
                    (
                        "request_callback",
                        {**CALL_BACK, "reason": "The parcel arrived with a broken lid."},
                    ),
                    "We will call you back tomorrow. Is there anything else?",
                ],
            ),
        ],
    ),
}


@pytest.mark.parametrize("name", DIALOGUES)
def test_a_dialogue_runs_as_written(name: str) -> None:
    """Each dialogue gets its words and calls in order, and no call id occurs twice."""
    caller, turns = DIALOGUES[name]
    conversation = Conversation(caller)
    for line, expected in turns:
        assert conversation.hear(line) == expected
    assert len(set(conversation.ids)) == len(conversation.ids)


def test_an_interrupted_plans_answer_gives_way_to_the_new_question() -> None:
    """The plans take long to tell; of a cut answer only the heard half is there, and that is enough."""
    asked = [prompt("Dana Whitfield"), user("what plans do you have")]
    plans = ask(*asked)
    assert not plans.tool_calls
    assert "Bigger, one gigabit" in plans.text
    # 2.5 words a second is a quick voice; the answer must last 12 s.
    assert len(plans.text.split()) >= 30
    assert max(len(clause.split()) for clause in re.split(r"[,.?!]", plans.text)) <= 12
    for heard in (plans.text[:60], "Of"):
        cut = [*asked, assistant(heard), user("wait what are your opening hours")]
        hours = ask(*cut)
        assert (hours.text, hours.tool_calls) == (
            "We are open Monday to Friday, nine to five. Is there anything else I can do?",
            (),
        )
    unheard = ask(*asked, user("wait what are your opening hours"))
    assert unheard.text == hours.text
    assert called(ask(*cut, assistant(hours.text), user("thank you goodbye"))) == [BYE[1]]


@pytest.mark.parametrize(
    ("line", "intent", "slots"),
    [
        ("where does my order stand", "ask_order", {}),
        ("yes please go ahead with the bigger plan", "go_ahead", {"plan": "bigger"}),
        ("no thank you goodbye", "goodbye", {}),
        ("i would like to leave a message", "leave_message", {}),
        ("my name is peter novak", "name", {"first": "Peter", "last": "Novak"}),
        (MESSAGE, "problem", {"line": "internet", "since": "Monday"}),
        ("yes please call me back tomorrow", "callback", {"day": "tomorrow"}),
        ("no that is all goodbye", "goodbye", {}),
        ("what plans do you have", "plans", {}),
        ("wait what are your opening hours", "hours", {}),
        ("thank you goodbye", "goodbye", {}),
        ("please call me back tomorrow", "callback", {"day": "tomorrow"}),
        # Written by another recogniser.
        ("I'd like to leave a message.", "leave_message", {}),
        ("Where does my order stand?", "ask_order", {}),
        # A small word lost, another put in.
        ("i would like to leave message", "leave_message", {}),
        ("um call me back on the tomorrow", "callback", {"day": "tomorrow"}),
        # The phrase is most of what was said.
        ("hello there what plans do you have", "plans", {}),
        # Too little of it, or turned round, or a word that matters is another.
        ("my uncle who used to live there once asked what plans do you have", "unknown", {}),
        ("call me back tomorrow " * 20_000, "unknown", {}),
        ("do not go ahead with the bigger plan", "unknown", {}),
        ("go ahead with the smaller plan", "unknown", {}),
        ("", "unknown", {}),
        ("?!", "unknown", {}),
        ("der hund bellt", "unknown", {}),
        ("[keys 2]", "key_callback", {}),
        ("[keys 2#]", "key_callback", {}),
        ("[keys 739]", "key_unknown", {}),
    ],
)
def test_words_are_understood_or_honestly_not(
    line: str, intent: str, slots: dict[str, str]
) -> None:
    """Every line of the demo is understood; small slips are forgiven, meaning is never guessed."""
    understood = BRAIN.understand(line)
    assert (understood.intent, understood.slots) == (intent, slots)


def test_every_sentence_of_the_grammar_means_its_intent() -> None:
    """What the recogniser may hear, the brain understands as the intent it was written for."""
    values = {"plan": "bigger", "first": "anna", "last": "clark", "day": "next week"}
    values |= {"since": "this morning", "line": "telephone"}
    checked = set()
    for intent, words in BRAIN.sentences():
        spoken = " ".join(values[w[1:-1]] if w.startswith("<") else w for w in words)
        assert BRAIN.understand(spoken).intent == intent, spoken
        checked.add(intent)
    assert len(checked) == 20


def test_the_grammar_is_one_that_pocketsphinx_takes(tmp_path: Path) -> None:
    """The grammar parses as JSGF, has one public rule and only words of the recogniser's dictionary."""
    grammar = BRAIN.grammar()
    assert grammar.startswith("#JSGF V1.0;\n")
    assert grammar.count("public ") == 1
    file = tmp_path / "brain.gram"
    file.write_text(grammar)
    assert pocketsphinx.Jsgf(str(file)).get_rule("brain.utterance") is not None
    model = Path(pocketsphinx.get_model_path("en-us")) / "cmudict-en-us.dict"
    known = {line.split(" ", 1)[0] for line in model.read_text().splitlines()}
    bodies = re.findall(r"= (.*);", grammar)
    words = {word for body in bodies for word in re.sub(r"<\w+>|[()\[\]|]", " ", body).split()}
    assert words - known == set()
    assert 80 < len(words) < 160


@pytest.mark.parametrize(
    ("tool", "output", "line", "answer"),
    [
        ("find_deals", "No open deals.", "where is my order", "I find no open order for this"),
        (
            "find_deals",
            "The order book can't be read right now. Try again later.",
            "where is my order",
            "I'm sorry. The order book can't be read right now. Is there anything else I can do?",
        ),
        (
            "request_callback",
            "Sorry, we are closed that day. Offer another.",
            "call me back tomorrow",
            "Sorry, we are closed that day. Is there anything else I can do?",
        ),
        (
            "request_callback",
            "Callback booked for 2026-11-23 09:00 (America/New_York).",  # not what was asked for
            "call me back tomorrow",
            "We will call you back on Monday. Is there anything else?",
        ),
        ("take_message", "", MESSAGE, "I'm sorry, that did not work."),
        ("look_up_contact", "No contact has this number.", "do you know me", "Your number is new"),
    ],
)
def test_an_answer_tells_what_the_tool_told(tool: str, output: str, line: str, answer: str) -> None:
    """Nothing found, a failure and another date than wished are said as they are."""
    events = Conversation("Dana Whitfield", {**WORKING, tool: output}).hear(line)
    assert isinstance(events[-1], str)
    assert events[-1].startswith(answer)
    assert tool in [event[0] for event in events if isinstance(event, tuple)]


def test_a_failed_deal_move_is_not_confirmed() -> None:
    """The note that went along well doesn't make the failed move a success."""
    conversation = Conversation("Dana", {**WORKING, "move_deal": "That order is locked."})
    conversation.hear("where is my order")
    events = conversation.hear("the bigger plan please")
    assert events[-1] == "I'm sorry. That order is locked. Is there anything else I can do?"


def test_the_order_is_looked_up_before_it_is_moved() -> None:
    """Who goes ahead at once, with several orders open, gets the first one, by its number."""
    listed = (
        "1. Office Fiber, stage proposal, 2,400.00 USD\n2. Attic Fiber, stage qualified, 1.00 USD"
    )
    events = Conversation("Dana", {**WORKING, "find_deals": listed}).hear("the bigger plan please")
    assert events[:2] == [("find_deals", {}), ("move_deal", {"stage": "won", "which": 1})]


@pytest.mark.parametrize(
    ("now", "line", "date"),
    [
        ("2026-11-21 14:05 Saturday", "call me back today", "2026-11-21"),
        ("2026-11-21 14:05 Saturday", "call me back on friday", "2026-11-27"),
        ("2026-11-21 14:05 Saturday", "call me back next week", "2026-11-23"),
        ("2026-11-23 08:00 Monday", "call me back monday", "2026-11-30"),  # never today
        ("2026-12-31 23:59 Thursday", "call me back tomorrow", "2027-01-01"),
    ],
)
def test_spoken_days_become_dates(now: str, line: str, date: str) -> None:
    """Days count from the prompt's `Now:` line."""
    system = {"role": "developer", "content": [{"type": "text", "text": f"- Now: {now} (UTC)"}]}
    [(tool, arguments)] = called(ask(system, user(line)))
    assert (tool, arguments["date"]) == ("request_callback", date)


@pytest.mark.parametrize("now", ["", "Now: soon", "Now: 9999-12-31 23:59 Friday"])
def test_without_a_date_no_callback_is_made_up(now: str) -> None:
    """A prompt that doesn't tell the day gets an apology, no call with an invented date."""
    for line in ("call me back tomorrow", "[keys 2]"):
        reply = ask({"role": "system", "content": now}, user(line))
        assert not reply.tool_calls
        assert reply.text.startswith("I'm sorry, I can't book a call back")


@pytest.mark.parametrize(
    "line",
    [
        "where is my order",
        "the bigger plan please",
        "cancel my order",
        "my name is anna clark",
        MESSAGE,
        "call me back tomorrow",
        "do you know me",
        "[keys 2]",
        "thank you goodbye",
    ],
)
def test_a_tool_that_is_not_offered_is_not_called(line: str) -> None:
    """Without the tool, or with tool_choice none, the caller is told; nothing is called."""
    without = ask(prompt(), user(line), offered=())
    assert without.text
    assert not without.tool_calls
    request = {"messages": [prompt(), user(line)], "tools": tools(*SCHEMAS), "tool_choice": "none"}
    assert BRAIN.reply(request) == without


def test_a_named_tool_choice_is_called() -> None:
    """A named tool is called whatever was said, with arguments that its schema allows."""
    for name, expected in {
        "find_deals": {},
        "request_callback": {"date": "2026-11-22", "time": None, "reason": "hello"},
        "log_activity": {"kind": "note", "summary": "hello"},
    }.items():
        request = {
            "messages": [prompt(), user("hello")],
            "tools": tools(*SCHEMAS),
            "tool_choice": {"type": "function", "function": {"name": name}},
        }
        reply = BRAIN.reply(request)
        assert (reply.text, called(reply)) == ("", [(name, expected)])


INSTRUCTION = {"role": "developer", "content": "Say it more briefly."}


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([], "Hello, this is Harbor Fiber. How can I help you?"),
        ([prompt()], "Hello, this is Harbor Fiber. How can I help you?"),
        ([prompt("Dana Whitfield")], "Hello Dana, this is Harbor Fiber. How can I help you?"),
        ([prompt(), INSTRUCTION], "Hello, this is Harbor Fiber. How can I help you?"),
        ([prompt(), user("who are you"), INSTRUCTION], "I am the telephone assistant of Harbor"),
        ([prompt(), assistant("Hello."), INSTRUCTION], "Are you still there?"),
        ([prompt(), user("hello"), assistant("Hello.")], "Are you still there?"),
        ([prompt(), user("repeat that please")], ASK_AGAIN),
        ([prompt(), assistant("Two and two."), user("say that again")], "Two and two."),
        ([prompt(), user("colourless green ideas")], ASK_AGAIN),
        ([prompt(), user("")], ASK_AGAIN),
        ([prompt(), user(None)], ASK_AGAIN),
        ([prompt(), user([{"type": "text", "text": "who are"}, {"text": "you"}])], "I am the te"),
        # Cut in two by a pause: one sentence. Two sentences: the last that makes sense.
        ([prompt(), user("who"), user("are you")], "I am the telephone assistant"),
        ([prompt(), user("what plans do you have"), user("who are you")], "I am the telephone"),
        ([prompt(), user("who are you"), user("mumble")], "I am the telephone assistant"),
        # The same yes and no, by what was asked.
        ([prompt(), assistant("Your X order is at"), user("yes")], "Would you like the standard"),
        ([prompt(), assistant("Your X order is at"), user("no")], "All right, your order stays"),
        ([prompt(), assistant("I have noted that."), user("yes")], "When should we call"),
        ([prompt(), assistant("I have noted that."), user("no")], "All right. Is there anything"),
        ([prompt(), assistant("Hm. Is there anything else?"), user("no")], "Thank you for calling"),
        ([prompt(), user("friday")], ASK_AGAIN),
    ],
)
def test_what_is_said_follows_from_the_messages(
    messages: list[dict[str, object]], text: str
) -> None:
    """Greeting, silence, instructions at the end, split and half-heard sentences get sensible words."""
    assert ask(*messages).text.startswith(text)


def test_the_prompt_tells_whose_telephone_it_is() -> None:
    """The company is the one that the prompt says it answers for, not the caller's own."""
    system = {"role": "system", "content": "You answer the phone of Ray & Co. Be kind.\nCompany: X"}
    assert ask(system).text == "Hello, this is Ray & Co. How can I help you?"
    goodbye = ask(prompt("Dana Whitfield"), user("goodbye"))
    assert goodbye.text == "Thank you for calling Harbor Fiber. Goodbye."


def test_a_goodbye_said_with_the_calls_is_the_last_word() -> None:
    """After a response that already hung up the brain says nothing more."""
    conversation = Conversation()
    conversation.hear("[keys 2]")
    assert ask(*conversation.messages) == Reply("", ())


def test_the_same_request_gets_the_same_reply_in_any_order() -> None:
    """Nothing of one request reaches another: replies are the same alone, backwards, and later."""
    requests = []
    for caller, turns in DIALOGUES.values():
        conversation = Conversation(caller)
        for line, _ in turns:
            conversation.hear(line)
        whole = conversation.messages
        requests += [{"messages": whole[:n], "tools": tools(*SCHEMAS)} for n in range(len(whole))]
    forwards = [BRAIN.reply(request) for request in requests]
    backwards = [BRAIN.reply(request) for request in reversed(requests)]
    assert forwards == backwards[::-1]
    assert forwards == [Brain.load().reply(request) for request in requests[:5]] + forwards[5:]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "text", "tool_calls", "id", "function", "name"]),
            inner,
        )
    ),
    max_leaves=8,
)
words = st.lists(
    st.sampled_from(sorted({w for _, s in BRAIN.sentences() for w in s})), max_size=9
).map(" ".join)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60) | words, st.text(max_size=30))
def test_any_words_get_an_answer(text: str, output: str) -> None:
    """Whatever is heard, or comes back from a tool, there is something to say or to call."""
    reply = ask({"role": "system", "content": text}, user(text))
    assert reply.text or reply.tool_calls
    after = Conversation("Dana", {**WORKING, "find_deals": output}).hear("where is my order")
    assert after[0] == ("find_deals", {})
    assert isinstance(after[-1], str)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(["messages", "tools", "tool_choice"]), json_values))
def test_no_request_raises(request: dict[str, object]) -> None:
    """Any JSON at all in place of messages and tools gets a reply."""
    assert isinstance(BRAIN.reply(request), Reply)


ALWAYS = "".join(f'[[{kind}]]\nsay = "x"\n' for kind in ("start", "idle", "turn", "result"))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("[intents", "is no TOML"),
        ("wrong = 1\n[intents]\n" + ALWAYS, "wrong: Extra inputs are not permitted"),
        ("[intents]\n", "start: Field required"),
        ('[intents]\n[[turn]]\nsya = "x"\n' + ALWAYS, "turn.1.sya: Extra inputs"),
        ('[intents]\n[[turn]]\nafter = "("\nsay = "x"\n' + ALWAYS, "turn.1.after: "),
        ('[intents]\n[[turn]]\nintent = "y"\n' + ALWAYS, "[[turn]] number 1: no intent is called"),
        ('[intents]\n[[turn]]\nsay = "{y}"\n' + ALWAYS, "no variable is called 'y'"),
        ('[intents]\n[[turn]]\nsay = "{heard|y}"\n' + ALWAYS, "no filter is called 'y'"),
        ('[intents]\n[[turn]]\ncall = [{tool = "t"}]\n' + ALWAYS, "needs `otherwise`"),
        ("[intents]\n" + ALWAYS + '[[turn]]\nheard = "a"\n', "[[turn]]: the last rule must fit"),
        ('[intents]\na = ["go (there"]\n' + ALWAYS, "'the end' is not expected there"),
        ('[intents]\na = ["go <there>"]\n' + ALWAYS, "<there> is not among the slots"),
        ('[intents]\na = ["go"]\nb = ["[not] go"]\n' + ALWAYS, "'go' already means 'a'"),
        ('small = ["go"]\n[intents]\na = ["go"]\n' + ALWAYS, "nothing but small words"),
        ('[intents]\na = ["' + "(x | y | z) " * 6 + '"]\n' + ALWAYS, "more than 400 sentences"),
        ('[intents]\n[facts]\nnow = "x"\n' + ALWAYS, "facts.now: needs one group"),
        ('[intents]\n[slots]\nday = ["9th"]\n' + ALWAYS, "slots.day: values are words"),
    ],
)
def test_a_fault_in_the_file_is_told_with_its_place(
    tmp_path: Path, content: str, complaint: str
) -> None:
    """A wrong dialogue file gives one sentence that names the file and the place."""
    file = tmp_path / "mine.toml"
    file.write_text(content)
    with pytest.raises(BrainFileError) as fault:
        Brain.load(file)
    assert str(file) in str(fault.value)
    assert complaint in str(fault.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    """A path without a file gives a sentence, no traceback of the system's."""
    with pytest.raises(BrainFileError, match=r"none\.toml: cannot be read"):
        Brain.load(tmp_path / "none.toml")
