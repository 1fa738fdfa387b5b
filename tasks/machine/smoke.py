"""The smoke test: before a model is advertised, one small picture is drawn with it, and held against the last one.

A receipt proves the bytes. That this GPU, with these libraries, still draws with them only a picture proves: broken
memory and bad library mixes give black, flat or other pictures without any error.
"""

import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageChops, ImageStat

from app.core.spec import GenerationSpec
from tasks.machine.drivers.contract import Driver, ModelFiles, Order, Step
from tasks.machine.errors import FleetAway, MachineError

log = logging.getLogger(__name__)

PROMPT = "a red circle on a blue background"
SEED = 1
STEPS = 4
LEAST_CONTRAST = 2.0
"""Standard deviation of all values, 0 to 255. NaN becomes black; a picture this flat holds nothing."""

MOST_DRIFT = 4.0
"""Mean difference to the last picture on this kind of device, 0 to 255. Rounding gives below 0.1."""


RETRY_SECONDS = 60.0
"""After a failure: somebody may have mended the driver, or deleted the picture it is held against."""

Key = tuple[str, str]
"""A model's id and its proof."""


class SmokeFailed(MachineError):
    """The picture drawn before advertising was not as it should be."""

    code = "smoke_test_failed"


@dataclass(slots=True)
class SmokeTest:
    """Draws once with each new proof of a model, in the background, and remembers the verdict."""

    driver: Callable[[], Driver]
    files_of: Callable[[str], ModelFiles]
    is_drawable: Callable[[str], bool]
    """Whether pictures are drawn with the model itself: LoRAs and the like only go along with one."""
    folder: Path
    device_lock: threading.Lock
    """Held while anybody draws on this device."""
    _passed: set[Key] = field(default_factory=set)
    _failed: dict[Key, tuple[str, float]] = field(default_factory=dict)
    """Why, and when it may be tried again."""
    _busy: set[Key] = field(default_factory=set)

    def allows(self, model_id: str) -> bool:
        """Say whether a model passed; the first question for a new proof begins the test."""
        try:
            files = self.files_of(model_id)
        except MachineError:
            return False
        key = (model_id, files.proof)
        due = self._failed.get(key, ("", 0.0))[1]
        if key not in self._passed and key not in self._busy and time.monotonic() >= due:
            self._busy.add(key)
            threading.Thread(target=self._run, args=(key, files), name=f"smoke {model_id}", daemon=True).start()
        return key in self._passed

    def problem_of(self, model_id: str) -> str | None:
        """Return why a model failed, None while it has not."""
        return next((reason for (known, _), (reason, _) in self._failed.items() if known == model_id), None)

    def _run(self, key: Key, files: ModelFiles) -> None:
        try:
            if self.is_drawable(files.model_id):
                with self.device_lock:
                    self._check(files)
            self._passed.add(key)
            self._failed.pop(key, None)
            log.info("%s passed its smoke test", files.model_id)
        except FleetAway as exc:
            log.warning("%s is not tried yet: %s", files.model_id, exc)
        except MachineError as exc:
            self._failed[key] = (str(exc), time.monotonic() + RETRY_SECONDS)
            log.error("%s failed its smoke test and is not advertised: %s", files.model_id, exc)  # noqa: TRY400  # expected
        except Exception as exc:  # the outermost edge of this thread
            self._failed[key] = (f"{type(exc).__name__}: {exc}", time.monotonic() + RETRY_SECONDS)
            log.exception("%s failed its smoke test and is not advertised", files.model_id)
        finally:
            self._busy.discard(key)

    def _check(self, files: ModelFiles) -> None:
        driver = self.driver()
        spec = GenerationSpec(model_id=files.model_id, prompt=PROMPT, seed=SEED, steps=STEPS)
        picture = next(iter(driver.draw(Order(spec, files), _ignore))).image.convert("RGB")
        contrast = max(ImageStat.Stat(picture).stddev)
        if contrast < LEAST_CONTRAST:
            raise SmokeFailed(f"its picture is flat (contrast {contrast:.2f}, at least {LEAST_CONTRAST:g} is wanted)")
        golden = self.folder / f"{_file_name(files, str(driver.device()['name']))}.png"
        if golden.exists():
            drift = difference(picture, golden)
            if drift > MOST_DRIFT:
                raise SmokeFailed(
                    f"its picture differs by {drift:.1f} of 255 from the last one on this kind of device "
                    f"({golden}; at most {MOST_DRIFT:g}); delete that file if the change is wanted",
                )
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        part = golden.with_name(golden.name + ".part")
        picture.save(part, "PNG")
        part.replace(golden)


def difference(picture: Image.Image, golden: Path) -> float:
    """Return the mean difference of two pictures over all pixels and colours, 0 to 255."""
    with Image.open(golden) as last:
        if last.size != picture.size:
            return 255.0
        means = ImageStat.Stat(ImageChops.difference(picture, last.convert("RGB"))).mean
    return sum(means) / len(means)


def _file_name(files: ModelFiles, device: str) -> str:
    proof = re.sub(r"[^0-9a-f]+", "", files.proof.rpartition(":")[2])[:16]
    return f"{files.model_id}-{proof}-{re.sub(r'[^A-Za-z0-9]+', '-', device)}"


def _ignore(_step: Step) -> None:
    """Let the drawing go on."""
