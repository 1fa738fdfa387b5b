"""A small picture of each model that Civitai knows, kept by us: the page loads nothing from elsewhere.

Only pictures that Civitai rates for everybody are taken. They are strangers' bytes: asked for through the same check of
addresses as downloads, without any token, bounded in time, bytes and pixels, and kept as we have written them anew.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from app import thumbnails
from app.core import enrichments
from app.core.enrichments import Finding
from app.core.fleet import ImageStore
from app.pictures import UnusablePicture
from provisioning.errors import ProvisioningError
from provisioning.settings import Settings
from provisioning.transport import Transport
from tasks.control.bounds import bounded, whole

log = logging.getLogger(__name__)

FOR_EVERYBODY = 1
"""Civitai's `nsfwLevel`: 1 is PG; 2 PG-13, 4 R, 8 X, 16 XXX. One that nobody has rated is not taken."""

MOST_BYTES = 16 << 20
MOST_PIXELS = 40_000_000
MOST_TRIES = 3
"""Pictures of one model: some are films, some are gone."""

TOTAL_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class PictureKeeper:
    """Fetches pictures and keeps them in the fleet's store; one for a whole process."""

    transport: Transport
    store: ImageStore
    total_seconds: float = TOTAL_SECONDS

    def completed(self, wanted: str, finding: Finding) -> Finding:
        """Return a finding with its picture, which is in the store then; without one where none can be had."""
        if finding.found is None:
            return finding
        for url in safe_addresses(finding.found.get("images", ()))[:MOST_TRIES]:
            small = self._small(wanted, url)
            if small is not None:
                self.store.put(enrichments.picture_key(wanted), small)
                return replace(finding, found={**finding.found, enrichments.PICTURE: True})
        return finding

    def _small(self, wanted: str, url: str) -> bytes | None:
        try:
            reply = self.transport.open(url, {"Accept": "image/webp, image/jpeg, image/png"}, with_token=False)
            with bounded(reply, self.total_seconds) as is_over:
                data = whole(reply, MOST_BYTES) if reply.status == 200 else None
            if data is None or is_over.is_set():
                log.info("hash %s: a picture could not be had, status %d", wanted, reply.status)
                return None
            return thumbnails.of_strangers(data, MOST_PIXELS)
        except (ProvisioningError, UnusablePicture) as exc:
            log.info("hash %s: a picture could not be had: %s", wanted, exc)
            return None


def safe_addresses(pictures: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the addresses of those that are for everybody."""
    return [str(each["url"]) for each in pictures if each.get("nsfw_level") == FOR_EVERYBODY]


def keeper_of(settings: Settings, store: ImageStore) -> PictureKeeper:
    """Make the keeper that asks as downloads do."""
    return PictureKeeper(Transport(settings), store)
