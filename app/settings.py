"""Settings: read once at an entrance from the environment, `.env` and `config.yaml`, then handed down.

The environment wins over `.env`, which wins over `config.yaml`. Every variable is a field of Settings whose name is the
variable's in small letters; `config.yaml` has the same names under `server:` or `resources:`.
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

from app import config, tokens
from app.core.keeping import Keeping
from app.parse import SettingsError
from app.variables.catalogue import CatalogueVariables
from app.variables.keeping import KeepingVariables
from app.variables.limits import LimitVariables
from app.variables.machine import MachineVariables
from app.variables.serving import ServingVariables
from provisioning import settings as provisioning_settings
from provisioning.errors import SettingsError as WrongDownloads


@dataclass(frozen=True, kw_only=True)
class Settings(ServingVariables, MachineVariables, CatalogueVariables, LimitVariables, KeepingVariables):
    """Everything that can be set; the variables are rows in app.variables.

    Defaults suit one computer; a fleet sets URLs and tokens.
    """

    downloads: provisioning_settings.Settings = field(default=provisioning_settings.Settings(), repr=False)
    """What provisioning reads from the same environment: the addresses of hubs and stores, tokens, proxies."""

    @classmethod
    def load(cls, environ: Mapping[str, str], folder: Path | None = None) -> Self:
        """Read everything once; raises SettingsError that names every wrong variable."""
        texts = merged(environ, folder or Path.cwd())
        values: dict[str, Any] = {}
        problems = []
        for variable in _declared():
            name = variable.name.upper()
            text = texts.get(name, "")
            if not text.strip():
                continue
            try:
                values[variable.name] = variable.metadata["read"](text)
            except (ValueError, KeyError):
                shown = f"is {text!r}" if variable.repr else "cannot be read"
                problems.append(f"{name} {shown}; an example that works: {variable.metadata['example']}")
        if problems:
            raise SettingsError("\n".join(problems))
        try:
            values["downloads"] = provisioning_settings.Settings.from_environ(texts)
        except WrongDownloads as exc:
            raise SettingsError(str(exc)) from exc
        return cls(**values).completed()

    def require_broker(self) -> Self:
        """Refuse to go on without a broker, where nothing would ever be drawn."""
        if not self.broker_url:
            raise SettingsError(
                "BROKER_URL is not set: `imagefleet up` starts a broker of its own; a fleet names one, such as redis://broker:6379/0"
            )
        return self

    def require_driver(self) -> Self:
        """Refuse to go on with a driver that has nothing to draw with."""
        if self.driver == "automatic1111" and not self.a1111_base_url:
            raise SettingsError(
                "DRIVER is automatic1111 and A1111_BASE_URL is not set: say where that server is, such as http://127.0.0.1:7861"
            )
        return self

    def completed(self) -> Self:
        """Derive what follows from other settings, and check what must fit together."""
        data_dir = self.data_dir.absolute()
        settings = replace(
            self,
            data_dir=data_dir,
            models_dir=self.models_dir or data_dir / "models",
            database_url=self.database_url or f"sqlite:///{data_dir / 'db' / 'imagefleet.db'}",
            live_url=self.live_url or self.broker_url,
        )
        keyring = settings.keyring()
        is_open = not keyring.of(*tokens.CLIENTS)
        if is_open and not is_loopback(settings.host):
            raise SettingsError(
                f"HOST is {settings.host!r}, which others can reach, and API_TOKENS is not set: "
                "set API_TOKENS=<a long random text> (and MACHINE_TOKEN), or HOST=127.0.0.1",
            )
        if not is_open and not settings.machine_token and not keyring.of(tokens.Scope.MACHINE):
            raise SettingsError(
                "API_TOKENS is set and MACHINE_TOKEN is not: set MACHINE_TOKEN=<another long random text>"
            )
        return settings

    def keyring(self) -> tokens.Keyring:
        """Read the tokens of API_TOKENS and TOKENS_FILE; raises SettingsError that shows none of them."""
        try:
            return tokens.Keyring(self.api_tokens, self.tokens_file)
        except OSError as exc:
            raise SettingsError(f"TOKENS_FILE {self.tokens_file} cannot be read: {exc.strerror}") from None
        except ValueError as exc:
            raise SettingsError(f"API_TOKENS and TOKENS_FILE cannot be read together: {exc}") from None

    def keeping(self) -> Keeping:
        """Return how long things are kept."""
        days = (variable for variable in fields(KeepingVariables) if variable.name.startswith("keep_"))
        return Keeping(
            **{each.name.removeprefix("keep_").removesuffix("_days"): getattr(self, each.name) for each in days}
        )

    def token_to_show(self) -> str:
        """Return the token that our own commands show to a server: CLIENT_TOKEN, or one that is known in the clear."""
        return self.client_token or tokens.plain(self.api_tokens)


def merged(environ: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Lay the environment over `.env` over `config.yaml` of a folder; the result has the environment's shape."""
    return config.merged(environ, folder, {variable.name: variable for variable in _declared()})


def _declared() -> list[Field[Any]]:
    return [variable for variable in fields(Settings) if "read" in variable.metadata]


def is_loopback(host: str) -> bool:
    """Say whether only this computer can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def variables() -> list[tuple[str, str, str]]:
    """Return (name, default, meaning) of every variable, as README's table has them."""
    rows = []
    for variable in _declared():
        default = "" if variable.default in (None, "", ()) else str(variable.default)
        shown = {"True": "1", "False": "0"}.get(default, default)
        rows.append((variable.name.upper(), shown, variable.metadata["about"]))
    return rows
