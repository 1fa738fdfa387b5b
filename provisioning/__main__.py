"""The entrance: ``python -m provisioning``. Only here is the environment read, completed by `.env`."""

import os
import sys
from pathlib import Path

from provisioning.cli import USAGE, main
from provisioning.errors import SettingsError
from provisioning.settings import with_dotenv


def enter() -> int:
    """Run with this process's words and environment, and return the exit code."""
    try:
        environ = with_dotenv(os.environ, Path.cwd())
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return USAGE
    return main(sys.argv[1:], environ)


if __name__ == "__main__":
    sys.exit(enter())
