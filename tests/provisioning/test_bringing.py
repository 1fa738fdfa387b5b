"""From MACHINE_MODELS_NEEDED to proven files: the main path, and what must not stop it."""

from dataclasses import replace
from hashlib import md5, sha1, sha256
from pathlib import Path

import pytest

from provisioning import receipts, status
from provisioning.provisioner import Provisioner
from provisioning.settings import Settings
from tests.provisioning.conftest import MIB, Fleet, Provision, crc32_of, digest_of, some_bytes
from tests.provisioning.origin import Origin


def test_a_model_arrives_whole_with_a_receipt_that_proves_it(
    origin: Origin, fleet: Fleet, provision: Provision
) -> None:
    body = some_bytes(5 * MIB + 17)
    fleet.add("flux dev/1", origin.serve("/flux", body) + "?token=secret", body, save_path="checkpoints/flux.bin")

    run = provision("flux dev/1")

    assert run.outcome.ready == ("flux dev/1",)
    assert run.file("flux.bin").read_bytes() == body
    assert [each.name for each in run.file("flux.bin").parent.iterdir()] == ["flux.bin"]
    receipt = receipts.load(run.models_dir, "flux dev/1")
    assert receipt is not None
    assert (run.models_dir / ".receipts" / "flux%20dev%2F1.json").exists()
    assert receipt.files[0].hash == digest_of(body)
    assert "secret" not in str(receipt)
    assert run.states("flux dev/1") == ["wanted", "downloading", "verifying", "ready"]


def test_every_kind_of_hash_in_the_catalogue_proves_a_file(origin: Origin, fleet: Fleet, provision: Provision) -> None:
    body = some_bytes(1000)
    kinds = {
        "crc32": crc32_of(body),
        "autov2": sha256(body).hexdigest()[:10].upper(),
        "md5": md5(body).hexdigest(),
        "sha1": sha1(body).hexdigest(),
        "sha256": sha256(body).hexdigest().upper(),
        "prefixed": digest_of(body),
        "named": f"SHA-1:{sha1(body).hexdigest()}",
    }
    for name, written in kinds.items():
        fleet.add(name, origin.serve(f"/{name}", body), body, hash=written)

    run = provision(*kinds)

    assert set(run.outcome.ready) == set(kinds)


def test_wrong_hashes_of_every_kind_are_noticed(origin: Origin, fleet: Fleet, provision: Provision) -> None:
    body, other = some_bytes(1000), some_bytes(1000, seed=1)
    kinds = {
        "crc32": crc32_of(other),
        "autov2": sha256(other).hexdigest()[:10],
        "md5": md5(other).hexdigest(),
        "sha1": sha1(other).hexdigest(),
        "sha256": sha256(other).hexdigest(),
    }
    for name, written in kinds.items():
        fleet.add(name, origin.serve(f"/{name}", body), body, hash=written)

    run = provision(*kinds)

    assert {run.code(name) for name in kinds} == {"hash_mismatch"}
    assert not [each for name in kinds if (each := run.file(f"{name}.bin")).exists()]


def test_an_unknown_id_is_reported_and_the_others_are_served(
    origin: Origin, fleet: Fleet, provision: Provision
) -> None:
    body = some_bytes(10)
    fleet.add("flux-dev", origin.serve("/a", body), body)

    run = provision("flux-dev", "flux-dve")

    assert run.outcome.ready == ("flux-dev",)
    assert run.code("flux-dve") == "not_found"
    assert "flux-dev" in run.message("flux-dve")
    assert status.read(run.models_dir).models["flux-dve"].state == "error"


def test_all_ids_are_looked_up_in_one_request_and_dependencies_in_rounds_until_none_is_new(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
) -> None:
    body = some_bytes(10)
    for name, needs in {"a": ["c"], "b": ["c"], "c": ["d"], "d": ["a"]}.items():
        fleet.add(name, origin.serve(f"/{name}", body), body, dependencies=needs)

    run = provision("a", "b")

    assert run.outcome.ready == ("a", "b")
    assert fleet.asked == [["a", "b"], ["c"], ["d"]]
    assert receipts.ready_models(run.models_dir) == {"a", "b", "c", "d"}


def test_what_a_model_needs_comes_before_it(origin: Origin, fleet: Fleet, provision: Provision) -> None:
    body = some_bytes(10)
    fleet.add("a", origin.serve("/a", body), body, dependencies=["vae"])
    fleet.add("vae", origin.serve("/vae", body), body, save_path="vae/vae.bin")

    run = provision("a")

    order = [each.model_id for each in run.events if each.name == "state" and each.fields["state"] == "ready"]
    assert order == ["vae", "a"]


def test_a_model_whose_dependency_fails_is_not_ready_and_says_which(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
) -> None:
    body = some_bytes(10)
    fleet.add("a", origin.serve("/a", body), body, dependencies=["b"])
    fleet.add("b", origin.serve("/b", body), body, dependencies=["nowhere"])
    fleet.add("c", origin.serve("/c", body), body)

    run = provision("a", "c")

    assert run.outcome.ready == ("c",)
    assert run.code("a") == "dependency_failed"
    assert "nowhere" in run.message("a")
    assert receipts.ready_models(run.models_dir) == {"c"}


def test_more_ids_than_the_server_takes_are_asked_for_in_several_requests(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
) -> None:
    body = some_bytes(10)
    fleet.limit = 2
    for name in "abcde":
        fleet.add(name, origin.serve(f"/{name}", body), body)

    run = provision(*"abcde")

    assert len(run.outcome.ready) == 5


def test_a_relative_download_url_starts_at_the_lookup_url(fleet: Fleet, provision: Provision) -> None:
    body = some_bytes(10)
    fleet.origin.serve("/artifacts/a", body)
    fleet.add("a", "/artifacts/a", body)

    run = provision("a")

    assert run.outcome.ready == ("a",)


def test_one_malformed_entry_spoils_nothing_but_itself(origin: Origin, fleet: Fleet, provision: Provision) -> None:
    body = some_bytes(10)
    fleet.add("good", origin.serve("/good", body), body)
    fleet.add("hashless", origin.serve("/hashless", body), body, hash="not hex")
    fleet.add("addressless", "", body)
    fleet.add("shapeless", origin.serve("/shapeless", body), body, dependencies="vae")

    run = provision("good", "hashless", "addressless", "shapeless")

    assert run.outcome.ready == ("good",)
    assert run.code("hashless") == "bad_hash"
    assert run.code("addressless") == "bad_entry"
    assert run.code("shapeless") == "bad_entry"


@pytest.mark.parametrize(
    "save_path",
    [
        "../x.bin",
        "/etc/x.bin",
        "a/../../x.bin",
        "a\\b.bin",
        "C:/x.bin",
        "a/\0b",
        ".receipts/x.json",
        ".provisioning/x",
        "~/x.bin",
        "x.part",
        "a/x.part.journal",
        "x" * 250,
        "./x.bin",
        "a\nb",
    ],
)
def test_a_save_path_cannot_leave_the_models_folder_nor_enter_the_hidden_ones(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
    save_path: str,
    tmp_path: Path,
) -> None:
    body = some_bytes(10)
    fleet.add("a", origin.serve("/a", body), body, save_path=save_path)

    run = provision("a")

    assert run.code("a") == "unsafe_path"
    assert origin.asked == []
    assert not list(tmp_path.rglob("x.bin*"))


def test_a_save_path_cannot_leave_the_models_folder_through_a_link(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
    tmp_path: Path,
) -> None:
    body = some_bytes(10)
    fleet.add("a", origin.serve("/a", body), body, save_path="checkpoints/a.bin")
    fleet.add("b", origin.serve("/b", body), body, save_path="receipts/b.bin")
    (tmp_path / "outside").mkdir()
    (tmp_path / "models" / ".receipts").mkdir(parents=True)
    (tmp_path / "models" / "checkpoints").symlink_to(tmp_path / "outside")
    (tmp_path / "models" / "receipts").symlink_to(tmp_path / "models" / ".receipts")

    run = provision("a", "b")

    assert run.code("a") == run.code("b") == "unsafe_path"
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_link_at_the_final_path_is_replaced_and_what_it_points_to_is_left_alone(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
    tmp_path: Path,
) -> None:
    body = some_bytes(10)
    fleet.add("a", origin.serve("/a", body), body)
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "models" / "checkpoints").mkdir(parents=True)
    (tmp_path / "models" / "checkpoints" / "a.bin").symlink_to(tmp_path / "precious")

    run = provision("a")

    assert run.file("a.bin").read_bytes() == body
    assert not run.file("a.bin").is_symlink()
    assert (tmp_path / "precious").read_text() == "mine"


def test_two_entries_cannot_fight_over_one_path(origin: Origin, fleet: Fleet, provision: Provision) -> None:
    one, other = some_bytes(10), some_bytes(10, seed=1)
    fleet.add("a", origin.serve("/a", one), one, save_path="x.bin")
    fleet.add("b", origin.serve("/b", other), other, save_path="x.bin")
    fleet.add("c", origin.serve("/c", one), one, save_path="x.bin")

    run = provision("a", "b", "c")

    assert run.outcome.ready == ("a", "c")
    assert run.code("b") == "path_conflict"


def test_a_file_that_lies_there_already_is_hashed_and_adopted(
    origin: Origin, fleet: Fleet, provision: Provision
) -> None:
    body = some_bytes(100)
    fleet.add("a", origin.serve("/a", body), body)
    target = provision().file("a.bin")
    target.parent.mkdir(parents=True)
    target.write_bytes(body)

    run = provision("a")

    assert run.outcome.ready == ("a",)
    assert origin.asked == []


def test_an_empty_file_is_a_file(origin: Origin, fleet: Fleet, provision: Provision) -> None:
    fleet.add("a", origin.serve("/a", b""), b"")

    run = provision("a")

    assert run.outcome.ready == ("a",)
    assert run.file("a.bin").read_bytes() == b""


def test_nothing_needed_is_nothing_done(provision: Provision) -> None:
    run = provision()

    assert run.outcome.ready == ()
    assert run.outcome.failed == {}


def test_the_first_listed_comes_first_unless_the_smallest_is_asked_for(
    origin: Origin,
    fleet: Fleet,
    settings: Settings,
    tmp_path: Path,
) -> None:
    for name, size in {"big": 500_000, "vae": 1000, "small": 10}.items():
        body = some_bytes(size, seed=size)
        fleet.add(name, origin.serve(f"/{name}", body), body, size_bytes=size)
    fleet.entries["small"]["dependencies"] = ["vae"]
    orders: list[list[str]] = []
    for smallest_first in (False, True):
        provisioner = Provisioner(replace(settings, models_dir=tmp_path / str(smallest_first)), lambda event: None)

        provisioner.run(["big", "small"], smallest_first=smallest_first)

        orders.append(sorted(provisioner.orders, key=lambda name: provisioner.orders[name].rank))

    assert orders == [["big", "vae", "small"], ["vae", "small", "big"]]
