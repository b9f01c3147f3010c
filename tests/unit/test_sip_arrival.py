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


CALLER = "+12025550134"
ID = "sip:+12025550134@carrier.example"


@pytest.mark.parametrize(
    ("attributes", "level"),
    [
        ({}, None),
        ({"trunkline.attestation": "TN-Validation-Passed-A"}, "A"),
        ({"trunkline.attestation": "TN-Validation-Passed-B"}, "B"),
        ({"trunkline.attestation": "TN-Validation-Failed"}, None),
        ({"trunkline.attestation": "TN-Validation-Failed-A"}, None),
        ({"trunkline.attestation": "No-TN-Validation"}, None),
        ({"trunkline.attestation": "tn-validation-passed-a or so"}, None),
        # Telnyx: no level is A, and the parameter may belong to the address or to the header.
        ({"trunkline.asserted_identity": f"<{ID};verstat=TN-Validation-Passed>"}, "A"),
        ({"trunkline.asserted_identity": f'"Dana" <{ID}>;verstat=TN-Validation-Passed-B'}, "B"),
        (
            {"trunkline.asserted_identity": f"Dana <{ID};user=phone;Verstat=TN-Validation-Passed>"},
            "A",
        ),
        ({"trunkline.asserted_identity": "<tel:+12025550134;verstat=TN-Validation-Passed-C>"}, "C"),
        ({"trunkline.asserted_identity": "<sip:12025550134@c;verstat=TN-Validation-Passed>"}, "A"),
        # In the user part, as RFC 3966 has parameters of a number.
        ({"trunkline.asserted_identity": "<sip:+12025550134;verstat=TN-Validation-Passed@c>"}, "A"),
        # Another number is vouched for than the one that is calling.
        (
            {"trunkline.asserted_identity": "<sip:+12025550145@c;verstat=TN-Validation-Passed>"},
            None,
        ),
        # What the caller chooses, the display name, looks like a verdict or like an address.
        ({"trunkline.asserted_identity": f'"verstat=TN-Validation-Passed" <{ID}>'}, None),
        ({"trunkline.asserted_identity": f'";verstat=TN-Validation-Passed" <{ID}>'}, None),
        ({"trunkline.asserted_identity": f";verstat=TN-Validation-Passed <{ID}>"}, None),
        (
            {"trunkline.asserted_identity": f'"<{ID};verstat=TN-Validation-Passed>" <sip:+1202@c>'},
            None,
        ),
        (
            {"trunkline.asserted_identity": f'"a\\" <{ID};verstat=TN-Validation-Passed>" <{ID}>'},
            None,
        ),
        ({"trunkline.asserted_identity": f'"a <{ID};verstat=TN-Validation-Passed>;b'}, None),
        ({"trunkline.asserted_identity": f"<{ID};verstat=TN-Validation-Passed> <{ID}>"}, None),
        (
            {"trunkline.asserted_identity": f"<{ID};verstat=TN-Validation-Passed>;" + "x" * 2000},
            None,
        ),
        # Two verdicts that differ are none.
        (
            {
                "trunkline.asserted_identity": f"<{ID};verstat=No-TN-Validation>;verstat=TN-Validation-Passed"
            },
            None,
        ),
        ({"sip.h.x-twilio-verstat": "TN-Validation-Passed-A"}, None),  # only what a trunk maps
    ],
)
def test_how_far_the_carrier_vouches(attributes: dict[str, str], level: str | None) -> None:
    """The carrier's verdict counts where the carrier writes it, and for the number that calls."""
    assert from_sip("call_1", "sip_x", {**FULL, **attributes}).attestation == level


def test_nobody_vouches_for_a_hidden_number() -> None:
    """Without a number there is nothing to vouch for; nor on a call that we place ourselves."""
    told = {"trunkline.attestation": "TN-Validation-Passed-A"}
    assert from_sip("c", "i", {**without("sip.phoneNumber"), **told}).attestation is None
    ours = without("sip.ruleID", "trunkline.number")
    assert from_sip("c", "i", {**ours, **told}).attestation is None
