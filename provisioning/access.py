"""Who does not let us in, and what the operator can do about it: the statuses 401 and 403, told apart."""

import re

from provisioning.errors import (
    Forbidden,
    GoneUpstream,
    LicenceNotAccepted,
    NeedsToken,
    OriginBroken,
    ProvisioningError,
    TokenRefused,
)
from provisioning.transport import Reply, Tokens, without_query

ERROR_BYTES = 16 << 10
S3_KEYS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
S3_WORDS = {
    "InvalidAccessKeyId": f"the server does not know this key: correct {S3_KEYS}",
    "SignatureDoesNotMatch": "the secret does not belong to the key: correct AWS_SECRET_ACCESS_KEY",
    "ExpiredToken": "the session is over: renew AWS_SESSION_TOKEN and the keys that came with it",
    "InvalidToken": "the session token is wrong: correct AWS_SESSION_TOKEN",
    "RequestTimeTooSkewed": "this machine's clock is wrong: set it (timedatectl, NTP)",
    "AccessDenied": "the key may not read it: allow s3:GetObject, or check the key's name in download_url",
}
"""What its error codes mean (S3 API reference, "Error responses")."""


def page_of(url: str) -> str:
    """Return the page that tells people about a model: on a hub, the repository's."""
    page = without_query(url).partition("/resolve/")[0]
    return re.sub(r"/(revision|tree)/[^/]*$", "", page.replace("/api/models/", "/"))


def no_access(reply: Reply, tokens: Tokens, asked: str, provider: str | None) -> ProvisioningError:
    """Make the error for an answer of 401 or 403, or for a login page in the place of a file."""
    what = "sent its login page" if reply.status == 200 else f"answered {reply.status}"
    where = f"{without_query(reply.url)} {what}"
    if reply.moved and reply.status != 200:
        # Another site than the one that was asked, so no token would have gone there: a signature, just made, is
        # refused. Asked again, the first site makes another.
        return OriginBroken(f"{where}, where {without_query(asked)} had sent us")
    if not tokens.knows(asked):
        return Forbidden(f"{where}, and there is no token for this host: {_remedy(provider)}")
    reason = reply.first_headers.get("X-Error-Code") or reply.headers.get("X-Error-Code", "")
    variable, page = tokens.variable(asked, provider), page_of(asked)
    if not reply.with_token:
        return NeedsToken(f"{where}: set {variable} to a token that may read it{_condition(reason, page)}")
    if reason == "GatedRepo":
        return LicenceNotAccepted(f"{where}: open {page} with the token's account, accept the licence")
    return TokenRefused(
        f"{where} in spite of {variable}: open {page} with the token's account to see whether it may read the file, or "
        f"set a new {variable}",
    )


def _condition(reason: str, page: str) -> str:
    if reason == "GatedRepo":
        return f", after its account has accepted the licence at {page}"
    if reason == "RepoNotFound":
        # Hugging Face does not tell strangers whether a repository is private or not there at all.
        return f"; or there is no such repository: check the name in download_url ({page})"
    return ""


def _remedy(provider: str | None) -> str:
    mirror = {"huggingface": "HF_ENDPOINT", "civitai": "CIVITAI_ENDPOINT"}.get((provider or "").lower())
    if mirror:
        return f"if it is a mirror of {provider}, point {mirror} at it; else correct download_url in the catalogue"
    return (
        "open it in a browser to see what it wants, and put an address into download_url that needs no login, such as "
        "a signed one (tokens are sent to the hosts of HF_ENDPOINT and CIVITAI_ENDPOINT only)"
    )


def no_object(reply: Reply, asked: str) -> ProvisioningError | None:
    """Make the error for an S3 server's refusal; None where its status says it all, as for any other server."""
    if not 300 <= reply.status < 500 or reply.status in {408, 425, 429}:
        return None
    match = re.search(rb"<Code>(\w+)</Code>", reply.read(ERROR_BYTES))
    code = match[1].decode() if match else ""
    where = f"{without_query(asked)}: {_host_of(reply)} answered {reply.status}{f' ({code})' if code else ''}"
    region = reply.headers.get("x-amz-bucket-region")
    if reply.status < 400 or (region and code in {"AuthorizationHeaderMalformed", "PermanentRedirect"}):
        return Forbidden(f"{where}: the bucket is in another region, set AWS_REGION{f'={region}' if region else ''}")
    if reply.status == 404:
        missing = "there is no such bucket" if code == "NoSuchBucket" else "there is no such object"
        return GoneUpstream(f"{where}: {missing}; check download_url, and S3_ENDPOINT")
    if reply.status not in {400, 401, 403}:
        return None
    if not reply.with_token:
        return NeedsToken(f"{where}: set {S3_KEYS}")
    return TokenRefused(f"{where}: {S3_WORDS.get(code, f'check {S3_KEYS}')}")


def _host_of(reply: Reply) -> str:
    return without_query(reply.url).split("/")[2]
