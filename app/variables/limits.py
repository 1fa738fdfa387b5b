"""Variables that bound what clients may ask for, and how their orders are treated."""

from dataclasses import dataclass

from app import parse


@dataclass(frozen=True, kw_only=True)
class LimitVariables:
    """What is taken from clients, and what becomes of it."""

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
