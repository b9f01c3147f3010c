"""What must change in LiveKit, and the way of a call through what it holds: pure tables."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from trunkline.kit.livekit import Kind, Stored, canonical
from trunkline.trunks.plan import Plan, Wanted, body_for, make_plan, mark, with_ids
from trunkline.trunks.route import follow

N1, N2, N3 = "+12025550101", "+12025550102", "+12025550103"
CALLER = "+12025550134"


def trunk(name: str, *numbers: str, **fields: Any) -> Wanted:
    return Wanted("inbound", name, canonical("inbound", {"numbers": list(numbers), **fields}))


def rule(number: str, on: str, **fields: Any) -> Wanted:
    body = {
        "rule": {"dispatch_rule_callee": {"room_prefix": "call", "randomize": True}},
        "trunk_ids": [on],
        "numbers": [number],
        "attributes": {"trunkline.number": number},
        "room_config": {"agents": [{"agent_name": "trunkline"}]},
    }
    return Wanted("rule", number, canonical("rule", {**body, **fields}))


def outbound(name: str, address: str) -> Wanted:
    body = {"numbers": [N1], "address": address, "auth_username": "us", "auth_password": "hunter2"}
    return Wanted("outbound", name, canonical("outbound", body))


def theirs(kind: Kind, id: str, body: Mapping[str, Any]) -> Stored:
    return Stored(kind, id, canonical(kind, body))


class Server:
    """LiveKit's store: it refuses what the real one refuses (livekit/protocol ValidateTrunksIter and
    DispatchRuleValidator), so that a plan whose order is wrong fails here."""

    def __init__(self, *stored: Stored) -> None:
        self.stored = {one.id: one for one in stored}
        self.made = 0

    def run(self, plan: Plan, *, cut_after: int | None = None) -> None:
        ids = dict(plan.ids)
        for step in plan.steps[:cut_after]:
            body = with_ids(step.body, ids)
            if step.action == "delete":
                assert step.id is not None
                del self.stored[step.id]
                continue
            self.made += 1
            id = step.id or f"{'SDR' if step.kind == 'rule' else 'ST'}_{self.made}"
            self.stored[id] = Stored(step.kind, id, canonical(step.kind, body))
            if step.kind != "rule":
                ids[step.name] = id
            self._check()

    def _check(self) -> None:
        taken: dict[Any, str] = {}
        for one in self.stored.values():
            if one.kind == "inbound":
                assert one.body.get("numbers"), "it would take every call"
                keys: list[Any] = [("trunk", number) for number in one.body["numbers"]]
            elif one.kind == "rule":
                numbers, trunks = one.body.get("numbers", [""]), one.body.get("trunk_ids", [""])
                keys = [("rule", id, number) for id in trunks for number in numbers]
            else:
                keys = []
            for key in keys:
                assert taken.setdefault(key, one.id) == one.id, f"{key} is on two"


def holding(*wanted: Wanted) -> Server:
    """A server to which *wanted* was applied."""
    server = Server()
    server.run(make_plan(wanted, []))
    return server


def steps(wanted: Sequence[Wanted], server: Server) -> list[tuple[str, str, str]]:
    plan = make_plan(wanted, list(server.stored.values()))
    return [(step.action, step.kind, step.name) for step in plan.steps]


BASE = (trunk("twilio", N1, N2), rule(N1, "twilio"), rule(N2, "twilio"))


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        # on a fresh server everything is made, trunks before the rules that name them
        (
            (),
            BASE,
            [("create", "inbound", "twilio"), ("create", "rule", N1), ("create", "rule", N2)],
        ),
        # what is there already needs nothing
        (BASE, BASE, []),
        # a field that differs is one update
        (
            BASE,
            (trunk("twilio", N1, N2, ringing_timeout="30s"), *BASE[1:]),
            [("update", "inbound", "twilio")],
        ),
        # a number that left our table loses its rule before its trunk
        (
            BASE,
            (trunk("twilio", N1), rule(N1, "twilio")),
            [("delete", "rule", N2), ("update", "inbound", "twilio")],
        ),
        # a trunk whose file is gone goes last
        (
            (*BASE, outbound("out", "a.example")),
            BASE,
            [("delete", "outbound", "out")],
        ),
        # a number that moves leaves its old trunk first: LiveKit refuses it on two
        (
            BASE,
            (trunk("twilio", N1), trunk("telnyx", N2), rule(N1, "twilio"), rule(N2, "telnyx")),
            [
                ("update", "inbound", "twilio"),
                ("create", "inbound", "telnyx"),
                ("update", "rule", N2),
            ],
        ),
        # two trunks that swap all their numbers: one without numbers would take every call, so anew
        (
            (trunk("a", N1), trunk("b", N2), rule(N1, "a"), rule(N2, "b")),
            (trunk("a", N2), trunk("b", N1), rule(N2, "a"), rule(N1, "b")),
            [
                ("delete", "inbound", "a"),
                ("delete", "inbound", "b"),
                ("create", "inbound", "a"),
                ("create", "inbound", "b"),
                ("update", "rule", N2),
                ("update", "rule", N1),
            ],
        ),
        # a trunk file that was renamed: its numbers move to a trunk that is not there yet
        (
            (trunk("old", N1), rule(N1, "old")),
            (trunk("new", N1), rule(N1, "new")),
            [("delete", "inbound", "old"), ("create", "inbound", "new"), ("update", "rule", N1)],
        ),
        # one trunk gives a number and gets another: reduced first, complete after
        (
            (trunk("a", N1, N2), trunk("b", N3)),
            (trunk("a", N1, N3), trunk("b", N2)),
            [
                ("update", "inbound", "a"),
                ("delete", "inbound", "b"),
                ("update", "inbound", "a"),
                ("create", "inbound", "b"),
            ],
        ),
    ],
)
def test_what_has_to_be_done(
    before: Sequence[Wanted], after: Sequence[Wanted], expected: list[tuple[str, str, str]]
) -> None:
    """The steps bring the server from one state to the other, each allowed by itself; then none is left."""
    server = holding(*before)
    plan = make_plan(after, list(server.stored.values()))
    assert [(step.action, step.kind, step.name) for step in plan.steps] == expected
    server.run(plan)
    assert steps(after, server) == []


@pytest.mark.parametrize("cut_after", range(7))
def test_an_apply_that_was_cut_short_is_finished_by_the_next(cut_after: int) -> None:
    """After any number of steps the next plan holds the rest, and what is then there is the same."""
    before = (
        trunk("a", N1),
        trunk("b", N2),
        rule(N1, "a"),
        rule(N2, "b"),
        outbound("o", "x.example"),
    )
    after = (trunk("a", N2), trunk("b", N1, N3), rule(N2, "a"), rule(N1, "b"), rule(N3, "b"))
    server = holding(*before)
    server.run(make_plan(after, list(server.stored.values())), cut_after=cut_after)
    server.run(make_plan(after, list(server.stored.values())))
    assert steps(after, server) == []
    assert len(server.stored) == len(after)


def test_drift_made_by_hand_is_seen_field_by_field_and_undone() -> None:
    """A changed, added or removed field, also one no file knows, is told with what is and what should be."""
    server = holding(*BASE)
    (id,) = (one.id for one in server.stored.values() if one.kind == "inbound")
    changed = {**server.stored[id].body, "numbers": [N1], "auth_realm": "x", "krisp_enabled": True}
    server.stored[id] = theirs("inbound", id, changed)
    (step,) = make_plan(BASE, list(server.stored.values())).steps
    assert [(d.field, d.have, d.want) for d in step.differences] == [
        ("auth_realm", "x", None),
        ("krisp_enabled", True, None),
        ("numbers", [N1], [N1, N2]),
    ]
    server.run(make_plan(BASE, list(server.stored.values())))
    assert steps(BASE, server) == []


def test_the_same_said_in_another_way_is_no_drift() -> None:
    """Order of numbers, LiveKit's deprecated field for encryption, and its own ids and times don't count."""
    want = trunk("t", N1, N2, media={"encryption": "SIP_MEDIA_ENCRYPT_ALLOW"})
    body: dict[str, Any] = {**body_for(want), "numbers": [N2, N1]}
    del body["media"]
    body |= {"media_encryption": "SIP_MEDIA_ENCRYPT_ALLOW", "sip_trunk_id": "ST_1"}
    body |= {"created_at": "2026-01-15T09:30:00Z"}
    assert make_plan([want], [theirs("inbound", "ST_1", body)]).steps == ()


def test_other_peoples_trunks_and_rules_are_never_in_a_step() -> None:
    """Without our mark it is not ours, whatever its name or metadata look like."""
    foreign = [
        theirs("inbound", "ST_x", {"name": "trunkline twilio", "numbers": ["+4930123456"]}),
        theirs("inbound", "ST_y", {"metadata": "not json", "numbers": ["+4930123457"]}),
        theirs("outbound", "ST_z", {"metadata": '{"managed_by": "terraform"}', "numbers": [N1]}),
        theirs("rule", "SDR_x", {"metadata": "[]", "rule": {"dispatch_rule_direct": {}}}),
    ]
    plan = make_plan(BASE, foreign)
    assert {step.id for step in plan.steps} == {None}
    assert plan.foreign == tuple(foreign)
    assert plan.conflicts == ()


def test_a_number_on_somebody_elses_trunk_is_a_conflict() -> None:
    """LiveKit would refuse ours, so it is told by name, and written with or without + is the same number."""
    plan = make_plan(
        BASE, [theirs("inbound", "ST_x", {"name": "old line", "numbers": [N1[1:], "+4930123456"]})]
    )
    assert plan.conflicts == (
        f"{N1} is also on the trunk ST_x (old line), which is not ours; take it off there",
    )


def test_a_rule_of_somebody_elses_for_our_number_on_our_trunk_is_a_conflict() -> None:
    """On another trunk it is none."""
    server = holding(*BASE)
    (id,) = (one.id for one in server.stored.values() if one.kind == "inbound")
    rules = [
        theirs("rule", name, {**rule(N1, on).body, "name": "x"})
        for name, on in (("SDR_x", id), ("SDR_y", "ST_other"))
    ]
    plan = make_plan(BASE, [*server.stored.values(), *rules])
    assert [conflict.split(" (")[0] for conflict in plan.conflicts] == [
        f"{N1} on our trunk is taken by the rule SDR_x"
    ]


def test_a_second_copy_of_ours_goes() -> None:
    """Two applies at once may both have made the outbound trunk; one is kept."""
    want = outbound("out", "a.example")
    copies = [theirs("outbound", id, body_for(want)) for id in ("ST_1", "ST_2")]
    (step,) = make_plan([want], copies).steps
    assert (step.action, step.id, step.why) == ("delete", "ST_2", "a second copy")


def test_a_password_that_differs_is_told_without_either() -> None:
    """Drift of a secret is seen and repaired; its values are in no difference."""
    want = outbound("out", "a.example")
    have = theirs("outbound", "ST_1", {**body_for(want), "auth_password": "swordfish"})
    (step,) = make_plan([want], [have]).steps
    assert "swordfish" not in repr(step)
    assert "hunter2" not in repr(step)
    assert [difference.field for difference in step.differences] == ["auth_password"]
    assert step.body["auth_password"] == "hunter2"


# --- the way of a call ----------------------------------------------------------------------------


def stored(*wanted: Wanted) -> list[Stored]:
    """As if applied: a trunk's id is its name."""
    return [Stored(want.kind, want.name, body_for(want)) for want in wanted]


def test_a_call_that_is_taken() -> None:
    """Trunk, rule and agent are named, and the number by which the profile is found."""
    way = follow(N1, CALLER, stored(*BASE))
    assert [(finding.part, finding.ok) for finding in way.findings] == [
        ("trunk", True),
        ("rule", True),
        ("agent", True),
    ]
    assert (way.agent, way.number) == ("trunkline", N1)


NO_AGENT = rule(N1, "t", room_config={})
PIN = rule(N1, "t", rule={"dispatch_rule_direct": {"room_name": "lobby", "pin": "1234"}})


@pytest.mark.parametrize(
    ("dialled", "have", "part", "says"),
    [
        # nothing lists it
        (N3, BASE, "trunk", f"no trunk lists {N3}"),
        # the country code is missing at one side: + added, but still another number
        (N1[2:], BASE, "trunk", "the same number but for its country code"),
        # the carrier leaves the + out: the trunk does not mind, the rule does
        (N1[1:], BASE, "rule", "letter by letter, and the + differs"),
        # the rule was made by hand without the +
        (
            N1,
            (trunk("t", N1), rule(N1, "t", numbers=[N1[1:]])),
            "rule",
            "set dialled_as in the trunk's file (+e164)",
        ),
        # rule for another trunk
        (
            N1,
            (trunk("t", N1), trunk("u", N2), rule(N1, "u")),
            "rule",
            "is for another trunk (u), the call comes in on t",
        ),
        # rule for a trunk that was made anew by hand
        (N1, (trunk("t", N1), rule(N1, "ST_gone")), "rule", "ST_gone, which is gone"),
        # no rule at all
        (N1, (trunk("t", N1),), "rule", f"no rule takes {N1} on t"),
        # two trunks take it: LiveKit takes neither
        (N1, (trunk("t", N1), trunk("u", N1), rule(N1, "t")), "trunk", "2 trunks take this call"),
        # the trunk lets only others call
        (N1, (trunk("t", N1, allowed_numbers=[N2]), rule(N1, "t")), "trunk", "not let this caller"),
        # the rule lets only others call
        (N1, (trunk("t", N1), rule(N1, "t", inbound_numbers=[N2])), "rule", "not let this caller"),
        # a rule without an agent
        (N1, (trunk("t", N1), NO_AGENT), "agent", "sends for no agent"),
        # a rule with a PIN
        (N1, (trunk("t", N1), PIN), "rule", "asks the caller for a PIN"),
    ],
)
def test_why_a_call_would_not_be_taken(
    dialled: str, have: Sequence[Wanted], part: str, says: str
) -> None:
    """The first thing that stops it is named, in words, and nothing after it is looked at."""
    way = follow(dialled, CALLER, stored(*have))
    assert way.agent is None
    assert [finding.ok for finding in way.findings[:-1]] == [True] * (len(way.findings) - 1)
    last = way.findings[-1]
    assert (last.part, last.ok) == (part, False)
    assert says in last.says


def test_a_rule_for_any_trunk_takes_what_no_other_takes() -> None:
    """Somebody's catch-all takes a call of a number that no trunk lists, and is told to be not ours."""
    anything = {
        "rule": {"dispatch_rule_individual": {}},
        "room_config": {"agents": [{"agent_name": "x"}]},
    }
    other = theirs("rule", "SDR_x", anything)
    way = follow(N3, None, [*stored(*BASE), other])
    assert (way.agent, way.number) == ("x", N3)
    assert "not ours" in way.findings[1].says


@pytest.mark.parametrize(
    ("theirs_has", "taken_by"),
    [
        ({"trunk_ids": ["twilio"], "rule": {"dispatch_rule_direct": {"room_name": "r"}}}, "ours"),
        ({"rule": {"dispatch_rule_direct": {"room_name": "r"}}}, "ours"),  # any trunk: ours first
        (  # as particular as ours, and a direct rule comes before
            {
                "trunk_ids": ["twilio"],
                "inbound_numbers": [CALLER],
                "rule": {"dispatch_rule_direct": {"room_name": "r"}},
            },
            "theirs",
        ),
    ],
)
def test_which_of_two_rules_takes_it(theirs_has: dict[str, Any], taken_by: str) -> None:
    """The more particular one, then direct before individual before callee, as LiveKit ranks them."""
    body = {**theirs_has, "room_config": {"agents": [{"agent_name": "theirs"}]}}
    way = follow(N1, CALLER, [*stored(*BASE), theirs("rule", "SDR_x", body)])
    assert way.agent == ("trunkline" if taken_by == "ours" else "theirs")


def test_the_mark_is_what_makes_it_ours() -> None:
    """The mark names the file or number, so that a renamed trunk in LiveKit is still the same."""
    want = outbound("out", "a.example")
    have = theirs("outbound", "ST_1", {**body_for(want), "name": "renamed by hand"})
    (step,) = make_plan([want], [have]).steps
    assert [(d.field, d.want) for d in step.differences] == [("name", "trunkline out (outbound)")]
    assert have.body["metadata"] == mark("out")
