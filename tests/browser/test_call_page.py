"""The page of a call in a real browser: heard, read, put right, by whoever may, however they work."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from playwright.async_api import Browser, Page, expect

from trunkline.calls import queries as calls
from trunkline.crm import queries as crm
from trunkline.profiles import queries as profiles
from trunkline.webhooks import queries as webhooks

if TYPE_CHECKING:
    from tests.browser.conftest import House, Screens

AXE = (
    Path(__file__).parents[2]
    / "platform/trunkline/web/dashboard/assets/node_modules/axe-core/axe.min.js"
)
"""Locked with the pages' own packages; the build put it there."""


async def sounds(page: Page, condition: str) -> None:
    """Wait until *condition* of ``audio`` holds. A promise: the page's policy forbids to poll by eval."""
    look = f"const look = () => ({condition}) && done();"
    await page.locator("audio").evaluate(
        "audio => new Promise(done => {"
        + look
        + """for (const name of ['timeupdate', 'play', 'pause', 'seeked', 'loadedmetadata'])
                audio.addEventListener(name, look);
            look();
        })"""
    )


async def playing_from(page: Page, seconds: float) -> None:
    """The recording plays, at or after that second."""
    await sounds(page, f"!audio.paused && audio.currentTime >= {seconds}")


def complaints_of(page: Page) -> list[str]:
    """What the browser has to say against the page: faults of scripts, what the policy blocked."""
    found: list[str] = []
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on(
        "console",
        lambda said: found.append(said.text) if said.type in ("error", "warning") else None,
    )
    return found


async def test_a_manager_hears_undoes_and_reviews(chromium: Browser, house: "House") -> None:
    """From the login over a spoken word to the call: the sentence is heard where it was said, the deal
    goes back, which a webhook tells, and the call is marked as reviewed."""
    context, page = await house.enter(chromium)
    complaints = complaints_of(page)
    await page.get_by_role("link", name="Calls", exact=True).click()
    await page.locator("#q").fill('"bigger plan"')
    await page.keyboard.press("Enter")
    await page.get_by_role("row", name="Dana Whitfield").locator("a.snippet").first.click()
    await expect(page).to_have_url(re.compile(r"[?&]t=13\.8$"))
    await sounds(page, "audio.currentTime >= 13.8")
    await expect(page.get_by_role("heading", level=1)).to_have_text("Dana Whitfield")
    await expect(page.locator(".surface > div")).to_have_count(1)  # the waveform, without its sound
    changes = page.get_by_role("region", name="CRM changes")
    await expect(changes).to_contain_text(re.compile(r"proposal\s*→\s*to\s*won"))

    await changes.get_by_role("link", name="Hear the sentence").click()
    await playing_from(page, 13.8)
    line = page.locator(".transcript > li", has_text="the bigger plan")
    await expect(line).to_have_attribute("aria-current", "true")
    await expect(page).to_have_url(re.compile(r"[?&]t=13\.8$"))

    await changes.get_by_text("Undo", exact=False).first.click()
    await expect(changes).to_contain_text("Stage goes back from won to proposal.")
    await changes.get_by_role("button", name="Undo it").click()
    await expect(
        page.get_by_role("status").filter(has_text="The change was undone")
    ).to_be_visible()
    await expect(changes.get_by_text("Undone", exact=True)).to_be_visible()
    told = await house.receiver.until(lambda got: any(one.type == "change.undone" for one in got))
    (undone,) = [one for one in told if one.type == "change.undone"]
    assert undone.verified
    assert (undone.body["data"]["before"], undone.body["data"]["after"]) == ("won", "proposal")

    await page.keyboard.press("e")
    review = page.get_by_role("region", name="Review")
    await expect(review).to_contain_text("Reviewed")
    await expect(review).to_contain_text("Robin Manager")
    assert complaints == []
    await context.close()


async def test_a_link_to_a_second_plays_there(chromium: Browser, house: "House") -> None:
    """?t=30 sets the player to that second; the waveform is drawn without more of the sound than that."""
    context, page = await house.enter(chromium)
    await page.goto(f"/calls/{house.sale}?t=30")
    await sounds(page, "audio.currentTime === 30")
    await expect(page.locator("[data-now]")).to_have_text("0:30")
    await context.close()


async def test_speed_and_silence(chromium: Browser, house: "House") -> None:
    """Twice as fast, and a long silence is skipped when that is wanted."""
    context, page = await house.enter(chromium)
    await page.goto(f"/calls/{house.sale}")
    await page.get_by_label("Speed").select_option("2")
    assert await page.evaluate("document.querySelector('audio').playbackRate") == 2
    await page.get_by_label("Skip silence").check()
    # Between 24.0 and 30.0 nobody speaks.
    await page.evaluate("document.querySelector('audio').currentTime = 24.5")
    await page.get_by_role("button", name="Play").click()
    await sounds(page, "audio.currentTime > 29.4")
    jumped = await page.evaluate(
        """() => { const { played } = document.querySelector('audio');
            return [...Array(played.length).keys()].map(n => played.end(n) - played.start(n)) }"""
    )
    assert max(jumped) < 5
    await context.close()


async def test_a_viewer_reads_and_no_more(chromium: Browser, house: "House") -> None:
    """A viewer is offered no sound, undo, review or comment; what is asked for all the same is refused."""
    context, page = await house.enter(chromium, "viewer")
    await page.goto(f"/calls/{house.sale}")
    await expect(page.get_by_text("Yes, please go ahead").first).to_be_visible()
    await expect(page.get_by_text("does not hear recordings")).to_be_visible()
    await expect(page.locator("audio, main form")).to_have_count(0)
    heard = await page.request.get(f"/calls/{house.sale}/recording.wav")
    assert heard.status == 403
    written = await page.request.post(
        f"/calls/{house.sale}/review",
        form={"review": "done"},
        headers={"Sec-Fetch-Site": "same-origin"},
    )
    assert written.status == 403
    await context.close()


async def test_keys_alone(chromium: Browser, house: "House") -> None:
    """Space plays, arrows seek, j and k go to the next call, ? lists the keys, and they can be turned off;
    what is typed into a field is never a command."""
    context, page = await house.enter(chromium)
    await page.goto(f"/calls/{house.sale}?direction=inbound")
    await sounds(page, "audio.readyState > 0")
    await page.keyboard.press("Space")
    await playing_from(page, 0.1)
    await page.keyboard.press("ArrowRight")
    await playing_from(page, 5)
    await page.keyboard.press("Space")
    await sounds(page, "audio.paused")

    await page.get_by_label("Comment", exact=True).focus()
    await page.keyboard.type("j e? k")
    await expect(page.get_by_label("Comment", exact=True)).to_have_value("j e? k")
    await expect(page).to_have_url(re.compile(house.sale))
    await page.locator("main").focus()

    # With its scripts, as each of these waits: a key pressed sooner is nobody's.
    await page.keyboard.press("j")
    await page.wait_for_url(f"**/{house.older}?direction=inbound")
    await page.keyboard.press("k")
    await page.wait_for_url(f"**/{house.sale}?direction=inbound")
    await page.keyboard.press("k")
    await page.wait_for_url(f"**/{house.newest}?direction=inbound")

    await page.keyboard.press("?")
    dialog = page.get_by_role("dialog", name="Keys")
    await expect(dialog).to_contain_text("Play or pause")
    await dialog.get_by_role("checkbox").uncheck()
    await page.keyboard.press("Escape")
    await page.keyboard.press("j")
    await page.keyboard.press("?")
    await expect(dialog).to_be_hidden()
    await expect(page).to_have_url(re.compile(house.newest))
    await context.close()


async def test_without_scripts(chromium: Browser, house: "House") -> None:
    """Header, player, transcript and every form work without scripts."""
    context, page = await house.enter(chromium, java_script_enabled=False)
    await page.goto(f"/calls/{house.sale}")
    await expect(page.locator("audio[controls]")).to_be_visible()
    await expect(page.locator(".wave svg path").first).to_be_visible()
    await page.locator("summary", has_text="Undo").first.click()
    await page.get_by_role("button", name="Undo it").first.click()
    await expect(page.get_by_text("The change was undone.")).to_be_visible()
    await page.get_by_label("Tag", exact=True).fill("Follow up")
    await page.get_by_role("button", name="Add the tag").click()
    await expect(page.get_by_role("button", name="Remove the tag follow up")).to_be_visible()
    await page.get_by_role("link", name="Raw events").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Events")
    await expect(page.locator("summary", has_text="change.undone")).to_have_count(1)
    await expect(page.get_by_text("deal.updated").first).to_be_visible()
    await context.close()


async def test_raw_events_open_in_place(chromium: Browser, house: "House") -> None:
    """With scripts the events are fetched into the page, without leaving it."""
    context, page = await house.enter(chromium)
    complaints = complaints_of(page)
    await page.goto(f"/calls/{house.sale}")
    await page.get_by_role("link", name="Raw events").click()
    await page.locator("#events summary", has_text="call.ended").click()
    await expect(page.locator("#events pre", has_text="caller_hangup")).to_be_visible()
    await expect(page).to_have_url(re.compile(rf"{house.sale}$"))
    assert complaints == []
    await context.close()


async def test_a_theme_is_kept(chromium: Browser, house: "House") -> None:
    """Dark is chosen once and stays, also on the next page, before anything is painted light."""
    context, page = await house.enter(chromium, color_scheme="light")
    light = await page.evaluate("getComputedStyle(document.body).backgroundColor")
    await page.get_by_role("button", name="Dark").click()
    dark = await page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert dark != light
    await page.goto(f"/calls/{house.sale}")
    assert await page.evaluate("getComputedStyle(document.body).backgroundColor") == dark
    await expect(page.get_by_role("button", name="Dark")).to_have_attribute("aria-pressed", "true")
    await page.get_by_role("button", name="As this device has it").click()
    assert await page.evaluate("getComputedStyle(document.body).backgroundColor") == light
    await context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
async def test_every_page_is_for_everybody(
    chromium: Browser, house: "House", screens: "Screens", width: int, scheme: str
) -> None:
    """axe finds nothing on any page, light or dark, wide or narrow, and none scrolls sideways."""
    found: dict[str, Any] = {}
    look = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}
    context, page = await house.enter(chromium, None, **look)
    await page.goto("/login")
    found["login"] = await looked_over(page, screens, f"login-{width}-{scheme}")
    await context.close()
    async with house.db.look() as session:
        call = await calls.call(session, house.sale)
        (deal,) = await crm.open_deals(session, call.contact_id or "") or [
            await crm.deal(session, one.entity_id)
            for one in await crm.changes_of_call(session, house.sale)
            if one.field == "stage"
        ]
        (endpoint,) = await webhooks.endpoints(session)
        delivery = (await webhooks.deliveries(session, limit=1))[0].delivery
        (profile,) = await profiles.profiles(session)
    context, page = await house.enter(chromium, "owner", **look)
    for name, path in (
        ("home", "/"),
        ("contacts", "/contacts"),
        ("new-contact", "/contacts/new"),
        ("contact-imports", "/contacts/imports"),
        ("deals", "/deals"),
        ("profiles", "/profiles"),
        ("new-profile", "/profiles/new"),
        ("numbers", "/numbers"),
        ("api-keys", "/keys"),
        ("calls", "/calls"),
        ("call", f"/calls/{house.sale}"),
        ("events", f"/calls/{house.sale}/events"),
        ("found", "/calls?q=plan&direction=inbound&columns=review&columns=tags&columns=turns"),
        ("nothing-found", "/calls?q=zanzibar"),
        ("exports", "/calls/exports"),
        ("contact", f"/contacts/{call.contact_id}"),
        ("deal", f"/deals/{deal.id}"),
        ("profile", f"/profiles/{profile.name}"),
        ("profile-version", f"/profiles/{profile.name}/versions/1"),
        ("webhooks", "/webhooks"),
        ("webhook", f"/webhooks/{endpoint.id}"),
        ("delivery", f"/deliveries/{delivery.id}"),
        ("webhook-event", "/webhooks/events/call.ended"),
        ("webhooks-off", "/webhooks/off"),
        ("new-webhook", "/webhooks/new"),
        ("webhook-events", "/webhooks/events"),
        ("deliveries", "/deliveries"),
        ("people", "/people"),
        ("audit", "/audit"),
        ("account", "/account"),
        ("missing", "/calls/call_nothing"),
        ("explained", "/errors/not_found"),
    ):
        await page.goto(path)
        if name == "call":
            await page.locator("details:not([open]) > summary").first.wait_for()
            await page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        found[name] = await looked_over(page, screens, f"{name}-{width}-{scheme}")
    await page.goto("/calls")
    if width == 390:
        await page.get_by_role("button", name="Menu").click()
        found["menu"] = await looked_over(page, screens, f"menu-{width}-{scheme}")
    else:
        await page.keyboard.press("?")
        found["keys"] = await looked_over(page, screens, f"keys-{width}-{scheme}")
    await context.close()
    assert {name: faults for name, faults in found.items() if faults} == {}


async def looked_over(page: Page, screens: "Screens", name: str) -> list[str]:
    """What axe-core, or a ruler, finds wrong with the page as it is."""
    await screens.take(page, name)
    # Evaluated through the debugger, which the page's policy does not concern.
    await page.evaluate(AXE.read_text(encoding="utf-8"))
    result = await page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    faults = [
        f"{fault['id']}: {json.dumps([node['html'][:120] for node in fault['nodes'][:3]])}"
        for fault in result["violations"]
    ]
    too_wide = await page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    return [*faults, *([f"{too_wide} px too wide"] if too_wide > 0 else [])]
