"""The commands on profiles, numbers and blocked callers, as a newcomer uses them."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trunkline.cli.main import run

Command = Callable[..., tuple[int, str, str]]

NUMBER = "+12025550100"


@pytest.fixture
def trunkline(
    sqlite_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> Command:
    """Run one command on a fresh database: exit code, standard output, standard error."""
    monkeypatch.setenv("TRUNKLINE_DATABASE_URL", sqlite_url)
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> tuple[int, str, str]:
        code = run(arguments)
        out, err = capsys.readouterr()
        return code, out, err

    return command


def test_from_the_example_to_a_number(trunkline: Command, tmp_path: Path) -> None:
    """The first file that a newcomer is given becomes a profile that answers a number."""
    file = tmp_path / "desk.yaml"
    file.write_text(trunkline("profile", "example")[1])
    code, out, err = trunkline("profile", "publish", "Front desk", str(file))
    assert (code, out) == (0, "")
    assert "Version 1 of 'Front desk' answers from now on." in err
    assert 'Next: trunkline number set +12025550100 --profile "Front desk"' in err
    code, out, err = trunkline(
        "number", "set", "+1 202 555 0100", "--profile", "Front desk", "--timezone", "Europe/Berlin"
    )
    assert (code, out) == (0, "")
    assert "'Front desk' answers +12025550100." in err
    assert "Next: trunkline sip apply" in err
    assert json.loads(trunkline("number", "list", "--json")[1]) == {
        "numbers": [
            {
                "number": NUMBER,
                "profile": "Front desk",
                "region": "US",
                "timezone": "Europe/Berlin",
                "label": None,
            }
        ]
    }
    assert "+12025550100  Front desk  US, Europe/Berlin" in trunkline("number", "list")[1]
    shown = json.loads(trunkline("profile", "show", "Front desk", "--json")[1])
    assert (shown["version"], shown["numbers"]) == (1, [NUMBER])
    assert trunkline("profile", "list")[1] == "Front desk  version 1, 1 number\n"


def test_a_change_is_shown_field_by_field(
    trunkline: Command, tmp_path: Path, monkeypatch: Any
) -> None:
    """A dry run changes nothing; what is exported publishes to the same."""
    file = tmp_path / "desk.yaml"
    file.write_text(trunkline("profile", "example")[1])
    trunkline("profile", "publish", "Desk", str(file))
    file.write_text(file.read_text().replace('closes: "17:30"', "closes: 18:00"))
    changed = 'hours.0.closes: "17:30" → "18:00"\n'
    code, out, err = trunkline("profile", "publish", "Desk", str(file), "--dry-run")
    assert (code, out) == (0, changed)
    assert "would be version 2" in err
    code, out, err = trunkline("profile", "publish", "Desk", str(file))
    assert (code, out) == (0, changed)
    assert "Version 2 of 'Desk'" in err
    exported = trunkline("profile", "export", "Desk")[1]
    monkeypatch.setattr("sys.stdin", io.StringIO(exported))
    code, out, err = trunkline("profile", "publish", "Desk", "-", "--json")
    assert code == 0
    assert json.loads(out) == {
        "name": "Desk",
        "version": 2,
        "created": False,
        "published": False,
        "changes": [],
    }
    assert "says so already" in err


def test_every_fault_of_a_file_is_named(trunkline: Command, tmp_path: Path) -> None:
    """One sentence lists all that is wrong, with the path of each; nothing is published."""
    file = tmp_path / "desk.yaml"
    text = trunkline("profile", "example")[1]
    file.write_text(
        text.replace("record: false", "record: maybe\ncolour: red") + "after_hours: x\n"
    )
    code, _, err = trunkline("profile", "publish", "Desk", str(file))
    assert code == 2
    assert "after_hours is there already" in err
    file.write_text(text.replace("record: false", "record: maybe\ncolour: red"))
    code, _, err = trunkline("profile", "publish", "Desk", str(file))
    assert code == 2
    assert "record: input should be a valid boolean" in err
    assert "colour is not a field of a profile" in err
    assert trunkline("profile", "publish", "Desk", str(tmp_path / "none.yaml"))[0] == 2
    code, _, err = trunkline("profile", "show", "Desk")
    assert (code, "there is no profile 'Desk'; there are: none yet" in err) == (1, True)
    assert "Begin with: trunkline profile example" in trunkline("profile", "list")[2]


def test_a_number_moves_and_goes(trunkline: Command, tmp_path: Path) -> None:
    """A number that another profile answered is told to move; without a profile it is refused."""
    file = tmp_path / "desk.yaml"
    file.write_text(trunkline("profile", "example")[1])
    for name in ("Day", "Night"):
        trunkline("profile", "publish", name, str(file))
    trunkline("number", "set", NUMBER, "--profile", "Day", "--label", "Main line")
    err = trunkline("number", "set", NUMBER, "--profile", "Night")[2]
    assert "+12025550100 moves from 'Day' to 'Night'." in err
    assert "Main line" in trunkline("number", "list")[1]
    code, _, err = trunkline("number", "set", NUMBER, "--profile", "Nihgt")
    assert (code, "there are: 'Day', 'Night'" in err) == (1, True)
    code, _, err = trunkline("number", "set", "5550100", "--profile", "Day")
    assert (code, "country code" in err) == (2, True)
    code, _, err = trunkline("number", "remove", NUMBER)
    assert (code, "trunkline sip apply" in err) == (0, True)
    code, _, err = trunkline("number", "remove", NUMBER)
    assert (code, "is no number of ours" in err, NUMBER in err) == (1, True, False)
    assert "No numbers yet" in trunkline("number", "list")[2]


def test_callers_are_blocked_and_put_through(trunkline: Command) -> None:
    """A pattern is added, changed, listed and taken away, as it is written or by its id."""
    err = trunkline("block", "add", "+44 90*", "--reason", "advertising")[2]
    assert "Blocked: +4490* (reject)." in err
    err = trunkline("block", "add", "+4490*", "--action", "message", "--days", "3")[2]
    assert "Was blocked already, and is now: +4490* (message) until 20" in err
    (row,) = json.loads(trunkline("block", "list", "--json")[1])["blocked_callers"]
    assert (row["caller"], row["action"], row["reason"]) == ("+4490*", "message", None)
    assert trunkline("block", "list")[1].startswith("+4490*  message  until 20")
    assert trunkline("block", "remove", "+44 90*")[0] == 0
    code, _, err = trunkline("block", "remove", row["id"])
    assert (code, "no blocked caller" in err) == (1, True)
    code, _, err = trunkline("block", "add", "everybody")
    assert (code, "like +4490*" in err) == (2, True)
    assert "Nobody is blocked." in trunkline("block", "list")[2]
