"""Settings: read once at an entrance from the environment, `.env` and `config.yaml`, then handed down.

The environment wins over `.env`, which wins over `config.yaml`. Every field of Settings is a variable whose name is the
field's in capitals; `config.yaml` has the same names in small letters under `server:` or `resources:`.
"""

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from io import StringIO
from pathlib import Path
from typing import Any, Self

import yaml
from dotenv import dotenv_values

MODEL_LINE = re.compile(r"^\s*(?:export\s+)?MODEL_[A-Z0-9_]+\s*=.*$", re.MULTILINE)


class SettingsError(Exception):
    """One or more settings are wrong; the message names each of them."""


def _text(value: str) -> str:
    return value.strip()


def _path(value: str) -> Path:
    return Path(value).expanduser().absolute()


def _flag(value: str) -> bool:
    words = {
        "1": True,
        "true": True,
        "yes": True,
        "on": True,
        "0": False,
        "false": False,
        "no": False,
        "off": False,
    }
    return words[value.strip().lower()]


def _number(least: int, most: int) -> Callable[[str], int]:
    def read(value: str) -> int:
        number = int(value)
        if not least <= number <= most:
            raise ValueError(value)
        return number

    return read


def _amount(least: float, most: float) -> Callable[[str], float]:
    def read(value: str) -> float:
        number = float(value)
        if not least <= number <= most:  # NaN is refused here too
            raise ValueError(value)
        return number

    return read


def _one_of(*known: str) -> Callable[[str], str]:
    def read(value: str) -> str:
        if value.strip() not in known:
            raise ValueError(value)
        return value.strip()

    return read


def _list(value: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in value.split(",") if item.strip())


def _url(value: str) -> str:
    if "://" not in value:
        raise ValueError(value)
    return value.strip().rstrip("/")


def _variable(default: Any, read: Callable[[str], Any], about: str, example: str, *, secret: bool = False) -> Any:
    return field(default=default, repr=not secret, metadata={"read": read, "about": about, "example": example})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that can be set. Defaults suit one computer; a fleet sets URLs and tokens."""

    data_dir: Path = _variable(
        Path("data"), _path, "one folder for `images/`, `db/` and `models/`", "/var/lib/imagefleet"
    )
    models_dir: Path = _variable(
        None, _path, "where machines keep models; `models/` below DATA_DIR unless set", "/models"
    )
    database_url: str = _variable(
        None,
        _url,
        "SQLAlchemy URL; SQLite below DATA_DIR unless set",
        "postgresql+psycopg://fleet@db/fleet",
        secret=True,
    )
    broker_url: str = _variable(
        "",
        _url,
        "Redis or Valkey; `imagefleet up` starts its own unless set",
        "redis://:secret@broker:6379/0",
        secret=True,
    )
    live_url: str = _variable(
        "",
        _url,
        "Redis for progress and cancelling; BROKER_URL unless set",
        "redis://broker:6379/1",
        secret=True,
    )
    fleet_url: str = _variable(
        "http://127.0.0.1:8000",
        _url,
        "where machines and provisioning find the API",
        "https://fleet.example.org",
    )
    host: str = _variable("127.0.0.1", _text, "address the server listens on", "0.0.0.0")  # noqa: S104  # an example in a text
    port: int = _variable(8000, _number(1, 65535), "port the server listens on", "8000")
    web_workers: int = _variable(2, _number(1, 1000), "processes of the web server", "2")
    web_threads: int = _variable(8, _number(1, 1000), "threads of each web process", "8")
    a1111_port: int = _variable(
        7860, _number(0, 65535), "second port, for Automatic1111 clients; 0: no second port", "7860"
    )
    a1111_wait_seconds: int = _variable(
        600, _number(1, 10**9), "longest that an Automatic1111 client waits for its pictures", "600"
    )
    api_tokens: tuple[str, ...] = _variable(
        (),
        _list,
        "bearer tokens of clients, separated by commas; none: open, and on loopback only",
        "s3cret-a,s3cret-b",
        secret=True,
    )
    machine_token: str = _variable(
        "", _text, "bearer token of the fleet's own machines", "long-random-text", secret=True
    )
    machine_id: str = _variable("", _text, "this machine's name in the fleet; the host's name unless set", "gpu-7")
    machine_models_needed: tuple[str, ...] = _variable(
        (), _list, "catalogue ids this machine provisions and serves", "flux-dev,sdxl-base"
    )
    driver: str = _variable(
        "diffusers",
        _one_of("diffusers", "fake"),
        "what draws on this machine: `diffusers`, or `fake` for load tests",
        "diffusers",
    )
    device: str = _variable(
        "auto", _one_of("auto", "cuda", "cpu"), "what the machine draws on: `auto`, `cuda` or `cpu`", "cuda"
    )
    gpu_memory_mb: int = _variable(
        0,
        _number(0, 10**9),
        "megabytes that models and drawing with them may take on a GPU; 0: what is free, less a reserve",
        "20000",
    )
    cpu_cache_mb: int = _variable(
        0,
        _number(0, 10**9),
        "megabytes that models may take in the computer's memory; 0: what is free, less a reserve",
        "32000",
    )
    allow_pickles: bool = _variable(
        default=False,
        read=_flag,
        about="load models in Python's pickle format (`.ckpt`, `.pt`, `.bin`) too, weights only",
        example="1",
    )
    smoke_test: bool = _variable(
        default=False, read=_flag, about="draw a small picture with each model before it is advertised", example="1"
    )
    drain_seconds: int = _variable(
        30,
        _number(0, 10**6),
        "what a running job gets to end when its machine is stopped; then it is handed back",
        "30",
    )
    affinity_seconds: int = _variable(
        20, _number(0, 10**6), "longest that a machine stays with a model while others wait; 0: turn by turn", "20"
    )
    preview_seconds: float = _variable(
        1.0, _amount(0, 10**6), "least seconds between previews of a running job; 0: none", "1.0"
    )
    spool_mb: int = _variable(
        2048, _number(1, 10**9), "finished work waiting for the API at which a machine takes no more jobs", "2048"
    )
    fake_step_seconds: float = _variable(0.02, _amount(0, 3600), "denoising step of the driver `fake`, seconds", "0.02")
    fake_load_seconds: float = _variable(
        0.0, _amount(0, 3600), "what the driver `fake` takes to bring in another model, seconds", "0.5"
    )
    hf_token: str = _variable("", _text, "Hugging Face token for gated models", "hf_xxx", secret=True)
    civitai_token: str = _variable("", _text, "Civitai token for models that need a login", "0123abcd", secret=True)
    allow_private_addresses: bool = _variable(
        default=False,
        read=_flag,
        about="let downloads go to private addresses",
        example="1",
    )
    public_url: str = _variable(
        "",
        _url,
        "under which address clients reach the API, for links in answers and webhooks; the request's own unless set",
        "https://fleet.example.org",
    )
    secret_key: tuple[str, ...] = _variable(
        (),
        _list,
        "encrypts the secrets of webhooks; several, separated by commas: the first encrypts, all decrypt; "
        "`db/secret.key` below DATA_DIR, made once, unless set",
        "long-random-text",
        secret=True,
    )
    webhook_allow_private: bool = _variable(
        default=False,
        read=_flag,
        about="let webhooks go to private addresses",
        example="1",
    )
    webhook_retry_seconds: int = _variable(
        5,
        _number(1, 3600),
        "longest wait before a webhook's second try; it triples with every failure, up to two hours",
        "5",
    )
    reject_unserved: bool = _variable(
        default=False,
        read=_flag,
        about="refuse jobs for models that no live machine holds, instead of letting them wait",
        example="1",
    )
    max_attempts: int = _variable(3, _number(1, 10**9), "tries of a job before it ends as an error", "3")
    max_steps: int = _variable(150, _number(1, 10**9), "most denoising steps of a job", "150")
    max_size: int = _variable(2048, _number(1, 10**9), "most pixels of a picture's side", "2048")
    max_images: int = _variable(16, _number(1, 10**9), "most pictures of one job", "16")
    max_prompt: int = _variable(10_000, _number(1, 10**9), "most characters of a prompt", "10000")
    max_upload_mb: int = _variable(64, _number(1, 10**9), "most megabytes of one request", "64")
    max_prompts: int = _variable(100, _number(1, 10**9), "most prompts of one request", "100")
    max_queued_per_token: int = _variable(
        0, _number(0, 10**9), "most jobs of one API token that may wait at a time; 0: no limit", "1000"
    )
    requests_per_minute: int = _variable(
        0, _number(0, 10**9), "most requests of one API token in a minute; 0: no limit", "600"
    )
    max_batch_ids: int = _variable(1000, _number(1, 10**9), "most ids of one batch lookup", "1000")
    log_level: str = _variable(
        "INFO", _one_of("DEBUG", "INFO", "WARNING", "ERROR"), "DEBUG, INFO, WARNING or ERROR", "INFO"
    )

    @classmethod
    def load(cls, environ: Mapping[str, str], folder: Path | None = None) -> Self:
        """Read everything once; raises SettingsError that names every wrong variable."""
        texts = merged(environ, folder or Path.cwd())
        values: dict[str, Any] = {}
        problems = []
        for variable in fields(cls):
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
        return cls(**values).completed()

    def require_broker(self) -> Self:
        """Refuse to go on without a broker, where nothing would ever be drawn."""
        if not self.broker_url:
            raise SettingsError(
                "BROKER_URL is not set: `imagefleet up` starts a broker of its own; a fleet names one, such as redis://broker:6379/0"
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
        if not settings.api_tokens and not is_loopback(settings.host):
            raise SettingsError(
                f"HOST is {settings.host!r}, which others can reach, and API_TOKENS is not set: "
                "set API_TOKENS=<a long random text> (and MACHINE_TOKEN), or HOST=127.0.0.1",
            )
        if settings.api_tokens and not settings.machine_token:
            raise SettingsError(
                "API_TOKENS is set and MACHINE_TOKEN is not: set MACHINE_TOKEN=<another long random text>"
            )
        return settings


def merged(environ: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Lay the environment over `.env` over `config.yaml`; the result has the environment's shape."""
    texts = {name.upper(): text for name, text in _from_yaml(read_config(environ, folder)).items()}
    texts.update(_from_dotenv(folder / ".env"))
    texts.update({name: text for name, text in environ.items() if text.strip()})
    return texts


def _from_dotenv(path: Path) -> dict[str, str]:
    r"""Read `.env`. Seed 004 writes the quotes inside of `MODEL_*` lines as `\\"`, which would end the value."""
    if not path.is_file():
        return {}
    text = MODEL_LINE.sub(lambda line: line[0].replace('\\\\"', '\\"'), path.read_text(encoding="utf-8"))
    return {name: value for name, value in dotenv_values(stream=StringIO(text)).items() if value is not None}


def read_config(environ: Mapping[str, str], folder: Path) -> dict[str, Any]:
    """Read `config.yaml` (or what CONFIG_FILE names) as it stands; nothing when there is none."""
    named = environ.get("CONFIG_FILE", "")
    path = Path(named) if named else folder / "config.yaml"
    if not path.exists():
        if named:
            raise SettingsError(f"CONFIG_FILE names {named}, and there is no such file")
        return {}
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as exc:
        raise SettingsError(f"{path} is not YAML: {exc}") from exc
    if data is not None and not isinstance(data, dict):
        raise SettingsError(f"{path} must hold `server:`, `resources:` and `models:`, not a {type(data).__name__}")
    return data or {}


def _from_yaml(config: Mapping[str, Any]) -> dict[str, str]:
    known = {variable.name for variable in fields(Settings)}
    texts = {}
    for section in ("server", "resources"):
        values = config.get(section) or {}
        if not isinstance(values, Mapping):
            raise SettingsError(f"config.yaml: {section} must hold settings such as `port: 8000`, not {values!r}")
        for name, value in values.items():
            if name not in known:
                raise SettingsError(
                    f"config.yaml: {section}.{name} is no setting; known are {', '.join(sorted(known))}"
                )
            texts[name] = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    if unknown := set(config) - {"server", "resources", "models"}:
        raise SettingsError(f"config.yaml: unknown section {min(unknown)!r}; there are server, resources and models")
    return texts


def is_loopback(host: str) -> bool:
    """Say whether only this computer can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def variables() -> list[tuple[str, str, str]]:
    """Return (name, default, meaning) of every variable, as README's table has them."""
    rows = []
    for variable in fields(Settings):
        default = "" if variable.default in (None, "", ()) else str(variable.default)
        shown = {"True": "1", "False": "0"}.get(default, default)
        rows.append((variable.name.upper(), shown, variable.metadata["about"]))
    return rows
