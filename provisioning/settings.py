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
from provisioning.proxies import Proxies

UNITS = {"": 1, "B": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
SIZE = re.compile(r"^(\d+(?:\.\d+)?)\s*([KMGT]?)B?$", re.IGNORECASE)
ID_LIMIT = 1000
NO_ID = frozenset(";[]{}\"'")
TRUE = {"1", "true", "yes", "on"}
FALSE = {"0", "false", "no", "off", ""}


@dataclass(frozen=True, slots=True)
class S3Account:
    """Where ``s3://`` addresses lead and who asks; what is None here is looked for as AWS's own tools do."""

    endpoint: str | None = None
    region: str | None = None
    access_key_id: str | None = field(default=None, repr=False)
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)


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
    s3: S3Account = S3Account()
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
    proxies: Proxies = Proxies()
    """``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY`` and ``NO_PROXY``, for downloads and for the lookup."""
    ca_bundle: Path | None = None
    """The certificate authorities to trust (``REQUESTS_CA_BUNDLE``, ``SSL_CERT_FILE``); None: the system's."""
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
            s3=read.s3(),
            allow_private_addresses=read.flag("ALLOW_PRIVATE_ADDRESSES"),
            allow_unverified=read.flag("ALLOW_UNVERIFIED"),
            share_url=read.url("SHARE_URL", "") or None,
            disk_budget=read.size("MODELS_DISK_BUDGET"),
            hf_cache=hubcache.folder_of(environ),
            verify_hours=read.number("PROVISION_VERIFY_HOURS", 0, 0, 1e6) or None,
            proxies=Proxies.from_environ(environ, read.wrong),
            ca_bundle=read.certificates("REQUESTS_CA_BUNDLE") or read.certificates("SSL_CERT_FILE"),
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
    """Return the environment, completed by the `.env` file of a folder; what the environment says comes first.

    Raises `SettingsError` when there is one that cannot be read.
    """
    try:
        found = dotenv_values(folder / ".env")
    except (OSError, ValueError) as error:
        raise SettingsError(f"{folder / '.env'} cannot be read: {error}; expected lines like NAME=value") from error
    return {**{name: value for name, value in found.items() if value is not None}, **environ}


class _Reading:
    """One pass over the environment that collects every complaint instead of stopping at the first."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.wrong: list[str] = []

    def _value(self, name: str) -> str:
        return self.environ.get(name, "").strip()

    def ids(self, name: str) -> tuple[str, ...]:
        given = [part.strip() for part in re.split("[,\r\n]", self._value(name))]
        ids = tuple(dict.fromkeys(part for part in given if part))
        self.wrong.extend(
            f"{name} holds {each!r}, which is no model id; for example {name}=flux-dev,sdxl-base"
            for each in ids
            if not is_model_id(each)
        )
        return ids

    def url(self, name: str, default: str) -> str:
        value = self._value(name).rstrip("/")
        if not value:
            return default
        if not _is_web_address(value):
            example = f"{name}={default or 'http://server.example:9000'}"
            self.wrong.append(f"{name}={without_userinfo(value)!r} is no http(s) address; for example {example}")
        return value

    def folder(self, name: str, default: Path) -> Path:
        value = self._value(name)
        if "\0" in value:
            self.wrong.append(f"{name} contains a NUL byte; for example {name}={default}")
            return default
        try:
            path = Path(value).expanduser() if value else default
            there = next(each for each in (path, *path.absolute().parents) if each.exists())
        except (RuntimeError, OSError) as error:
            self.wrong.append(f"{name}={value!r} cannot be a folder: {error}; for example {name}={default}")
            return default
        if not there.is_dir():
            found = "is a file" if there == path else f"leads through the file {there}"
            self.wrong.append(f"{name}={value!r} {found}, expected a folder; for example {name}={default}")
        return path

    def certificates(self, name: str) -> Path | None:
        """Read the path of a file of certificates, or of a folder of them."""
        value = self._value(name)
        if not value:
            return None
        path = Path(value)
        try:
            found = "" if path.is_dir() or b"-----BEGIN" in path.read_bytes() else "it holds no certificate"
        except (OSError, ValueError) as error:
            found = str(error)
        if found:
            self.wrong.append(f"{name}={value!r} cannot be used: {found}; for example {name}=/etc/ssl/company.pem")
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

    def s3(self) -> S3Account:
        """Read the account by the names that AWS's own tools use; ``S3_ENDPOINT`` comes before them."""
        endpoints = ("S3_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
        name = next((each for each in endpoints if self._value(each)), endpoints[0])
        account = S3Account(
            endpoint=self.url(name, "") or None,
            region=self._value("AWS_REGION") or self._value("AWS_DEFAULT_REGION") or None,
            access_key_id=self.secret("AWS_ACCESS_KEY_ID"),
            secret_access_key=self.secret("AWS_SECRET_ACCESS_KEY"),
            session_token=self.secret("AWS_SESSION_TOKEN"),
        )
        if bool(account.access_key_id) != bool(account.secret_access_key):
            self.wrong.append("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY belong together; set both or neither")
        return account

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


def is_model_id(text: str) -> bool:
    """Tell whether a catalogue could have such an id, which lists in JSON or with semicolons are not."""
    return bool(text) and len(text) <= ID_LIMIT and text.isprintable() and not NO_ID.intersection(text)


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
