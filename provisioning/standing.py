"""Where every model stands: the state that follows from its proof, its trouble, and what it depends on."""

from collections.abc import Mapping

from provisioning import orders
from provisioning.board import Board
from provisioning.errors import DependencyFailed, ProvisioningError
from provisioning.orders import Order
from provisioning.status import Problem, State


def settle(board: Board, known: Mapping[str, Order]) -> None:
    """Put every model that nobody works on where it belongs, what others need before what needs it."""
    complete = orders.ready(known)
    for order in orders.in_order(known):
        if order.running:
            continue
        if order.receipt is None:
            if order.trouble is not None:
                put(board, order, State.ERROR, order.trouble)
        elif order.model_id in complete:
            if board[order.model_id].state is not State.READY:
                size = sum(file.size for file in order.receipt.files)
                board.progress(order.model_id, size, size)
                put(board, order, State.READY)
        elif orders.obstacles(known, order.model_id):
            put(board, order, State.ERROR, DependencyFailed(orders.needs(known, order)))
        else:
            put(board, order, State.VERIFYING)


def put(board: Board, order: Order, state: State, error: ProvisioningError | None = None) -> None:
    """Bring a model to a state by legal moves: what has ended begins again as wanted."""
    now = board[order.model_id]
    if now.state is state and (error is None or now.error == Problem(error.code, str(error))):
        return
    if now.state in {State.READY, State.ERROR}:
        board.move(order.model_id, State.WANTED)
    board.move(order.model_id, state, error)
