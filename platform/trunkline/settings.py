"""All settings: typed, read once from the environment and ``.env``, handed on in slices."""

import json
import os
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from dotenv import dotenv_values
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from trunkline.access.options import SignInOptions
from trunkline.access.roles import Role
from trunkline.agent.options import AgentOptions, ProviderAccess, WorkerOptions
from trunkline.calls.usage import Price
from trunkline.desk.door import House
from trunkline.errors import Misconfigured
from trunkline.kit.blobs import BlobOptions
from trunkline.kit.crypt import CryptError, Sealer, key_in
from trunkline.kit.db import DatabaseOptions
from trunkline.kit.http import Allowed
from trunkline.kit.livekit import LiveKitOptions
from trunkline.trunks.options import TrunkOptions
from trunkline.webhooks.options import CourierOptions, EndpointOptions


class Settings(BaseSettings):
    """What can be set, each by the environment variable of the same name in capitals."""

    model_config = SettingsConfigDict(
        env_file_encoding="utf-8", extra="ignore", frozen=True, env_ignore_empty=True
    )

    trunkline_data: Path = Path(".trunkline")
    """Folder of the embedded database and of recordings."""
    trunkline_database_url: str | None = None
    """``postgresql+psycopg://user:password@host/name``; none means SQLite in the data folder."""
    trunkline_blobs_url: str | None = None
    """``s3://bucket/prefix``; none means the data folder."""
    trunkline_log: Literal["json", "console"] = "console"
    trunkline_log_level: Literal["debug", "info", "warning", "error"] = "info"

    deepgram_api_key: SecretStr | None = None
    deepgram_base_url: str | None = None
    openai_api_key: SecretStr | None = None
    openai_base_url: str | None = None
    cartesia_api_key: SecretStr | None = None
    cartesia_base_url: str | None = None

    trunkline_model_keys: SecretStr | None = None
    """Keys of other model servers as JSON, by host: ``{"api.groq.com": "gsk_…"}``. Each goes to its host
    only."""
    trunkline_prices: dict[str, dict[str, float]] = Field(default_factory=dict)
    """What models cost in US dollars, as JSON by provider and model: ``{"openai gpt-4.1-mini": {"input": 0.4,
    "cached": 0.1, "output": 1.6}, "deepgram nova-3": {"minute": 0.0077}, "cartesia sonic-2": {"characters":
    38}}``. Tokens and characters are by the million."""

    livekit_url: str | None = None
    """Where livekit-server is: ws, wss, http or https."""
    livekit_api_key: str | None = None
    livekit_api_secret: SecretStr | None = None
    trunkline_sip: Path = Path("sip")
    """Folder of the trunks' and rules' files."""
    trunkline_sip_host: str | None = None
    """Public name or address of livekit-sip, as a provider must call it."""

    trunkline_max_calls: int | None = Field(None, ge=1)
    """Calls at once over all numbers and workers, in and out; none means as many as come."""
    trunkline_worker_capacity: int = Field(6, ge=1)
    """Calls that one worker takes at once."""
    trunkline_worker_overflow: int = Field(24, ge=1)
    """Calls beyond the capacity that are answered with the keypad menu."""
    trunkline_worker_warm: int | None = Field(None, ge=1)
    """Processes of a worker that wait for a call with everything loaded; none means as many as calls fit."""
    trunkline_worker_host: str = "127.0.0.1"
    trunkline_worker_port: int = Field(8422, ge=0, le=65535)
    """Port of the worker's /health and /ready; 0 lets the system choose."""

    trunkline_host: str = "127.0.0.1"
    trunkline_port: int = Field(8420, ge=0, le=65535)
    """Port of the API and the dashboard; 0 lets the system choose."""

    trunkline_courier_host: str = "127.0.0.1"
    trunkline_courier_port: int = Field(8423, ge=0, le=65535)
    """Port of /health and /ready of ``trunkline courier``; 0 lets the system choose."""
    trunkline_guardian_host: str = "127.0.0.1"
    trunkline_guardian_port: int = Field(8424, ge=0, le=65535)
    """Port of /health and /ready of ``trunkline guardian``; 0 lets the system choose."""

    trunkline_login: Literal["on", "sso", "off"] = "on"
    """``sso``: people log in through the identity provider only; an owner's one-time link still works.
    ``off``: the pages ask nobody to log in, answer this machine alone, and let whoever sits at it do
    everything."""

    trunkline_oidc_issuer: str | None = Field(None, max_length=255)
    """The OpenID Connect provider through which people log in, as it calls itself:
    ``https://accounts.google.com``. None means by password only."""
    trunkline_oidc_client_id: str | None = None
    trunkline_oidc_client_secret: SecretStr | None = None
    trunkline_oidc_label: str = Field("single sign-on", min_length=1, max_length=40)
    """What the button on the login page calls the provider."""
    trunkline_oidc_domains: str = ""
    """Domains of e-mail addresses that are let in, by commas; none means all whom the provider knows."""
    trunkline_oidc_default_role: Literal["manager", "integrator", "viewer", "none"] = "viewer"
    """The role of somebody new; ``none`` lets in only people who were invited or have a role by a claim."""
    trunkline_oidc_role_claim: str | None = None
    """The claim that says the role at each log-in: ``groups``, or with dots, ``realm_access.roles``."""
    trunkline_oidc_roles: dict[str, Role] = Field(default_factory=dict)
    """Value of that claim → role, as JSON: ``{"phone-admins": "owner", "support": "manager"}``."""

    trunkline_secret_keys: SecretStr | None = None
    """Keys that stored secrets are sealed with, by commas, the newest first; none means the file
    ``secret.key`` in the data folder, which is made when it is first needed."""
    trunkline_webhook_allow: str = ""
    """Hosts, addresses and networks, by commas, that webhooks may go to though they are not public."""
    trunkline_webhook_proxy: str | None = None
    """``http://host:port`` of an outgoing proxy for webhooks."""
    trunkline_webhook_ca: Path | None = None
    """Certificates (PEM) trusted for webhooks besides the public ones."""
    trunkline_webhook_keep_days: int = Field(30, ge=1, le=3650)
    """Days that the log of a delivery that arrived is kept."""
    trunkline_webhook_keep_failed_days: int = Field(90, ge=1, le=3650)
    """Days that the dead letters of webhooks are kept."""

    @field_validator("trunkline_model_keys")
    @classmethod
    def _is_keys_by_host(cls, value: SecretStr | None) -> SecretStr | None:
        _keys_by_host(value)
        return value

    @field_validator("trunkline_prices")
    @classmethod
    def _is_prices(cls, value: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        known = [one.name for one in fields(Price)]
        for model, price in value.items():
            if wrong := [name for name in price if name not in known]:
                raise ValueError(
                    f"{model}: {', '.join(wrong)} is no price; there are {', '.join(known)}"
                )
            if any(amount < 0 for amount in price.values()):
                raise ValueError(f"{model}: a price is below zero")
        return value

    @field_validator("trunkline_webhook_allow")
    @classmethod
    def _is_allow_list(cls, value: str) -> str:
        Allowed.parse(_listed(value))
        return value

    @field_validator("trunkline_webhook_proxy")
    @classmethod
    def _is_proxy(cls, value: str | None) -> str | None:
        return cls._is_address(value)

    @field_validator("deepgram_base_url", "openai_base_url", "cartesia_base_url")
    @classmethod
    def _is_address(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        return value

    @classmethod
    def load(cls, env_file: Path | None = Path(".env"), **given: Any) -> "Settings":
        """Read the environment over *env_file*; *given* (from the command line) wins over both.

        Raises Misconfigured with every fault in one sentence.
        """
        try:
            wanted = {name: value for name, value in given.items() if value is not None}
            return cls(_env_file=env_file, **wanted)  # type: ignore[call-arg]
        except ValidationError as error:
            faults = "; ".join(
                f"{'.'.join(str(part) for part in fault['loc']).upper()}: {_what(fault, cls)}"
                for fault in error.errors(include_url=False)
            )
            raise Misconfigured(f"the settings are wrong: {faults}") from None

    @property
    def database(self) -> DatabaseOptions:
        """Where the data is."""
        return DatabaseOptions(url=self.database_url)

    @property
    def database_url(self) -> str:
        """The database's address, the embedded one by default."""
        if self.trunkline_database_url:
            return self.trunkline_database_url
        return f"sqlite+aiosqlite:///{self.trunkline_data.absolute() / 'trunkline.db'}"

    @property
    def blobs(self) -> BlobOptions:
        """Where recordings are."""
        return BlobOptions(
            url=self.trunkline_blobs_url or str(self.trunkline_data.absolute() / "blobs")
        )

    def trunks(self, env_file: Path | None = Path(".env")) -> TrunkOptions:
        """The trunks' slice; its files name their secrets by variables of the environment."""
        secret = self.livekit_api_secret
        return TrunkOptions(
            folder=self.trunkline_sip,
            livekit_url=self.livekit_url,
            livekit_api_key=self.livekit_api_key,
            livekit_api_secret=secret.get_secret_value() if secret else None,
            sip_host=self.trunkline_sip_host,
            environment=_environment(env_file),
            house=House(max_calls=self.trunkline_max_calls),
        )

    def endpoints(self) -> EndpointOptions:
        """Webhooks' slice. Raises Misconfigured when the keys cannot be used or made."""
        keys = _listed(
            self.trunkline_secret_keys.get_secret_value() if self.trunkline_secret_keys else ""
        )
        try:
            keys = keys or (key_in(self.trunkline_data.absolute() / "secret.key"),)
            Sealer(keys)
        except CryptError as error:
            raise Misconfigured(f"TRUNKLINE_SECRET_KEYS: {error}") from None
        return EndpointOptions(keys=keys, allow=_listed(self.trunkline_webhook_allow))

    def sign_in(self) -> SignInOptions | None:
        """The identity provider's slice; None without one. Raises Misconfigured with all that is wrong."""
        names = ("issuer", "client_id", "client_secret")
        missing = [
            f"TRUNKLINE_OIDC_{name.upper()}"
            for name in names
            if not getattr(self, f"trunkline_oidc_{name}")
        ]
        faults = []
        if len(missing) == len(names):
            if self.trunkline_login == "sso":
                faults.append(
                    "TRUNKLINE_LOGIN is sso, but no identity provider is set: nobody could log in; "
                    f"set {', '.join(missing)}"
                )
        elif missing:
            faults.append(f"missing for signing in with OIDC: {', '.join(missing)}")
        if bool(self.trunkline_oidc_role_claim) != bool(self.trunkline_oidc_roles):
            faults.append(
                "set TRUNKLINE_OIDC_ROLE_CLAIM and TRUNKLINE_OIDC_ROLES both, or neither of them"
            )
        domains = tuple(one.lower().lstrip("@") for one in _listed(self.trunkline_oidc_domains))
        if wrong := [one for one in domains if "@" in one or "/" in one or "." not in one]:
            faults.append(f"TRUNKLINE_OIDC_DOMAINS: {wrong[0]!r} is no domain like example.com")
        if faults:
            raise Misconfigured("; ".join(faults))
        issuer, secret = self.trunkline_oidc_issuer, self.trunkline_oidc_client_secret
        if issuer is None or secret is None or self.trunkline_oidc_client_id is None:
            return None
        default = self.trunkline_oidc_default_role
        return SignInOptions(
            issuer=issuer,
            client_id=self.trunkline_oidc_client_id,
            client_secret=secret.get_secret_value(),
            label=self.trunkline_oidc_label,
            domains=domains,
            default_role=None if default == "none" else Role(default),
            role_claim=self.trunkline_oidc_role_claim,
            roles=tuple(self.trunkline_oidc_roles.items()),
        )

    def courier(self) -> CourierOptions:
        """The courier's slice. Raises Misconfigured as :meth:`endpoints` does."""
        return CourierOptions(
            self.endpoints(),
            proxy=self.trunkline_webhook_proxy,
            ca_file=self.trunkline_webhook_ca,
            keep_delivered=timedelta(days=self.trunkline_webhook_keep_days),
            keep_failed=timedelta(days=self.trunkline_webhook_keep_failed_days),
        )

    @property
    def livekit(self) -> LiveKitOptions | None:
        """Where LiveKit is; None while any of its three settings is missing."""
        if not (self.livekit_url and self.livekit_api_key and self.livekit_api_secret):
            return None
        secret = self.livekit_api_secret.get_secret_value()
        return LiveKitOptions(self.livekit_url, self.livekit_api_key, secret)

    def worker(self) -> WorkerOptions:
        """The worker's slice. Raises Misconfigured naming what is missing of LiveKit's."""
        if self.livekit is None:
            names = ("livekit_url", "livekit_api_key", "livekit_api_secret")
            missing = [name.upper() for name in names if not getattr(self, name)]
            raise Misconfigured(
                f"missing: {', '.join(missing)}; set them in the environment or in .env, as LiveKit's "
                "livekit.yaml has them under port and keys"
            )
        return WorkerOptions(
            livekit=self.livekit,
            database=self.database,
            blobs=self.blobs,
            agent=self.agent(),
            capacity=self.trunkline_worker_capacity,
            overflow=self.trunkline_worker_overflow,
            warm=self.trunkline_worker_warm,
            host=self.trunkline_worker_host,
            port=self.trunkline_worker_port,
            log=self.trunkline_log,
            log_level=self.trunkline_log_level,
        )

    def key_of(self, host: str) -> str | None:
        """The key of a server of one's own, or of Azure's, by its host."""
        return _keys_by_host(self.trunkline_model_keys).get(host.lower())

    def agent(self) -> AgentOptions:
        """The agent's slice. Which keys it needs, the profiles say: see ``doctor.models.at_start``."""
        return AgentOptions(
            deepgram=_access(self.deepgram_api_key, self.deepgram_base_url),
            openai=_access(self.openai_api_key, self.openai_base_url),
            cartesia=_access(self.cartesia_api_key, self.cartesia_base_url),
            model_keys=_keys_by_host(self.trunkline_model_keys),
            prices={model: Price(**price) for model, price in self.trunkline_prices.items()},
            house=House(max_calls=self.trunkline_max_calls),
        )


def _environment(env_file: Path | None) -> dict[str, str]:
    given = dotenv_values(env_file) if env_file else {}
    return {**{name: value for name, value in given.items() if value is not None}, **os.environ}


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _keys_by_host(value: SecretStr | None) -> dict[str, str]:
    """Raises ValueError, which holds nothing of the keys."""
    try:
        given = json.loads(value.get_secret_value()) if value else {}
    except ValueError:
        given = None
    if not isinstance(given, dict) or not all(isinstance(key, str) for key in given.values()):
        raise ValueError('must be JSON like {"api.groq.com": "the key"}') from None
    if wrong := [host for host in given if not host or "/" in host or "@" in host]:
        raise ValueError(f"{wrong[0]!r} is no host; write it without https:// and path")
    return {host.lower(): key for host, key in given.items()}


def _access(key: SecretStr | None, base_url: str | None) -> ProviderAccess:
    return ProviderAccess(key.get_secret_value() if key else "", base_url)


def _what(fault: Any, settings: type[BaseSettings]) -> str:
    field = settings.model_fields.get(str(fault["loc"][0])) if fault["loc"] else None
    secret = field is not None and "SecretStr" in str(field.annotation)
    shown = "" if secret or fault["type"] == "missing" else f" (it is {fault['input']!r})"
    return f"{fault['msg'].removeprefix('Value error, ').lower()}{shown}"
