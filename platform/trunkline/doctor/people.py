"""Whether people can log in through the identity provider, as far as can be told without logging in."""

from trunkline.doctor.house import SKEW
from trunkline.doctor.report import Finding, Findings
from trunkline.errors import Misconfigured
from trunkline.kit.clock import Clock
from trunkline.kit.oidc import LEEWAY, OidcFailed, Provider
from trunkline.settings import Settings

WHAT = "sign-in with OIDC"


async def sign_in(settings: Settings, clock: Clock) -> Findings:
    """Discovery, its issuer, its keys and its clock; nothing where no provider is set."""
    try:
        options = settings.sign_in()
    except Misconfigured as error:
        return [Finding.wrong("people", WHAT, error)]
    if options is None or settings.trunkline_login == "off":
        return []
    provider = Provider(
        issuer=options.issuer,
        client_id=options.client_id,
        client_secret=options.client_secret,
    )
    now = clock()
    try:
        offer = await provider.offer(now=now)
        keys = await provider.keys(now=now)
    except OidcFailed as error:
        return [Finding.wrong("people", WHAT, error)]
    if offer.clock_ahead is not None and abs(offer.clock_ahead) > LEEWAY + SKEW:
        says = f"its clock and ours differ by {abs(offer.clock_ahead).total_seconds():.0f} s"
        return [Finding("people", WHAT, False, says, "set the clock of this machine by NTP")]
    says = (
        f"{offer.issuer} answers with {len(keys.keys)} keys; its client must have the redirect "
        "address https://YOUR.HOST/login/oidc/callback"
    )
    return [Finding("people", WHAT, True, says)]
