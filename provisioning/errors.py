"""What can go wrong on the way from a catalogue entry to a proven file.

::

    ProvisioningError
    ├── SettingsError          an environment variable is missing or wrong
    ├── LookupFailed           the fleet's API could not be asked
    ├── LookupRefused          ... or answered that it will not
    ├── EntryError             the catalogue's entry cannot be followed
    │   ├── NotInCatalogue
    │   ├── BadEntry
    │   ├── UnsafePath
    │   ├── PathConflict
    │   ├── BadHash
    │   └── NoHash
    ├── AccessError            the origin wants something from the operator
    │   ├── NeedsToken
    │   ├── TokenRefused
    │   ├── LicenceNotAccepted
    │   ├── Forbidden
    │   ├── NeedsExtra
    │   └── AddressRefused
    ├── OriginError            the origin did not give the bytes
    │   ├── NoRoute
    │   ├── TooSlow
    │   ├── OriginBusy
    │   ├── OriginBroken
    │   ├── Truncated
    │   ├── GoneUpstream
    │   └── Redirected
    ├── WrongBytes             bytes came, and are not the model
    │   ├── WebPage
    │   ├── WrongSize
    │   ├── UpstreamChanged
    │   ├── HashMismatch
    │   ├── CatalogueHashWrong
    │   ├── CorruptTransit
    │   └── BadFormat
    ├── DiskError              the disk cannot take it
    │   ├── DiskFull
    │   ├── DiskBroken
    │   └── ReadOnly
    ├── DependencyFailed       the file is here, something it needs is not
    └── Stopped                the operator stopped us

`code` is the word that the status file, the JSON lines and the machine's check-in carry. `permanent` says whether
trying again without a change by a person is pointless; a machine that watches tries again all the same, rarely, because
a person may have changed the catalogue meanwhile. `advice` is what a person can do where the message does not say it.
"""

from typing import ClassVar


class ProvisioningError(Exception):
    """Provisioning failed."""

    code: ClassVar[str] = "failed"
    permanent: ClassVar[bool] = False
    advice: ClassVar[str] = ""
    retry_after: float | None = None

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or type(self).__doc__ or self.code)

    def __str__(self) -> str:
        """Return the message, and what a person can do about it."""
        return f"{self.message}; {self.advice}" if self.advice else self.message

    @property
    def message(self) -> str:
        """The message alone, for errors that give advice of their own."""
        return super().__str__()


class SettingsError(ProvisioningError):
    """An environment variable is missing or wrong."""

    code = "settings"
    permanent = True


class LookupFailed(ProvisioningError):
    """The fleet's API could not be asked for the models."""

    code = "lookup_failed"


class LookupRefused(ProvisioningError):
    """The fleet's API refused to answer."""

    code = "lookup_refused"
    permanent = True


class EntryError(ProvisioningError):
    """The catalogue's entry cannot be followed."""

    code = "bad_entry"
    permanent = True


class NotInCatalogue(EntryError):
    """The catalogue does not know this model."""

    code = "not_found"


class BadEntry(EntryError):
    """The catalogue's entry is incomplete or malformed."""


class UnsafePath(EntryError):
    """The entry's save_path would leave the models folder."""

    code = "unsafe_path"


class PathConflict(EntryError):
    """Two entries want different content at the same save_path."""

    code = "path_conflict"


class BadHash(EntryError):
    """The entry's hash names no algorithm we know."""

    code = "bad_hash"


class NoHash(EntryError):
    """The entry has no hash, and the origin gives none: nothing could prove the file."""

    code = "no_hash"


class AccessError(ProvisioningError):
    """The origin wants something from the operator."""

    code = "access"
    permanent = True


class NeedsToken(AccessError):
    """The origin wants a token, and none is set."""

    code = "needs_token"


class TokenRefused(AccessError):
    """The origin refused the token."""

    code = "token_refused"


class LicenceNotAccepted(AccessError):
    """The account behind the token has not accepted the model's licence."""

    code = "licence_not_accepted"


class Forbidden(AccessError):
    """The origin does not let us in, and we have no token that could be meant for it."""

    code = "forbidden"


class NeedsExtra(AccessError):
    """The address needs a library that is not installed."""

    code = "needs_extra"


class AddressRefused(AccessError):
    """The address is private, and private addresses are not allowed."""

    code = "address_refused"


class OriginError(ProvisioningError):
    """The origin did not give the bytes."""

    code = "origin"


class NoRoute(OriginError):
    """The origin could not be reached."""

    code = "no_route"
    advice = "check that this machine can reach it; what has arrived is kept"


class TooSlow(OriginError):
    """The origin stopped sending."""

    code = "too_slow"
    advice = "what has arrived is kept: try again, or raise PROVISION_STALL_SECONDS if the line is that slow"


class OriginBusy(OriginError):
    """The origin asks us to come later."""

    code = "origin_busy"
    advice = "what has arrived is kept: try again later, or lower PROVISION_CONNECTIONS"


class OriginBroken(OriginError):
    """The origin answers with server errors or nonsense."""

    code = "origin_broken"
    advice = "what has arrived is kept: try again later, or put another address into download_url"


class Truncated(OriginError):
    """The origin ended the file too early."""

    code = "truncated"
    advice = "what has arrived is kept: try again; if it stays so, look for a proxy or a limit on the way"


class GoneUpstream(OriginError):
    """The origin does not have the file."""

    code = "gone_upstream"
    permanent = True


class Redirected(OriginError):
    """The origin redirects in circles, or to something that is no web address."""

    code = "bad_redirect"
    advice = "correct download_url in the catalogue"
    permanent = True


class WrongBytes(ProvisioningError):
    """Bytes came, and are not the model."""

    code = "wrong_bytes"
    permanent = True


class WebPage(WrongBytes):
    """The origin sent a web page instead of the model."""

    code = "web_page"


class WrongSize(WrongBytes):
    """The origin's file has another size than the catalogue says."""

    code = "wrong_size"


class UpstreamChanged(WrongBytes):
    """The origin's file is no longer the one that the catalogue describes."""

    code = "upstream_changed"


class HashMismatch(WrongBytes):
    """The same wrong bytes came twice: the hash in the catalogue belongs to another file."""

    code = "hash_mismatch"


class CatalogueHashWrong(WrongBytes):
    """All bytes agree with the origin's own hash: the hash in the catalogue is wrong."""

    code = "catalogue_hash_wrong"


class CorruptTransit(WrongBytes):
    """Different wrong bytes came each time: something between the origin and this disk damages them."""

    code = "corrupt_transit"
    permanent = False


class BadFormat(WrongBytes):
    """The bytes are what was promised, and still no usable model file."""

    code = "bad_format"


class DiskError(ProvisioningError):
    """The disk cannot take the file."""

    code = "disk"


class DiskFull(DiskError):
    """There is not enough free space."""

    code = "disk_full"


class DiskBroken(DiskError):
    """The disk refuses to write or read."""

    code = "disk_broken"


class ReadOnly(DiskError):
    """The models folder can only be read, and what is needed does not lie there."""

    code = "read_only"


class DependencyFailed(ProvisioningError):
    """The file is here and proved, something it needs is not."""

    code = "dependency_failed"


class Stopped(ProvisioningError):
    """Stopped; what has arrived is kept for the next start."""

    code = "stopped"
