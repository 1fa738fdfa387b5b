"""``s3://bucket/key``: objects on Amazon S3, or on anything that speaks its protocol (``S3_ENDPOINT``).

An object is asked for like any other address, by our own transfer; each request is signed for itself (AWS Signature
Version 4, in its headers), so that no signature can run out on the way. docs/decisions/0008-s3.md says why so.
Addresses: https://docs.aws.amazon.com/AmazonS3/latest/userguide/VirtualHosting.html.
"""

import re
import threading
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

from provisioning.errors import BadEntry, NeedsExtra, ProvisioningError
from provisioning.settings import S3Account

SCHEME = "s3"
BUCKET = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{1,254}$")
HOST_NAME = re.compile(r"^[a-z0-9-]{3,63}$")
"""A bucket with such a name has a host of its own; with a dot in it, it would not fit Amazon's certificate."""
DEFAULT_REGION = "us-east-1"
UNSIGNED = "UNSIGNED-PAYLOAD"
"""What stands for the hash of a body that a GET does not have."""


@dataclass(frozen=True, slots=True)
class ObjectAddress:
    """One object in a bucket; `version` where the bucket keeps several."""

    bucket: str
    key: str
    version: str | None = None

    @classmethod
    def parse(cls, url: str) -> "ObjectAddress":
        """Read an ``s3://`` address. Raises `BadEntry`."""
        parts = urlsplit(url)
        key = unquote(parts.path.removeprefix("/"))
        # Every HTTP library folds dot segments, and the signature would be for another key than the one asked for.
        if not BUCKET.match(parts.netloc) or not key or key.endswith("/") or {".", ".."} & set(key.split("/")):
            raise BadEntry(f"{url!r} names no object; expected s3://bucket/path/to/model.safetensors")
        version = parse_qs(parts.query).get("versionId")
        return cls(parts.netloc, key, version[0] if version else None)

    def url(self, account: S3Account, region: str) -> str:
        """Return where the object is: below the endpoint by path, or on Amazon's own host for the bucket."""
        path = quote(self.key, safe="/~")
        query = f"?{urlencode({'versionId': self.version})}" if self.version else ""
        if account.endpoint:
            return f"{account.endpoint}/{self.bucket}/{path}{query}"
        domain = f"s3.{region}.amazonaws.com{'.cn' if region.startswith('cn-') else ''}"
        if HOST_NAME.match(self.bucket):
            return f"https://{self.bucket}.{domain}/{path}{query}"
        return f"https://{domain}/{self.bucket}/{path}{query}"


def is_object_address(url: str) -> bool:
    """Tell whether an address names an object in a bucket."""
    return url.startswith(f"{SCHEME}://")


class Signer:
    """Signs requests with the account's key, or with what botocore finds: a profile, a role of this machine."""

    def __init__(self, account: S3Account) -> None:
        self.account = account
        self._credentials: Any = None
        self._region: str | None = None
        self._lock = threading.Lock()

    def request(self, url: str) -> tuple[str, dict[str, str]]:
        """Return the web address of an object and the headers that open it; without a key there are none.

        Raises `BadEntry`, and `NeedsExtra` where botocore is not installed.
        """
        target = ObjectAddress.parse(url)
        try:
            return self._signed(target)
        except ImportError as error:
            raise NeedsExtra(f"{SCHEME}:// addresses need botocore: pip install 'imagefleet[s3]'") from error

    def _signed(self, target: ObjectAddress) -> tuple[str, dict[str, str]]:
        from botocore.auth import S3SigV4Auth  # noqa: PLC0415  # an extra, and slow to import
        from botocore.awsrequest import AWSRequest  # noqa: PLC0415

        with self._lock:
            credentials, region = self._found()
        address = target.url(self.account, region)
        if credentials is None:
            return address, {}
        request = AWSRequest("GET", address, headers={"x-amz-content-sha256": UNSIGNED})
        # A fresh copy for each request: the keys of roles are renewed before they run out.
        S3SigV4Auth(credentials.get_frozen_credentials(), SCHEME, region).add_auth(request)
        return address, {name: str(value) for name, value in request.headers.items()}

    def _found(self) -> tuple[Any, str]:
        """Look for keys and region once: where a machine has a role, that asks the cloud's metadata service."""
        if self._region is None:
            self._credentials, self._region = self._look()
        return self._credentials, self._region

    def _look(self) -> tuple[Any, str]:
        from botocore.credentials import Credentials  # noqa: PLC0415
        from botocore.exceptions import BotoCoreError  # noqa: PLC0415
        from botocore.session import Session  # noqa: PLC0415

        account = self.account
        try:
            session = Session()
            region = account.region or session.get_config_variable("region") or DEFAULT_REGION
            if account.access_key_id and account.secret_access_key:
                return Credentials(account.access_key_id, account.secret_access_key, account.session_token), region
            return session.get_credentials(), region
        except BotoCoreError as error:
            raise ProvisioningError(f"the AWS configuration of this machine cannot be used: {error}") from error
