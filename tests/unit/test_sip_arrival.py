"""SIP attributes become an arrival, whatever a carrier puts into them."""

from typing import Any

import pytest

from trunkline.agent.arrival import Arrival, from_sip
from trunkline.desk.sip import is_complete

FULL = {
    "sip.callID": "SCL_1",
    "sip.callIDFull": "3848276298220188511@atlanta.example.com",
    "sip.callTag": "9fxced76sl",
    "sip.phoneNumber": "+12025550134",
    "sip.trunkPhoneNumber": "+12025550100",
    "sip.trunkID": "ST_1",
    "sip.ruleID": "SDR_1",
    "sip.hostname": "sip.example.com",
    "sip.callStatus": "ringing",
    "trunkline.number": "+12025550100",
}


def without(*names: str) -> dict[str, str]:
    return {name: value for name, value in FULL.items() if name not in names}


@pytest.mark.parametrize(
    ("attributes", "differs"),
    [
        (FULL, {}),
        # An older rule without our attribute: the trunk's own number is as good.
        (without("trunkline.number"), {}),
        # hide_phone_number: livekit-sip leaves out both numbers, the rule still says ours.
        (without("sip.phoneNumber", "sip.trunkPhoneNumber"), {"from_raw": None}),
        ({**FULL, "sip.phoneNumber": "   "}, {"from_raw": None}),
        # A carrier that dials another spelling than the rule: the rule wins, it is ours.
        ({**FULL, "sip.trunkPhoneNumber": "12025550100"}, {}),
        # No number at all is no reason to fail; nobody's number was dialled then.
        ({}, {"from_raw": None, "to_raw": "", "sip_call_id": None, "sip_trunk_id": None}),
        (
            {**FULL, "sip.phoneNumber": "'; DROP TABLE calls; --"},
            {"from_raw": "'; DROP TABLE calls; --"},
        ),
        ({**FULL, "sip.phoneNumber": "Zoë ☎ +1\x00202\r\n"}, {"from_raw": "Zoë ☎ +1202"}),
        ({**FULL, "sip.phoneNumber": "9" * 65536}, {"from_raw": "9" * 200}),
        ({**FULL, "sip.trunkID": "S" * 500}, {"sip_trunk_id": "S" * 60}),
        ({**FULL, "sip.h.x-junk": "x" * 65536}, {}),
    ],
)
def test_what_the_attributes_tell(attributes: dict[str, str], differs: dict[str, Any]) -> None:
    """Every form of attributes gives an arrival; what is missing is not known."""
    expected = {
        "room": "call_1",
        "channel": "sip",
        "from_raw": "+12025550134",
        "to_raw": "+12025550100",
        "participant": "sip_+12025550134",
        "sip_call_id": "SCL_1",
        "sip_trunk_id": "ST_1",
    }
    found = from_sip("call_1", "sip_+12025550134", attributes)
    assert found == Arrival(**{**expected, **differs})


def test_a_call_that_we_placed() -> None:
    """Without a rule it was dialled by us: the trunk's number calls the other one."""
    found = from_sip("call_1", "callee", without("sip.ruleID", "trunkline.number"))
    assert (found.direction, found.from_raw, found.to_raw) == (
        "outbound",
        "+12025550100",
        "+12025550134",
    )


@pytest.mark.parametrize(
    ("attributes", "complete"),
    [
        (FULL, True),
        (without("sip.phoneNumber", "sip.trunkPhoneNumber"), True),  # hidden: never comes
        (without("trunkline.number"), True),
        (without("trunkline.number", "sip.trunkPhoneNumber"), False),  # headers come a moment later
        (without("sip.callID"), False),
        ({}, False),
        ({**FULL, "trunkline.number": "", "sip.trunkPhoneNumber": ""}, False),
    ],
)
def test_whether_to_wait_for_more(attributes: dict[str, str], complete: bool) -> None:
    """Attributes are complete once they say whose number was dialled and which call it is."""
    assert is_complete(attributes) is complete
