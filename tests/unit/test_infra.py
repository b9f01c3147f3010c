"""infra/ agrees with the program, with sip/ and with itself, as far as files can tell."""

import json
import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command
from typer.testing import CliRunner

from trunkline.cli.main import app
from trunkline.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"
COMPOSE: dict[str, Any] = yaml.safe_load((INFRA / "compose.yaml").read_text(encoding="utf-8"))
LIVEKIT: dict[str, Any] = yaml.safe_load((INFRA / "livekit.yaml").read_text(encoding="utf-8"))
SIP: dict[str, Any] = yaml.safe_load((ROOT / "sip" / "livekit-sip.yaml").read_text("utf-8"))
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = {name for name, one in SERVICES.items() if one["image"].startswith("trunkline:")}
ONCE = {"migrate", "cli"}
"""Services that run a command and end."""
TRUNKS = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "sip").rglob("*.yaml"))


def variables(path: Path) -> dict[str, str]:
    """Name → value of every variable in an env file, also of those that are commented out."""
    lines = path.read_text(encoding="utf-8").splitlines()
    found = (re.match(r"(?:# )?([A-Z][A-Z0-9_]+)=(.*)$", line) for line in lines)
    return {match[1]: match[2] for match in found if match}


EXAMPLE = variables(INFRA / "env.example")


def instructions() -> Iterator[tuple[str, str]]:
    """The Dockerfile's instructions: word and the rest, continued lines joined."""
    text = (INFRA / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        if line and not line.startswith("#"):
            word, _, rest = line.strip().partition(" ")
            yield word, rest.strip()


def health_port(service: dict[str, Any]) -> int | None:
    """The port its health check asks."""
    asked = re.search(r"127\.0\.0\.1[:/](\d+)", json.dumps(service["healthcheck"].get("test")))
    return int(asked[1]) if asked else None


def test_every_variable_is_explained() -> None:
    """What compose.yaml takes from .env stands in env.example, under a comment, and is a setting."""
    text = (INFRA / "compose.yaml").read_text(encoding="utf-8")
    used = set(re.findall(r"\$\{([A-Z0-9_]+)", text))
    assert used
    assert used <= EXAMPLE.keys()
    settings = {name.upper() for name in Settings.model_fields}
    providers = {"TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN", "TELNYX_API_KEY"}
    unknown = [
        name
        for name in EXAMPLE
        if name not in settings | used | providers and f": {name}\n" not in TRUNKS
    ]
    assert unknown == []
    lines = (INFRA / "env.example").read_text(encoding="utf-8").splitlines()
    alone = [line for before, line in pairwise(lines) if not before and "=" in line]
    assert alone == [], "a variable that no comment explains"


@pytest.mark.parametrize("name", ["POSTGRES_PASSWORD", "LIVEKIT_API_SECRET", "LIVEKIT_API_KEY"])
def test_nothing_starts_without_secrets(name: str) -> None:
    """A secret that is unset or empty stops compose with a sentence; env.example has no default for it."""
    text = (INFRA / "compose.yaml").read_text(encoding="utf-8")
    uses = re.findall(r"\$\{" + name + r"([^}]*)\}", text)
    assert uses
    assert all(rest.startswith(":?") for rest in uses)
    assert name == "LIVEKIT_API_KEY" or EXAMPLE[name] == ""


def test_the_example_can_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """env.example as it is makes valid settings; what it leaves empty is not set."""
    for name in EXAMPLE:
        monkeypatch.delenv(name, raising=False)
    settings = Settings.load(env_file=INFRA / "env.example")
    assert settings.deepgram_api_key is None
    assert settings.trunkline_sip_host is None
    assert settings.livekit is None, "its secret is empty"
    assert settings.livekit_api_key == LIVEKIT["webhook"]["api_key"]


@pytest.mark.parametrize("name", sorted(OURS))
def test_every_command_exists(name: str) -> None:
    """What a service of ours runs is a command, with options that it has."""
    command = [str(part) for part in SERVICES[name]["command"]]
    words = [part for part in command if not part.startswith("-")]
    group: Any = get_command(app)
    while hasattr(group, "commands") and words:
        assert words[0] in group.commands
        group = group.commands[words.pop(0)]
    known = {flag for parameter in group.params for flag in parameter.opts} | {"--help"}
    assert {part for part in command if part.startswith("-")} <= known
    assert CliRunner().invoke(app, [*command, "--help"]).exit_code == 0


def test_ports_agree() -> None:
    """Health checks ask the ports that the settings have, and those of LiveKit's two files."""
    asked = {name: health_port(one) for name, one in SERVICES.items() if name not in ONCE}
    fields = Settings.model_fields
    assert {name: asked[name] for name in ("web", "worker", "courier", "guardian", "demo")} == {
        "web": fields["trunkline_port"].default,
        "worker": fields["trunkline_worker_port"].default,
        "courier": fields["trunkline_courier_port"].default,
        "guardian": fields["trunkline_guardian_port"].default,
        "demo": fields["trunkline_port"].default,
    }
    assert (asked["livekit"], asked["livekit-sip"]) == (LIVEKIT["port"], SIP["health_port"])
    for name in ("web", "courier", "guardian", "demo"):
        command = SERVICES[name]["command"]
        assert int(command[command.index("--port") + 1]) == asked[name]
    assert SERVICES["worker"]["environment"]["TRUNKLINE_WORKER_PORT"] == str(asked["worker"])
    assert EXAMPLE["LIVEKIT_URL"] == f"ws://127.0.0.1:{LIVEKIT['port']}"
    assert SERVICES["livekit-sip"]["environment"]["LIVEKIT_WS_URL"] == EXAMPLE["LIVEKIT_URL"]
    assert LIVEKIT["redis"] == SIP["redis"]
    redis = LIVEKIT["redis"]["address"]
    assert SERVICES["redis"]["ports"] == [f"{redis}:{redis.rpartition(':')[2]}"]
    assert LIVEKIT["webhook"]["urls"] == [f"http://127.0.0.1:{asked['web']}/livekit/webhook"]


def test_the_firewall_is_told_rightly() -> None:
    """The ports that the comment says to open are those of LiveKit's two files."""
    text = (INFRA / "compose.yaml").read_text(encoding="utf-8")
    rtc, turn = LIVEKIT["rtc"], LIVEKIT["turn"]
    for port in (
        f"{SIP['sip_port']}/udp+tcp",
        f"{SIP['rtp_port']}/udp",
        f"{rtc['tcp_port']}/tcp",
        f"{rtc['udp_port']}/udp",
        f"{turn['udp_port']}/udp",
        f"{turn['relay_range_start']}-{turn['relay_range_end']}/udp",
    ):
        assert port in text


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_service_is_watched_and_bounded(name: str) -> None:
    """Each has a health check, a restart policy, limits, a profile and an image of a fixed version."""
    service = SERVICES[name]
    assert service["healthcheck"].get("disable") is (True if name in ONCE else None)
    assert service["restart"] == ("no" if name in {*ONCE, "demo"} else "unless-stopped")
    limits = service["deploy"]["resources"]["limits"]
    assert limits.keys() == {"cpus", "memory"}
    assert service["profiles"] in (["full"], ["demo"], ["tools"])
    assert re.search(r":v?\d+\.\d+", service["image"])
    assert "latest" not in service["image"]
    for other, condition in service.get("depends_on", {}).items():
        assert condition["condition"] == (
            "service_completed_successfully" if other in ONCE else "service_healthy"
        )
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        assert (INFRA / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]


@pytest.mark.parametrize("name", sorted(OURS))
def test_ours_run_with_nothing_to_spare(name: str) -> None:
    """Read-only root, no capabilities, no new privileges; only the data folder and /tmp are written."""
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["tmpfs"] == ["/tmp"]  # noqa: S108 - a mount in the container
    assert [volume for volume in service["volumes"] if not volume.endswith(":ro")] == [
        f"{'demo' if name == 'demo' else 'data'}:/data"
    ]


def test_a_worker_may_end_its_calls() -> None:
    """Docker waits longer for a worker than the worker waits for its calls."""
    from trunkline.agent.options import WorkerOptions

    minutes = int(SERVICES["worker"]["stop_grace_period"].removesuffix("m"))
    assert minutes * 60 > WorkerOptions.drain.total_seconds()


def test_the_dockerfile_is_sound() -> None:
    """Images are pinned, the program is not root's, stops at SIGTERM, and has no sandbox by default."""
    found = list(instructions())
    images = [rest for word, rest in found if word == "FROM"]
    copied = re.findall(r"--from=(\S+:\S+)", " ".join(rest for word, rest in found))
    assert len(images) == 2
    for image in (*(image.split()[0] for image in images), *copied):
        assert re.search(r":\d+\.\d+\.\d+", image), image
    last = dict(found[max(i for i, (word, _) in enumerate(found) if word == "FROM") :])
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last["USER"])
    assert last["STOPSIGNAL"] == "SIGTERM"
    assert "/ready" in last["HEALTHCHECK"]
    assert json.loads(last["ENTRYPOINT"]) == ["trunkline"]
    assert not any(word == "ADD" or "apt-get" in rest or "curl" in rest for word, rest in found)
    extras = next(rest for word, rest in found if word == "ARG" and rest.startswith("EXTRAS"))
    assert shlex.split(extras) == ["EXTRAS=postgres"]
    labels = set(re.findall(r"org\.opencontainers\.image\.(\w+)", last["LABEL"]))
    assert labels == {"title", "description", "version", "licenses"}


def test_what_the_image_is_built_from_is_sent() -> None:
    """Each file the Dockerfile copies exists, and the ignore file lets it through."""
    sent = (INFRA / "Dockerfile.dockerignore").read_text(encoding="utf-8").split()
    copies = [
        rest.split() for word, rest in instructions() if word == "COPY" and "--from" not in rest
    ]
    assert copies
    for *sources, _ in copies:
        for source in sources:
            assert (ROOT / source).exists()
            assert f"!{source}" in sent


def test_the_guide_names_the_same_ports_and_commands() -> None:
    """platform/docs/operations.md: its table of ports is that of LiveKit's files, its commands exist."""
    guide = (ROOT / "platform" / "docs" / "operations.md").read_text(encoding="utf-8")
    rtc, turn = LIVEKIT["rtc"], LIVEKIT["turn"]
    for row in (
        f"| {SIP['sip_port']}/udp+tcp | livekit-sip",
        f"| {SIP['rtp_port']}/udp | livekit-sip",
        f"| {LIVEKIT['port']}/tcp | livekit-server",
        f"| {rtc['tcp_port']}/tcp, {rtc['udp_port']}/udp | livekit-server",
        f"| {turn['udp_port']}/udp, {turn['relay_range_start']}-{turn['relay_range_end']}/udp |",
        *(f"`trunkline {name}` | {health_port(SERVICES[name])} |" for name in ("web", "worker")),
        *(f"`trunkline {n}` | {health_port(SERVICES[n])} |" for n in ("courier", "guardian")),
    ):
        assert row in guide
    for command in set(re.findall(r"`trunkline ([a-z ]+)", guide)):
        group: Any = get_command(app)
        for word in command.split():
            if hasattr(group, "commands"):
                assert word in group.commands, command
                group = group.commands[word]
    for setting in set(re.findall(r"`(TRUNKLINE_[A-Z_]+)", guide)):
        assert setting.lower() in Settings.model_fields, setting
