"""What was refused, what is here twice, what lies on a share, and what only looks like a model."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from threading import Event

import pytest

from provisioning import digests, formats, layout, receipts, twins
from provisioning.custody import RECEIPTS_LOCK
from provisioning.digests import Digest
from provisioning.errors import BadFormat
from provisioning.locks import held
from provisioning.provisioner import Provisioner
from provisioning.settings import Settings
from tests.provisioning.conftest import MIB, Fleet, Provision, digest_of, some_bytes
from tests.provisioning.origin import Origin
from tests.provisioning.test_hub import safetensors

BODY = some_bytes(2 * MIB)


def test_bytes_that_were_refused_are_not_fetched_again_while_nothing_has_changed(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
) -> None:
    fleet.add("a", origin.serve("/a", BODY), BODY, hash="0" * 64)
    first = provision("a")
    sent = origin.sent

    again = provision("a")

    assert first.code("a") == again.code("a") == "hash_mismatch"
    assert origin.sent - sent == 1


def test_a_corrected_hash_takes_the_refused_bytes_back_without_fetching_them(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
) -> None:
    entry = fleet.add("a", origin.serve("/a", BODY), BODY, hash="0" * 64)
    provision("a")
    sent = origin.sent
    entry["hash"] = sha256(BODY).hexdigest()

    run = provision("a")

    assert run.outcome.ready == ("a",)
    assert run.file("a.bin").read_bytes() == BODY
    assert origin.sent == sent


def test_bytes_that_were_corrected_at_the_origin_are_fetched(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
) -> None:
    fleet.add("a", origin.serve("/a", some_bytes(2 * MIB, seed=1)), BODY)
    provision("a")
    origin.serve("/a", BODY)

    run = provision("a")

    assert run.outcome.ready == ("a",)


def test_the_same_content_under_two_ids_is_fetched_and_stored_once(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
) -> None:
    for name in "abc":
        fleet.add(name, origin.serve(f"/{name}", BODY), BODY)

    provision("a")
    run = provision("a", "b", "c")

    assert run.outcome.ready == ("a", "b", "c")
    assert receipts.ready_models(run.models_dir) == {"a", "b", "c"}
    assert len({run.file(f"{name}.bin").stat().st_ino for name in "abc"}) == 1
    assert origin.sent == len(BODY) + 1


def test_names_that_come_at_the_same_moment_do_not_undo_each_others_proof(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
) -> None:
    body = some_bytes(1000)
    names = [f"m{number}" for number in range(30)]
    for name in names:
        fleet.add(name, origin.serve(f"/{name}", body), body)

    run = provision(*names)

    assert run.outcome.ready == tuple(names)
    assert receipts.ready_models(run.models_dir) == set(names)


def test_a_model_that_gets_another_name_while_it_is_read_again_goes_on_serving(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fleet.add("a", origin.serve("/a", BODY), BODY)
    models_dir = provision("a").models_dir
    asked, read = len(origin.asked), digests.of_file

    def of_file(path: Path, algorithms: set[str], stop: Event | None = None) -> dict[str, Digest]:
        found = read(path, algorithms, stop)
        assert twins.bring(models_dir, Path("checkpoints/b.bin"), found["sha256"], Event())
        return found

    monkeypatch.setattr(digests, "of_file", of_file)

    run = provision("a", verify=True)

    assert run.states("a") == ["wanted", "verifying", "ready"]
    assert receipts.ready_models(models_dir) == {"a"}
    assert len(origin.asked) == asked


def test_a_file_that_gets_another_name_while_it_is_judged_is_judged_again_and_adopted(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fleet.add("a", origin.serve("/a", BODY), BODY)
    file, read = provision().file("a.bin"), digests.of_file
    file.parent.mkdir(parents=True)
    file.write_bytes(BODY)

    def of_file(path: Path, algorithms: set[str], stop: Event | None = None) -> dict[str, Digest]:
        found = read(path, algorithms, stop)
        if not path.with_name("other").exists():
            os.link(path, path.with_name("other"))
        return found

    monkeypatch.setattr(digests, "of_file", of_file)

    run = provision("a")

    assert run.outcome.ready == ("a",)
    assert receipts.ready_models(run.models_dir) == {"a"}
    assert origin.asked == []


def test_content_is_here_also_in_the_moment_in_which_it_is_given_another_name(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    proven = receipts.ProvenFile.of(tmp_path, Path("x"), digest_of(b"x"))
    receipts.save(tmp_path, receipts.Receipt("x", "http://x", (proven,), (), "now"))
    digest = digests.parse(digest_of(b"x"))
    with ThreadPoolExecutor() as others, held(layout.lock_path(tmp_path, RECEIPTS_LOCK), Event()):
        os.link(tmp_path / "x", tmp_path / "y")
        found = others.submit(twins.is_here, tmp_path, Path("z"), digest, Event())
        with suppress(TimeoutError):
            found.result(0.05)
        twins.refresh(tmp_path, proven)

    assert found.result()


def test_what_was_read_as_damaged_and_has_been_replaced_meanwhile_is_left_where_it_is(
    origin: Origin,
    fleet: Fleet,
    settings: Settings,
) -> None:
    fleet.add("a", origin.serve("/a", BODY), BODY)
    provisioner = Provisioner(settings, lambda event: None)
    provisioner.run(["a"])
    receipt = receipts.load(settings.models_dir, "a")
    assert receipt is not None
    file = settings.models_dir / receipt.files[0].path
    file.unlink()
    file.write_bytes(b"another")

    provisioner.guard.condemn(receipt, receipt.files)

    assert file.read_bytes() == b"another"
    assert receipts.load(settings.models_dir, "a") is None


def test_where_links_fail_the_same_content_is_copied(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise PermissionError(1, "no links here")

    for name in "ab":
        fleet.add(name, origin.serve(f"/{name}", BODY), BODY)
    provision("a")
    monkeypatch.setattr(os, "link", no_links)

    run = provision("a", "b")

    assert receipts.ready_models(run.models_dir) == {"a", "b"}
    assert run.file("b.bin").read_bytes() == BODY
    assert run.file("b.bin").stat().st_ino != run.file("a.bin").stat().st_ino


def test_a_damaged_twin_is_not_given_a_second_name(origin: Origin, fleet: Fleet, provision: Provision) -> None:
    for name in "ab":
        fleet.add(name, origin.serve(f"/{name}", BODY), BODY)
    run = provision("a")
    run.file("a.bin").write_bytes(b"damaged")

    run = provision("b")

    assert run.file("b.bin").read_bytes() == BODY


def test_a_changed_hash_in_the_catalogue_replaces_what_is_here(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
) -> None:
    fleet.add("a", origin.serve("/a", BODY), BODY)
    provision("a")
    other = some_bytes(100, seed=1)
    fleet.add("a", origin.serve("/a", other), other)

    run = provision("a")

    assert run.file("a.bin").read_bytes() == other
    assert receipts.ready_models(run.models_dir) == {"a"}


def test_the_same_hash_written_in_another_way_changes_nothing(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
) -> None:
    entry = fleet.add("a", origin.serve("/a", BODY), BODY)
    provision("a")
    asked = len(origin.asked)
    entry["hash"] = f"SHA256:{sha256(BODY).hexdigest().upper()}"

    run = provision("a")

    assert run.states("a") == ["wanted", "ready"]
    assert len(origin.asked) == asked


def test_changed_dependencies_are_brought_and_noted_without_fetching_the_model_again(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
) -> None:
    entry = fleet.add("a", origin.serve("/a", BODY), BODY)
    fleet.add("vae", origin.serve("/vae", b"vae"), b"vae")
    provision("a")
    asked = len(origin.requests("/a"))
    entry["dependencies"] = ["vae"]

    run = provision("a")

    receipt = receipts.load(run.models_dir, "a")
    assert receipt is not None
    assert receipt.dependencies == ("vae",)
    assert receipts.ready_models(run.models_dir) == {"a", "vae"}
    assert len(origin.requests("/a")) == asked


def test_verify_hashes_everything_again_and_repairs_what_stat_cannot_see(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
) -> None:
    fleet.add("a", origin.serve("/a", BODY), BODY)
    fleet.add("b", origin.serve("/b", b"b"), b"b")
    run = provision("a", "b")
    receipt = receipts.load(run.models_dir, "a")
    assert receipt is not None
    run.file("a.bin").write_bytes(some_bytes(2 * MIB, seed=5))
    lying = receipts.Receipt.from_json(
        {
            **receipt.to_json(),
            "files": [
                {**_as_dict(receipts.ProvenFile.of(run.models_dir, Path("checkpoints/a.bin"), digest_of(BODY)))},
            ],
        },
    )
    receipts.save(run.models_dir, lying)

    unseen = provision("a", "b").states("a")
    run = provision("a", "b", verify=True)

    assert unseen == ["wanted", "ready"]
    assert run.outcome.ready == ("a", "b")
    assert run.file("a.bin").read_bytes() == BODY


def _as_dict(file: receipts.ProvenFile) -> dict[str, object]:
    return {name: getattr(file, name) for name in ("path", "size", "hash", "mtime_ns", "ctime_ns", "inode")}


def test_a_file_of_this_machine_is_copied_hashed_and_proved(fleet: Fleet, provision: Provision, tmp_path: Path) -> None:
    (tmp_path / "share file").write_bytes(BODY)
    fleet.add("a", f"file://{tmp_path}/share%20file", BODY)
    fleet.add("gone", f"file://{tmp_path}/gone", b"of other content: BODY could be linked from a")
    fleet.add("hashless", f"file://{tmp_path}/share%20file", None)
    fleet.add("wrong", f"file://{tmp_path}/share%20file", b"other")

    run = provision("a", "gone", "hashless", "wrong", allow_unverified=True)

    assert run.outcome.ready == ("a",)
    assert run.file("a.bin").read_bytes() == BODY
    codes = [run.code(name) for name in ("gone", "hashless", "wrong")]
    assert codes == ["gone_upstream", "no_hash", "hash_mismatch"]


def test_what_huggingface_hub_has_fetched_before_is_copied_and_proved(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
    tmp_path: Path,
) -> None:
    blobs = tmp_path / "models--o--n" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / sha256(BODY).hexdigest()).write_bytes(BODY)
    rotten = some_bytes(100, seed=4)
    (blobs / sha256(rotten).hexdigest()).write_bytes(b"x" * 100)
    fleet.add("a", origin.serve("/a", BODY), BODY)
    fleet.add("rotten", origin.serve("/rotten", rotten), rotten)

    run = provision("a", "rotten", hf_cache=tmp_path)

    assert run.outcome.ready == ("a", "rotten")
    assert run.file("rotten.bin").read_bytes() == rotten
    assert not origin.requests("/a")


def test_a_web_page_is_refused_even_when_its_hash_is_right(origin: Origin, fleet: Fleet, provision: Provision) -> None:
    page = b"<!DOCTYPE html><html>please log in</html>"
    fleet.add("a", origin.serve("/a", page), page, save_path="checkpoints/a.safetensors")

    run = provision("a")

    assert run.code("a") == "bad_format"
    assert not run.file("a.safetensors").exists()


HEADER = json.dumps({"__metadata__": {}, "a": {"data_offsets": [0, 4]}, "b": {"data_offsets": [4, 10]}}).encode()


def written(header: bytes, tail: bytes, length: int | None = None) -> bytes:
    return (len(header) if length is None else length).to_bytes(8, "little") + header + tail


@pytest.mark.parametrize(
    ("content", "fine"),
    [
        (written(HEADER, bytes(10)), True),
        (safetensors(5000), True),
        (written(HEADER + b" " * 6000, bytes(10)), True),
        (written(HEADER, bytes(9)), False),
        (written(HEADER, bytes(11)), False),
        (written(HEADER, bytes(10), length=1 << 40), False),
        (written(b"not json", bytes(10)), False),
        (written(b"[]", b""), False),
        (written(json.dumps({"a": {"data_offsets": [2, 4]}}).encode(), bytes(4)), False),
        (b"", False),
        (b"short", False),
    ],
)
def test_a_safetensors_header_has_to_fit_its_file(tmp_path: Path, content: bytes, fine: bool) -> None:
    file = tmp_path / "x.part"
    file.write_bytes(content)

    if fine:
        formats.check(file, "x.safetensors")
    else:
        with pytest.raises(BadFormat):
            formats.check(file, "x.safetensors")


def test_receipts_of_other_files_are_left_alone_when_names_change(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    proven = receipts.ProvenFile.of(tmp_path, Path("x"), digest_of(b"x"))
    receipt = receipts.Receipt("x", "http://x", (proven,), (), "now")
    receipts.save(tmp_path, receipt)
    (tmp_path / "x").write_bytes(b"y")

    twins.refresh(tmp_path, proven)

    assert receipts.load(tmp_path, "x") == receipt
    assert not receipts.is_intact(tmp_path, receipt)
