"""The proof: what SQL, the stored files, the clients and the webhook receiver know must be one and the same story."""

import io
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from PIL import Image as Pillow
from sqlalchemy import select
from sqlalchemy.orm import Session, selectinload

from app.core import counters
from app.core.lifecycle import ENDED, AttemptState, DeliveryState, JobState
from app.core.measures import STALE_RESULTS, Part
from app.core.tables import Delivery, Hook, Image, Job
from tests.chaos.clients import Journal, Order
from tests.chaos.receiver import Received, Receiver
from tests.chaos.recoveries import HANDED_BACK, recoveries
from tests.support.system import System

HOLDS_KEYS = frozenset({"v1", "a1111"})
"""The dialects that know an Idempotency-Key: there, one order is one job however often it is sent."""


@dataclass(slots=True)
class Evidence:
    """Everything that is known when the storm is over."""

    journal: Journal
    received: Sequence[Received]
    jobs: list[Job]
    deliveries: list[Delivery]
    hooked: set[str]
    """The jobs that have a webhook."""
    stale_results: int
    """Pictures and endings that were refused because their attempt no longer held the job."""
    picture: Callable[[Image], bytes | None]
    strikes: list[tuple[float, str]]
    by_prompt: dict[str, list[Job]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        for job in self.jobs:
            self.by_prompt[job.spec["prompt"]].append(job)


def gather(system: System, journal: Journal, receiver: Receiver, strikes: list[tuple[float, str]]) -> Evidence:
    """Read everything."""

    def picture(image: Image) -> bytes | None:
        path = system.images() / image.key
        return path.read_bytes() if path.exists() else None

    with Session(system.engine, expire_on_commit=False) as session:
        query = select(Job).options(selectinload(Job.attempts), selectinload(Job.images)).order_by(Job.created_at)
        return Evidence(
            journal=journal,
            received=receiver.accepted(),
            jobs=list(session.scalars(query)),
            deliveries=list(session.scalars(select(Delivery))),
            hooked={str(job_id) for job_id in session.scalars(select(Hook.job_id))},
            stale_results=int(counters.read_all(session).get(Part(STALE_RESULTS.name, "[]"), 0)),
            picture=picture,
            strikes=strikes,
        )


def breaches(evidence: Evidence) -> list[str]:
    """Return every contradiction; none means that all was proved."""
    return [f"{check.__name__}: {what}" for check in CHECKS for what in check(evidence)]


def every_accepted_job_exists(evidence: Evidence) -> Iterator[str]:
    known = {str(job.id): job for job in evidence.jobs}
    for order in evidence.journal.orders:
        for job_id in order.job_ids:
            if job_id not in known:
                yield f"job {job_id} ({order.prompt!r}) was accepted, and is gone"
            elif known[job_id].spec["prompt"] != order.prompt:
                yield f"job {job_id} was accepted for {order.prompt!r} and is {known[job_id].spec['prompt']!r}"
        if order.seen and not evidence.by_prompt[order.prompt]:
            yield f"{order.prompt!r} was answered {sorted(order.seen)}, and its job is gone"
        if order.refused and evidence.by_prompt[order.prompt]:
            yield f"{order.prompt!r} was refused ({order.refused}), and is a job all the same"


def every_order_is_one_job(evidence: Evidence) -> Iterator[str]:
    for order in evidence.journal.orders:
        found = evidence.by_prompt[order.prompt]
        if order.dialect in HOLDS_KEYS and len({str(job.id) for job in found} | order.job_ids) > 1:
            yield f"{order.prompt!r} became {len(found)} jobs: {[str(job.id) for job in found]} {order.job_ids}"
    prompts = {order.prompt for order in evidence.journal.orders}
    for prompt in evidence.by_prompt.keys() - prompts:
        if evidence.by_prompt[prompt]:
            yield f"nobody ordered {prompt!r}"


def every_job_has_ended(evidence: Evidence) -> Iterator[str]:
    for job in evidence.jobs:
        if job.state not in ENDED or job.ended_at is None:
            yield f"job {job.id} is {job.state}, attempt {job.attempt}"
        if job.state == JobState.ERROR and not job.error:
            yield f"job {job.id} ended as an error, and nobody knows why"


def attempts_are_consistent(evidence: Evidence) -> Iterator[str]:
    for job in evidence.jobs:
        states = [attempt.state for attempt in job.attempts]
        if [attempt.number for attempt in job.attempts] != list(range(1, job.attempt + 1)):
            yield f"job {job.id} is in attempt {job.attempt}, and has {[a.number for a in job.attempts]}"
        if states.count(AttemptState.COMPLETED) > 1:
            yield f"job {job.id} was completed {states.count(AttemptState.COMPLETED)} times"
        if AttemptState.COMPLETED in states and job.state != JobState.COMPLETED:
            yield f"job {job.id} is {job.state}, and an attempt of it was completed"
        if job.state == JobState.COMPLETED and states[-1:] != [AttemptState.COMPLETED]:
            yield f"job {job.id} is completed, and its last attempt is {states[-1:]}"
        if job.state in ENDED and AttemptState.RUNNING in states:
            yield f"job {job.id} is {job.state}, and an attempt of it still runs"
        for earlier, later in zip(job.attempts, job.attempts[1:], strict=False):
            if earlier.ended_at is None or earlier.ended_at > later.started_at:
                yield f"job {job.id}: attempts {earlier.number} and {later.number} overlap"


def pictures_are_as_asked(evidence: Evidence) -> Iterator[str]:
    for job in evidence.jobs:
        shown = [image for image in job.images if image.attempt == job.attempt]
        if job.state != JobState.COMPLETED:
            continue
        if sorted(image.position for image in shown) != list(range(job.spec["n"])):
            yield f"job {job.id} wants {job.spec['n']} pictures and has positions {[i.position for i in shown]}"
        for image in shown:
            if problem := _problem_of(evidence.picture(image), image, job):
                yield f"job {job.id}, picture {image.position}: {problem}"


def _problem_of(data: bytes | None, image: Image, job: Job) -> str | None:
    if data is None:
        return "its file is gone"
    if sha256(data).hexdigest() != image.sha256 or len(data) != image.size_bytes:
        return "its bytes are not those that were delivered"
    with Pillow.open(io.BytesIO(data)) as picture:
        picture.load()
        if picture.size != (image.width, image.height):
            return f"it is {picture.size}, and was announced as {(image.width, image.height)}"
        found = picture.convert("RGB").getpixel((0, 0))
    spec = job.spec
    drawn = f"{spec['model_id']}\n{spec['prompt']}\n{(spec['seed'] or 0) + image.position}"
    wanted = tuple(sha256(drawn.encode()).digest()[:3])  # the fake driver's colour: it shows whose picture this is
    return None if found == wanted else f"it is another job's picture: colour {found}, not {wanted}"


def clients_saw_the_truth(evidence: Evidence) -> Iterator[str]:
    states = {str(job.id): job.state.value for job in evidence.jobs}
    for order in evidence.journal.orders:
        found = {states.get(job_id, "gone") for job_id in order.job_ids}
        if order.dialect == "a1111":
            found = {job.state.value for job in evidence.by_prompt[order.prompt]}
        for told in order.seen | ({order.cancel} if order.cancel else set()):
            if told in {state.value for state in ENDED} and found and told not in found:
                yield f"{order.prompt!r}: its client was told {told}, and it is {found}"
        if order.pictures is not None and order.pictures != order.n:
            yield f"{order.prompt!r}: its client got {order.pictures} pictures instead of {order.n}"
        if len(order.seen) > 1:
            yield f"{order.prompt!r}: its client was told {order.seen}"


def every_webhook_is_attached(evidence: Evidence) -> Iterator[str]:
    for order in evidence.journal.orders:
        found = evidence.by_prompt[order.prompt] if order.secret is not None else []
        for job in found:
            if str(job.id) not in evidence.hooked:
                yield f"job {job.id} was ordered with a webhook, and has none"
    for delivery in evidence.deliveries:
        if delivery.state == DeliveryState.OWED:
            yield f"job {delivery.job_id}: its event {delivery.event} is still owed"


def webhooks_tell_the_truth(evidence: Evidence) -> Iterator[str]:
    endings = {state.value for state in ENDED}
    told: dict[str, set[str]] = defaultdict(set)
    for event in evidence.received:
        told[event.job_id] |= {event.state} & endings
    states = {str(job.id): job.state.value for job in evidence.jobs if job.state in ENDED}
    for job_id in evidence.hooked & states.keys():
        if told[job_id] != {states[job_id]}:
            yield f"job {job_id} is {states[job_id]}, and its webhook was told {told[job_id] or 'nothing'}"
    for job_id in told.keys() - evidence.hooked:
        yield f"job {job_id} has no webhook, and one was told of it"


def webhooks_are_signed_and_in_order(evidence: Evidence) -> Iterator[str]:
    endings = {state.value for state in ENDED}
    secrets = {order.key: order.secret for order in evidence.journal.orders}
    over: set[str] = set()
    for event in evidence.received:
        key = event.path.strip("/")
        if not event.is_signed_with(secrets.get(key) or ""):
            yield f"job {event.job_id}: {event.webhook_id} is not signed with its order's secret"
        if event.state in endings:
            over.add(event.job_id)
        elif event.job_id in over:
            yield f"job {event.job_id}: {event.state!r} came after its end had been told"


CHECKS: tuple[Callable[[Evidence], Iterator[str]], ...] = (
    every_accepted_job_exists,
    every_order_is_one_job,
    every_job_has_ended,
    attempts_are_consistent,
    pictures_are_as_asked,
    clients_saw_the_truth,
    every_webhook_is_attached,
    webhooks_tell_the_truth,
    webhooks_are_signed_and_in_order,
)


def numbers(evidence: Evidence) -> dict[str, str]:
    """Return what is worth a line of the table."""
    states = Counter(job.state for job in evidence.jobs)
    lost = [a for job in evidence.jobs for a in job.attempts if a.state == AttemptState.LOST]
    handed_back = sum(attempt.error_code == HANDED_BACK for attempt in lost)
    deliveries = Counter(event.webhook_id for event in evidence.received)
    orders = evidence.journal.orders
    return {
        "orders sent": f"{len(orders)}, of these {_unarrived(evidence, orders)} never arrived",
        "accepted": str(len(evidence.jobs)),
        "completed": str(states[JobState.COMPLETED]),
        "error": _errors(evidence),
        "cancelled": str(states[JobState.CANCELLED]),
        "pictures": str(sum(job.spec["n"] for job in evidence.jobs if job.state == JobState.COMPLETED)),
        "attempts": str(sum(len(job.attempts) for job in evidence.jobs)),
        "attempts that shared a pass": str(sum(each.together > 1 for job in evidence.jobs for each in job.attempts)),
        "attempts lost": f"{len(lost) - handed_back}, and {handed_back} handed back by machines that were stopped",
        "stale results refused": str(evidence.stale_results),
        "webhooks delivered": f"{len(deliveries)}, and {sum(deliveries.values()) - len(deliveries)} of them twice",
        **recoveries(evidence.jobs, evidence.strikes),
        "streams taken up again": str(evidence.journal.resumed),
        "requests sent again under their key": str(evidence.journal.replays),
        "errors seen by clients": ", ".join(f"{n} {k}" for k, n in evidence.journal.errors.most_common()) or "none",
    }


def _unarrived(evidence: Evidence, orders: Sequence[Order]) -> int:
    return sum(not evidence.by_prompt[order.prompt] for order in orders)


def _errors(evidence: Evidence) -> str:
    """Count the jobs that ended as an error, with the reasons."""
    found = Counter(f"{job.error_code}: {job.error}" for job in evidence.jobs if job.state == JobState.ERROR)
    told = "; ".join(f"{count} {reason}" for reason, count in found.most_common())
    return f"{found.total()} ({told})" if found else "0"
