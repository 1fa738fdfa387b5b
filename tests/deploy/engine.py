"""A Docker engine of its own, on a socket in a folder: nothing of this computer's own engine is touched."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.processes import ROOT, Process

COMPOSE = Path(sys.prefix) / "bin" / "docker-compose"


@dataclass(frozen=True, slots=True)
class Engine:
    """A running engine, and the project that is brought up on it."""

    folder: Path
    project: tuple[str, ...] = ()
    """Options that tell Compose what to bring up."""

    @property
    def environ(self) -> dict[str, str]:
        """Return what its clients must know."""
        here = {"DOCKER_HOST": f"unix://{self.folder / 'docker.sock'}", "DOCKER_CONFIG": str(self.folder)}
        # The builder of old is inside of the engine; the new one is a plug-in that may not be here.
        return {**os.environ, **here, "DOCKER_BUILDKIT": "0"}

    def answers(self) -> bool:
        """Say whether it can be asked."""
        asked = ["docker", "version"]
        return subprocess.run(asked, env=self.environ, capture_output=True, check=False).returncode == 0

    def docker(self, *words: str | Path, quiet: bool = True) -> str:
        """Run `docker`; returns what it says. What it says is shown where it fails, and where it is to be seen."""
        return self._run(["docker", *words], quiet=quiet)

    def compose(self, *words: str | Path) -> str:
        """Run Compose with the project."""
        return self._run([COMPOSE, *self.project, *words], quiet=True)

    def build(self, folder: Path, tag: str, *options: str) -> None:
        """Build an image; downloads go over this computer's own network."""
        self.docker("build", "--network", "host", "--tag", tag, *options, folder)

    def inspect(self, container: str) -> dict[str, Any]:
        """Return what the engine knows of a container."""
        found: list[dict[str, Any]] = json.loads(self.docker("inspect", container))
        return found[0]

    def _run(self, command: list[str | Path], *, quiet: bool) -> str:
        done = subprocess.run(
            [str(word) for word in command], env=self.environ, cwd=ROOT, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        if not quiet:
            sys.stdout.write(done.stdout)
        return done.stdout


@contextmanager
def running_engine(folder: Path, environ: Mapping[str, str]) -> Iterator[Engine]:
    """Start an engine whose whole state is below `folder`; it ends with this."""
    places = ["--data-root", folder / "data", "--exec-root", folder / "exec", "--pidfile", folder / "pid"]
    # Compose makes the networks that it needs; the usual one may belong to another engine.
    command = ["dockerd", "--bridge=none", "--host", f"unix://{folder / 'docker.sock'}", *map(str, places)]
    process = Process(command, folder / "dockerd.log", environ=environ)
    try:
        engine = Engine(folder)
        process.wait_until(engine.answers, "the engine answers")
        yield engine
    finally:
        process.stop(seconds=60.0)
        # It leaves this mounted, once a container has used the computer's own network: the folder could not be deleted.
        subprocess.run(["umount", str(folder / "exec" / "netns" / "default")], capture_output=True, check=False)
