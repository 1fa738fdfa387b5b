"""``hf://``: repositories pinned to their commit, every file proved by the hash that the commit holds."""

import json
from hashlib import sha256

import pytest

from provisioning import receipts
from tests.provisioning.conftest import MIB, Fleet, Provision, some_bytes
from tests.provisioning.hub import COMMIT, gate, serve_repository
from tests.provisioning.origin import Origin, other_bytes

NAME = "stabilityai/tiny-xl"


def safetensors(size: int, seed: int = 0) -> bytes:
    """Return a whole safetensors file with one tensor."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return len(header).to_bytes(8, "little") + header + some_bytes(size, seed)


PIPELINE = {
    ".gitattributes": b"*",
    "README.md": b"# hello",
    "model_index.json": b'{"_class_name": "StableDiffusionPipeline"}',
    "big-single-file.safetensors": safetensors(10),
    "tokenizer/vocab.json": b"{}",
    "unet/config.json": b'{"in": 4}',
    "unet/model.safetensors": safetensors(2 * MIB),
    "unet/model.fp16.safetensors": safetensors(MIB, 1),
    "unet/model.bin": b"pickle",
    "vae/only.fp16.safetensors": safetensors(100, 2),
}
WANTED = {
    "model_index.json",
    "tokenizer/vocab.json",
    "unet/config.json",
    "unet/model.safetensors",
    "vae/only.fp16.safetensors",
}


def add(fleet: Fleet, url: str, **other: object) -> None:
    fleet.add("xl", url, None, **{"save_path": "diffusers/xl", "size_bytes": None, **other})


def present(run_dir: object, base: object) -> set[str]:
    assert hasattr(base, "rglob")
    return {each.relative_to(base).as_posix() for each in base.rglob("*") if each.is_file()}


def test_a_whole_repository_comes_with_what_a_pipeline_needs_and_its_revision_pinned(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
) -> None:
    serve_repository(origin, NAME, PIPELINE, page_size=3)
    add(fleet, f"hf://{NAME}")

    run = provision("xl", hf_endpoint=origin.url)

    folder = run.models_dir / "diffusers" / "xl"
    receipt = receipts.load(run.models_dir, "xl")
    assert run.outcome.ready == ("xl",), run.outcome.failed
    assert present(run, folder) == WANTED
    assert all((folder / path).read_bytes() == PIPELINE[path] for path in WANTED)
    assert receipt is not None
    assert receipt.url == f"hf://{NAME}@{COMMIT}"
    assert len(receipt.files) == len(WANTED)


def test_a_repository_that_is_here_is_not_asked_for_again(origin: Origin, fleet: Fleet, provision: Provision) -> None:
    serve_repository(origin, NAME, PIPELINE)
    add(fleet, f"hf://{NAME}")
    provision("xl", hf_endpoint=origin.url)
    asked = len(origin.asked)

    run = provision("xl", hf_endpoint=origin.url)

    assert run.outcome.ready == ("xl",)
    assert len(origin.asked) == asked


def test_a_single_file_of_a_repository_lies_at_the_save_path(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
) -> None:
    serve_repository(origin, NAME, PIPELINE, revision="v1")
    add(fleet, f"hf://{NAME}@v1/unet/model.fp16.safetensors", save_path="unet/small.safetensors")

    run = provision("xl", hf_endpoint=origin.url)

    body = PIPELINE["unet/model.fp16.safetensors"]
    assert (run.models_dir / "unet" / "small.safetensors").read_bytes() == body


def test_include_and_exclude_choose_other_files(origin: Origin, fleet: Fleet, provision: Provision) -> None:
    serve_repository(origin, NAME, PIPELINE)
    add(fleet, f"hf://{NAME}?include=unet/*&exclude=*.safetensors")

    run = provision("xl", hf_endpoint=origin.url)

    assert present(run, run.models_dir / "diffusers" / "xl") == {"unet/config.json", "unet/model.bin"}


def test_small_files_are_proved_by_gits_own_hash(origin: Origin, fleet: Fleet, provision: Provision) -> None:
    serve_repository(origin, NAME, PIPELINE)
    origin.always[f"/{NAME}/resolve/{COMMIT}/unet/config.json"] = other_bytes(b'{"in": 5}')
    add(fleet, f"hf://{NAME}")

    run = provision("xl", hf_endpoint=origin.url)

    assert run.code("xl") == "hash_mismatch"
    assert not (run.models_dir / "diffusers" / "xl" / "unet" / "config.json").exists()
    assert receipts.load(run.models_dir, "xl") is None


def test_the_token_goes_to_the_hub(origin: Origin, fleet: Fleet, provision: Provision) -> None:
    serve_repository(origin, NAME, PIPELINE, token="hf_x")
    add(fleet, f"hf://{NAME}", auth_required=True)

    without = provision("xl", hf_endpoint=origin.url)
    run = provision("xl", hf_endpoint=origin.url, hf_token="hf_x")

    assert without.code("xl") == "needs_token"
    assert run.outcome.ready == ("xl",)


def test_a_licence_that_is_not_accepted_says_which_page_to_open(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
) -> None:
    serve_repository(origin, NAME, PIPELINE)
    gate(origin, NAME)
    add(fleet, f"hf://{NAME}")
    body = PIPELINE["unet/model.bin"]
    fleet.add("direct", f"{origin.url}/{NAME}/resolve/{COMMIT}/unet/model.bin", body)

    run = provision("xl", "direct", hf_endpoint=origin.url, hf_token="hf_x")

    for model_id in ("xl", "direct"):
        assert run.code(model_id) == "licence_not_accepted"
        assert f"{origin.url}/{NAME} " in run.message(model_id)


def test_a_hash_in_the_catalogue_proves_a_single_file_and_cannot_prove_a_repository(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
) -> None:
    serve_repository(origin, NAME, PIPELINE)
    digest = sha256(PIPELINE["unet/model.safetensors"]).hexdigest()
    fleet.add("one", f"hf://{NAME}/unet/model.safetensors", None, hash=digest)
    fleet.add("whole", f"hf://{NAME}", None, hash=digest)

    run = provision("one", "whole", hf_endpoint=origin.url)

    assert run.outcome.ready == ("one",)
    assert run.code("whole") == "bad_hash"


@pytest.mark.parametrize(
    "url", ["hf://gone/away", "hf://stabilityai/tiny-xl@nowhere", "hf://stabilityai/tiny-xl/no.bin"]
)
def test_what_a_hub_does_not_have_is_gone(origin: Origin, fleet: Fleet, provision: Provision, url: str) -> None:
    serve_repository(origin, NAME, PIPELINE)
    add(fleet, url)

    run = provision("xl", hf_endpoint=origin.url)

    assert run.code("xl") == "gone_upstream"
