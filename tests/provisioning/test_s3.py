"""``s3://``: objects on a real S3-compatible server that checks who asks."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from provisioning import receipts
from provisioning.errors import BadEntry
from provisioning.s3 import ObjectAddress
from provisioning.settings import S3Account, Settings
from tests.provisioning.conftest import MIB, ROOT, Fleet, Provision, environment, run_process, some_bytes
from tests.provisioning.origin import Origin, status
from tests.provisioning.s3 import BUCKET, Store, running_store

BODY = some_bytes(3 * MIB)
OTHER = some_bytes(1000, seed=1)


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with running_store() as running:
        yield running


@pytest.fixture(autouse=True)
def nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the keys of whoever runs the tests, and the cloud's metadata service, out of them."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)


def test_an_object_comes_in_ranges_and_is_proved_like_any_other_file(
    store: Store,
    fleet: Fleet,
    provision: Provision,
) -> None:
    fleet.add("a", store.put("deep/folder/a file+ü.bin", BODY), BODY)

    run = provision("a", s3=store.reader)

    receipt = receipts.load(run.models_dir, "a")
    assert run.outcome.ready == ("a",), run.outcome.failed
    assert run.file("a.bin").read_bytes() == BODY
    assert receipt is not None
    assert receipt.url == "s3://models/deep/folder/a file+ü.bin"


def test_settings_come_from_the_names_that_every_s3_tool_reads(store: Store, fleet: Fleet, settings: Settings) -> None:
    fleet.add("a", store.put("env.bin", BODY), BODY)
    env = environment(settings)
    keys = {
        "AWS_ENDPOINT_URL": store.url,
        "AWS_ACCESS_KEY_ID": str(store.reader.access_key_id),
        "AWS_SECRET_ACCESS_KEY": str(store.reader.secret_access_key),
        "AWS_DEFAULT_REGION": str(store.reader.region),
    }

    planned = run_process("a", "--plan", env={**env, **keys})
    ended = run_process("a", "--json", env={**env, **keys})

    assert (planned.code, ended.code) == (0, 0)
    assert str(store.reader.secret_access_key) not in planned.out + ended.out + ended.err


def test_the_keys_of_a_profile_are_found(
    store: Store,
    fleet: Fleet,
    provision: Provision,
    tmp_path: Path,
) -> None:
    reader = store.reader
    (tmp_path / "credentials").write_text(
        f"[default]\naws_access_key_id={reader.access_key_id}\naws_secret_access_key={reader.secret_access_key}\n"
    )
    (tmp_path / "config").write_text(f"[default]\nregion={reader.region}\n")
    fleet.add("a", store.put("profile.bin", BODY), BODY)

    run = provision("a", s3=S3Account(endpoint=store.url))

    assert run.outcome.ready == ("a",), run.outcome.failed


def test_what_everybody_may_read_needs_no_key(store: Store, fleet: Fleet, provision: Provision) -> None:
    fleet.add("open", store.put("open.bin", BODY, ACL="public-read"), BODY)
    fleet.add("closed", store.put("closed.bin", OTHER), OTHER)
    store.ask_everybody(False)  # this server checks who asks, or serves who does not say; never both

    run = provision("open", "closed", s3=S3Account(endpoint=store.url))

    assert run.outcome.ready == ("open",), run.outcome.failed
    assert run.code("closed") == "needs_token"
    assert "AWS_ACCESS_KEY_ID" in run.message("closed")


def test_each_refusal_says_which_variable_is_wrong(store: Store, fleet: Fleet, provision: Provision) -> None:
    fleet.add("a", store.put("a.bin", BODY), BODY)
    reader = store.reader
    refused = {
        "AWS_SECRET_ACCESS_KEY": replace(reader, secret_access_key="another"),
        "the server does not know this key": replace(reader, access_key_id="AKIANOBODY"),
        "s3:GetObject": store.stranger,
    }

    for words, account in refused.items():
        run = provision("a", s3=account)

        assert run.code("a") == "token_refused"
        assert words in run.message("a")
        assert str(account.secret_access_key) not in run.message("a")


def test_an_object_or_a_bucket_that_is_not_there_is_gone(store: Store, fleet: Fleet, provision: Provision) -> None:
    fleet.add("object", f"s3://{BUCKET}/nothing.bin", BODY)
    fleet.add("bucket", "s3://no-such-bucket/nothing.bin", BODY)

    run = provision("object", "bucket", s3=store.reader)

    assert [run.code(each) for each in ("object", "bucket")] == ["gone_upstream", "gone_upstream"]
    assert "no such object" in run.message("object")


def test_the_signature_goes_to_the_endpoint_and_not_after_a_redirect(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
) -> None:
    with Origin() as elsewhere:
        origin.serve("/models/a.bin", b"", redirect=elsewhere.serve("/a.bin", BODY))
        fleet.add("a", "s3://models/a.bin", BODY)

        run = provision("a", s3=S3Account(origin.url, None, "key", "secret"))

        assert run.code("a") == "forbidden"
        assert "AWS_REGION" in run.message("a")
        assert elsewhere.asked == []
        assert "AWS4-HMAC-SHA256" in origin.asked[0].headers["authorization"]


@pytest.mark.parametrize(
    ("code", "name", "headers", "expected", "words"),
    [
        (403, "RequestTimeTooSkewed", {}, "token_refused", "clock"),
        (400, "ExpiredToken", {}, "token_refused", "AWS_SESSION_TOKEN"),
        (301, "PermanentRedirect", {"x_amz_bucket_region": "eu-west-3"}, "forbidden", "AWS_REGION=eu-west-3"),
        (
            400,
            "AuthorizationHeaderMalformed",
            {"x_amz_bucket_region": "eu-west-3"},
            "forbidden",
            "AWS_REGION=eu-west-3",
        ),
    ],
)
def test_what_the_servers_codes_mean_is_told(  # noqa: PLR0917
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
    code: int,
    name: str,
    headers: dict[str, str],
    expected: str,
    words: str,
) -> None:
    fleet.add("a", "s3://models/a.bin", BODY)
    origin.serve("/models/a.bin", BODY)
    origin.always["/models/a.bin"] = status(code, body=f"<Error><Code>{name}</Code></Error>".encode(), **headers)

    run = provision("a", s3=S3Account(origin.url, None, "key", "secret"))

    assert run.code("a") == expected
    assert words in run.message("a")


def test_an_endpoint_in_the_own_network_is_allowed_because_the_operator_named_it(
    store: Store,
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
) -> None:
    fleet.add("a", store.put("private.bin", BODY), BODY)
    fleet.add("other", origin.serve("/other", OTHER), OTHER)

    run = provision("a", "other", s3=store.reader, allow_private_addresses=False)

    assert run.outcome.ready == ("a",)
    assert run.code("other") == "address_refused"


@pytest.mark.parametrize("url", ["s3://", "s3://bucket", "s3://bucket/", "s3://b/../k", "s3://u:p@bucket/k", "s3:///k"])
def test_what_names_no_object_is_refused(url: str) -> None:
    with pytest.raises(BadEntry, match="expected s3://bucket/"):
        ObjectAddress.parse(url)


@pytest.mark.parametrize(
    ("url", "endpoint", "region", "address"),
    [
        ("s3://b-1/k/a b", None, "eu-west-3", "https://b-1.s3.eu-west-3.amazonaws.com/k/a%20b"),
        ("s3://b.dot/k", None, "eu-west-3", "https://s3.eu-west-3.amazonaws.com/b.dot/k"),
        ("s3://bbb/k", None, "cn-north-1", "https://bbb.s3.cn-north-1.amazonaws.com.cn/k"),
        ("s3://bbb/k?versionId=7", "http://minio:9000", "x", "http://minio:9000/bbb/k?versionId=7"),
    ],
)
def test_where_an_object_lies(url: str, endpoint: str | None, region: str, address: str) -> None:
    assert ObjectAddress.parse(url).url(S3Account(endpoint), region) == address


def test_without_the_extra_the_error_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['botocore'] = None\n"
        "from provisioning.s3 import Signer; from provisioning.settings import S3Account\n"
        "Signer(S3Account()).request('s3://bucket/key')"
    )

    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)

    assert "NeedsExtra: s3:// addresses need botocore: pip install 'imagefleet[s3]'" in ended.stderr
