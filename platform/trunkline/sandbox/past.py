"""Two weeks of calls before the demo begins: 40 stories of every kind, marked as demo data.

They are played through the same verbs as a real call, with their own times as arguments, and have no
recordings: nobody spoke.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.calls import review
from trunkline.calls import service as calls
from trunkline.calls.lifecycle import EndReason
from trunkline.calls.models import Turn
from trunkline.crm import service as crm
from trunkline.crm.models import Contact, Deal
from trunkline.desk import callbacks
from trunkline.events import CallEnded
from trunkline.kit.crypt import Sealer
from trunkline.kit.db import Database
from trunkline.kit.money import Money
from trunkline.kit.phone import parse
from trunkline.kit.redact import redact
from trunkline.outbox.models import EventRow
from trunkline.outbox.publish import publish
from trunkline.profiles import queries as profiles
from trunkline.sandbox.story import OUR_NUMBER
from trunkline.webhooks import claims, outcomes, retry
from trunkline.webhooks import service as webhooks
from trunkline.webhooks.options import EndpointOptions

REACH = timedelta(days=14)
"""How far back the stories go."""

RECEIVER = "https://receiver.example.com/trunkline"
"""Where the deliveries of the past went. It stopped answering and is switched off; nothing is ever sent to
it (example.com is kept for examples, RFC 2606)."""

_A_BATCH = 10
_PAUSE = timedelta(milliseconds=700)
_A_CHARACTER = timedelta(milliseconds=60)
"""Of speech: about 165 words a minute."""
_LEASE = timedelta(seconds=30)
_EXCHANGE_MS = 240


# --- what a story is made of ---------------------------------------------------------------------


@dataclass(frozen=True)
class Said:
    """One turn."""

    role: Literal["user", "agent"]
    text: str
    cut: bool = False
    """The caller broke in: *text* is what was heard of it."""
    language: str = "en"
    span: timedelta | None = None
    """How long it took; None: as long as its text takes."""


@dataclass(frozen=True)
class Did:
    """A tool that ran, and what it told or the code of its error."""

    tool: str
    arguments: Mapping[str, Any]
    result: str = ""
    error: str | None = None
    took: timedelta = timedelta(milliseconds=120)


@dataclass(frozen=True)
class Keys:
    """The caller pressed keys."""

    digits: str


@dataclass(frozen=True)
class Quiet:
    """Nobody spoke."""

    span: timedelta


@dataclass(frozen=True)
class PutThrough:
    """A person was called for the caller."""

    kind: Literal["cold", "warm"]
    name: str
    number: str
    outcome: str
    reason: str


@dataclass(frozen=True)
class Machine:
    """A voicemail answered our call."""

    action: Literal["hang_up", "leave_message"]


@dataclass(frozen=True)
class Rescued:
    """The providers failed and the keypad menu took the caller over."""


Step = Said | Did | Keys | Quiet | PutThrough | Machine | Rescued


@dataclass(frozen=True)
class Person:
    """Somebody the CRM knows, and their deal."""

    name: str
    number: str
    company: str | None = None
    deal: str | None = None
    amount_minor: int = 0
    stage: str = "qualified"
    do_not_call: bool = False


@dataclass(frozen=True)
class Past:
    """One call of the past."""

    title: str
    days: int
    """How many days before now, and ``minutes`` more."""
    minutes: int
    number: str | None
    """The other side's, E.164; None when it was withheld."""
    end: EndReason
    steps: tuple[Step, ...] = ()
    rang: timedelta = timedelta(seconds=2)
    answered: bool = True
    outbound: str | None = None
    """Why we called; None for a call that came in."""
    door: str = "open"
    door_reason: str | None = None
    answers: tuple[int, ...] = ()
    """What the receiver of webhooks answered to ``call.ended``, in order; none: nothing was sent to it."""

    def began(self, now: datetime) -> datetime:
        """When it rang."""
        return now - timedelta(days=self.days, minutes=self.minutes)


def _agent(text: str, *, cut: bool = False) -> Said:
    return Said("agent", text, cut)


def _caller(text: str) -> Said:
    return Said("user", text)


def _german(role: Literal["user", "agent"], text: str) -> Said:
    return Said(role, text, language="de")


def _wait(seconds: int) -> timedelta:
    return timedelta(seconds=seconds)


# --- the table -----------------------------------------------------------------------------------

PEOPLE = (
    Person("Aisha Rahman", "+12025550110", "Rahman Dental", "Clinic Fiber", 180_000, "proposal"),
    Person("Victor Hale", "+12025550111", "Hale Logistics", "Depot Fiber", 420_000, "qualified"),
    Person("Grace Okafor", "+12025550112", None, "Home Fiber", 72_000, "proposal"),
    Person("Thomas Brandt", "+12025550113", "Brandt Import", "Office Fiber", 240_000, "qualified"),
    Person("Lena Fischer", "+12025550114"),
    Person("Samuel Ortiz", "+12025550115", "Ortiz Bakery", "Shop Fiber", 96_000, "proposal"),
    Person("Helen Park", "+12025550116", "Park Studio", "Studio Fiber", 150_000, "qualified"),
    Person("Noah Reed", "+12025550117", do_not_call=True),
    Person("Priya Nair", "+12025550118", "Nair Consulting", "Office Fiber", 210_000, "proposal"),
)
"""None of them calls in the demo itself, so that its calls find what they always found."""

_HELLO = _agent("Hello, this is Harbor Fiber. How can I help you?")
_BYE = _agent("Thank you for calling Harbor Fiber. Goodbye.")
_THANKS = _caller("No, thank you. Goodbye.")
_FOUND = Did("find_deals", {}, "One open deal.")
_E = EndReason


def _hello(name: str) -> Said:
    return _agent(f"Hello {name}, this is Harbor Fiber. How can I help you?")


def _moved(stage: str) -> Did:
    return Did("move_deal", {"stage": stage, "which": None}, f"The deal is now {stage}.")


def _noted(summary: str) -> Did:
    return Did("log_activity", {"kind": "note", "summary": summary}, "Written down.")


def _booked(reason: str, *, error: str | None = None, took_ms: int = 150) -> Did:
    return Did(
        "request_callback",
        {"reason": reason},
        "" if error else "Callback booked.",
        error,
        timedelta(milliseconds=took_ms),
    )


def _message(text: str) -> Did:
    return Did("take_message", {"text": text}, "Message taken.")


STORIES: tuple[Past, ...] = (
    # Two weeks ago.
    Past("Asks for the opening hours", 13, 400, "+12025550120", _E.CALLER_HANGUP, (
        _HELLO, _caller("What are your opening hours?"),
        _agent("We are open Monday to Friday, nine to five. Anything else?"), _THANKS,
    ), answers=(200,)),
    Past("Takes the offer, the deal is won", 13, 320, "+12025550110", _E.AGENT_HANGUP, (
        _hello("Aisha"), _caller("I have read your offer. Let us do it."), _FOUND,
        _agent("Shall I mark Clinic Fiber as agreed?"), _caller("Yes, please go ahead."),
        _moved("won"), _noted("Accepted the offer for Clinic Fiber."),
        _agent("Done. Clinic Fiber is yours."), _BYE,
    ), answers=(200,)),
    Past("Hangs up while it rings", 13, 150, "+12025550121", _E.CANCELLED,
         answered=False, rang=_wait(6)),
    Past("Withheld number, leaves a message", 12, 410, None, _E.AGENT_HANGUP, (
        _HELLO, _caller("Please tell the office that the cable on Pier Street hangs low."),
        _message("The cable on Pier Street hangs low."),
        _agent("I have passed that on. Anything else?"), _THANKS, _BYE,
    )),
    Past("The CRM does not answer, the note is lost and said so", 12, 300, "+12025550111",
         _E.AGENT_HANGUP, (
        _hello("Victor"), _caller("Please note that we need the depot line by March."),
        Did("log_activity", {"kind": "note", "summary": "Depot line needed by March."},
            error="unavailable", took=_wait(5)),
        _agent("I could not write that down just now. A colleague will call you."),
        _caller("All right, thank you."), _BYE,
    )),
    Past("Put through to sales", 12, 200, "+12025550116", _E.TRANSFERRED, (
        _hello("Helen"), _caller("I would like to talk about a second line."),
        _agent("One moment, I will put you through to sales."),
        PutThrough("cold", "Sales", "+12025550190", "answered", "Wants a second line."),
    )),
    Past("Webhook delivered at the second attempt", 11, 430, "+12025550122", _E.CALLER_HANGUP, (
        _HELLO, _caller("Do you serve Harbor Lane?"), _agent("Yes, we serve Harbor Lane."),
        _caller("Great, goodbye."),
    ), answers=(503, 200)),
    Past("Speaks German", 11, 330, "+12025550114", _E.AGENT_HANGUP, (
        _hello("Lena"), _german("user", "Guten Tag, sprechen Sie Deutsch? Mein Internet ist langsam."),
        _german("agent", "Guten Tag, ja. Ich lasse Sie von der Technik zurückrufen."),
        _booked("Internet ist langsam"), _german("user", "Vielen Dank, auf Wiederhören."),
        _german("agent", "Vielen Dank für Ihren Anruf. Auf Wiederhören."),
    )),
    Past("We call back, a voicemail takes the message", 11, 140, "+12025550114",
         _E.VOICEMAIL_LEFT, (
        Machine("leave_message"),
        _agent("Hello, this is Robin from Harbor Fiber. I was calling about your slow line. "
               "Please call us back. Goodbye."),
    ), outbound="your slow line", rang=_wait(18)),
    # The receiver of webhooks stops answering.
    Past("Every attempt of the webhook fails", 10, 420, "+12025550123", _E.CALLER_HANGUP, (
        _HELLO, _caller("How much is the basic plan?"),
        _agent("The basic plan is forty dollars a month."), _caller("Thanks, bye."),
    ), answers=(503,) * 9),
    Past("Every attempt of this webhook fails too", 10, 310, "+12025550115", _E.AGENT_HANGUP, (
        _hello("Samuel"), _caller("Please send me the offer for the shop again."), _FOUND,
        _noted("Wants the offer for Shop Fiber once more."),
        _agent("I have noted it; you will get it today."), _THANKS, _BYE,
    ), answers=(500,) * 9),
    Past("Says a card number, which is not kept", 10, 180, "+12025550112", _E.AGENT_HANGUP, (
        _hello("Grace"),
        _caller("I want to pay. My card is 4242 4242 4242 4242, it runs until June."),
        _agent("Please don't tell me card numbers; I have not kept it. We will send you a link."),
        _message("Wants to pay by card 4242 4242 4242 4242, send the link."),
        _caller("All right."), _BYE,
    )),
    Past("Breaks in twice", 9, 440, "+12025550124", _E.CALLER_HANGUP, (
        _HELLO, _caller("What plans do you have?"),
        _agent("The first is the basic plan, one hundred", cut=True),
        _caller("No, I mean for a business."),
        _agent("For a business there is the bigger plan, one", cut=True),
        _caller("Thanks, that is enough."), _agent("You are welcome."),
    )),
    Past("Asks about a fault", 9, 350, "+12025550125",
         _E.CALLER_HANGUP, (
        _HELLO, _caller("Is there a fault in the old town?"),
        _agent("I know of none. Shall I have somebody look?"), _caller("No, thanks."),
    )),
    Past("A silent caller is hung up on", 9, 230, "+12025550126", _E.SILENCE, (
        _HELLO, Quiet(_wait(5)),
        _agent("Are you still there? If you would rather not speak, press two and we will call you "
               "back."),
        Quiet(_wait(5)), _agent("I can't hear you, so I will hang up now. Goodbye."),
    )),
    Past("An unknown caller becomes a contact", 8, 400, "+12025550127", _E.AGENT_HANGUP, (
        _HELLO, _caller("My name is Omar Haddad. I would like fiber for my cafe."),
        Did("create_contact", {"name": "Omar Haddad", "company": "Cafe Haddad"},
            "Omar Haddad is now a contact."),
        _noted("Wants fiber for a cafe."), _agent("Thank you, Omar. Sales will be in touch."), _BYE,
    )),
    Past("Presses two for a call back", 8, 290, "+12025550128", _E.CALLBACK_BOOKED, (
        _HELLO, Keys("2"), _booked("Pressed two for a call back"),
        _agent("We will call you back tomorrow. Goodbye."),
    )),
    Past("The providers are down, the keypad menu books a call back", 8, 160, "+12025550113",
         _E.PROVIDER_DOWN, (
        _hello("Thomas"), _caller("I have a question about my bill."), Rescued(), Keys("1"),
        _booked("Providers were down"),
    )),
    Past("Turned away, blocked", 7, 420, "+12025550129", _E.BLOCKED, answered=False,
         rang=timedelta(milliseconds=300), door="blocked", door_reason="robocalls"),
    Past("A warm transfer nobody takes", 7, 330, "+12025550118", _E.AGENT_HANGUP, (
        _hello("Priya"), _caller("Can I speak to a technician?"),
        _agent("One moment, I will ask a technician."),
        PutThrough("warm", "Technician", "+12025550191", "no_answer", "Asks for a technician."),
        _agent("Nobody is free just now. Shall we call you back?"), _caller("Yes, please."),
        _booked("Wants a technician"), _agent("It is booked."), _BYE,
    )),
    Past("We call, nobody answers", 7, 200, "+12025550111", _E.NO_ANSWER,
         answered=False, outbound="the depot line", rang=_wait(30)),
    Past("We call again, and the deal moves", 6, 430, "+12025550111", _E.CALLEE_HANGUP, (
        _agent("Hello Victor, this is Robin from Harbor Fiber. I am calling about the depot line. "
               "Do you have a minute?"),
        _caller("Yes. Send me an offer."), _moved("proposal"),
        _noted("Wants an offer for Depot Fiber."), _agent("You will have it today."),
        _caller("Good. Goodbye."),
    ), outbound="the depot line", rang=_wait(9), answers=(503,)),
    Past("A tool fails, and works the second time", 6, 300, "+12025550115", _E.AGENT_HANGUP, (
        _hello("Samuel"), _caller("The offer is fine, we take it."),
        Did("move_deal", {"stage": "won", "which": None}, error="internal", took=_wait(1)),
        _agent("One moment, I will try that again."), _moved("won"),
        _agent("Shop Fiber is agreed."), _BYE,
    )),
    Past("Busy when we call", 6, 170, "+12025550116", _E.BUSY, answered=False,
         outbound="your second line", rang=_wait(1)),
    Past("The line breaks off", 5, 440, "+12025550130", _E.LINE_LOST, (
        _HELLO, _caller("I am in a tunnel, can you"), _agent("I am here. Please go on."),
    )),
    Past("After hours, leaves a message", 5, 360, "+12025550131", _E.MESSAGE_TAKEN, (
        _agent("Hello, this is Harbor Fiber. We are closed. You can leave a message."),
        _caller("Please call me about a new line on Dock Road."),
        _message("Call about a new line on Dock Road."), _agent("Thank you. Goodbye."),
    ), door="after_hours"),
    Past("All lines are busy", 5, 210, "+12025550132", _E.CAPACITY, (
        _agent("All our lines are busy. Please call again. Goodbye."),
    ), door="capacity"),
    Past("The deal is lost", 4, 410, "+12025550113", _E.AGENT_HANGUP, (
        _hello("Thomas"), _caller("We have chosen another company."), _FOUND,
        _agent("I am sorry. Shall I close Office Fiber?"), _caller("Yes."), _moved("lost"),
        _noted("Chose another company."), _agent("It is closed. Thank you."), _BYE,
    )),
    Past("Does not want to be called, and is not", 4, 300, "+12025550117", _E.DO_NOT_CALL,
         answered=False, outbound="our new plans", rang=_wait(0)),
    Past("A voicemail answers, we hang up", 4, 170, "+12025550118", _E.VOICEMAIL, (
        Machine("hang_up"),
    ), outbound="your technician", rang=_wait(20)),
    Past("Gives up after the fourth ring", 3, 430, None, _E.CANCELLED, answered=False,
         rang=_wait(19)),
    Past("Says a card number in words", 3, 310, "+12025550133", _E.CALLER_HANGUP, (
        _HELLO,
        _caller("It is four two four two four two four two four two four two four two four two."),
        _agent("Please don't tell me card numbers. How else can I help?"), _caller("Never mind."),
    )),
    Past("The agent's process was lost", 3, 190, "+12025550120", _E.AGENT_LOST, (
        _HELLO, _caller("I would like to change my address."),
    )),
    Past("Asks in German for a price", 2, 440, "+12025550135", _E.CALLER_HANGUP, (
        _HELLO, _german("user", "Was kostet der große Anschluss?"),
        _german("agent", "Der große Anschluss kostet neunzig Dollar im Monat."),
        _german("user", "Danke, tschüss."),
    )),
    Past("Keeps talking until the longest duration", 2, 280, "+12025550136", _E.MAX_DURATION, (
        _HELLO, Said("user", "Let me tell you about my router.", span=_wait(1740)),
        _agent("I have to end the call now. Please call again. Goodbye."),
    )),
    Past("Moves on to an offer", 2, 150, "+12025550116", _E.AGENT_HANGUP, (
        _hello("Helen"), _caller("Please send me an offer for the studio."), _FOUND,
        _moved("proposal"), _agent("You will have an offer tomorrow."), _caller("Great."), _BYE,
    )),
    Past("Put through after a word with the technician", 1, 430, "+12025550112", _E.TRANSFERRED, (
        _hello("Grace"), _caller("My line is down again."),
        _agent("I will ask a technician to take over."),
        PutThrough("warm", "Technician", "+12025550191", "answered", "Line is down again."),
    )),
    Past("A call back cannot be booked", 1, 330, "+12025550137", _E.CALLER_HANGUP, (
        _HELLO, _caller("Call me back yesterday."),
        _booked("Call back", error="invalid", took_ms=40),
        _agent("That day has passed. Which day suits you?"), _caller("Forget it."),
    )),
    Past("Hangs up during the greeting", 1, 160, "+12025550138", _E.CALLER_HANGUP, (
        _agent("Hello, this is", cut=True),
    )),
    Past("A call back for tomorrow", 0, 300, "+12025550110", _E.AGENT_HANGUP, (
        _hello("Aisha"), _caller("When will the clinic be connected?"),
        _agent("I will have somebody call you tomorrow with the date."),
        _booked("Date of the clinic's connection"), _caller("Perfect, thank you."), _BYE,
    )),
)  # fmt: skip
"""The oldest first."""


# --- playing them --------------------------------------------------------------------------------


async def fill(db: Database, *, now: datetime, endpoints: EndpointOptions) -> None:
    """Play all stories before *now* into a database that ``story.seed`` has filled.

    All events are published when it returns, so that an endpoint made later hears of none of them.
    Deliveries are made for one endpoint only, which has been switched off by then. Raises NotFound
    where our number is not.
    """
    async with db.work() as session:
        _, owner = await profiles.number(session, OUR_NUMBER)
        version, _ = await profiles.published(session, owner.id)
        known = {
            person.number: await _introduce(session, person, now=now - REACH) for person in PEOPLE
        }
    ended: dict[str, Past] = {}
    for first in range(0, len(STORIES), _A_BATCH):
        async with db.work() as session:
            for number, story in enumerate(STORIES[first : first + _A_BATCH], start=first):
                play = _Play(session, story, known.get(story.number or ""), now=now)
                ended[await play.run(room=f"demo-past-{number:02}", version_id=version.id)] = story
    async with db.work() as session:
        rows: list[EventRow] = []
        while batch := await publish(session):
            rows += batch
        await _deliver(
            session,
            [
                (ended[row.subject].answers, row)
                for row in rows
                if row.type == CallEnded.type and row.subject in ended
            ],
            endpoints=endpoints,
            now=now,
        )
        # That an endpoint was switched off is no news for the next one either.
        while await publish(session):
            pass


@dataclass(frozen=True)
class _Known:
    """A person as the CRM has them."""

    contact: Contact
    deal: Deal | None


async def _introduce(session: AsyncSession, person: Person, *, now: datetime) -> _Known:
    cause = crm.Cause(source="demo")
    contact = await crm.create_contact(
        session,
        name=person.name,
        phones=(parse(person.number, region=None),),
        company=person.company,
        do_not_call=person.do_not_call,
        cause=cause,
        now=now,
    )
    if person.deal is None:
        return _Known(contact, None)
    deal = await crm.create_deal(
        session,
        title=person.deal,
        contact_id=contact.id,
        pipeline="Sales",
        stage=person.stage,
        amount=Money(person.amount_minor, "USD"),
        cause=cause,
        now=now,
    )
    return _Known(contact, deal)


class _Play:
    """One story being played: the call, and how far it is."""

    def __init__(
        self, session: AsyncSession, story: Past, known: _Known | None, *, now: datetime
    ) -> None:
        self._session, self._story, self._now = session, story, now
        self._at = self._answered_at = story.began(now)
        self._contact_id = known.contact.id if known else None
        self._name = known.contact.name if known else None
        self._deal_id = known.deal.id if known and known.deal else None
        self._asked: Turn | None = None

    async def run(self, *, room: str, version_id: str) -> str:
        """Play it to its end. Returns the id of the call."""
        story = self._story
        lease = await (
            self._called(room, version_id)
            if story.outbound is None
            else self._calling(story.outbound, version_id)
        )
        self._at += story.rang
        if story.answered:
            await calls.answer(self._session, lease, now=self._at)
            self._answered_at = self._at
            for step in story.steps:
                await self._step(lease, step)
        self._at += _PAUSE
        if story.end is EndReason.AGENT_LOST:
            await calls.heartbeat(self._session, lease, now=self._at)
            silent = self._at + timedelta(seconds=10)
            await calls.lose(self._session, lease.call_id, silent_since=silent, now=silent)
        else:
            await calls.end(self._session, lease.call_id, story.end, now=self._at, lease=lease)
        await review.set_test(self._session, lease.call_id, True)
        return lease.call_id

    async def _called(self, room: str, version_id: str) -> calls.Lease:
        story, session = self._story, self._session
        call = await calls.start(
            session,
            room=room,
            channel="sip",
            from_number=story.number,
            to_number=OUR_NUMBER,
            profile_version_id=version_id,
            now=self._at,
        )
        await calls.decide_door(session, call.id, kind=story.door, reason=story.door_reason)
        if self._contact_id is not None:
            await calls.identify(
                session, call.id, contact_id=self._contact_id, name=self._name, now=self._at
            )
        return await calls.take_lease(session, call.id, now=self._at)

    async def _calling(self, reason: str, version_id: str) -> calls.Lease:
        story, session = self._story, self._session
        assert story.number is not None
        call = await calls.queue(
            session,
            from_number=OUR_NUMBER,
            to_number=story.number,
            contact_id=self._contact_id,
            profile_version_id=version_id,
            reason=reason,
            activity_id=None,
            due_at=self._at,
            source="demo",
            now=self._at,
        )
        if story.end is EndReason.DO_NOT_CALL:
            return await calls.take_lease(session, call.id, now=self._at)
        lease = await calls.dial(session, call.id, now=self._at)
        assert lease is not None
        return lease

    @property
    def _offset_ms(self) -> int:
        return round((self._at - self._answered_at) / timedelta(milliseconds=1))

    async def _step(self, lease: calls.Lease, step: Step) -> None:
        self._at += _PAUSE
        match step:
            case Said():
                await self._say(lease, step)
            case Did():
                await self._do(lease, step)
            case Keys(digits):
                await calls.press_keys(
                    self._session, lease, digits, offset_ms=self._offset_ms, now=self._at
                )
                await self._say(lease, Said("user", f"[keys {digits}]"))
            case Quiet(span):
                self._at += span
            case PutThrough():
                await self._put_through(lease, step)
            case Machine(action):
                await calls.note_voicemail(
                    self._session, lease, action=action, offset_ms=self._offset_ms, now=self._at
                )
            case Rescued():
                await calls.rescue(self._session, lease, now=self._at)

    async def _say(self, lease: calls.Lease, said: Said) -> None:
        began_ms = self._offset_ms
        self._at += said.span or len(said.text) * _A_CHARACTER
        turn = await calls.save_turn(
            self._session,
            lease,
            turn_id=None,
            role=said.role,
            text=redact(said.text),
            started_ms=began_ms,
            ended_ms=self._offset_ms,
            interrupted=said.cut,
            language=said.language,
            now=self._at,
        )
        if said.role == "user":
            self._asked = turn

    async def _do(self, lease: calls.Lease, did: Did) -> None:
        due = self._at + timedelta(days=-1 if did.error == "invalid" else 1)
        arguments = {name: redact(v) if v else v for name, v in did.arguments.items()}
        if did.tool == "request_callback":
            arguments = {"date": f"{due:%Y-%m-%d}", "time": f"{due:%H:%M}", **arguments}
        asked = self._asked
        run = await calls.start_tool(
            self._session,
            lease,
            name=did.tool,
            arguments=arguments,
            writes=did.tool not in _READS,
            turn_id=asked.id if asked else None,
            offset_ms=asked.started_ms if asked else None,
            now=self._at,
        )
        self._at += did.took
        if did.error is not None:
            await calls.fail_tool(self._session, lease, run.id, error=did.error, now=self._at)
            return
        cause = crm.Cause("call", lease.call_id, run.id, run.turn_id, run.offset_ms)
        await self._change(did.tool, arguments, due=due, cause=cause)
        await calls.finish_tool(self._session, lease, run.id, result=did.result, now=self._at)

    async def _change(
        self, tool: str, arguments: Mapping[str, Any], *, due: datetime, cause: crm.Cause
    ) -> None:
        """What the tool changes in the CRM, as ``agent.tools`` would."""
        session, now = self._session, self._at
        match tool:
            case "move_deal":
                assert self._deal_id is not None
                await crm.move_deal(
                    session, self._deal_id, arguments["stage"], cause=cause, now=now
                )
            case "log_activity":
                await crm.log_activity(
                    session,
                    kind=arguments["kind"],
                    summary=arguments["summary"],
                    contact_id=self._contact_id,
                    cause=cause,
                    now=now,
                )
            case "take_message":
                await callbacks.take_message(
                    session,
                    contact_id=self._contact_id,
                    text=arguments["text"],
                    cause=cause,
                    now=now,
                )
            case "request_callback":
                task = await callbacks.request_callback(
                    session,
                    contact_id=self._contact_id,
                    number=self._story.number,
                    due=due,
                    reason=arguments["reason"],
                    cause=cause,
                    now=now,
                )
                if due < self._now:
                    await crm.complete_task(
                        session, task.id, cause=crm.Cause(source="demo"), now=due
                    )
            case "create_contact":
                assert self._story.number is not None
                assert cause.call_id is not None
                contact = await crm.create_contact(
                    session,
                    name=arguments["name"],
                    phones=(parse(self._story.number, region=None),),
                    company=arguments["company"],
                    cause=cause,
                    now=now,
                )
                self._contact_id = contact.id
                await calls.attach_contact(session, cause.call_id, contact.id)

    async def _put_through(self, lease: calls.Lease, step: PutThrough) -> None:
        session, asked = self._session, self._asked
        run = await calls.start_tool(
            session,
            lease,
            name="transfer_to_person",
            arguments={"target": step.name, "reason": step.reason},
            turn_id=asked.id if asked else None,
            offset_ms=asked.started_ms if asked else None,
            now=self._at,
        )
        leg = await calls.begin_transfer(
            session, lease, kind=step.kind, number=step.number, now=self._at
        )
        self._at += timedelta(seconds=6 if step.outcome == "answered" else 25)
        await calls.finish_transfer(
            session,
            lease,
            leg.id,
            kind=step.kind,
            name=step.name,
            outcome=step.outcome,
            reason=step.reason,
            now=self._at,
        )
        if step.outcome == "answered":
            await calls.finish_tool(session, lease, run.id, result=step.outcome, now=self._at)
        else:
            await calls.fail_tool(session, lease, run.id, error=step.outcome, now=self._at)


_READS = frozenset({"find_deals"})


async def _deliver(
    session: AsyncSession,
    sent: Sequence[tuple[Sequence[int], EventRow]],
    *,
    endpoints: EndpointOptions,
    now: datetime,
) -> None:
    """Store what became of each event at a receiver that gave these answers, and switch it off."""
    endpoint, _ = await webhooks.add_endpoint(
        session,
        options=endpoints,
        url=RECEIVER,
        events=[CallEnded.type],
        description="Demo data: a receiver that stopped answering",
        now=now - REACH,
    )
    sealer = Sealer(endpoints.keys)
    for answers, event in sent:
        if not answers:
            continue
        at = event.recorded_at
        await webhooks.queue(session, endpoint, [event], now=at)
        for status in answers:
            claimed = await claims.claim(session, sealer=sealer, limit=1, lease=_LEASE, now=at)
            outcome = outcomes.Outcome(
                claimed[0],
                started_at=at,
                ms=_EXCHANGE_MS,
                request_headers={"webhook-id": event.id},
                status=status,
            )
            (decision,) = await outcomes.settle(session, [outcome], jitter=lambda: 1.0, now=at)
            # A claim reads the health of the endpoint that the session has, and settling writes past it.
            await session.refresh(endpoint)
            if isinstance(decision, retry.RetryAt):
                at = decision.at
    # By hand, and before the rule would have done it: the demo's pages need not begin with an alarm.
    await webhooks.set_enabled(session, endpoint.id, False, now=now)
