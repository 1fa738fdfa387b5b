"""A small, strict Automatic1111: its routes, fields and words, on a real socket, and colour fields for pictures.

It refuses what the real one would quietly let be: unknown fields, wrong types, unknown samplers and models. It fails as
the real one does, when a test wants it to.
"""

import base64
import io
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from PIL import Image, ImageChops

NUMBER = (int, float)
COMMON: dict[str, Any] = {
    "prompt": str,
    "negative_prompt": str,
    "steps": int,
    "cfg_scale": NUMBER,
    "width": int,
    "height": int,
    "seed": int,
    "subseed": int,
    "subseed_strength": NUMBER,
    "batch_size": int,
    "n_iter": int,
    "sampler_name": str,
    "scheduler": str,
    "override_settings": dict,
    "override_settings_restore_afterwards": bool,
    "send_images": bool,
    "save_images": bool,
    "do_not_save_samples": bool,
    "do_not_save_grid": bool,
    "denoising_strength": NUMBER,
    "alwayson_scripts": dict,
}
UNIT: dict[str, Any] = {
    "enabled": bool,
    "image": str,
    "module": str,
    "model": str,
    "weight": NUMBER,
    "guidance_start": NUMBER,
    "guidance_end": NUMBER,
    "resize_mode": str,
    "control_mode": str,
    "pixel_perfect": bool,
    "save_detected_map": bool,
}
"""Of the extension sd-webui-controlnet."""
TXT2IMG = COMMON | {"enable_hr": bool, "hr_scale": NUMBER, "hr_upscaler": str, "hr_second_pass_steps": int}
IMG2IMG = COMMON | {
    "init_images": list,
    "resize_mode": int,
    "include_init_images": bool,
    "mask": str,
    "mask_blur": int,
    "inpainting_fill": int,
    "inpaint_full_res": bool,
    "inpaint_full_res_padding": int,
    "inpainting_mask_invert": int,
}
SETTINGS = {"sd_model_checkpoint", "sd_vae", "CLIP_stop_at_last_layers", "samples_format"}

DREAM = sha256(b"dream").hexdigest()

Answer = tuple[int, str, bytes]
"""Status, content type, body."""

OUT_OF_MEMORY: Answer = (
    500,
    "application/json",
    json.dumps(
        {
            "error": "OutOfMemoryError",
            "detail": "",
            "body": "",
            "errors": "CUDA out of memory. Tried to allocate 2.00 GiB (GPU 0; 8.00 GiB total capacity)",
        }
    ).encode(),
)
HTML: Answer = (200, "text/html", b"<html><body>Welcome to nginx!</body></html>")
GARBAGE: Answer = (200, "application/json", b'{"images": [')


def checkpoint(name: str, digest: str | None = None) -> dict[str, Any]:
    """List a checkpoint as the real one does; it knows a file's hash once it has loaded it."""
    short = digest[:10] if digest else None
    title = f"{name}.safetensors [{short}]" if short else f"{name}.safetensors"
    path = f"/models/Stable-diffusion/{name}.safetensors"
    return {
        "title": title,
        "model_name": name,
        "hash": short,
        "sha256": digest,
        "filename": path,
        "config": None,
    }


def lora(name: str) -> dict[str, Any]:
    """List a LoRA."""
    return {"name": name, "alias": name, "path": f"/models/Lora/{name}.safetensors", "metadata": {}}


@dataclass
class Webui:
    """What it has, what it was asked, and how it should fail."""

    auth: str = ""
    """`user:password` that it asks for."""
    step_seconds: float = 0.0
    loading_seconds: float = 0.0
    checkpoints: list[dict[str, Any]] = field(default_factory=lambda: [checkpoint("dream", DREAM)])
    vaes: list[dict[str, Any]] = field(
        default_factory=lambda: [{"model_name": "clear.safetensors", "filename": "/v/c"}]
    )
    loras: list[dict[str, Any]] = field(default_factory=lambda: [lora("detail")])
    samplers: tuple[str, ...] = ("Euler", "Euler a", "DPM++ 2M", "DDIM")
    schedules: tuple[str, ...] | None = ("Automatic", "Uniform", "Karras", "SGM Uniform")
    controlnets: tuple[str, ...] | None = None
    """Of the extension sd-webui-controlnet; None: it is not there."""
    has_pages: bool = False
    """Beside its API it answers everything with a page, as some proxies do."""
    modules: tuple[str, ...] = ("none", "canny", "depth_midas")
    fails: list[Answer | None] = field(default_factory=list)
    """How the next requests that draw are answered; None: well."""
    breaks: bool = False
    """It drops the connection in the midst of a drawing, as a program does that dies."""
    deaf: bool = False
    """It takes requests and answers none."""
    misdraws: bool = False
    """It draws pictures of another size than was asked for."""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    interrupted: threading.Event = field(default_factory=threading.Event)
    skipped: threading.Event = field(default_factory=threading.Event)
    state: dict[str, Any] = field(default_factory=dict)
    shown: str | None = None
    _turn: threading.Lock = field(default_factory=threading.Lock)
    _server: ThreadingHTTPServer | None = None
    _port: int = 0

    def __post_init__(self) -> None:
        self._rest()

    @property
    def url(self) -> str:
        """Return where it listens."""
        return f"http://127.0.0.1:{self._port}"

    def open(self) -> "Webui":
        """Listen, at the same port as before."""
        handler = type("Handler", (_Handler,), {"webui": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), handler)
        self._server.daemon_threads = True
        self._port = self._server.server_port
        threading.Thread(target=partial(self._server.serve_forever, 0.02), daemon=True).start()
        return self

    def close(self) -> None:
        """Listen no more: connections are refused."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def _rest(self) -> None:
        was_interrupted = self.interrupted.is_set()  # the real one says so until the next drawing begins
        idle = {"skipped": False, "interrupted": was_interrupted, "stopping_generation": False}
        self.state = (
            idle
            | {"job": "", "job_count": 0}
            | {"job_timestamp": "0", "job_no": 0, "sampling_step": 0, "sampling_steps": 0}
        )

    def draw(self, route: str, body: dict[str, Any]) -> Answer:
        """Draw colour fields, step by step, one request at a time."""
        problems = self._problems(body, TXT2IMG if route == "txt2img" else IMG2IMG)
        if problems:
            return _json(422, {"detail": problems})
        if route == "img2img" and not body.get("init_images"):
            return _error(404, "Init image not found")
        settings = body.get("override_settings") or {}
        if settings["sd_model_checkpoint"] not in {each["title"] for each in self.checkpoints}:
            return _json(500, {"error": "RuntimeError", "detail": "", "errors": "model 'x' not found"})
        with self._turn:
            self.interrupted.clear()
            time.sleep(self.loading_seconds)
            self.skipped.clear()  # the real one does where each of n_iter begins
            return self._drawn(route, body)

    def _drawn(self, route: str, body: dict[str, Any]) -> Answer:
        passes = 2 if body.get("enable_hr") else 1
        steps = body.get("steps", 50)
        scale = body.get("hr_scale", 2.0) if passes == 2 else 1
        size = (int(body.get("width", 512) * scale), int(body.get("height", 512) * scale))
        seeds = [body["seed"] + k for k in range(body.get("batch_size", 1))]
        images = [self._picture(body, seed, size) for seed in seeds]
        self.shown = _encoded(images[0].resize((16, 16)))
        for number in range(passes):
            self.state |= {"job": f"scripts_{route}", "job_count": passes, "job_no": number, "sampling_steps": steps}
            for step in range(steps):
                if self.interrupted.is_set() or self.skipped.is_set() or self.breaks:
                    break
                time.sleep(self.step_seconds)
                self.state["sampling_step"] = step + 1
        self._rest()
        if self.breaks:
            raise ConnectionAbortedError
        info = {"all_seeds": seeds, "seed": seeds[0], "steps": steps, "index_of_first_image": 0, "version": "v1.10.1"}
        return _json(200, {"images": [_encoded(i) for i in images], "parameters": body, "info": json.dumps(info)})

    def _picture(self, body: dict[str, Any], seed: int, size: tuple[int, int]) -> Image.Image:
        """Draw one colour that follows from words, model and seed; over a picture begun with, as much as it says."""
        size = (size[0] // 2, size[1]) if self.misdraws else size
        title = body["override_settings"]["sd_model_checkpoint"]
        colour = sha256(f"{title} {body['prompt']} {seed}".encode()).digest()
        drawn = Image.new("RGB", size, (colour[0], colour[1], colour[2]))
        if not body.get("init_images"):
            return drawn
        begun = decoded(body["init_images"][0]).convert("RGB").resize(size)
        mixed = Image.blend(begun, drawn, body["denoising_strength"])
        if "mask" not in body:
            return mixed
        mask = decoded(body["mask"]).convert("L").resize(size)
        return Image.composite(mixed, begun, ImageChops.invert(mask) if body["inpainting_mask_invert"] else mask)

    def _problems(self, body: dict[str, Any], known: dict[str, Any]) -> list[dict[str, Any]]:
        wrong = [n for n, v in body.items() if n not in known or not isinstance(v, known[n]) or _is_flag(v, known[n])]
        problems = [(name, "Input should be something else", body[name]) for name in wrong]
        problems += [(n, "no such setting", None) for n in set(body.get("override_settings", ())) - SETTINGS]
        if body.get("steps", 1) < 1 or body.get("steps", 1) > 150:
            problems.append(("steps", "Input should be less than or equal to 150", body["steps"]))
        if body.get("sampler_name", self.samplers[0]) not in self.samplers:
            problems.append(("sampler_name", "it would become DPM++ 2M without a word", None))
        if body.get("scheduler", "Automatic") not in (self.schedules or ("Automatic",)):
            problems.append(("scheduler", "it would become Automatic without a word", None))
        problems += self._problems_of_units(body)
        return [{"type": "x", "loc": ["body", name], "msg": said, "input": given} for name, said, given in problems]

    def _problems_of_units(self, body: dict[str, Any]) -> list[tuple[str, str, Any]]:
        scripts = body.get("alwayson_scripts", {})
        if scripts and (self.controlnets is None or set(scripts) != {"controlnet"}):
            return [("alwayson_scripts", "always on script not found", None)]
        units = [unit for script in scripts.values() for unit in script["args"]]
        wrong = [
            (name, "Input should be something else", unit.get(name))
            for unit in units
            for name in {*unit, *UNIT}
            if name not in UNIT or not isinstance(unit.get(name), UNIT[name])
        ]
        unknown = [u for u in units if u["model"] not in (self.controlnets or ()) or u["module"] not in self.modules]
        return wrong + [("model", "no such ControlNet or module", unit["model"]) for unit in unknown]

    def answer(self, method: str, path: str, body: Any) -> Answer:
        """Answer one request."""
        gets: dict[str, Callable[[], Any]] = {
            "sd-models": lambda: self.checkpoints,
            "sd-vae": lambda: self.vaes,
            "loras": lambda: self.loras,
            "upscalers": lambda: [{"name": name, "model_path": None} for name in ("None", "Lanczos", "R-ESRGAN 4x+")],
            "embeddings": lambda: {"loaded": {"good": {}}, "skipped": {"bad": {}}},
            "samplers": lambda: [{"name": name, "aliases": [], "options": {}} for name in self.samplers],
            "memory": lambda: {"ram": {"total": 1}, "cuda": {"system": {"free": 3 * 10**9, "total": 8 * 10**9}}},
            "progress": self._progress,
        }
        if self.controlnets is not None:
            gets["/controlnet/model_list"] = lambda: {"model_list": list(self.controlnets or ())}
            gets["/controlnet/module_list"] = lambda: {"module_list": list(self.modules), "module_detail": {}}
        if self.schedules is not None:
            gets["schedulers"] = lambda: [{"name": name.lower(), "label": name} for name in self.schedules or ()]
        posts: dict[str, Callable[[], Answer]] = {
            "txt2img": lambda: self.draw("txt2img", body),
            "img2img": lambda: self.draw("img2img", body),
            "extra-single-image": lambda: _json(200, {"html_info": "", "image": _larger(body)}),
            "interrupt": self._interrupt,
            "skip": self._skip,
            "unload-checkpoint": lambda: _json(200, {}),
        }
        self.asked.append(path)
        if self.has_pages and path.startswith("/"):
            return HTML
        if method == "GET" and path in gets:
            return _json(200, gets[path]())
        if method == "POST" and path in posts:
            if path in {"txt2img", "img2img"}:
                self.bodies.append(body)
                if self.fails and (failure := self.fails.pop(0)):
                    return failure
            return posts[path]()
        return _json(405 if path in gets or path in posts else 404, {"detail": "Not Found"})

    def _progress(self) -> dict[str, Any]:
        return {
            "progress": 0.0,
            "eta_relative": 0.0,
            "state": dict(self.state),
            "current_image": self.shown if self.state["job_count"] else None,
            "textinfo": None,
        }

    def _skip(self) -> Answer:
        self.skipped.set()
        return _json(200, None)

    def _interrupt(self) -> Answer:
        self.interrupted.set()
        return _json(200, {})


class _Handler(BaseHTTPRequestHandler):
    webui: Webui
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer("GET", None)

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._answer("POST", json.loads(data or b"{}"))

    def _answer(self, method: str, body: Any) -> None:
        while self.webui.deaf:
            time.sleep(0.05)
        wanted = f"Basic {base64.b64encode(self.webui.auth.encode()).decode()}"
        path = urlsplit(self.path).path.removeprefix("/sdapi/v1/")
        if self.webui.auth and self.headers.get("Authorization") != wanted:
            status, kind, data = _json(401, {"detail": "Incorrect username or password"})
        else:
            try:
                status, kind, data = self.webui.answer(method, path, body)
            except ConnectionAbortedError:
                self.close_connection = True
                self.connection.close()
                return
        try:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except OSError:
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Be silent."""


def _is_flag(value: Any, kind: Any) -> bool:
    return isinstance(value, bool) and kind is not bool


def _json(status: int, content: Any) -> Answer:
    return status, "application/json", json.dumps(content).encode()


def _error(status: int, detail: str) -> Answer:
    return _json(status, {"error": "HTTPException", "detail": detail, "body": "", "errors": ""})


def _encoded(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def decoded(text: str) -> Image.Image:
    """Decode a picture in base64."""
    return Image.open(io.BytesIO(base64.b64decode(text, validate=True)))


def _larger(body: dict[str, Any]) -> str:
    image = decoded(body["image"])
    factor = body["upscaling_resize"]
    return _encoded(image.resize((int(image.width * factor), int(image.height * factor))))
