"""The orders that share a pass: each is told of every step, and may leave at any; the others go on."""

from collections.abc import Callable, Sequence

from tasks.machine.drivers.contract import DrawingCancelled, OnStep, Step


class Company:
    """Those of several orders that are still wanted."""

    def __init__(self, on_steps: Sequence[OnStep]) -> None:
        """Take what is told of each order's steps; it raises DrawingCancelled where its order leaves."""
        self._on_steps = on_steps
        self.present = list(range(len(on_steps)))
        """The places of those that are wanted."""

    def tell(self, step_of: Callable[[int], Step]) -> list[int]:
        """Tell those that are wanted, by their places, where the pass is; returns who has left over that.

        Raises DrawingCancelled when nobody is left, and at once what else an order raises.
        """
        left = []
        for place in list(self.present):
            try:
                self.watching(place)(step_of(place))
            except DrawingCancelled:
                left.append(place)
        if not self.present:
            raise DrawingCancelled
        return left

    def watching(self, place: int) -> OnStep:
        """Return what tells one of them, and notes when it leaves."""

        def told(step: Step) -> None:
            try:
                self._on_steps[place](step)
            except DrawingCancelled:
                self.present.remove(place)
                raise

        return told
