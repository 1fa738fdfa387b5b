"""Guarding what is here: whether every proof still holds, and what happens to one that does not.

Used by the thread that decides everything (`provisioner.py`), and by no other.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence

from provisioning import custody, orders, receipts, standing
from provisioning.board import Board
from provisioning.errors import ProvisioningError, Stopped
from provisioning.events import Listener, notice
from provisioning.orders import Order
from provisioning.receipts import ProvenFile, Receipt
from provisioning.scrub import Scrubber
from provisioning.settings import Settings
from provisioning.shopping import receipt_answers
from provisioning.status import State

CHECK_SECONDS = 1.0
"""How often receipts are compared with the files, while watching."""


class Guard:
    """Looks after the receipts of one models folder."""

    def __init__(
        self,
        settings: Settings,
        board: Board,
        known: Mapping[str, Order],
        tell: Listener,
        stop: threading.Event,
        fail: Callable[[Order, ProvisioningError], None],
    ) -> None:
        self.models_dir = settings.models_dir
        self.board = board
        self.orders = known
        self.tell = tell
        self.stop = stop
        self.fail = fail
        self.scrubber = Scrubber(settings.models_dir, settings.verify_hours, stop)
        self._looked = 0.0

    def verify(self) -> None:
        """Read every file that is proved, and withdraw what is not what was proved."""
        proved = {order.model_id: order.receipt for order in orders.in_order(self.orders) if order.receipt is not None}
        for model_id in proved:
            self.board.move(model_id, State.VERIFYING)
        try:
            custody.verify(self.models_dir, proved.values(), self.stop, self.condemn)
        except Stopped:
            return

    def look(self) -> None:
        """Look now and then, by stat alone, whether what was proved is still what lies there."""
        now = time.monotonic()
        if now - self._looked < CHECK_SECONDS:
            return
        self._looked = now
        self.board.beat()
        for order in orders.in_order(self.orders):
            if order.receipt is not None and not order.running:
                self._look_at(order)
        finding = self.scrubber.look(order.receipt for order in self.orders.values() if order.receipt)
        if finding is not None:
            self.condemn(finding.receipt, finding.wrong)

    def compare(self, order: Order) -> None:
        """Begin again with a model whose entry asks for something else than what was proved."""
        assert order.entry is not None
        receipt = order.receipt or custody.intact_receipt(self.models_dir, order.model_id)
        if receipt is None:
            return
        if receipt_answers(receipt, order.entry):
            # With other dependencies only the receipt has to be written again, which bringing it does.
            order.receipt = receipt if receipt.dependencies == order.entry.dependencies else None
        elif order.receipt is not None:
            message = "the catalogue asks for something else than what is here"
            self.tell(notice(message, model_id=order.model_id, level="warning"))
            self._withdraw(order)

    def condemn(self, receipt: Receipt, wrong: Sequence[ProvenFile]) -> None:
        """Withdraw a model some of whose files were read and are wrong, and move those away.

        What is not the file any more that was read, because it was changed or replaced meanwhile, is judged anew.
        """
        order = self.orders[receipt.model_id]
        if order.receipt is None or order.running:
            return
        damaged = [file for file in wrong if receipts.file_is_intact(self.models_dir, file)]
        if not damaged:
            self._look_at(order)
            return
        names = ", ".join(file.path for file in damaged)
        self.tell(notice(f"{names}: damaged", model_id=receipt.model_id, level="warning"))
        self._withdraw(order)
        try:
            custody.remove_wrong(self.models_dir, damaged)
        except ProvisioningError as error:
            self.fail(order, error)

    def _look_at(self, order: Order) -> None:
        """Withdraw a model if its proof does not hold any more."""
        order.receipt = custody.still_proved(self.models_dir, order.model_id)
        if order.receipt is None:
            message = "its files or its receipt were changed or are gone; proving it again"
            self.tell(notice(message, model_id=order.model_id, level="warning"))
            self._withdraw(order)

    def _withdraw(self, order: Order) -> None:
        """Take a proof back. On the next try the file is judged by its hash, and moved away if it is bad."""
        custody.withdraw(self.models_dir, order.model_id)
        order.receipt, order.due = None, 0.0
        order.stale_entry = order.entry is None
        standing.put(self.board, order, State.WANTED)
