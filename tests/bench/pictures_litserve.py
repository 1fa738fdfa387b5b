"""LitServe with the demo model, as its README has it: what a single-model server of fifteen lines does.

python -m tests.bench.pictures_litserve FOLDER PORT
"""

import base64
import io
import sys
from typing import Any

import litserve
import torch
from diffusers import DiffusionPipeline

FOLDER, PORT = sys.argv[1], int(sys.argv[2])


class Api(litserve.LitAPI):  # type: ignore[misc]  # litserve is not in this project's environment
    """Draws what it is asked for, one request after another."""

    def setup(self, device: str) -> None:
        torch.set_num_threads(1)
        self.pipeline = DiffusionPipeline.from_pretrained(FOLDER, dtype=torch.float32)
        self.pipeline.set_progress_bar_config(disable=True)

    def predict(self, request: dict[str, Any]) -> Any:
        generator = torch.Generator().manual_seed(request["seed"])
        return self.pipeline(request["prompt"], num_inference_steps=request["steps"], generator=generator).images[0]

    def encode_response(self, output: Any) -> dict[str, str]:
        file = io.BytesIO()
        output.save(file, "PNG")
        return {"image": base64.b64encode(file.getvalue()).decode("ascii")}


if __name__ == "__main__":
    litserve.LitServer(Api(), accelerator="cpu", timeout=600).run(
        port=PORT, host="127.0.0.1", generate_client_file=False
    )
