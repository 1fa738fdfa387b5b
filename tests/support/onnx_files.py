"""A network in an ONNX file of 600 bytes that truly cuts figures out."""

from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

OPTIONS = {"background": {"mean": [0, 0, 0], "std": [1, 1, 1], "sigmoid": True}}
"""What the catalogue has to say about it."""


def entry_of(file: Path) -> dict[str, object]:
    """Return a cut-out's line in the catalogue."""
    return {
        "id": "cutter",
        "name": file.name,
        "kind": "onnx",
        "download_url": f"file://{file}",
        "save_path": f"onnx/{file.name}",
        "hash": f"sha256:{sha256(file.read_bytes()).hexdigest()}",
        "tags": ["background"],
        "options": OPTIONS,
    }


def cutter(path: Path, side: int = 64) -> Path:
    """Write an ONNX network that finds what is not like the picture's upper edge: the figures of the demo model.

    Its input is 1 x 3 x H x W of any size, normalised by a mean of 0 and a deviation of 1; its output is raw, so it
    wants a sigmoid. The background is the mean of the topmost rows; the distance from it, smoothed, says
    what is in front.
    """
    constants: dict[str, np.ndarray[Any, Any]] = {
        "starts": np.array([0], np.int64),
        "ends": np.array([4], np.int64),
        "rows": np.array([2], np.int64),
        "slope": np.array(24.0, np.float32),
        "middle": np.array(0.35, np.float32),
        "smooth": np.full((1, 1, 3, 3), 1 / 9, np.float32),
        "channel": np.array([1], np.int64),
        "area": np.array([2, 3], np.int64),
    }
    nodes = [
        helper.make_node("Slice", ["picture", "starts", "ends", "rows"], ["top"]),
        helper.make_node("ReduceMean", ["top", "area"], ["ground"], keepdims=1),
        helper.make_node("Sub", ["picture", "ground"], ["difference"]),
        helper.make_node("ReduceL2", ["difference", "channel"], ["distance"], keepdims=1),
        helper.make_node("Conv", ["distance", "smooth"], ["smoothed"], pads=[1, 1, 1, 1]),
        helper.make_node("Sub", ["smoothed", "middle"], ["centred"]),
        helper.make_node("Mul", ["centred", "slope"], ["mask"]),
    ]
    shape = [1, 3, side, side]
    graph = helper.make_graph(
        nodes,
        "cutter",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1, 1, side, side])],
        [onnx.numpy_helper.from_array(each, name) for name, each in constants.items()],
    )
    # Versions that every onnxruntime of the last years reads.
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path
