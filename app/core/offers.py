"""Models that a machine offers from another server, which draws for it: bringing them into the catalogue."""

import hashlib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from urllib.parse import quote

from sqlalchemy import select
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

IDS_AT_ONCE = 10_000
"""SQLite takes 32,766 values in one statement."""

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


@dataclass(frozen=True, slots=True)
class _Known:
    """What the catalogue says of an id that an offer may get."""

    address: str
    hash: str | None


def accept(tx: Transaction, offers: Sequence[Offer]) -> list[list[str]]:
    """Return, for each offer, the ids in the catalogue that mean this very model; an unknown one gets an entry.

    Entries of the same hash come first, whoever wrote them. An id that an offer has once been given stays its own,
    also when its hash becomes known and another entry has the same one: jobs may wait for it. No id means that no
    entry can be made of it.
    """
    by_digest, known = _by_digest(tx.session), _named_so(tx.session, offers)
    new: dict[str, CatalogueEntry] = {}
    found = [_ids_of(tx, offer, by_digest, known, new) for offer in offers]
    models.put_new(tx, list(new.values()), origin=ORIGIN)
    return found


def _named_so(session: Session, offers: Sequence[Offer]) -> dict[str, _Known]:
    """Look up every id that one of the offers may get."""
    ids = sorted({name for offer in offers for name in _names(offer)})
    found: dict[str, _Known] = {}
    for first in range(0, len(ids), IDS_AT_ONCE):
        some = Model.id.in_(ids[first : first + IDS_AT_ONCE])
        rows = session.execute(select(Model.id, Model.download_url, Model.hash).where(some))
        found |= {model_id: _Known(address, hash_) for model_id, address, hash_ in rows}
    return found


def _by_digest(session: Session) -> Mapping[tuple[str, str], list[str]]:
    """Return the ids of all models that are known by a SHA-256 or its head, by kind and digest."""
    found: dict[tuple[str, str], list[str]] = {}
    query = select(Model.id, Model.kind, Model.hash).where(Model.hash.is_not(None)).order_by(Model.id)
    for model_id, kind, hash_ in session.execute(query):
        algorithm, _, digest = (hash_ or "").lower().rpartition(":")
        if algorithm in {"", "sha256"} and len(digest) in {HEAD, SHA256_DIGITS}:
            found.setdefault((kind, digest), []).append(model_id)
    return found


def _ids_of(
    tx: Transaction,
    offer: Offer,
    by_digest: Mapping[tuple[str, str], list[str]],
    known: dict[str, _Known],
    new: dict[str, CatalogueEntry],
) -> list[str]:
    """Return the ids of one offer; what has to be written for it goes into `new`, and is known from then on."""
    digests = (offer.sha256, offer.sha256[:HEAD]) if offer.sha256 else ()
    found = [model_id for digest in digests for model_id in by_digest.get((offer.kind, digest), ())]
    for model_id in _names(offer):
        one = known.get(model_id)
        if one is None and found:
            continue
        if one is None:
            entry = _entry_of(offer, model_id)
            if entry is None:
                return []
            new[model_id], known[model_id] = entry, _Known(entry.download_url, entry.hash)
            return [model_id]
        if _is_ours(one, offer):
            if one.hash is None and offer.sha256:
                known[model_id] = replace(one, hash=_hash(offer))
                _learn_hash(tx, offer, model_id, new)
            return list(dict.fromkeys([*found, model_id]))
    return found


def _learn_hash(tx: Transaction, offer: Offer, model_id: str, new: dict[str, CatalogueEntry]) -> None:
    """Write down the hash of an entry that has had none."""
    if model_id in new:
        new[model_id] = replace(new[model_id], hash=_hash(offer))
    else:
        models.get(tx.session, model_id).hash = _hash(offer)


def _is_ours(known: _Known, offer: Offer) -> bool:
    """Say whether an entry was made for this offer, or for the same file under the same name elsewhere."""
    return known.address == offer.address and (None in {known.hash, offer.sha256} or known.hash == _hash(offer))


def _names(offer: Offer) -> Iterator[str]:
    """Make ids of a name: the name alone where it is free, and else with something that tells it apart."""
    legal = re.sub(r"[^A-Za-z0-9._-]+", "-", offer.name).strip("-._")[:LONGEST_STEM] or offer.kind
    digest = offer.sha256 or hashlib.sha256(offer.address.encode()).hexdigest()
    return iter((legal, f"{legal}-{ORIGIN}", f"{legal}-{offer.kind}-{digest[:HEAD]}"))


def _hash(offer: Offer) -> str | None:
    return f"sha256:{offer.sha256}" if offer.sha256 else None


def _entry_of(offer: Offer, model_id: str) -> CatalogueEntry | None:
    """Make an entry; None where none can be made."""
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
        return None
    kind = choices.control_kind_of(entry) if offer.kind == "controlnet" else None
    return replace(entry, tags=[ORIGIN, kind]) if kind else entry  # orders that name a kind alone find it by that
