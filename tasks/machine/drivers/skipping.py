"""Pictures that somebody skips: they are handed over as far as they were drawn, and say so."""

from dataclasses import dataclass, field, replace
from functools import partial

from tasks.machine.drivers.contract import OnStep, Step


@dataclass(slots=True)
class Cut:
    """Notes after which step the drawing of some pictures was ended early, if it was."""

    after: int | None = None
    notes: tuple[str, ...] = field(default=())
    """For the pictures' author."""

    def watched(self, on_step: OnStep) -> OnStep:
        """Tell of steps, and note whether one of them was the last by somebody's wish."""

        def told(step: Step) -> None:
            on_step(step if step.skip is None else replace(step, skip=partial(self._skip, step)))

        return told

    def _skip(self, step: Step) -> None:
        if self.after is None:
            self.after = step.step
            self.notes = (f"skipped after step {step.step} of {step.steps}: as far as it was drawn",)
        if step.skip is not None:
            step.skip()
