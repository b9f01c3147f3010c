"""``sip/*.yaml``: what is read, how it is joined with the numbers, and what is said of a mistake."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import yaml

from trunkline.errors import Invalid
from trunkline.trunks import files
from trunkline.trunks.join import Joined, join

SIP = Path(__file__).resolve().parents[2] / "sip"
N1, N2 = "+12025550101", "+12025550102"

INBOUND = """
direction: inbound
allow_addresses: [192.0.2.0/24]
"""
OUTBOUND = """
direction: outbound
address: carrier.example
auth:
  username_env: SIP_USER
  password_env: SIP_PASSWORD
"""
ENVIRONMENT = {"SIP_USER": "us", "SIP_PASSWORD": "hunter2"}


def folder(root: Path, **written: str) -> Path:
    """A folder of files: ``trunks_a`` is trunks/a.yaml. Without rules there is one for all numbers."""
    for room in ("trunks", "rules"):
        (root / room).mkdir(parents=True)
    for name, text in {"rules_main": "numbers: all", **written}.items():
        room, _, stem = name.partition("_")
        (root / room / f"{stem}.yaml").write_text(text, encoding="utf-8")
    return root


def joined(
    root: Path, numbers: Sequence[str] = (N1,), environment: Mapping[str, str] = ENVIRONMENT
) -> Joined:
    return join(files.read(root), numbers, environment)


def test_what_ships_makes_one_trunk_and_one_rule_for_each_number() -> None:
    """The repository's own files: Twilio's line with all our numbers, no rule that takes anything else."""
    result = joined(SIP, (N1, N2), {})
    assert [(want.kind, want.name) for want in result.wanted] == [
        ("inbound", "twilio"),
        ("rule", N1),
        ("rule", N2),
    ]
    twilio, rule, _ = (want.body for want in result.wanted)
    assert twilio["numbers"] == [N1, N2]
    assert twilio["headers_to_attributes"]["X-Twilio-VerStat"] == "trunkline.attestation"
    assert rule["trunk_ids"] == ["twilio"]
    assert rule["numbers"] == [N1]
    assert rule["attributes"] == {"trunkline.number": N1}
    assert [agent["agent_name"] for agent in rule["room_config"]["agents"]] == ["trunkline"]
    assert any(note.startswith("telnyx: no number") for note in result.notes)
    assert any("TRUNKLINE_OUTBOUND_ADDRESS is not set" in note for note in result.notes)


def test_what_ships_makes_the_outbound_trunk_once_its_address_is_set() -> None:
    """Address, user name and password come from the environment, and the password is in no file."""
    environment = {
        "TRUNKLINE_OUTBOUND_ADDRESS": "us.pstn.twilio.com",
        "TRUNKLINE_OUTBOUND_USERNAME": "us",
        "TRUNKLINE_OUTBOUND_PASSWORD": "hunter2",
    }
    result = joined(SIP, (N1,), environment)
    (out,) = (want for want in result.wanted if want.kind == "outbound")
    assert (out.body["address"], out.body["auth_password"]) == ("us.pstn.twilio.com", "hunter2")
    assert "hunter2" not in repr(result)


def test_livekit_sips_own_configuration_is_yaml_without_secrets() -> None:
    """Key and secret come from its environment; ports are the ones that the trunks' comments name."""
    config = yaml.safe_load((SIP / "livekit-sip.yaml").read_text(encoding="utf-8"))
    assert config["sip_port"] == 5060
    assert not {"api_key", "api_secret", "ws_url"} & config.keys()


def test_numbers_are_shared_out_among_trunks(tmp_path: Path) -> None:
    """A trunk that lists numbers has those; the one that says all has the rest; each rule is on its trunk."""
    root = folder(tmp_path, trunks_a=INBOUND, trunks_b=f"{INBOUND}numbers: ['{N2}']")
    result = joined(root, (N1, N2))
    assert {
        want.name: want.body["numbers"] for want in result.wanted if want.kind == "inbound"
    } == {
        "a": [N1],
        "b": [N2],
    }
    assert {want.name: want.body["trunk_ids"] for want in result.wanted if want.kind == "rule"} == {
        N1: ["a"],
        N2: ["b"],
    }


def test_a_carrier_that_leaves_out_the_plus_gets_rules_without_it(tmp_path: Path) -> None:
    """LiveKit compares a rule's number letter by letter; the attribute stays E.164."""
    (_, rule) = joined(folder(tmp_path, trunks_a=f"{INBOUND}dialled_as: e164")).wanted
    assert rule.body["numbers"] == [N1[1:]]
    assert rule.body["attributes"]["trunkline.number"] == N1


def test_a_number_on_no_trunk_is_told(tmp_path: Path) -> None:
    """It would ring for ever, so the operator hears of it; it is no fault of the files."""
    result = joined(folder(tmp_path, trunks_a=f"{INBOUND}numbers: ['{N1}']"), (N1, N2))
    assert result.notes == (f"{N2} is on no trunk: it would ring for ever",)


@pytest.mark.parametrize(
    ("written", "fault"),
    [
        # a typo in a field's name: the nearest, and all there are
        (
            {"trunks_a": f"{INBOUND}encription: allow"},
            "sip/trunks/a.yaml: encription is no field; did you mean encryption? there are "
            "allow_addresses, allow_callers, auth, dialled_as, direction, encryption, headers, "
            "headers_to_attributes, include_headers, max_call_s, numbers, ringing_timeout_s",
        ),
        # a typo in a value: what is allowed
        (
            {"trunks_a": f"{INBOUND}encryption: on"},
            "sip/trunks/a.yaml: encryption: True is not 'disable', 'allow' or 'require'",
        ),
        (
            {"trunks_a": "direction: inwards"},
            "sip/trunks/a.yaml: direction: 'inwards' is not 'inbound'",
        ),
        ({"trunks_a": "numbers: all"}, "sip/trunks/a.yaml: direction is missing"),
        # YAML reads +1… as a sum
        (
            {"trunks_a": f"{INBOUND}numbers: [{N1}]"},
            "sip/trunks/a.yaml: numbers.0: must stand in quotes, like '+12025550100': "
            "YAML reads it as a sum otherwise",
        ),
        (
            {"trunks_a": f"{INBOUND}numbers: {N1}"},
            "sip/trunks/a.yaml: numbers: 1202•••0101 is not 'all' or a list of numbers in quotes",
        ),
        # the plus is missing, and the number is masked in what is said
        (
            {"trunks_a": f"{INBOUND}numbers: ['{N1[1:]}']"},
            "sip/trunks/a.yaml: numbers.0: '1202•••0101' is not E.164; write + and 7 to 15 digits",
        ),
        (
            {"trunks_a": "direction: inbound\nallow_addresses: [twilio.com]"},
            "sip/trunks/a.yaml: allow_addresses.0: 'twilio.com' is no address; "
            "write 192.0.2.7 or 192.0.2.0/24",
        ),
        (
            {"trunks_a": "direction: inbound"},
            "sip/trunks/a.yaml: needs allow_addresses or auth; anybody could call on it otherwise",
        ),
        (
            {"trunks_a": f"{INBOUND}ringing_timeout_s: 600"},
            "sip/trunks/a.yaml: ringing_timeout_s: input should be less than or equal to 180 (it is 600)",
        ),
        # a secret in the file
        (
            {"trunks_a": OUTBOUND.replace("SIP_PASSWORD", "hunter2")},
            "sip/trunks/a.yaml: auth.password_env: must be the name of an environment variable, "
            "in capitals, and not the secret itself",
        ),
        (
            {"trunks_a": OUTBOUND.replace("password_env", "password")},
            "sip/trunks/a.yaml: auth.password_env is missing; sip/trunks/a.yaml: auth.password is no "
            "field; did you mean password_env? there are password_env, username_env",
        ),
        (
            {"trunks_a": OUTBOUND.replace("carrier.example", "sip:me@carrier.example")},
            "sip/trunks/a.yaml: address: must be a host name or address, like "
            "example.pstn.twilio.com, and no SIP URI",
        ),
        (
            {"trunks_a": "direction: outbound"},
            "sip/trunks/a.yaml: needs either address or address_env",
        ),
        (
            {"trunks_a": f"{INBOUND}headers_to_attributes: {{'X Y': a}}"},
            "sip/trunks/a.yaml: headers_to_attributes.X Y: 'X Y' is no name of a SIP header",
        ),
        # attributes that LiveKit or we ourselves set
        (
            {"rules_main": "attributes: {trunkline.number: x}"},
            "sip/rules/main.yaml: attributes.trunkline.number: 'trunkline.number' is set by LiveKit or "
            "by us; choose another",
        ),
        (
            {"rules_main": "agent: Trunkline!"},
            "sip/rules/main.yaml: agent: 'Trunkline!' must match ^[a-z0-9][a-z0-9-]{0,39}$",
        ),
        # not YAML, not fields, not a name
        ({"trunks_a": "a: [1"}, "sip/trunks/a.yaml: is not YAML in line 1: expected ',' or ']'"),
        ({"trunks_a": "just words"}, "sip/trunks/a.yaml: must hold fields, one 'name: value'"),
        ({"trunks_A b": INBOUND}, "sip/trunks/A b.yaml: name the file with small letters"),
    ],
)
def test_a_mistake_is_one_sentence_with_file_field_and_what_is_allowed(
    tmp_path: Path, written: Mapping[str, str], fault: str
) -> None:
    """Whoever made it can put it right without looking anything up; no secret and no number is repeated."""
    with pytest.raises(Invalid) as raised:
        files.read(folder(tmp_path / "sip", **written))
    assert str(raised.value).startswith(fault)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("written", "fault"),
    [
        (
            {"trunks_a": f"{INBOUND}numbers: ['+4930123456']"},
            "trunks/a.yaml: +493•••3456 leads to no profile; assign it to one, or take it out here",
        ),
        (
            {"trunks_a": INBOUND, "trunks_b": INBOUND},
            "the trunks a and b both say 'numbers: all'; only one may",
        ),
        (
            {
                "trunks_a": f"{INBOUND}numbers: ['{N1}']",
                "trunks_b": f"{INBOUND}numbers: ['{N1}']",
            },
            "the trunks a and b both name +1202•••0101; only one may",
        ),
        (
            {"trunks_a": INBOUND, "rules_main": "numbers: []"},
            "no rule covers +1202•••0101: it would ring for ever",
        ),
        (
            {"trunks_a": INBOUND, "rules_other": "numbers: all"},
            "the rules main and other both say 'numbers: all'; only one may",
        ),
    ],
)
def test_files_that_do_not_fit_together(
    tmp_path: Path, written: Mapping[str, str], fault: str
) -> None:
    """What only shows when files and numbers are joined is told as plainly."""
    with pytest.raises(Invalid) as raised:
        joined(folder(tmp_path / "sip", **written))
    assert str(raised.value) == fault


def test_a_secret_that_is_not_set_is_named(tmp_path: Path) -> None:
    """The variable is named, with the file that asks for it."""
    with pytest.raises(
        Invalid, match=r"^trunks/out\.yaml: SIP_PASSWORD is not set in the environment$"
    ):
        joined(folder(tmp_path, trunks_out=OUTBOUND), environment={"SIP_USER": "us"})


def test_all_faults_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    """Nobody has to run it again to find the next one."""
    with pytest.raises(Invalid) as raised:
        files.read(folder(tmp_path, trunks_a="x: 1", rules_main="y: 2"))
    said = str(raised.value)
    assert all(part in said for part in ("direction is missing", "x is no field", "y is no field"))


def test_without_the_folder_it_says_where_to_run(tmp_path: Path) -> None:
    """Run from the wrong place, the likeliest mistake of all."""
    with pytest.raises(Invalid, match="there is no folder"):
        files.read(tmp_path / "sip")
