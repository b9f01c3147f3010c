"""Settings are read once, and all their faults are told at once."""

from pathlib import Path

import pytest

from trunkline.errors import Misconfigured
from trunkline.settings import Settings


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting comes from the machine the test runs on."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def test_the_embedded_default_needs_nothing() -> None:
    """Without any setting the data is a SQLite file in a folder."""
    settings = Settings.load(env_file=None)
    assert settings.database_url.startswith("sqlite+aiosqlite:///")
    assert settings.database_url.endswith(".trunkline/trunkline.db")
    assert settings.blobs.url.endswith(".trunkline/blobs")


def test_every_fault_is_told_in_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sets several things wrong learns of all of them at the first start."""
    monkeypatch.setenv("TRUNKLINE_PORT", "-3")
    monkeypatch.setenv("TRUNKLINE_LOG", "xml")
    monkeypatch.setenv("OPENAI_BASE_URL", "ftp://example.com")
    with pytest.raises(Misconfigured) as caught:
        Settings.load(env_file=None)
    said = str(caught.value)
    assert "TRUNKLINE_PORT" in said
    assert "-3" in said
    assert "TRUNKLINE_LOG" in said
    assert "OPENAI_BASE_URL: must begin with http:// or https://" in said


def test_the_environment_wins_over_the_file_and_the_command_line_over_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The nearer to the person who starts it, the stronger."""
    (tmp_path / ".env").write_text("TRUNKLINE_PORT=1111\nTRUNKLINE_HOST=10.0.0.1\n")
    monkeypatch.setenv("TRUNKLINE_PORT", "2222")
    settings = Settings.load(env_file=tmp_path / ".env")
    assert (settings.trunkline_port, settings.trunkline_host) == (2222, "10.0.0.1")
    assert Settings.load(env_file=tmp_path / ".env", trunkline_port=3333).trunkline_port == 3333


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("TRUNKLINE_MODEL_KEYS", "secret-key", "must be json like"),
        ("TRUNKLINE_MODEL_KEYS", '{"https://h/v1": "secret-key"}', "is no host"),
        ("TRUNKLINE_PRICES", '{"openai gpt-4.1": {"tokens": 1}}', "openai gpt-4.1: tokens is no"),
        ("TRUNKLINE_PRICES", '{"openai gpt-4.1": {"input": -1}}', "a price is below zero"),
    ],
)
def test_keys_and_prices_of_models_are_looked_at(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, says: str
) -> None:
    """What is no table of keys or prices is told with its name, and no key in it."""
    monkeypatch.setenv(name, text)
    with pytest.raises(Misconfigured) as caught:
        Settings.load(env_file=None)
    assert name in str(caught.value)
    assert says in str(caught.value)
    assert "secret-key" not in str(caught.value)


def test_the_agent_gets_the_keys_of_its_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys by host and prices by model reach the agent's slice."""
    monkeypatch.setenv("TRUNKLINE_MODEL_KEYS", '{"API.groq.com": "gsk"}')
    monkeypatch.setenv("TRUNKLINE_PRICES", '{"openai gpt-4.1": {"input": 2, "output": 8}}')
    agent = Settings.load(env_file=None).agent()
    assert agent.model_keys == {"api.groq.com": "gsk"}
    assert (agent.prices["openai gpt-4.1"].input, agent.prices["openai gpt-4.1"].cached) == (
        2,
        None,
    )


def test_keys_are_never_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the settings nor the agent's slice show a key when they are logged."""
    for name in ("OPENAI_API_KEY", "DEEPGRAM_API_KEY", "CARTESIA_API_KEY"):
        monkeypatch.setenv(name, "sk-very-secret")
    settings = Settings.load(env_file=None)
    assert "very-secret" not in repr(settings)
    assert "very-secret" not in repr(settings.agent())


def test_missing_livekit_settings_are_named_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker needs LiveKit, and is told of each of its settings that is missing."""
    monkeypatch.setenv("LIVEKIT_URL", "ws://127.0.0.1:7880")
    settings = Settings.load(env_file=None)
    assert settings.livekit is None
    with pytest.raises(Misconfigured) as caught:
        settings.worker()
    assert "missing: LIVEKIT_API_KEY, LIVEKIT_API_SECRET" in str(caught.value)


def test_the_worker_gets_everything_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its slice holds LiveKit, the data and the providers, and shows no secret."""
    for name in ("OPENAI_API_KEY", "DEEPGRAM_API_KEY", "CARTESIA_API_KEY", "LIVEKIT_API_SECRET"):
        monkeypatch.setenv(name, "sk-very-secret")
    monkeypatch.setenv("LIVEKIT_URL", "wss://livekit.example.com")
    monkeypatch.setenv("LIVEKIT_API_KEY", "APIkey")
    monkeypatch.setenv("TRUNKLINE_WORKER_CAPACITY", "20")
    options = Settings.load(env_file=None).worker()
    assert (options.livekit.url, options.livekit.api_secret) == (
        "wss://livekit.example.com",
        "sk-very-secret",
    )
    assert options.capacity == 20
    assert "very-secret" not in repr(options)
