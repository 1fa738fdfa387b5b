"""Has a real Automatic1111 server draw: the machine holds no model and no GPU, it only asks and watches.

The server is taken to be this machine's own: what it tells of its progress, and what interrupting stops, is anybody's.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from app.core.extras import Upscale
from app.core.spec import nth_seed
from tasks.machine.drivers.a1111 import answers
from tasks.machine.drivers.a1111.answers import Drawn, Moment
from tasks.machine.drivers.a1111.errors import NotHere, ServerAway, ServerFailed
from tasks.machine.drivers.a1111.orders import Abilities, Wishes, as_base64, refuse
from tasks.machine.drivers.a1111.watching import Drawing
from tasks.machine.drivers.a1111.wire import Server
from tasks.machine.drivers.contract import CannotDraw, DriverSettings, OnStep, Order, Picture, Step
from tasks.machine.drivers.skipping import Cut
from tasks.machine.errors import MachineError

log = logging.getLogger(__name__)

ABILITIES_SECONDS = 300.0
"""How long it is believed to have the same samplers: it may be updated and started anew."""

DEVICE_SECONDS = 10.0
DEVICE_PATIENCE = 2.0
"""How long its memory is asked for: the check-in waits for it, and a machine that is silent is taken for lost."""


class Automatic1111Driver:
    """Draws with the models of one Automatic1111 server, a request for each picture or few."""

    def __init__(self, settings: DriverSettings) -> None:
        if not settings.server_url:
            raise CannotDraw("A1111_BASE_URL is not set: the driver automatic1111 needs to know where its server is")
        self._settings = settings
        self._server = Server(settings.server_url, settings.server_auth)
        self._loaded: str | None = None
        self._abilities: tuple[float, Abilities] | None = None
        self._device: tuple[float, dict[str, Any]] | None = None

    def draw(self, order: Order, on_step: OnStep) -> Iterator[Picture]:
        """Draw the pictures of an order, as many at a time as the settings say."""
        spec, done = order.spec, 0
        is_alone = order.frugal or spec.subseed_strength  # it varies the pictures of a batch otherwise than we do
        at_once = 1 if is_alone else max(1, self._settings.together)
        on_step(Step("loading", 0, 0, 0))
        names = {spec.model_id: str(order.model.path)} | {k: str(v.path) for k, v in order.companions.items()}
        if missing := [each for each in spec.companions if each not in names]:
            raise NotHere(f"{self._server.name} does not have {', '.join(missing)}")
        if spec.draws_nothing:
            yield from self._kept(order, names, on_step)
            return
        abilities = self._known_abilities()
        while done < spec.n:
            # No request may hold a seed behind the last one: there Automatic1111 goes on counting.
            until_seeds_end = 2**32 - nth_seed(spec.seed, done)
            count = min(at_once, spec.n - done, until_seeds_end)
            wishes = Wishes(spec, names, order.pictures, abilities, done, count)
            yield from self._draw_some(wishes, on_step)
            done += count

    def _draw_some(self, wishes: Wishes, on_step: OnStep) -> Iterator[Picture]:
        spec, asked, cut = wishes.spec, self._settings, Cut()
        drawing = Drawing(self._server, wishes.route, wishes.body(), asked.server_seconds, asked.server_away_seconds)
        story = _Story(cut.watched(on_step), wishes.first, wishes.count, spec.steps or 0, drawing.skip)
        answer = drawing.draw(story.go_on)
        self._loaded = spec.model_id
        found = answers.drawn(answer, wishes.count, wishes.size)
        story.end(found)
        for k, image in enumerate(found.images):
            seed = found.seeds[k] if k < len(found.seeds) else nth_seed(spec.seed, wishes.first + k)
            whole = self._larger(image, spec.upscale, wishes.names) if spec.upscale else image
            about = {"driver": "automatic1111", "server": found.about}
            yield Picture(whole, seed, cut.notes, about, skipped_after=cut.after)

    def _kept(self, order: Order, names: Mapping[str, str], on_step: OnStep) -> Iterator[Picture]:
        """Have the picture of an order that draws nothing made larger, and that alone."""
        spec = order.spec
        refuse(spec)
        if spec.detect is not None:
            raise NotHere(f"{self._server.name} is not asked what an annotator sees; machines that draw themselves are")
        for position in range(spec.n):
            on_step(Step("upscaling", 0, 1, position))
            given = order.pictures[str(spec.image)]
            whole = self._larger(given, spec.upscale, names) if spec.upscale else given
            on_step(Step("encoding", 1, 1, position))
            yield Picture(whole, nth_seed(spec.seed, position), drawn_with={"driver": "automatic1111"})

    def _larger(self, image: Any, upscale: Upscale, names: Mapping[str, str]) -> Any:
        """Have a picture made larger."""
        body = {
            "image": as_base64(image),
            "resize_mode": 0,
            "upscaling_resize": upscale.factor,
            "upscaler_1": names.get(upscale.upscaler, upscale.upscaler),
        }
        answer = self._server.post("extra-single-image", body, seconds=self._settings.server_seconds)
        if not isinstance(answer, dict):
            raise ServerFailed("the answer to extra-single-image is no object")
        return answers.picture(answer.get("image"))

    def _known_abilities(self) -> Abilities:
        now = time.monotonic()
        if self._abilities is None or now - self._abilities[0] > ABILITIES_SECONDS:
            found = Abilities(self._names("samplers", "name"), self._schedules(), self._modules())
            self._abilities = (now, found)
        return self._abilities[1]

    def _schedules(self) -> frozenset[str] | None:
        try:
            return self._names("schedulers", "label")
        except NotHere:  # version 1.8 and older have them in the samplers' names
            return None

    def _modules(self) -> frozenset[str] | None:
        """Ask for the preprocessors of the ControlNet extension; None: it is not there."""
        try:
            found = self._server.get("/controlnet/module_list")
        except ServerAway:
            raise
        except MachineError:  # beside the API anything may answer, such as a proxy's page
            return None
        names = found.get("module_list") if isinstance(found, dict) else None
        return frozenset(map(str, names)) if isinstance(names, list) else None

    def _names(self, route: str, key: str) -> frozenset[str]:
        found = self._server.get(route)
        if not isinstance(found, list):
            raise ServerFailed(f"{self._server.name} answered {route} with something that is no list")
        return frozenset(str(each[key]) for each in found if isinstance(each, dict) and key in each)

    def device(self) -> dict[str, Any]:
        """Describe what draws: the server, and the memory that it tells of."""
        now = time.monotonic()
        if self._device is None or now - self._device[0] > DEVICE_SECONDS:
            self._device = (now, {"type": "remote", "name": self._server.name, **self._memory()})
        return self._device[1]

    def _memory(self) -> dict[str, int]:
        try:
            told = self._server.get("memory", seconds=DEVICE_PATIENCE)
            cuda, ram = told.get("cuda") or {}, told.get("ram") or {}
            found = cuda.get("system") or ram
            return {"memory_total": int(found.get("total") or 0), "memory_free": int(found.get("free") or 0)}
        except (MachineError, AttributeError, TypeError, ValueError):
            return {"memory_total": 0, "memory_free": 0}

    def loaded(self) -> list[str]:
        """Name the model that was drawn with last: the server holds it, unless somebody else chose another."""
        return [self._loaded] if self._loaded else []

    def free(self) -> None:
        """Have the server let go of its model; it loads it again by itself."""
        self._loaded = None
        try:
            self._server.post("unload-checkpoint", seconds=self._settings.server_away_seconds)
        except MachineError as exc:
            log.warning("its memory was not given back: %s", exc)


class _Story:
    """Tells, from what is seen of a drawing now and then, its steps one by one."""

    def __init__(self, on_step: OnStep, position: int, count: int, steps: int, skip: Callable[[], None]) -> None:
        self._on_step = on_step
        self._skip: Callable[[], None] | None = skip
        self._position, self._count = position, count
        self._last: Step = Step("loading", 0, 0, position, images=count)
        self._steps = steps

    def go_on(self, now: Moment | None) -> None:
        """Tell what was done since the last time, or the same again: whoever listens may want to stop it."""
        if now is None or (now.step <= self._last.step and self._last.phase == "denoising"):
            self._on_step(self._last)
            return
        self._steps = now.steps
        self._tell_until(now.step, now.picture)

    def end(self, found: Drawn) -> None:
        """Tell what nobody saw, up to the last step, and that the pictures are there."""
        self._skip = None  # it draws nothing any more, or something of somebody else
        self._steps = max(self._steps or found.steps or 1, self._last.step)
        self._tell_until(self._steps, None, found)
        self._on_step(Step("encoding", self._steps, self._steps, self._position, images=self._count))

    def _tell_until(self, step: int, shown: str | None, found: Drawn | None = None) -> None:
        if self._last.phase != "denoising":
            self._tell(Step("denoising", 0, self._steps, self._position, images=self._count))
        preview = None
        if found is not None:
            preview = lambda: found.images[0].convert("RGB")  # noqa: E731  # a name would say no more
        elif shown is not None:
            preview = lambda: answers.picture(shown).convert("RGB")  # noqa: E731  # as above
        for each in range(self._last.step + 1, step + 1):
            told = Step("denoising", each, self._steps, self._position, preview, images=self._count, skip=self._skip)
            self._tell(told)

    def _tell(self, step: Step) -> None:
        self._last = step
        self._on_step(step)
