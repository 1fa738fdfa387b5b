"""`POST /machines/v1/peers`: the server tells a machine that boots which neighbours have what it fetches."""

from app.core import peers
from app.core.fleet import Fleet, Transaction
from app.core.peers import Shared
from tests.support.fakes import Clock
from tests.support.meanwhile import both
from tests.support.web import Client

FLUX, VAE = "sha256:" + "1" * 64, "sha256:" + "2" * 64


def announce(client: Client, url: str, **files: bool) -> dict[str, list[dict[str, object]]]:
    """Say what a machine has (True) or fetches (False), and return whom it is told about."""
    keys = {"flux": FLUX, "vae": VAE}
    rows = [{"key": keys[name], "complete": complete} for name, complete in files.items()]
    answer = client.post("/machines/v1/peers", json={"url": url, "files": rows})
    assert answer.status_code == 200, answer.text
    found: dict[str, list[dict[str, object]]] = answer.json["peers"]
    return found


def test_a_machine_that_boots_learns_who_has_and_who_fetches_what_it_lacks(client: Client) -> None:
    announce(client, "http://10.0.0.1:8200", flux=True, vae=True)
    announce(client, "http://10.0.0.2:8200", flux=False)

    told = announce(client, "http://10.0.0.3:8200", flux=False, vae=False)

    assert told == {
        FLUX: [
            {"url": "http://10.0.0.1:8200", "complete": True},
            {"url": "http://10.0.0.2:8200", "complete": False},
        ],
        VAE: [{"url": "http://10.0.0.1:8200", "complete": True}],
    }


def test_who_needs_nothing_is_told_nothing(client: Client) -> None:
    announce(client, "http://10.0.0.1:8200", flux=True)

    assert announce(client, "http://10.0.0.2:8200", flux=True) == {}


def test_a_machine_that_lost_a_file_or_has_gone_silent_is_named_no_more(client: Client, clock: Clock) -> None:
    announce(client, "http://10.0.0.1:8200", flux=True, vae=True)
    announce(client, "http://10.0.0.1:8200", vae=True)
    before = announce(client, "http://10.0.0.2:8200", flux=False, vae=False)

    clock.advance(60)
    after = announce(client, "http://10.0.0.2:8200", flux=False, vae=False)

    assert [len(before[FLUX]), len(before[VAE])] == [0, 1]
    assert [len(after[FLUX]), len(after[VAE])] == [0, 0]


def test_a_machine_that_announces_twice_at_the_same_moment_is_known_by_the_second(fleet: Fleet) -> None:
    def first(tx: Transaction) -> object:
        return peers.announce(tx, "http://10.0.0.1:8200", [Shared(VAE, False), Shared(FLUX, False)])

    def second(tx: Transaction) -> object:
        return peers.announce(tx, "http://10.0.0.1:8200", [Shared(FLUX, False), Shared(VAE, True)])

    assert both(fleet, first, second) == {FLUX: []}
    with fleet.transaction() as tx:
        told = peers.announce(tx, "http://10.0.0.2:8200", [Shared(FLUX, False), Shared(VAE, False)])
    assert told == {FLUX: [("http://10.0.0.1:8200", False)], VAE: [("http://10.0.0.1:8200", True)]}


def test_a_file_that_is_named_twice_counts_once(client: Client, fleet: Fleet) -> None:
    rows = [{"key": FLUX, "complete": False}, {"key": FLUX, "complete": True}]

    answer = client.post("/machines/v1/peers", json={"url": "http://10.0.0.1:8200", "files": rows})

    assert (answer.status_code, answer.json) == (200, {"peers": {}})
    with fleet.transaction() as tx:
        told = peers.announce(tx, "http://10.0.0.2:8200", [Shared(FLUX, False)])
    assert told == {FLUX: [("http://10.0.0.1:8200", True)]}
