"""Models that a machine offers from another server, which draws for it: bringing them into the catalogue."""

import hashlib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from urllib.parse import quote

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.core import choices, models
from app.core.errors import InvalidModel
from app.core.fleet import Transaction
from app.core.models import CatalogueEntry
from app.core.tables import Model

log = logging.getLogger(__name__)

ORIGIN = "a1111"
"""Who wrote such an entry: a machine whose driver is a remote Automatic1111."""

HEAD = 10
"""Digits of a SHA-256 by which Civitai's AutoV2 and Automatic1111 name a file."""

SHA256_DIGITS = 64

LONGEST_STEM = 150
"""Characters of an id that come from the name; what tells two of them apart is added behind it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A model as the other server knows it."""

    name: str
    """By which that server calls it."""
    kind: str = models.DRAWABLE
    file: str = ""
    """Its file's name, where that server tells it."""
    sha256: str | None = None
    """Of the file, where that server has computed it already."""

    @property
    def address(self) -> str:
        """Return what stands in the catalogue in place of a download address: nobody else can fetch it."""
        return f"{ORIGIN}://{self.kind}/{quote(self.name, safe='')}"


def accept(tx: Transaction, offers: Sequence[Offer]) -> list[list[str]]:
    """Return, for each offer, the ids in the catalogue that mean this very model; an unknown one gets an entry.

    Entries of the same hash come first, whoever wrote them. An id that an offer has once been given stays its own,
    also when its hash becomes known and another entry has the same one: jobs may wait for it. No id means that no
    entry can be made of it.
    """
    known = _by_digest(tx.session)
    return [_ids_of(tx, offer, known) for offer in offers]


def _by_digest(session: Session) -> Mapping[tuple[str, str], list[str]]:
    """Return the ids of all models that are known by a SHA-256 or its head, by kind and digest."""
    found: dict[tuple[str, str], list[str]] = {}
    query = select(Model.id, Model.kind, Model.hash).where(Model.hash.is_not(None)).order_by(Model.id)
    for model_id, kind, hash_ in session.execute(query):
        algorithm, _, digest = (hash_ or "").lower().rpartition(":")
        if algorithm in {"", "sha256"} and len(digest) in {HEAD, SHA256_DIGITS}:
            found.setdefault((kind, digest), []).append(model_id)
    return found


def _ids_of(tx: Transaction, offer: Offer, by_digest: Mapping[tuple[str, str], list[str]]) -> list[str]:
    digests = (offer.sha256, offer.sha256[:HEAD]) if offer.sha256 else ()
    found = [model_id for digest in digests for model_id in by_digest.get((offer.kind, digest), ())]
    for model_id in _names(offer):
        known = tx.session.get(Model, model_id)
        if known is None and found:
            continue
        if known is None:
            return [model_id] if _put(tx, offer, model_id) else []
        if _is_ours(known, offer):
            known.hash = known.hash or _hash(offer)
            return list(dict.fromkeys([*found, model_id]))
    return found


def _is_ours(known: Model, offer: Offer) -> bool:
    """Say whether an entry was made for this offer, or for the same file under the same name elsewhere."""
    return known.download_url == offer.address and (None in {known.hash, offer.sha256} or known.hash == _hash(offer))


def _names(offer: Offer) -> Iterator[str]:
    """Make ids of a name: the name alone where it is free, and else with something that tells it apart."""
    legal = re.sub(r"[^A-Za-z0-9._-]+", "-", offer.name).strip("-._")[:LONGEST_STEM] or offer.kind
    digest = offer.sha256 or hashlib.sha256(offer.address.encode()).hexdigest()
    return iter((legal, f"{legal}-{ORIGIN}", f"{legal}-{offer.kind}-{digest[:HEAD]}"))


def _hash(offer: Offer) -> str | None:
    return f"sha256:{offer.sha256}" if offer.sha256 else None


def _put(tx: Transaction, offer: Offer, model_id: str) -> bool:
    """Make an entry; says whether there is one now."""
    try:
        entry = CatalogueEntry(
            id=model_id,
            name=offer.file or offer.name,
            download_url=offer.address,
            save_path=f"{ORIGIN}/{offer.kind}/{model_id}",
            hash=_hash(offer),
            kind=offer.kind,
            tags=[ORIGIN],
            description="on an Automatic1111 server; its machines draw with it there, and no other can fetch it",
        )
    except InvalidModel as exc:
        log.warning("an offered model is left out: %s", exc)
        return False
    if kind := choices.control_kind_of(entry) if offer.kind == "controlnet" else None:
        entry = replace(entry, tags=[ORIGIN, kind])  # orders that name a kind alone find it by that
    try:
        with tx.session.begin_nested():
            models.put(tx, entry, origin=ORIGIN)
    except IntegrityError:  # another machine offered it at the same moment
        log.debug("%s was offered by two machines at once", model_id)
    return True
