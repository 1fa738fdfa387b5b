"""`make prove-images`: builds the images on a fresh Debian, brings compose.yaml up with them, draws, and stops it all.

Nothing is fetched but packages of Debian and of Python. Where an image of a registry is named, a stand-in takes its
name: a root that debootstrap makes, and in it Debian's own Redis, PostgreSQL and Prometheus (see stand_ins/). What is
built and run otherwise is what stands in the repository: each instruction of both Dockerfiles, and every service of
compose.yaml but Grafana and the machine with a GPU. It needs root, debootstrap and dockerd, and a quarter of an hour.
"""

import ast
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import requests
import yaml

from tests.deploy.engine import Engine, running_engine
from tests.support.processes import ROOT, free_port, wait_until

STAND_INS = Path(__file__).parent / "stand_ins"
MIRROR = "http://deb.debian.org/debian"
RELEASE = "bookworm"
LEFT_OUT = {"grafana", "machine-gpu"}
"""Debian has no Grafana, and here is no GPU."""

UP_SECONDS = 400.0


def main() -> None:
    """Do it all; ends with 1 and the reason where something is not as it should be."""
    missing = [program for program in ("debootstrap", "dockerd", "docker") if shutil.which(program) is None]
    if missing or os.geteuid() != 0:
        sys.exit("run as root, after `apt-get install debootstrap docker.io`")
    with place() as folder, running_engine(folder, os.environ) as engine:
        if not engine.docker("images", "--quiet", "debian-root"):
            stand_in(engine, make_root(folder / "root"))
        build(engine)
        ports = {"web": free_port(), "a1111": free_port(), "flower": free_port(), "prometheus": free_port()}
        try:
            prove(replace(engine, project=project(folder, ports)), ports)
        except (SystemExit, AssertionError) as exc:
            say(str(exc))  # at once: tidying up takes a while
            sys.exit(1)
        say("all of it is as it should be")


@contextmanager
def place() -> Iterator[Path]:
    """Make a folder for the engine, and drop it afterwards; PROOF_DIR names one that stays, with what it has built."""
    if kept := os.environ.get("PROOF_DIR"):
        Path(kept).mkdir(parents=True, exist_ok=True)
        yield Path(kept)
        return
    with tempfile.TemporaryDirectory(prefix="imagefleet-proof-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def say(line: str) -> None:
    """Tell how far it is."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {line}\n")
    sys.stdout.flush()


def make_root(root: Path) -> Path:
    """Make a fresh Debian, that gets packages as this computer does: certificates, and pip's own settings."""
    say(f"debootstrap {RELEASE}")
    words = ["debootstrap", "--variant=minbase", "--include=ca-certificates", RELEASE, str(root)]
    subprocess.run([*words, os.environ.get("DEBIAN_MIRROR", MIRROR)], check=True, stdout=subprocess.DEVNULL)
    shutil.copy(os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt"), root / "etc/ssl/certs")
    told = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    found = re.findall(r"^(\S+)=(.*)$", told.stdout, re.MULTILINE)
    known = {key.rpartition(".")[2]: ast.literal_eval(value) for key, value in found}
    kept = {key: value for key, value in known.items() if key in {"cert", "index-url", "find-links", "default-timeout"}}
    for links in kept.get("find-links", "").split():
        shutil.copytree(links, root / links.lstrip("/"))
    lines = "".join(f"{key} = {value}\n" for key, value in kept.items())
    (root / "etc/pip.conf").write_text(f"[global]\n{lines}", encoding="utf-8")
    return root


def stand_in(engine: Engine, root: Path) -> None:
    """Give the names of the registries' images to images made here."""
    archive = root.with_suffix(".tar")
    subprocess.run(["tar", "-C", str(root), "-cf", str(archive), "."], check=True)
    engine.docker("import", archive, "debian-root")
    archive.unlink()
    shutil.rmtree(root)
    for name in ("redis", "postgres", "prometheus"):
        tag = services()[name]["image"]
        say(f"a stand-in for {tag}")
        engine.build(STAND_INS / name, tag)
    say(f"a stand-in for {base_of('web')}, and the bare root for {base_of('machine')}")
    engine.build(STAND_INS / "python", base_of("web"))
    engine.docker("tag", "debian-root", base_of("machine"))


def services() -> dict[str, dict[str, Any]]:
    """Return the services of compose.yaml."""
    found: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]
    return found


def base_of(name: str) -> str:
    """Return what image a Dockerfile begins with."""
    text = (ROOT / "deploy" / f"Dockerfile.{name}").read_text(encoding="utf-8")
    (found,) = re.findall(r"^(?:FROM|ARG BASE)[ =](\S+:\S+)", text, re.MULTILINE)
    return str(found)


def build(engine: Engine) -> None:
    """Build every image of compose.yaml that is ours, as it says, from each instruction of its Dockerfile."""
    built = {service["image"]: service["build"] for service in services().values() if "build" in service}
    for image, told in built.items():
        say(f"building {image}")
        base = told.get("args", {}).get("BASE", base_of(told["dockerfile"].rpartition(".")[2]))
        # A store of torch for CPUs is not reached from everywhere: pip's own settings say where it lies.
        engine.build(
            ROOT, image, f"--file={told['dockerfile']}", *([f"--build-arg=BASE={base}"] if "args" in told else [])
        )
        found = engine.docker("run", "--rm", "--entrypoint", "python3", image, "-c", FIND).split()
        added = size_of(engine, image) - size_of(engine, base)
        say(f"{image}: {added / 10**6:.0f} MB on top of {base}, with {' and '.join(found)}")
        if found != ["opentelemetry"] + ["torch"] * (not image.startswith("imagefleet-web")):
            raise SystemExit(f"{image} has {found}")


def size_of(engine: Engine, image: str) -> int:
    """Return an image's size, bytes."""
    return int(engine.docker("inspect", "--format", "{{.Size}}", image))


FIND = "import importlib.util as u; print(*(name for name in ('opentelemetry', 'torch') if u.find_spec(name)))"
"""Names what the machine's images have and the server's has not, and what both should have."""


def project(folder: Path, ports: Mapping[str, int]) -> tuple[str, ...]:
    """Write what compose.yaml asks for; ports of this computer are free ones."""
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    given = dict(re.findall(r"^([A-Z_]+)=(.*)$", example, re.MULTILINE))
    asked = re.findall(r"\$\{([A-Z_]+):\?", (ROOT / "compose.yaml").read_text(encoding="utf-8"))
    given |= {name: secrets.token_hex(16) for name in asked}
    given |= {"FLOWER_BASIC_AUTH": f"ops:{secrets.token_hex(16)}", "COMPOSE_PROFILES": "cpu,monitoring"}
    (folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in given.items()), encoding="utf-8")
    moved = {}
    for name, port in ports.items():
        inside = services()[name]["ports"][0].rpartition(":")[2]
        moved[name] = f'ports: !override ["127.0.0.1:{port}:{inside}"]'
    lines = "".join(f"  {name}:\n    {line}\n" for name, line in moved.items())
    (folder / "ports.yaml").write_text(f"services:\n{lines}", encoding="utf-8")
    files = ("--file", str(ROOT / "compose.yaml"), "--file", str(folder / "ports.yaml"))
    return (*files, "--env-file", str(folder / ".env"), "--project-name", "imagefleet-proof")


def prove(engine: Engine, ports: Mapping[str, int]) -> None:
    """Bring everything up, look at it, draw a picture, and stop it."""
    names = sorted(set(engine.compose("config", "--services").split()) - LEFT_OUT)
    try:
        say(f"up: {', '.join(names)}")
        engine.compose("up", "--detach", "--no-build", *names)
        for name in names:
            wait_until(lambda name=name: is_well(engine, name), f"{name} is healthy", UP_SECONDS)  # type: ignore[misc]
            say(f"{name}: {described(engine, name)}")
        draw(engine, ports["web"])
        look_at_prometheus(ports["prometheus"])
        add_a_machine(engine, ports["web"])
        look_at_flower(engine, ports["flower"])
        say("stop")
        engine.compose("stop")
        for made in engine.compose("ps", "--all", "--quiet").split():
            ended = engine.inspect(made)
            if ended["State"]["ExitCode"] != 0:
                raise SystemExit(
                    f"{ended['Name']} ended with {ended['State']['ExitCode']}\n{engine.docker('logs', made)}"
                )
        say("every service ended by itself, with 0")
    except AssertionError as exc:
        raise SystemExit(f"{exc}\n{engine.compose('ps', '--all')}\n{engine.compose('logs', '--tail', '20')}") from exc
    finally:
        engine.compose("down", "--volumes")


def container(name: str) -> str:
    """Return how Compose calls a service's container."""
    return f"imagefleet-proof-{name}-1"


def state(engine: Engine, name: str) -> dict[str, Any]:
    """Return how a service's container is."""
    found: dict[str, Any] = engine.inspect(container(name))["State"]
    return found


def is_well(engine: Engine, name: str) -> bool:
    """Say whether a service has what it takes for others to begin: its health, or its end."""
    now = state(engine, name)
    if name == "migrate":
        return bool(now["Status"] == "exited" and now["ExitCode"] == 0)
    return bool(now.get("Health", {}).get("Status") == "healthy")


def described(engine: Engine, name: str) -> str:
    """Say what a container may do; ends all where that is more than compose.yaml says."""
    if name == "migrate":
        return "ended with 0"
    told = engine.inspect(container(name))["HostConfig"]
    user = engine.docker("exec", container(name), "id", "-un").strip()
    rights = engine.docker("exec", container(name), "grep", "CapEff", "/proc/1/status").split()[1]
    if user == "root" or int(rights, 16) or not told["ReadonlyRootfs"]:
        raise SystemExit(
            f"{name} runs as {user} with the rights {rights}, its root read-only: {told['ReadonlyRootfs']}"
        )
    return f"healthy, as {user}, without rights, on a root that is read-only"


def variable(engine: Engine, name: str, of: str) -> str:
    """Return what a variable of a service's container holds."""
    told = engine.inspect(container(name))["Config"]["Env"]
    return str(next(line for line in told if line.startswith(f"{of}=")).partition("=")[2])


def draw(engine: Engine, port: int) -> None:
    """Order a picture as a client does."""
    headers = {"Accept": "image/png", "Authorization": f"Bearer {variable(engine, 'web', 'API_TOKENS')}"}
    body = {"model": "demo-shapes", "prompt": "a red circle on a blue background", "size": "128x128"}
    answer = requests.post(f"http://127.0.0.1:{port}/generate", json=body, headers=headers, timeout=120)
    if answer.status_code != requests.codes.ok or not answer.content.startswith(b"\x89PNG"):
        raise SystemExit(f"no picture: {answer.status_code} {answer.text[:500]}")
    say(f"a picture of {len(answer.content)} bytes was drawn")


def look_at_prometheus(port: int) -> None:
    """Wait until Prometheus has read the server's numbers, with its token."""

    def health() -> bool:
        found = requests.get(f"http://127.0.0.1:{port}/api/v1/targets", timeout=10).json()["data"]["activeTargets"]
        return [target["health"] for target in found] == ["up"]

    wait_until(health, "Prometheus reads /metrics")
    say("Prometheus reads /metrics with its token")


def add_a_machine(engine: Engine, port: int) -> None:
    """Let a second machine come, with the first one's volumes; each takes a name of its own."""
    engine.compose("up", "--detach", "--no-build", "--no-recreate", "--scale", "machine=2", "machine")
    headers = {"Authorization": f"Bearer {variable(engine, 'web', 'API_TOKENS')}"}

    def ready() -> set[str]:
        told = requests.get(f"http://127.0.0.1:{port}/v1/machines", headers=headers, timeout=10).json()["machines"]
        return {each["machine_id"] for each in told if "ready" in {held["state"] for held in each["models"]}}

    wait_until(lambda: ready() == {"machine", "machine-2"}, "a second machine is ready beside the first", UP_SECONDS)
    say("a second machine is ready, with the models of the first")


def look_at_flower(engine: Engine, port: int) -> None:
    """Ask Flower behind its path and its password for the workers."""
    address = f"http://127.0.0.1:{port}/flower/api/workers?refresh=1"
    login = tuple(variable(engine, "flower", "FLOWER_BASIC_AUTH").split(":", 1))
    stranger = requests.get(address, timeout=30).status_code
    if stranger != requests.codes.unauthorized:
        raise SystemExit(f"Flower answers a stranger with {stranger}")
    wanted = {"control", "machine@machine", "machine@machine-2"}

    def workers() -> set[str]:
        known = requests.get(address, auth=login, timeout=30).json()  # type: ignore[arg-type]  # it is a pair
        return {name.partition("@")[0] if name.startswith("control@") else name for name in known}

    wait_until(lambda: workers() == wanted, "Flower knows all workers", 60.0)
    say("Flower wants its password, and shows the control worker and both machines")


if __name__ == "__main__":
    main()
