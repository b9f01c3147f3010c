"""What a call took of its providers, priced."""

from trunkline.calls.usage import Price, RateLimit, Used, bill, cost_micros

THOUGHT = Used(
    "llm", "openai x", requests=2, input_tokens=1000, cached_tokens=400, output_tokens=50
)
HEARD = Used("stt", "deepgram y", requests=1, audio_ms=90_000)


def test_each_kind_of_count_has_its_price() -> None:
    """Tokens and characters by the million, audio by the minute; cached tokens cost their own."""
    assert cost_micros(THOUGHT, Price(input=2, cached=0.5, output=8)) == 600 * 2 + 200 + 400
    assert cost_micros(THOUGHT, Price(input=2, output=8)) == 2000 + 400
    assert cost_micros(HEARD, Price(minute=0.01)) == 15_000
    assert cost_micros(Used("tts", "z", characters=200), Price(characters=38)) == 7600


def test_a_bill_says_what_has_no_price() -> None:
    """The sum is of what has a price, and it is told whether that is all."""
    one = bill([THOUGHT, HEARD], {"deepgram y": Price(minute=0.01)})
    assert [part["cost_micros"] for part in one["parts"]] == [None, 15_000]
    assert (one["cost_micros"], one["complete"]) == (15_000, False)
    assert bill([HEARD], {"deepgram y": Price(minute=0.01)})["complete"] is True
    nothing = bill([], {})
    assert (nothing["parts"], nothing["cost_micros"], nothing["complete"]) == ([], None, False)


def test_a_provider_s_limits_stand_with_its_model() -> None:
    """What it told last is kept as it told it; models that tell nothing have none."""
    limit = RateLimit("tokens", 40_000, 39_000, 1.5)
    one = bill([THOUGHT, HEARD], {}, {"openai x": [limit]})
    assert [part["rate_limits"] for part in one["parts"]] == [
        [{"name": "tokens", "limit": 40_000, "remaining": 39_000, "reset_s": 1.5}],
        [],
    ]


def test_counts_add_up() -> None:
    """A second request adds to the first."""
    more = THOUGHT.plus(requests=1, output_tokens=10)
    assert (more.requests, more.output_tokens, more.input_tokens) == (3, 60, 1000)
