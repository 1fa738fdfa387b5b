"""huggingface_hub beside the other programs: nginx answers like a hub for one repository, its own client fetches."""

import sys
from pathlib import Path
from urllib.parse import urlsplit

LOCATION = (
    "location = /bench/model/resolve/main/model.bin "
    "{{ alias {folder}/www/model.bin; add_header X-Repo-Commit 0123456789012345678901234567890123456789; }}"
)
"""For nginx: huggingface_hub wants the commit in the answer, and takes size and ETag from it."""

FETCH = """
import sys
from huggingface_hub import hf_hub_download
print(hf_hub_download("bench/model", "model.bin", endpoint=sys.argv[1], local_dir=sys.argv[2]))
"""


def download_and_hash(url: str, target: Path) -> list[str]:
    """Download with huggingface_hub, which compares sizes only, then hash."""
    script = target.parent / "hub.py"
    script.write_text(FETCH)
    site = urlsplit(url)
    get = f"HF_HUB_DISABLE_PROGRESS_BARS=1 {sys.executable} {script} {site.scheme}://{site.netloc} {target.parent}"
    return ["sh", "-c", f"{get} && sha256sum {target.parent}/model.bin >/dev/null"]
