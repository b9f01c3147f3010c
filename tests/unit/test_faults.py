"""How the sandbox is told what goes wrong."""

import pytest

from trunkline.sandbox.faults import Fault, strike

FIRST = {"stt": "nova-3", "llm": "gpt-4.1-mini", "tts": "sonic-2"}


@pytest.mark.parametrize(
    "text",
    [
        "llm:stall@2",
        "llm/gpt-4.1-mini:500@2",
        "tts:wrong-rate",
        "stt/nova-3:no-final@1",
        "llm/*:429",
    ],
)
def test_a_fault_is_read_as_it_is_written(text: str) -> None:
    """One line says part, model, kind and turn, and is written back the same."""
    assert Fault.parse(text).text() == text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("llm:explode", "kind one of 401, 429"),
        ("brain:500", "part one of stt, llm, tts"),
        ("llm:500@0", "write part:kind@turn"),
        ("stt:bad-json", "only llm has bad-json"),
        ("llm:wrong-rate", "only tts has wrong-rate"),
    ],
)
def test_what_is_no_fault(text: str, says: str) -> None:
    """The sentence names what there is."""
    with pytest.raises(ValueError, match="is no fault") as refused:
        Fault.parse(text)
    assert says in str(refused.value)


def test_a_fault_of_the_demo_strikes_the_first_choice() -> None:
    """Unless it names a model, or a star for all of them."""
    one = Fault.parse("llm:stall@2").of_first(FIRST)
    assert one.hits("llm", 2, "gpt-4.1-mini")
    assert not one.hits("llm", 2, "gpt-4o-mini")
    assert not one.hits("llm", 1, "gpt-4.1-mini")
    every = Fault.parse("llm/*:stall@2").of_first(FIRST)
    assert every.hits("llm", 2, "gpt-4o-mini")
    other = Fault.parse("llm/gpt-4o-mini:stall@2").of_first(FIRST)
    assert strike([one, other], "llm", 2, "gpt-4o-mini") == other
    assert strike([one, other], "tts", 2, "sonic-2") is None
