"""Variables of the server: where it listens, what it stands on, and who may come in."""

from dataclasses import dataclass
from pathlib import Path

from app import parse, tokens


@dataclass(frozen=True, kw_only=True)
class ServingVariables:
    """What the server needs, and what all parts must find each other by."""

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
    idle_check_ins_per_second: float = parse.variable(
        33.0,
        parse.amount(0.01, 10**6),
        "check-ins of idle machines that the server wants in a second, at most; where each machine's every 3 seconds "
        "would be more, they come less often, down to every 30 seconds",
        "100",
    )
    a1111_port: int = parse.variable(
        7860, parse.number(0, 65535), "second port, for Automatic1111 clients; 0: no second port", "7860"
    )
    a1111_wait_seconds: int = parse.variable(
        600, parse.number(1, 10**9), "longest that an Automatic1111 client waits for its pictures", "600"
    )
    wait_seconds: int = parse.variable(
        60, parse.number(0, 10**6), "longest that `/generate` and `Prefer: wait=N` wait for pictures", "60"
    )
    openai_wait_seconds: int = parse.variable(
        540,
        parse.number(1, 10**6),
        "longest that an OpenAI client waits for its pictures; its own patience is 600",
        "540",
    )
    openai_default_model: str = parse.variable(
        "",
        parse.text,
        "catalogue id of what OpenAI clients get that name no model, or one of OpenAI's; the first that can be drawn "
        "with unless set",
        "sdxl-base",
    )
    api_tokens: tuple[str, ...] = parse.variable(
        (),
        tokens.several,
        "bearer tokens, separated by commas: bare, or `name:scope:token` with the scope `client`, `operator` or "
        "`machine` (docs/security.md); none: open, and on loopback only",
        "s3cret-a,alice:client:s3cret-b,ops:operator:s3cret-c",
        secret=True,
    )
    tokens_file: Path | None = parse.variable(
        None,
        parse.path,
        "file with more of them, one on a line; a change counts at once, so that a token can be taken back",
        "/run/secrets/tokens",
    )
    auth_failures_per_minute: int = parse.variable(
        20,
        parse.number(0, 10**6),
        "wrong tokens that an address may send in a minute before unknown ones are refused unread; 0: no limit",
        "20",
    )
    trusted_proxies: tuple[str, ...] = parse.variable(
        (),
        parse.networks,
        "addresses or networks of proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed; none "
        "unless set",
        "10.0.0.0/8",
    )
    allowed_hosts: tuple[str, ...] = parse.variable(
        (),
        parse.several,
        "names under which this server may be asked, without ports; any unless set, and on an open server only those "
        "of this computer, of PUBLIC_URL and of FLEET_URL",
        "fleet.example.org",
    )
    hsts_seconds: int = parse.variable(
        0,
        parse.number(0, 10**9),
        "for so long browsers insist on TLS (Strict-Transport-Security), where PUBLIC_URL is https; 0: not told",
        "31536000",
    )
    client_token: str = parse.variable(
        "",
        parse.text,
        "token that the commands of this program show to a server; the first of API_TOKENS that is written there in "
        "the clear unless set, operators' first",
        "s3cret-a",
        secret=True,
    )
    machine_token: str = parse.variable(
        "", parse.text, "bearer token of the fleet's own machines", "long-random-text", secret=True
    )
    metrics_token: str = parse.variable(
        "", parse.text, "bearer token for `/metrics`; open unless set", "another-long-random-text", secret=True
    )
    public_url: str = parse.variable(
        "",
        parse.url,
        "under which address clients reach the API, for links in answers and webhooks; the request's own unless set",
        "https://fleet.example.org",
    )
    flower_url: str = parse.variable(
        "",
        parse.url,
        "where Flower is, for a link on the page's view of the fleet; none unless set, and what `up --flower` starts",
        "https://flower.example.org",
    )
    secret_key: tuple[str, ...] = parse.variable(
        (),
        parse.several,
        "encrypts the secrets of webhooks and seals addresses of pictures; several, separated by commas: the first "
        "encrypts, all decrypt; "
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
    webhook_answer_seconds: int = parse.variable(
        10,
        parse.number(1, 30),
        "seconds that a webhook's receiver may take between two pieces of its answer; in all it gets half as many more",
        "20",
    )
    civitai_metadata: bool = parse.variable(
        default=True,
        read=parse.flag,
        about="ask CIVITAI_ENDPOINT what it knows of the catalogue's models, by their hashes, once somebody lists them "
        "at `/sdapi/v1`",
        example="0",
    )
    private_models: tuple[str, ...] = parse.variable(
        (),
        parse.several,
        "ids of models whose hashes are told to nobody, `*` for any letters; those that are tagged `private` are too",
        "in-house-*,portrait-lora",
    )
    cors_origins: tuple[str, ...] = parse.variable(
        (),
        parse.origins,
        "web sites whose pages may use the API in their visitors' browsers, separated by commas; `*`: all; none unless "
        "set",
        "https://studio.example.org",
    )
    beat_file: Path | None = parse.variable(
        None,
        parse.path,
        "file that beat touches whenever the broker took a message of it, for health checks; none unless set",
        "/tmp/beat",  # noqa: S108  # an example in a text
    )
    log_level: str = parse.variable(
        "INFO", parse.one_of("DEBUG", "INFO", "WARNING", "ERROR"), "DEBUG, INFO, WARNING or ERROR", "INFO"
    )
    log_format: str = parse.variable(
        "console",
        parse.one_of("console", "json"),
        "`console`: lines for people; `json`: one object a line, with the ids of request, job, attempt and machine",
        "json",
    )
