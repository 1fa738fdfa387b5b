"""Tokens go to their provider's host, and nowhere else; not into logs, receipts or the status file either."""

import logging
from pathlib import Path

import pytest

from tests.provisioning.conftest import Fleet, Provision, some_bytes
from tests.provisioning.origin import Asked, Origin

SECRET = "hf_very-secret"


def tokens_seen(asked: list[Asked]) -> set[str | None]:
    return {each.headers.get("authorization") for each in asked}


def test_a_token_goes_to_its_providers_host(origin: Origin, fleet: Fleet, provision: Provision) -> None:
    body = some_bytes(10)
    url = origin.serve("/a", body, token=SECRET)
    fleet.add("a", url, body, auth_required=True, auth_provider="huggingface")

    run = provision("a", hf_endpoint=origin.url, hf_token=SECRET)

    assert run.outcome.ready == ("a",)
    assert tokens_seen(origin.asked) == {f"Bearer {SECRET}"}


def test_a_token_never_follows_a_redirect_to_another_host_not_even_back(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
) -> None:
    body = some_bytes(3_000_000)
    with Origin() as elsewhere:
        origin.serve("/b", body)
        elsewhere.serve("/b", body, redirect=f"{origin.url}/b")
        url = origin.serve("/a", b"", token=SECRET, redirect=f"{elsewhere.url}/b")
        fleet.add("a", url, body, auth_required=True, auth_provider="huggingface")

        run = provision("a", hf_endpoint=origin.url, hf_token=SECRET)

        assert run.outcome.ready == ("a",)
        assert tokens_seen(elsewhere.asked) == {None}
        assert tokens_seen(origin.requests("/b")) == {None}
        assert tokens_seen(origin.requests("/a")) == {f"Bearer {SECRET}"}


def test_a_redirect_on_the_same_site_keeps_the_token(origin: Origin, fleet: Fleet, provision: Provision) -> None:
    body = some_bytes(10)
    origin.serve("/new", body, token=SECRET)
    fleet.add("a", origin.serve("/old", b"", redirect="/new"), body)

    run = provision("a", hf_endpoint=origin.url, hf_token=SECRET)

    assert run.outcome.ready == ("a",)


def test_an_entry_that_claims_a_provider_does_not_get_its_token(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
) -> None:
    body = some_bytes(10)
    fleet.add("a", origin.serve("/a", body, token=SECRET), body, auth_required=True, auth_provider="huggingface")

    run = provision("a", hf_token=SECRET, civitai_token=SECRET)

    assert run.code("a") == "forbidden"
    assert "HF_ENDPOINT" in run.message("a")
    assert "HF_TOKEN" not in run.message("a")
    assert tokens_seen(origin.asked) == {None}


def test_a_missing_token_is_named_before_anything_is_asked(origin: Origin, fleet: Fleet, provision: Provision) -> None:
    body = some_bytes(10)
    fleet.add("a", origin.serve("/a", body), body, auth_required=True, auth_provider="civitai")

    run = provision("a", civitai_endpoint=origin.url)

    assert run.code("a") == "needs_token"
    assert "CIVITAI_TOKEN" in run.message("a")
    assert origin.asked == []


def test_a_token_that_is_refused_is_told_apart_from_a_missing_one(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
) -> None:
    body = some_bytes(10)
    fleet.add("a", origin.serve("/a", body, token="another"), body)

    run = provision("a", hf_endpoint=origin.url, hf_token=SECRET)

    assert run.code("a") == "token_refused"
    assert "HF_TOKEN" in run.message("a")
    assert SECRET not in run.message("a")


def test_civitai_gets_its_token_by_header_and_its_storage_does_not(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
) -> None:
    body = some_bytes(10)
    with Origin() as storage:
        signed = storage.serve("/bucket/model.safetensors", body) + "?X-Amz-Signature=abc"
        url = origin.serve("/api/download/models/42", b"", redirect=signed, token=SECRET)
        fleet.add("a", url, body, auth_required=True, auth_provider="civitai")

        run = provision("a", civitai_endpoint=origin.url, civitai_token=SECRET)

        assert run.outcome.ready == ("a",)
        assert tokens_seen(origin.asked) == {f"Bearer {SECRET}"}
        assert all("token=" not in each.path for each in origin.asked)
        assert tokens_seen(storage.asked) == {None}


def test_civitais_login_page_is_no_model_and_says_which_token_is_missing(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
) -> None:
    origin.serve("/login", b"<!DOCTYPE html>Log in", type="text/html", ranges=False)
    fleet.add("a", origin.serve("/api/download/models/42", b"", redirect="/login?returnUrl=x"), b"model")

    without = provision("a", civitai_endpoint=origin.url)
    refused = provision("a", civitai_endpoint=origin.url, civitai_token=SECRET)

    assert (without.code("a"), refused.code("a")) == ("needs_token", "token_refused")
    assert "set CIVITAI_TOKEN" in without.message("a")
    assert "sent its login page" in without.message("a")


def test_the_machine_token_goes_to_the_lookup_only(fleet: Fleet, provision: Provision) -> None:
    body = some_bytes(10)
    fleet.origin.serve("/a", body)
    fleet.add("a", "/a", body)

    run = provision("a", machine_token="m-secret")

    assert run.outcome.ready == ("a",)
    assert fleet.headers[0]["authorization"] == "Bearer m-secret"
    assert tokens_seen(fleet.origin.requests("/a")) == {None}


def test_no_secret_is_written_anywhere(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    caplog.set_level(logging.DEBUG)
    body = some_bytes(3_000_000)
    url = origin.serve("/a", body, token=SECRET) + "?token=url-secret"
    fleet.add("a", url.replace("//", "//user:pass-secret@"), body)
    fleet.add("b", origin.url + "/missing?token=url-secret", body)

    run = provision("a", "b", hf_endpoint=origin.url, hf_token=SECRET, machine_token="m-secret")

    written = [each.read_bytes() for each in tmp_path.rglob("*") if each.is_file() and each.suffix != ".bin"]
    told = [str(run.events).encode(), caplog.text.encode()]
    assert run.outcome.ready == ("a",)
    assert not [each for each in written + told if b"secret" in each]
