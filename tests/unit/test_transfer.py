"""Transfers without a line: whom, what is said to whom, what a SIP status and a word mean."""

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from livekit.agents.llm import FunctionTool

from trunkline.agent import phrases, transfer
from trunkline.agent.music import LEVEL_DBFS, hold_music
from trunkline.agent.tools import tools_for
from trunkline.agent.transfer import Outcome
from trunkline.crm.models import Contact
from trunkline.desk.arrival import Reception
from trunkline.errors import Invalid
from trunkline.profiles.body import read
from trunkline.sandbox.loopback import dtmf

if TYPE_CHECKING:
    from tests.conftest import Make

SUPPORT = {"name": "Support", "number": "+1 202 555 0188", "when": "Something does not work."}


def reception(contact: Contact | None, company: str | None) -> Reception:
    """A call of that contact."""
    return Reception("call_1", None, None, contact, company, None, (), ())


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (486, Outcome.BUSY),
        (600, Outcome.BUSY),
        (408, Outcome.NO_ANSWER),  # rang out
        (480, Outcome.NO_ANSWER),
        (603, Outcome.REJECTED),  # pressed away
        (404, Outcome.UNREACHABLE),
        (405, Outcome.FAILED),  # a provider that knows no REFER
        (503, Outcome.FAILED),
        (None, Outcome.FAILED),
    ],
)
def test_what_a_status_means(make: "Make", status: int | None, outcome: Outcome) -> None:
    """Each final status has an outcome, and each outcome a sentence with an offer."""
    assert transfer.outcome_of(status) is outcome
    said = transfer.sentence(make.body(), outcome, "Support")
    assert said.startswith("I'm sorry")
    assert said.endswith("call back?")


def test_outcomes_sound_different(make: "Make") -> None:
    """The caller is told why: no two reasons share a sentence."""
    told = [o for o in Outcome if o not in (Outcome.ANSWERED, Outcome.CANCELLED)]
    assert len({transfer.sentence(make.body(), one, "Support") for one in told}) == len(told)


@pytest.mark.parametrize(
    ("language", "words", "outcome"),
    [
        ("en", "Yes.", Outcome.ANSWERED),
        ("en", "put them through", Outcome.ANSWERED),
        ("en", "no problem", Outcome.ANSWERED),
        ("en", "No, thank you.", Outcome.REJECTED),
        ("en", "okay, but not now", Outcome.REJECTED),  # a no outweighs a yes
        ("en", "Yes, let them call me back tomorrow", Outcome.REJECTED),
        ("en", "I can\u2019t", Outcome.REJECTED),  # as some recognisers write it
        ("en", "Hello?", None),
        ("en", "I know", None),  # no word inside another
        ("en", "Please leave a message after the tone", Outcome.VOICEMAIL),
        ("en", "We are not available", Outcome.VOICEMAIL),
        ("fi", "yes", Outcome.ANSWERED),  # answered in English, and so asked
        ("de-AT", "Ja, gerne", Outcome.ANSWERED),
        ("de", "Kein Problem", Outcome.ANSWERED),
        ("de", "Nein, jetzt nicht", Outcome.REJECTED),
        ("de", "Bitte sprechen Sie nach dem Piepton", Outcome.VOICEMAIL),
        ("es", "Sí, pásemelo", Outcome.ANSWERED),
        ("es", "Ahora no", Outcome.REJECTED),
        ("es", "Deje su mensaje después de la señal", Outcome.VOICEMAIL),
        ("fr", "Oui, d'accord", Outcome.ANSWERED),
        ("fr", "Pas maintenant", Outcome.REJECTED),
        ("fr", "Laissez un message après le bip", Outcome.VOICEMAIL),
        ("it", "Sì, certo", Outcome.ANSWERED),
        ("it", "No, più tardi", Outcome.REJECTED),
        ("it", "Risponde la segreteria telefonica", Outcome.VOICEMAIL),
        ("pt", "Sim, pode passar", Outcome.ANSWERED),
        ("pt", "Agora não", Outcome.REJECTED),
        ("pt", "Deixe a sua mensagem após o sinal", Outcome.VOICEMAIL),
        ("nl", "Ja, graag", Outcome.ANSWERED),
        ("nl", "Nee, niet nu", Outcome.REJECTED),
        ("nl", "Spreek een bericht in na de piep", Outcome.VOICEMAIL),
    ],
)
def test_what_words_decide(
    make: "Make", language: str, words: str, outcome: Outcome | None
) -> None:
    """The person asked may answer in words; a machine's greeting is told from a person's."""
    assert transfer.judge(make.body(language=language), words) is outcome


@pytest.mark.parametrize("language", phrases.languages())
def test_each_language_says_everything(make: "Make", language: str) -> None:
    """What is said in a transfer and on calls out is there in each language, all places filled."""
    body = make.body(language=language)
    places = {"name": "Support", "who": "Dana", "reason": "a bill", "said": "Hello"}
    english = tomllib.loads(Path(phrases.__file__).with_suffix(".toml").read_text("utf-8"))["en"]
    for key in english["spoken"]:
        words = phrases.spoken(body, key, **places)
        assert "{" not in words
        assert language == "en" or words != phrases.spoken(make.body(), key, **places)
    waiting = phrases.waiting(body)
    assert len(set(waiting)) == len(english["waiting"])
    assert language == "en" or not set(waiting) & set(english["waiting"])
    for meaning in english["understood"]:
        assert not phrases.understands(body, meaning, "")
    choice = phrases.spoken(body, "choice")
    assert transfer.judge(body, choice.split(".")[0]) is Outcome.ANSWERED, "says its own yes"
    assert transfer.judge(body, choice.split(".")[1]) is Outcome.REJECTED, "and its own no"


def test_a_briefing_tells_what_is_stored(make: "Make") -> None:
    """It says who is calling, of which company, why, and what they said at most length; no keys."""
    said = ["Hello", "My internet has been down since Monday.", "[keys 3]"]
    known = reception(Contact(name="Dana Whitfield"), "Whitfield Design")
    body = make.body(company="Harbor Fiber", agent_name="Robin")
    assert transfer.briefing(body, known, "Support", "a broken line", said) == (
        "This is Robin of Harbor Fiber, with a call for Support. Dana Whitfield of Whitfield Design is on "
        "the line, about a broken line. They said: My internet has been down since Monday. To take the "
        "call, press one or say yes. To decline, press two or say no."
    )
    unknown = transfer.briefing(body, reception(None, None), "Support", "", ["word " * 100])
    assert "A caller whom we don't know is on the line, about a question." in unknown
    assert len(unknown) < 450


def test_the_model_names_only_the_profiles_people(make: "Make") -> None:
    """The tool offers the names and when to use them, and knows no number; without people there is none."""
    body = make.body(tools=["transfer_to_person"], transfers=[SUPPORT])
    (tool,) = tools_for(body, ())
    assert isinstance(tool, FunctionTool)
    told = str(tool.info.description)
    assert "Support: Something does not work." in told
    assert "555" not in told
    assert tools_for(make.body(tools=["transfer_to_person"]), ()) == []


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"number": "12"}, "is no number to transfer to"),
        ({"number": "sip:nobody"}, "is no number to transfer to"),
        ({"number": "sip:desk@example.com"}, "takes a number only"),  # warm
        ({"ring_s": 4}, "greater than or equal to 5"),
        ({"mode": "hot"}, "'warm' or 'cold'"),
    ],
)
def test_a_target_is_checked(make: "Make", fields: dict[str, object], says: str) -> None:
    """What could not be called is refused when the profile is read."""
    data = make.body().model_dump(mode="json")
    with pytest.raises(Invalid, match=says):
        read({**data, "transfers": [{**SUPPORT, **fields}]})
    with pytest.raises(Invalid, match="the same name"):
        read({**data, "transfers": [SUPPORT, {**SUPPORT, "name": "support"}]})


def test_numbers_become_uris(make: "Make") -> None:
    """A number is kept as E.164 and referred to as tel:, a SIP address as it is."""
    cold = {**SUPPORT, "name": "Desk", "mode": "cold", "number": "sip:desk@example.com"}
    body = make.body(transfers=[SUPPORT, cold])
    assert body.transfers[0].number == "+12025550188"
    assert [one.uri for one in body.transfers] == ["tel:+12025550188", "sip:desk@example.com"]


def test_music_goes_round_without_a_gap() -> None:
    """Hold music has the level it claims, does not clip, and no seam larger than its own steps."""
    pcm = np.frombuffer(b"".join(hold_music()), dtype="<i2").astype(float)
    level = 20 * np.log10(np.sqrt(np.mean(pcm**2)) / 32768)
    assert level == pytest.approx(LEVEL_DBFS, abs=0.2)
    assert np.abs(pcm).max() < 32000
    assert abs(pcm[0] - pcm[-1]) <= np.abs(np.diff(pcm)).max()
    loud = [np.sqrt(np.mean(pcm[i : i + 4000] ** 2)) for i in range(0, pcm.size, 4000)]
    assert min(loud) > 300, "no half second is silent"


@pytest.mark.parametrize(
    ("key", "hz"), [("1", (697, 1209)), ("0", (941, 1336)), ("#", (941, 1477))]
)
def test_keys_have_their_two_tones(key: str, hz: tuple[int, int]) -> None:
    """A key on the loopback line is the pair of tones of ITU-T Q.23."""
    pcm = np.frombuffer(b"".join(dtmf(key)), dtype="<i2")[:800]
    spectrum = np.abs(np.fft.rfft(pcm, 8000))
    peaks = sorted(np.argsort(spectrum[600:1700])[-1:] + 600)
    assert any(abs(peaks[0] - one) < 8 for one in hz)
    assert all(spectrum[one] > 0.5 * spectrum.max() for one in hz)
