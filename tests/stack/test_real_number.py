"""The README's "A real number in ten minutes" is true: its commands run in order and print what it shows.

Docker and the carriers are not here: their commands are known by name and left out. What `provision`
prints is held against the README in tests/wire/test_provision.py.
"""

import asyncio
import os
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.stack.conftest import House

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE = ("docker ", "alias ", "trunkline provision ")


def steps() -> dict[str, tuple[list[str], list[str]]]:
    """Step → its commands and the lines it shows."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.split("## A real number in ten minutes\n")[1].split("\n## ")[0]
    parts = re.split(r"^\*\*(\d\w?)\. ", section, flags=re.MULTILINE)[1:]
    return {
        number: (_blocks(text, "sh"), _blocks(text, "text"))
        for number, text in zip(parts[::2], parts[1::2], strict=True)
    }


def _blocks(text: str, language: str) -> list[str]:
    found = re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)
    return [line for block in found for line in block.splitlines()]


def pattern(shown: str) -> str:
    """A line of the README as a pattern: … stands for anything."""
    return ".*".join(re.escape(part) for part in shown.split("…"))


async def told(house: "House", command: str) -> str:
    """Run one line of a shell as a person would, in the checkout's copy."""
    (house.folder / "bin").mkdir(exist_ok=True)
    program = house.folder / "bin" / "trunkline"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m trunkline "$@"\n')
    program.chmod(0o755)
    process = await asyncio.create_subprocess_shell(
        command,
        cwd=house.folder,
        env={**house.environment, "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 120)
    text = out.decode()
    # Doctor finds this machine's SIP host wrong, which it is.
    assert process.returncode == 0 or command == "trunkline doctor", f"{command}\n{text}"
    settings = house.settings
    assert settings.livekit_url is not None
    text = text.replace(settings.livekit_url, "ws://127.0.0.1:7880")
    return text.replace(f":{settings.trunkline_port}", ":8420")


def test_the_section_is_read_as_it_is_written() -> None:
    """Eight steps, the fourth for each carrier; every one but the last has a command."""
    found = steps()
    assert list(found) == ["1", "2", "3", "4a", "4b", "5", "6", "7", "8"]
    assert [number for number, (commands, _) in found.items() if not commands] == ["8"]


@pytest.mark.parametrize(("carrier", "left_out"), [("twilio", "4b"), ("telnyx", "4a")])
async def test_each_command_prints_what_is_shown(
    whole_house: "House", carrier: str, left_out: str
) -> None:
    """From the settings to the doctor, for each carrier; LiveKit and the providers are this machine's."""
    shutil.copytree(ROOT / "infra", whole_house.folder / "infra")
    for number, (commands, shown) in steps().items():
        if number == left_out:
            continue
        inside = [line for line in commands if not line.startswith(OUTSIDE)]
        printed = "".join([await told(whole_house, command) for command in inside])
        if not inside or number == "4b":
            continue
        for line in shown:
            wanted = pattern(line.replace("twilio", carrier))
            assert re.search(f"^{wanted}", printed, re.MULTILINE), (line, printed)
