"""Where a model comes from, as a person writes it."""

import pytest

from app.parse import SettingsError
from app.sources import address_of, entry_of


@pytest.mark.parametrize(
    ("source", "address", "provider"),
    [
        ("https://example.org/a.safetensors", "https://example.org/a.safetensors", None),
        ("http://10.0.0.1/a.bin?x=1", "http://10.0.0.1/a.bin?x=1", None),
        ("hf:owner/repo", "hf://owner/repo", "huggingface"),
        (
            "hf:owner/repo/unet/a.safetensors",
            "https://huggingface.co/owner/repo/resolve/main/unet/a.safetensors",
            "huggingface",
        ),
        ("civitai:12345", "https://civitai.com/api/download/models/12345", "civitai"),
        ("s3://bucket/a.bin", "s3://bucket/a.bin", None),
        ("file:/srv/a.bin", "file:///srv/a.bin", None),
        ("file:///srv/a.bin", "file:///srv/a.bin", None),
    ],
)
def test_a_source_becomes_an_address(source: str, address: str, provider: str | None) -> None:
    assert address_of(source) == (address, provider)


@pytest.mark.parametrize("source", ["", "a.bin", "hf:", "hf:owner", "civitai:latest", "file:a", "ftp://x/y", "https:x"])
def test_what_is_no_source_is_told_with_the_forms_there_are(source: str) -> None:
    with pytest.raises(SettingsError, match="hf:OWNER/REPO"):
        address_of(source)


def test_an_entry_leaves_out_what_was_not_said() -> None:
    assert entry_of("https://example.org/a.bin", hash_="ab" * 32) == {
        "name": "a.bin",
        "download_url": "https://example.org/a.bin",
        "hash": "ab" * 32,
        "kind": "checkpoint",
        "dependencies": [],
        "auth_required": False,
    }


def test_a_name_is_not_taken_from_the_query() -> None:
    assert entry_of("https://example.org/a.bin?token=x")["name"] == "a.bin"


def test_saying_whose_token_is_needed_makes_it_required() -> None:
    entry = entry_of("hf:owner/repo", auth_provider="huggingface")

    assert (entry["auth_required"], entry["auth_provider"]) == (True, "huggingface")
