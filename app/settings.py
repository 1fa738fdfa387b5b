"""Settings: read once at an entrance from the environment, `.env` and `config.yaml`, then handed down.

The environment wins over `.env`, which wins over `config.yaml`. Every variable is a field of Settings whose name is the
variable's in small letters; `config.yaml` has the same names under `server:` or `resources:`.
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

from app import config, parse
from app.parse import SettingsError
from provisioning import settings as provisioning_settings
from provisioning.errors import SettingsError as WrongDownloads


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that can be set. Defaults suit one computer; a fleet sets URLs and tokens."""

    data_dir: Path = parse.variable(
        Path("data"), parse.path, "one folder for `images/`, `db/` and `models/`", "/var/lib/imagefleet"
    )
    models_dir: Path = parse.variable(
        None, parse.path, "where machines keep models; `models/` below DATA_DIR unless set", "/models"
    )
    database_url: str = parse.variable(
        None,
        parse.url,
        "SQLAlchemy URL; SQLite below DATA_DIR unless set",
        "postgresql+psycopg://fleet@db/fleet",
        secret=True,
    )
    broker_url: str = parse.variable(
        "",
        parse.url,
        "Redis or Valkey; `imagefleet up` starts its own unless set",
        "redis://:secret@broker:6379/0",
        secret=True,
    )
    live_url: str = parse.variable(
        "",
        parse.url,
        "Redis for progress and cancelling; BROKER_URL unless set",
        "redis://broker:6379/1",
        secret=True,
    )
    fleet_url: str = parse.variable(
        "http://127.0.0.1:8000",
        parse.url,
        "where machines and provisioning find the API",
        "https://fleet.example.org",
    )
    host: str = parse.variable("127.0.0.1", parse.text, "address the server listens on", "0.0.0.0")  # noqa: S104  # an example in a text
    port: int = parse.variable(8000, parse.number(1, 65535), "port the server listens on", "8000")
    web_workers: int = parse.variable(2, parse.number(1, 1000), "processes of the web server", "2")
    web_threads: int = parse.variable(8, parse.number(1, 1000), "threads of each web process", "8")
    a1111_port: int = parse.variable(
        7860, parse.number(0, 65535), "second port, for Automatic1111 clients; 0: no second port", "7860"
    )
    a1111_wait_seconds: int = parse.variable(
        600, parse.number(1, 10**9), "longest that an Automatic1111 client waits for its pictures", "600"
    )
    wait_seconds: int = parse.variable(
        60, parse.number(0, 10**6), "longest that `/generate` and `Prefer: wait=N` wait for pictures", "60"
    )
    api_tokens: tuple[str, ...] = parse.variable(
        (),
        parse.several,
        "bearer tokens of clients, separated by commas; none: open, and on loopback only",
        "s3cret-a,s3cret-b",
        secret=True,
    )
    client_token: str = parse.variable(
        "",
        parse.text,
        "token that the commands of this program show to a server; the first of API_TOKENS unless set",
        "s3cret-a",
        secret=True,
    )
    machine_token: str = parse.variable(
        "", parse.text, "bearer token of the fleet's own machines", "long-random-text", secret=True
    )
    metrics_token: str = parse.variable(
        "", parse.text, "bearer token for `/metrics`; open unless set", "another-long-random-text", secret=True
    )
    machine_id: str = parse.variable(
        "", parse.text, "this machine's name in the fleet; the host's name unless set", "gpu-7"
    )
    machine_models_needed: tuple[str, ...] = parse.variable(
        (), parse.several, "catalogue ids this machine provisions and serves", "flux-dev,sdxl-base"
    )
    driver: str = parse.variable(
        "diffusers",
        parse.one_of("diffusers", "automatic1111", "fake"),
        "what draws on this machine: `diffusers`, `automatic1111` (a real one, at A1111_BASE_URL), or `fake` for load "
        "tests",
        "diffusers",
    )
    a1111_base_url: str = parse.variable(
        "",
        parse.url,
        "the Automatic1111 server that draws for a machine of that driver, started with `--api`",
        "http://127.0.0.1:7861",
        secret=True,
    )
    a1111_auth: str = parse.variable(
        "", parse.text, "its `--api-auth`, as `user:password`, or a bearer token", "user:password", secret=True
    )
    a1111_timeout_seconds: int = parse.variable(
        600, parse.number(1, 10**6), "longest that one request to it may take", "600"
    )
    a1111_away_seconds: int = parse.variable(
        30,
        parse.number(1, 10**6),
        "silence while it draws after which it is taken for gone, and the job goes back",
        "30",
    )
    device: str = parse.variable(
        "auto", parse.one_of("auto", "cuda", "cpu"), "what the machine draws on: `auto`, `cuda` or `cpu`", "cuda"
    )
    gpu_memory_mb: int = parse.variable(
        0,
        parse.number(0, 10**9),
        "megabytes that models and drawing with them may take on a GPU; 0: what is free, less a reserve",
        "20000",
    )
    cpu_cache_mb: int = parse.variable(
        0,
        parse.number(0, 10**9),
        "megabytes that models may take in the computer's memory; 0: what is free, less a reserve",
        "32000",
    )
    allow_pickles: bool = parse.variable(
        default=False,
        read=parse.flag,
        about="load models in Python's pickle format (`.ckpt`, `.pt`, `.bin`) too, weights only",
        example="1",
    )
    smoke_test: bool = parse.variable(
        default=False,
        read=parse.flag,
        about="draw a small picture with each model before it is advertised",
        example="1",
    )
    batch_most: int = parse.variable(
        0,
        parse.number(0, 64),
        "most pictures of an order that are drawn in one batch; 0: 4 on a GPU where they fit, 1 elsewhere",
        "4",
    )
    torch_compile: bool = parse.variable(
        default=False,
        read=parse.flag,
        about="compile the repeated blocks of networks that stay on the GPU; kept in `compiled/` below DATA_DIR",
        example="1",
    )
    attention: str = parse.variable(
        "", parse.text, "diffusers' name of an attention backend, such as `flash`; its own choice unless set", "flash"
    )
    drain_seconds: int = parse.variable(
        30,
        parse.number(0, 10**6),
        "what a running job gets to end when its machine is stopped; then it is handed back",
        "30",
    )
    affinity_seconds: int = parse.variable(
        20, parse.number(0, 10**6), "longest that a machine stays with a model while others wait; 0: turn by turn", "20"
    )
    preview_seconds: float = parse.variable(
        1.0, parse.amount(0, 10**6), "least seconds between previews of a running job; 0: none", "1.0"
    )
    spool_mb: int = parse.variable(
        2048, parse.number(1, 10**9), "finished work waiting for the API at which a machine takes no more jobs", "2048"
    )
    fake_step_seconds: float = parse.variable(
        0.02, parse.amount(0, 3600), "denoising step of the driver `fake`, seconds", "0.02"
    )
    fake_load_seconds: float = parse.variable(
        0.0, parse.amount(0, 3600), "what the driver `fake` takes to bring in another model, seconds", "0.5"
    )
    hf_token: str = parse.variable("", parse.text, "Hugging Face token for gated models", "hf_xxx", secret=True)
    civitai_token: str = parse.variable(
        "", parse.text, "Civitai token for models that need a login", "0123abcd", secret=True
    )
    allow_private_addresses: bool = parse.variable(
        default=False,
        read=parse.flag,
        about="let downloads go to private addresses",
        example="1",
    )
    public_url: str = parse.variable(
        "",
        parse.url,
        "under which address clients reach the API, for links in answers and webhooks; the request's own unless set",
        "https://fleet.example.org",
    )
    secret_key: tuple[str, ...] = parse.variable(
        (),
        parse.several,
        "encrypts the secrets of webhooks; several, separated by commas: the first encrypts, all decrypt; "
        "`db/secret.key` below DATA_DIR, made once, unless set",
        "long-random-text",
        secret=True,
    )
    webhook_allow_private: bool = parse.variable(
        default=False,
        read=parse.flag,
        about="let webhooks go to private addresses",
        example="1",
    )
    webhook_retry_seconds: int = parse.variable(
        5,
        parse.number(1, 3600),
        "longest wait before a webhook's second try; it triples with every failure, up to two hours",
        "5",
    )
    reject_unserved: bool = parse.variable(
        default=False,
        read=parse.flag,
        about="refuse jobs for models that no live machine holds, instead of letting them wait",
        example="1",
    )
    safety_check: bool = parse.variable(
        default=False,
        read=parse.flag,
        about="black out what the safety checker takes for unsafe, in the pictures of every order",
        example="1",
    )
    safety_model: str = parse.variable(
        "", parse.text, "catalogue id of the safety checker; the only model of kind `safety` unless set", "safety"
    )
    background_model: str = parse.variable(
        "",
        parse.text,
        "catalogue id of what `remove_background: true` takes; the only model of kind `onnx` that is tagged "
        "`background` and may be used by everybody unless set",
        "birefnet",
    )
    max_attempts: int = parse.variable(3, parse.number(1, 10**9), "tries of a job before it ends as an error", "3")
    max_steps: int = parse.variable(150, parse.number(1, 10**9), "most denoising steps of a job", "150")
    max_size: int = parse.variable(2048, parse.number(1, 10**9), "most pixels of a picture's side", "2048")
    max_images: int = parse.variable(16, parse.number(1, 10**9), "most pictures of one job", "16")
    max_prompt: int = parse.variable(10_000, parse.number(1, 10**9), "most characters of a prompt", "10000")
    max_upload_mb: int = parse.variable(64, parse.number(1, 10**9), "most megabytes of one request", "64")
    max_input_pixels: int = parse.variable(
        36_000_000,
        parse.number(1, 10**9),
        "most pixels of a picture that is uploaded, or made by upscaling",
        "36000000",
    )
    max_prompts: int = parse.variable(100, parse.number(1, 10**9), "most prompts of one request", "100")
    max_queued_per_token: int = parse.variable(
        0, parse.number(0, 10**9), "most jobs of one API token that may wait at a time; 0: no limit", "1000"
    )
    requests_per_minute: int = parse.variable(
        0, parse.number(0, 10**9), "most requests of one API token in a minute; 0: no limit", "600"
    )
    max_batch_ids: int = parse.variable(1000, parse.number(1, 10**9), "most ids of one batch lookup", "1000")
    log_level: str = parse.variable(
        "INFO", parse.one_of("DEBUG", "INFO", "WARNING", "ERROR"), "DEBUG, INFO, WARNING or ERROR", "INFO"
    )

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
    """Lay the environment over `.env` over `config.yaml` of a folder; the result has the environment's shape."""
    return config.merged(environ, folder, {variable.name for variable in _declared()})


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
