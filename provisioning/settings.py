"""What the operator decides, read once from the environment and handed down as one frozen value."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from dotenv import dotenv_values

from provisioning import hubcache
from provisioning.errors import SettingsError

UNITS = {"": 1, "B": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
SIZE = re.compile(r"^(\d+(?:\.\d+)?)\s*([KMGT]?)B?$", re.IGNORECASE)
TRUE = {"1", "true", "yes", "on"}
FALSE = {"0", "false", "no", "off", ""}


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be set. Tokens are left out of the repr, so that no log line can carry them."""

    models_needed: tuple[str, ...] = ()
    fleet_url: str = "http://127.0.0.1:8000"
    models_dir: Path = Path("data/models")
    machine_token: str | None = field(default=None, repr=False)
    hf_token: str | None = field(default=None, repr=False)
    civitai_token: str | None = field(default=None, repr=False)
    hf_endpoint: str = "https://huggingface.co"
    civitai_endpoint: str = "https://civitai.com"
    allow_private_addresses: bool = False
    allow_unverified: bool = False
    share_url: str | None = None
    """Where neighbours reach this machine (``SHARE_URL``): files are handed to them, and taken from them."""
    disk_budget: int | None = None
    """Bytes that proven models may take (``MODELS_DISK_BUDGET``, such as 500GB); over it, unneeded ones are evicted."""
    hf_cache: Path | None = None
    """huggingface_hub's cache (``HF_HUB_CACHE``, ``HF_HOME``): what lies there is copied and proved, not fetched."""
    verify_hours: float | None = None
    """While watching, models are hashed again when their proof is so old (``PROVISION_VERIFY_HOURS``); None: never."""
    connections: int = 16
    """Open connections to origins, all together: one file may use them all (facts: 16 fill a 5 Gbit/s line against an
    origin that gives 40 MB/s a connection)."""
    stall_seconds: float = 10.0
    """A connection that gives nothing for so long is dropped, and its range asked for again."""
    pause_seconds: float = 0.2
    """The first pause after a failed request; it doubles up to twenty seconds, six times without progress."""
    retry_seconds: float = 5.0
    """The first wait before a failed model is tried again with ``--watch``; it doubles up to sixty times as much."""

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> "Settings":
        """Read the settings.

        Raises `SettingsError` that names every wrong variable at once, with what was found and an example.
        """
        read, default = _Reading(environ), cls()
        settings = cls(
            models_needed=read.ids("MACHINE_MODELS_NEEDED"),
            fleet_url=read.url("FLEET_URL", default.fleet_url),
            models_dir=read.folder("MODELS_DIR", default.models_dir),
            machine_token=read.secret("MACHINE_TOKEN"),
            hf_token=read.secret("HF_TOKEN"),
            civitai_token=read.secret("CIVITAI_TOKEN"),
            hf_endpoint=read.url("HF_ENDPOINT", default.hf_endpoint),
            civitai_endpoint=read.url("CIVITAI_ENDPOINT", default.civitai_endpoint),
            allow_private_addresses=read.flag("ALLOW_PRIVATE_ADDRESSES"),
            allow_unverified=read.flag("ALLOW_UNVERIFIED"),
            share_url=read.url("SHARE_URL", "") or None,
            disk_budget=read.size("MODELS_DISK_BUDGET"),
            hf_cache=hubcache.folder_of(environ),
            verify_hours=read.number("PROVISION_VERIFY_HOURS", 0, 0, 1e6) or None,
            connections=int(read.number("PROVISION_CONNECTIONS", default.connections, 1, 256)),
            stall_seconds=read.number("PROVISION_STALL_SECONDS", default.stall_seconds, 0.1, 3600),
            pause_seconds=read.number("PROVISION_PAUSE_SECONDS", default.pause_seconds, 0.001, 60),
            retry_seconds=read.number("PROVISION_RETRY_SECONDS", default.retry_seconds, 0.01, 3600),
        )
        if settings.share_url and not settings.machine_token:
            read.wrong.append("SHARE_URL needs MACHINE_TOKEN, which neighbours know each other by; set both or neither")
        if read.wrong:
            raise SettingsError("wrong settings:\n" + "\n".join(f"  {line}" for line in read.wrong))
        return settings


def with_dotenv(environ: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Return the environment, completed by the `.env` file of a folder; what the environment says comes first."""
    from_file = {name: value for name, value in dotenv_values(folder / ".env").items() if value is not None}
    return {**from_file, **environ}


class _Reading:
    """One pass over the environment that collects every complaint instead of stopping at the first."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.wrong: list[str] = []

    def _value(self, name: str) -> str:
        return self.environ.get(name, "").strip()

    def ids(self, name: str) -> tuple[str, ...]:
        given = [part.strip() for part in self._value(name).split(",")]
        return tuple(dict.fromkeys(part for part in given if part))

    def url(self, name: str, default: str) -> str:
        value = self._value(name).rstrip("/")
        if not value:
            return default
        if not _is_web_address(value):
            self.wrong.append(f"{name}={without_userinfo(value)!r} is no http(s) address; for example {name}={default}")
        return value

    def folder(self, name: str, default: Path) -> Path:
        value = self._value(name)
        if "\0" in value:
            self.wrong.append(f"{name} contains a NUL byte; for example {name}={default}")
            return default
        path = Path(value).expanduser() if value else default
        if path.exists() and not path.is_dir():
            self.wrong.append(f"{name}={value!r} is a file, not a folder; for example {name}={default}")
        return path

    def secret(self, name: str) -> str | None:
        """Read a secret from the variable, or from the file that ``<NAME>_FILE`` names (Docker and Kubernetes do)."""
        value, source = self._value(name), name
        file = self._value(f"{name}_FILE")
        if not value and file:
            source = f"{name}_FILE"
            try:
                value = Path(file).read_text(encoding="utf-8").strip()
            except (OSError, ValueError) as error:
                self.wrong.append(f"{source}={file!r} cannot be read: {error}; for example {source}=/run/secrets/token")
        if value and not all("!" <= letter <= "~" for letter in value):
            self.wrong.append(f"{source} holds blanks or letters that no token has; for example {name}=hf_abc123")
        return value or None

    def flag(self, name: str) -> bool:
        value = self._value(name).lower()
        if value not in TRUE | FALSE:
            self.wrong.append(f"{name}={value!r} is neither yes nor no; for example {name}=1")
        return value in TRUE

    def size(self, name: str) -> int | None:
        value = self._value(name)
        match = SIZE.match(value)
        if value and not match:
            self.wrong.append(f"{name}={value!r} is no size; for example {name}=500GB")
        return int(float(match[1]) * UNITS[match[2].upper()]) if match else None

    def number(self, name: str, default: float, least: float, most: float) -> float:
        return self._parsed(name, default, lambda value: _between(float(value), least, most), f"{least:g} to {most:g}")

    def _parsed(self, name: str, default: float, parse: Callable[[str], float], wanted: str) -> float:
        value = self._value(name)
        if not value:
            return default
        try:
            return parse(value)
        except ValueError:
            self.wrong.append(f"{name}={value!r} is no number from {wanted}; for example {name}={default:g}")
            return default


def _between(number: float, least: float, most: float) -> float:
    if not (math.isfinite(number) and least <= number <= most):
        raise ValueError(number)
    return number


def _is_web_address(value: str) -> bool:
    try:
        parts = urlsplit(value)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def without_userinfo(url: str) -> str:
    """Return an address without the ``user:password@`` that it may carry."""
    head, mark, tail = url.rpartition("@")
    return f"{head.partition('//')[0]}//{tail}" if mark and "//" in head else url
