"""What signing in through an identity provider is told at start. Picklable, reads no environment."""

from dataclasses import dataclass, field

from trunkline.access.roles import Role


@dataclass(frozen=True)
class SignInOptions:
    """One OpenID Connect provider, and whom of its people we let in."""

    issuer: str
    """The provider, as it calls itself."""
    client_id: str
    client_secret: str = field(repr=False)
    label: str = "single sign-on"
    """What the button on the login page calls it."""
    domains: tuple[str, ...] = ()
    """Domains of the e-mail addresses that are let in, in lower case; none means all of the provider's."""
    default_role: Role | None = Role.VIEWER
    """The role of somebody new whom no claim gives one; None lets in only who was invited or has a claim."""
    role_claim: str | None = None
    """The claim that says the role: ``groups``, or with dots into objects, ``realm_access.roles``."""
    roles: tuple[tuple[str, Role], ...] = ()
    """A value of that claim → the role it gives. Whoever has several gets the highest."""

    @property
    def decides_roles(self) -> bool:
        """Whether each sign-in sets the role anew."""
        return self.role_claim is not None
