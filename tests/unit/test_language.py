"""The language of the pages: who gets which, and the messages that translators find."""

from decimal import Decimal
from pathlib import Path

import pytest
from babel.messages.catalog import Catalog
from babel.messages.frontend import CommandLineInterface
from babel.messages.pofile import read_po, write_po

from trunkline.errors import Misconfigured
from trunkline.kit.money import Money
from trunkline.web.dashboard import format as fmt
from trunkline.web.dashboard import language, words
from trunkline.web.dashboard.language import ENGLISH, _, chosen, ngettext, speaking

ROOT = Path(__file__).parents[2]
POT = "platform/trunkline/locale/trunkline.pot"
EXTRACT = (
    "pybabel extract -F pyproject.toml --sort-by-file --add-location=file --project=Trunkline --version=1 "
    f"-o {POT} platform/trunkline"
)


def messages(file: Path) -> set[tuple[str | None, str, str | None]]:
    """Each message as (context, words, plural)."""
    with file.open("rb") as opened:
        found = [one for one in read_po(opened) if one.id]
    return {
        (one.context, one.id, None)
        if isinstance(one.id, str)
        else (one.context, one.id[0], one.id[1])
        for one in found
    }


def test_the_template_for_translators_is_fresh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Babel extracts from the sources now is what the committed POT holds."""
    monkeypatch.chdir(ROOT)
    fresh = tmp_path / "fresh.pot"
    pybabel, *arguments = EXTRACT.split()
    said = [str(fresh) if argument == POT else argument for argument in arguments]
    CommandLineInterface().run([pybabel, "-q", *said])  # type: ignore[no-untyped-call]
    now, committed = messages(fresh), messages(ROOT / POT)
    assert len(now) > 400
    assert now == committed, (
        f"new: {sorted(map(str, now - committed))[:9]}, gone: {sorted(map(str, committed - now))[:9]}; "
        f"refresh it with: uv run {EXTRACT}"
    )


def catalogue(
    folder: Path, tag: str, *said: tuple[str | tuple[str, str], str | tuple[str, ...]]
) -> Path:
    """A catalogue of a language, as a translator leaves it."""
    made = Catalog(locale=tag)
    for id_, string in said:
        made.add(id_, string, flags=["python-format"] if "%(" in str(id_) else [])
    file = folder / tag / "LC_MESSAGES" / "trunkline.po"
    file.parent.mkdir(parents=True)
    with file.open("wb") as opened:
        write_po(opened, made)
    return file


@pytest.mark.parametrize(
    ("header", "gets"),
    [
        (None, "en"),
        ("", "en"),
        ("de", "de"),
        ("de-AT,de;q=0.9,en;q=0.8", "de"),  # no Austrian catalogue: the German one
        ("PT-br", "pt-BR"),
        ("pt-PT,fr", "en"),  # Brazil's is no answer to Portugal's, nor is there French
        ("fr,en;q=0.5,de;q=0.9", "de"),
        ("en-GB,de;q=0.9", "en"),  # English is there, as the source
        ("de;q=0,pt-BR;q=0.1", "pt-BR"),  # not German, whatever else
        ("*", "en"),
        ("de;q=x,,;;=,\x00", "en"),
        ("x" * 100_000, "en"),
    ],
)
def test_who_gets_which_language(header: str | None, gets: str, tmp_path: Path) -> None:
    """The best language that the browser asks for and the server has; English where there is none."""
    catalogue(tmp_path, "de", ("Calls", "Anrufe"))
    catalogue(tmp_path, "pt_BR", ("Calls", "Chamadas"))
    assert chosen(header, language.read_all(tmp_path)).tag == gets


def test_words_and_values_are_the_viewers(tmp_path: Path) -> None:
    """Messages, plurals, numbers and money follow the language; units and currencies stay."""
    file = catalogue(
        tmp_path, "de", ("Calls", "Anrufe"), (("%(n)s call", "%(n)s calls"), ("%(n)s Anruf", "%(n)s Anrufe"))
    )  # fmt: skip
    assert (_("Calls"), fmt.worth((240_050, "EUR"))) == ("Calls", "2,400.50 EUR")
    with speaking(language.read(file)):
        assert _("Calls") == "Anrufe"
        assert ngettext("%(n)s call", "%(n)s calls", 1, n=1) == "1 Anruf"
        assert ngettext("%(n)s call", "%(n)s calls", 7, n=7) == "7 Anrufe"
        assert fmt.worth((240_050, "EUR")) == "2.400,50 EUR"
        assert fmt.worth((-5, "EUR")) == "-0,05 EUR"
        assert fmt.worth((1200, "JPY")) == "1.200 JPY"
        assert fmt.millis(1250) == "1,2 s"
        assert _("Duration") == "Duration", "what nobody has translated is said in English"
    assert _("Calls") == "Calls"


def test_a_translation_cannot_break_a_page(tmp_path: Path) -> None:
    """A translation whose placeholders are not the message's is left out, and told in the log."""
    file = catalogue(
        tmp_path, "de", ("%(count)s failed", "%(zahl)s gescheitert"), ("Calls", "Anrufe")
    )
    with speaking(language.read(file)):
        assert _("%(count)s failed", count=3) == "3 failed"
        assert _("Calls") == "Anrufe"


@pytest.mark.parametrize(("tag", "text"), [("de", "<html>no catalogue"), ("klingonish", "")])
def test_a_catalogue_that_makes_no_sense(tag: str, text: str, tmp_path: Path) -> None:
    """A broken catalogue, or one of no language, stops the start and names the file."""
    file = tmp_path / tag / "LC_MESSAGES" / "trunkline.po"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    with pytest.raises(Misconfigured, match=r"trunkline\.po"):
        language.read_all(tmp_path)


def test_our_own_names_are_their_words() -> None:
    """A role, state or field is called by its own name in English, so that the API's word is known again."""
    for name, said in words.NAMES.items():
        assert said == name.replace("_", " ").capitalize()


def test_english_looks_as_it_did() -> None:
    """Money in English is what `Money` itself says."""
    for minor, currency in [
        (0, "USD"),
        (5, "USD"),
        (240_000, "USD"),
        (-1, "EUR"),
        (99, "JPY"),
        (1, "KWD"),
    ]:
        assert fmt.worth((minor, currency)) == str(Money(minor, currency))
    assert fmt.decimal(Decimal("0.5"), "0.0") == "0.5"
    assert ENGLISH.tag == "en"
