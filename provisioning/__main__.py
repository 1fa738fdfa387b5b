"""The entrance: ``python -m provisioning``. Only here is the environment read, completed by `.env`."""

import os
import sys
from pathlib import Path

from provisioning.cli import main
from provisioning.settings import with_dotenv

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], with_dotenv(os.environ, Path.cwd())))
