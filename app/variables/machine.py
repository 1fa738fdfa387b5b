"""Variables of a machine: what it holds, and how it draws."""

from dataclasses import dataclass

from app import parse


@dataclass(frozen=True, kw_only=True)
class MachineVariables:
    """What a machine needs."""

    machine_id: str = parse.variable(
        "", parse.machine_name, "this machine's name in the fleet; the host's name unless set", "gpu-7"
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
        "most pictures that are drawn in one batch; 0: of one order 4 on a GPU where they fit and 1 elsewhere, of "
        "several up to 4 where that was measured to be faster",
        "4",
    )
    batch_delay_seconds: float = parse.variable(
        5.0,
        parse.amount(0, 10**6),
        "by how much later than alone a job may be done because others are drawn in its pass; 0: none are",
        "5.0",
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
    machine_health_port: int = parse.variable(
        0,
        parse.number(0, 65535),
        "port where the machine answers `/live` and `/ready`; 0: none",
        "8001",
    )
    machine_health_host: str = parse.variable(
        "127.0.0.1",
        parse.text,
        "address that MACHINE_HEALTH_PORT is opened on",
        "0.0.0.0",  # noqa: S104  # an example in a text
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
