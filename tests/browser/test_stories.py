"""What people come to the pages for, from the login to the end: an integrator, a viewer, somebody without a
mouse and somebody without scripts."""

import asyncio
import re
from typing import TYPE_CHECKING

from playwright.async_api import Browser, Locator, Page, expect

from trunkline.crm import queries as crm
from trunkline.sandbox.receiver import Answer, Receiver
from trunkline.webhooks import queries as webhooks
from trunkline.webhooks.retry import SCHEDULE

if TYPE_CHECKING:
    from tests.browser.conftest import House, Screens

ATTEMPTS = len(SCHEDULE) + 1


async def reloaded_until(page: Page, shown: Locator) -> None:
    """Load the page anew, as its own words advise, until *shown* is there: a courier is at work."""
    async with asyncio.timeout(60):
        while not await shown.count():
            await page.reload()


async def test_an_integrator_mends_a_broken_receiver(
    chromium: Browser, house: "House", screens: "Screens"
) -> None:
    """An endpoint is made and its secret shown once; a test arrives and verifies; the receiver breaks, first
    with bad answers, then altogether, and each attempt says why; once it is mended, one delivery is sent
    again from its page and the rest is recovered, and both arrive under the ids they had."""
    context, page = await house.enter(chromium, "integrator")
    async with Receiver() as receiver:
        port = receiver.port
        await page.get_by_role("link", name="Webhooks", exact=True).click()
        await page.get_by_role("link", name="New endpoint").first.click()
        await page.get_by_label("Address").fill(receiver.url)
        await page.get_by_label("Description").fill("My CRM sync")
        await page.get_by_label("Send a test at once").uncheck()
        await page.get_by_role("button", name="Make the endpoint").click()
        shown = page.get_by_role("status").filter(has_text="The signing secret")
        secret = (await shown.locator("code.command").inner_text()).strip()
        assert secret.startswith("whsec_")
        await screens.take(page, "story-integrator-1-secret")
        endpoint = (await page.get_by_role("region", name="Endpoint").inner_text()).split()
        (endpoint_id,) = [word for word in endpoint if word.startswith("whk_")]
        await page.goto(f"/webhooks/{endpoint_id}")
        assert secret not in await page.content()

        receiver.secret = secret
        await page.get_by_role("button", name="Send a test").click()
        (test,) = await receiver.until(lambda got: len(got) == 1)
        assert (test.type, test.verified) == ("endpoint.test", True)
        latest = page.get_by_role("region", name="Latest deliveries")
        tested = latest.get_by_role("row").filter(has_text="endpoint.test")
        await reloaded_until(page, tested.filter(has_text="Delivered · 200"))

        receiver.answer(
            Answer(503, body=b"the database is away"),
            Answer(302, {"location": "http://169.254.169.254/latest"}),
            *[500] * (ATTEMPTS - 2),
        )
        await page.get_by_label("Event", exact=True).first.select_option("call.ended")
        await page.get_by_role("button", name="Send its sample").click()
        bad = latest.get_by_role("row").filter(has_text="call.ended")
        await reloaded_until(page, bad.filter(has_text="Failed"))
        assert len(receiver.received) == 1 + ATTEMPTS

    # Nobody listens any more.
    await page.get_by_label("Event", exact=True).first.select_option("deal.updated")
    await page.get_by_role("button", name="Send its sample").click()
    refused = latest.get_by_role("row").filter(has_text="deal.updated")
    await reloaded_until(page, refused.filter(has_text="Failed"))
    await expect(page.get_by_text("Failing since")).to_be_visible()
    await screens.take(page, "story-integrator-2-broken")
    await refused.get_by_role("link").click()
    await expect(page.get_by_role("heading", name=f"Attempt {ATTEMPTS}")).to_be_visible()
    attempts = page.locator("section", has=page.get_by_role("heading", name="Attempt"))
    await expect(attempts).to_have_count(ATTEMPTS)
    await expect(attempts.first).to_contain_text("No answer")
    await expect(attempts.first).to_contain_text("Nothing came back.")
    await expect(attempts.first.locator(".alert")).to_have_text(re.compile(r"connect", re.I))
    await page.go_back()
    await bad.get_by_role("link").click()
    first = page.locator("section", has=page.get_by_role("heading", name="Attempt 1", exact=True))
    await expect(first).to_contain_text("503")
    await expect(first).to_contain_text("the database is away")
    await expect(first).to_contain_text(f"webhook-id: {await _event_id(page)}")
    second = page.locator("section", has=page.get_by_role("heading", name="Attempt 2"))
    await expect(second).to_contain_text("302")
    await expect(second.locator(".alert")).to_contain_text("redirect")
    await screens.take(page, "story-integrator-3-attempts")

    async with Receiver(secret=secret, port=port) as mended:
        event_id = await _event_id(page)
        await page.get_by_role("button", name="Send again now").click()
        await expect(page.get_by_role("status").filter(has_text="Sent again")).to_be_visible()
        (again,) = await mended.until(lambda got: len(got) == 1)
        assert (again.type, again.event_id, again.verified) == ("call.ended", event_id, True)
        await reloaded_until(
            page, page.get_by_role("heading", name=f"Attempt {ATTEMPTS + 1}", exact=True)
        )
        await page.goto(f"/webhooks/{endpoint_id}")
        await page.get_by_role("button", name="Recover").click()
        await expect(page.get_by_text("1 delivery is being sent again.")).to_be_visible()
        *_, rest = await mended.until(lambda got: len(got) == 2)
        assert (rest.type, rest.verified) == ("deal.updated", True)
        await reloaded_until(page, refused.filter(has_text="Delivered · 200"))
        await expect(page.get_by_text("Failing since")).to_have_count(0)
        await screens.take(page, "story-integrator-4-mended")
    await context.close()


async def _event_id(page: Page) -> str:
    words = (await page.get_by_role("region", name="Delivery", exact=True).inner_text()).split()
    (event_id,) = {word for word in words if word.startswith("evt_")}
    return event_id


async def test_a_viewer_is_refused(chromium: Browser, house: "House", screens: "Screens") -> None:
    """What a viewer may not do is on no page and behind no address, and a form sent all the same changes
    nothing: the deal stays won, and no endpoint, key, invitation or profile is made."""
    context, page = await house.enter(chromium, "viewer")
    places = await page.get_by_role("navigation", name="Main").get_by_role("link").all_inner_texts()
    assert places == ["Today", "Calls", "Contacts", "Deals", "Profiles", "Numbers"]
    for path in (
        "/webhooks", "/webhooks/new", "/deliveries", "/keys", "/people", "/audit", "/profiles/new",
        "/contacts/new",
    ):  # fmt: skip
        answer = await page.goto(path)
        assert answer is not None
        assert answer.status == 403, path
        await expect(page.get_by_role("heading", level=1)).to_be_visible()
    await screens.take(page, "story-viewer-refused")
    for path in (f"/calls/{house.sale}", "/contacts", "/deals", "/profiles", "/numbers"):
        await page.goto(path)
        await expect(page.locator("main form[method=post]")).to_have_count(0)

    async with house.db.look() as session:
        (change,) = [
            one
            for one in await crm.changes_of_call(session, house.sale)
            if (one.entity, one.field) == ("deal", "stage")
        ]
        before = len(await webhooks.endpoints(session))
    for path, form in (
        (f"/calls/{house.sale}/changes/{change.id}/undo", {}),
        (f"/calls/{house.sale}/review", {"review": "done"}),
        (f"/calls/{house.sale}/tags", {"tag": "vip"}),
        (f"/calls/{house.sale}/comments", {"text": "mine"}),
        (f"/deals/{change.entity_id}/move", {"stage": "lost"}),
        ("/webhooks/new", {"url": "https://example.com/hooks", "events": "*"}),
        ("/keys", {"name": "mine", "scopes": "calls:read"}),
        ("/people/invite", {"role": "owner", "email": "me@example.com"}),
    ):
        # From a page of ours, as a browser sends it.
        status = await page.evaluate(
            """async ([path, form]) => (await fetch(path, {
                method: 'POST', body: new URLSearchParams(form), redirect: 'manual',
            })).status""",
            [path, form],
        )
        assert status == 403, path
    async with house.db.look() as session:
        deal = await crm.deal(session, change.entity_id)
        assert deal.stage == "won"
        assert len(await webhooks.endpoints(session)) == before
    await context.close()


FOCUS = """() => {
    const at = document.activeElement;
    if (!at || at === document.body) return null;
    const drawn = (style) => style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2
        && style.outlineColor !== 'rgba(0, 0, 0, 0)';
    const box = at.getBoundingClientRect();
    return {
        name: at.outerHTML.slice(0, 120),
        text: at.textContent.trim(),
        marked: drawn(getComputedStyle(at)) || drawn(getComputedStyle(at, '::after')),
        seen: box.bottom > 0 && box.top < innerHeight && box.width > 1 && box.height > 1,
    };
}"""
"""What has the focus, whether that is drawn, and whether it is in sight."""


async def tab_to(page: Page, wanted: Locator, *, most: int = 80) -> None:
    """Press Tab until *wanted* has the focus; all on the way shows that it has it."""
    for _ in range(most):
        await page.keyboard.press("Tab")
        at = await page.evaluate(FOCUS)
        assert at is None or (at["marked"] and at["seen"]), at
        if await wanted.evaluate("it => it === document.activeElement"):
            return
    raise AssertionError(f"{wanted} was not reached by Tab")


async def test_a_morning_without_a_mouse(chromium: Browser, house: "House") -> None:
    """Log in, go through the list with j, k and o, play, search, mark as reviewed and go back: keys alone,
    and whatever has the focus shows it."""
    context, page = await house.enter(chromium, None)
    await page.goto("/login")
    await tab_to(page, page.get_by_label("E-mail"))
    await page.keyboard.type("manager@example.com")
    await tab_to(page, page.get_by_label("Password"))
    await page.keyboard.type("correct horse battery staple")
    await page.keyboard.press("Enter")
    await page.wait_for_url(lambda url: "/login" not in url)
    await tab_to(page, page.get_by_role("link", name="Calls", exact=True))
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/calls")  # with its scripts, as each of these waits

    rows = page.locator("[data-call] .caller > a:first-child")
    await page.keyboard.press("j")
    await expect(rows.nth(0)).to_be_focused()
    await page.keyboard.press("j")
    await expect(rows.nth(1)).to_be_focused()
    assert (await page.evaluate(FOCUS))["marked"]
    await page.keyboard.press("j")
    await expect(rows.nth(2)).to_be_focused()
    await page.keyboard.press("k")
    await expect(rows.nth(1)).to_be_focused()
    await page.keyboard.press("o")
    await page.wait_for_url(f"**/{house.sale}*")

    audio = page.locator("audio")
    await page.keyboard.press("Space")
    await audio.evaluate(
        "it => new Promise(done => it.currentTime > 0 && !it.paused ? done()"
        " : it.addEventListener('timeupdate', () => it.currentTime > 0 && done()))"
    )
    await page.keyboard.press("Space")
    # Everything of the page that can be operated, and each shows when it is its turn.
    await tab_to(page, page.get_by_label("Comment", exact=True))
    await page.keyboard.type("Sold well.")
    await tab_to(page, page.get_by_role("button", name="Comment", exact=True))
    await page.keyboard.press("Enter")
    await expect(page.locator(".comments").get_by_text("Sold well.")).to_be_visible()
    await page.wait_for_load_state()
    await page.keyboard.press("e")
    await expect(page.get_by_role("region", name="Review")).to_contain_text("Robin Manager,")
    await page.wait_for_load_state()
    await page.keyboard.press("u")
    await page.wait_for_url("**/calls")

    await page.keyboard.press("/")
    await expect(page.locator("#q")).to_be_focused()
    await page.keyboard.type("bigger plan")
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/calls?q=bigger*")
    unreviewed = page.locator("form[data-review]")
    await expect(unreviewed).to_have_count(2)
    await page.keyboard.press("j")
    await page.keyboard.press("e")
    await expect(unreviewed).to_have_count(1)
    await expect(page).to_have_url(re.compile(r"q=bigger"))
    await context.close()


async def test_a_day_without_scripts(chromium: Browser, house: "House") -> None:
    """Without scripts the list is searched and narrowed, opens a call at the second, its recording plays in
    the browser's own player, and the call is marked as reviewed."""
    context, page = await house.enter(chromium, java_script_enabled=False)
    await page.goto("/calls")
    await expect(page.locator(".tiles").first).to_be_visible()
    await page.locator("#q").fill("bigger")
    await page.get_by_role("button", name="Search").click()
    await expect(page.locator("mark").first).to_have_text("bigger")
    await page.locator("summary", has_text="Filters and columns").click()
    await page.get_by_label("Direction").select_option("inbound")
    await page.get_by_role("checkbox", name="Tags").check()
    await page.get_by_role("button", name="Apply").click()
    await expect(page.get_by_role("columnheader", name="Tags")).to_be_visible()
    await page.get_by_role("row", name="Dana Whitfield").locator("a.snippet").first.click()
    await expect(page).to_have_url(re.compile(r"t=13\.8"))
    await expect(page.locator("audio[controls]")).to_have_attribute("src", re.compile(r"#t=13\.8$"))
    source = await page.locator("audio").get_attribute("src")
    assert source is not None
    part = await page.request.get(source.partition("#")[0], headers={"Range": "bytes=0-99"})
    assert (part.status, len(await part.body())) == (206, 100)
    await expect(page.locator(".transcript > li", has_text="the bigger plan")).to_be_visible()
    await page.get_by_role("button", name="Mark reviewed").click()
    await expect(page.get_by_role("region", name="Review")).to_contain_text("Robin Manager")
    await context.close()
