"""A copy of an ONNX bundle whose decoder keeps its cache in half precision: no target makes one yet, and the app takes
it. The graph computes as before, between casts."""

import hashlib
import json
import shutil
from pathlib import Path

import onnx
from onnx import TensorProto, helper


def make(bundle: Path, out: Path) -> Path:
    """Writes the copy into the folder `out`."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(bundle, out)
    manifest = json.loads((out / "manifest.json").read_text())
    record = manifest["roles"]["decoder"][0]
    model = onnx.load(out / record["path"])
    graph = model.graph
    first = [halved(value, graph.node, f"{value.name}_float") for value in graph.input if is_cache(value.name)]
    last = [halved(value, graph.node, f"{value.name}_float") for value in graph.output if is_cache(value.name)]
    casts = [helper.make_node("Cast", [name], [wide], to=TensorProto.FLOAT) for name, wide in first]
    casts += graph.node
    casts += [helper.make_node("Cast", [wide], [name], to=TensorProto.FLOAT16) for name, wide in last]
    del graph.node[:]
    graph.node.extend(casts)
    onnx.save(model, out / record["path"])
    content = (out / record["path"]).read_bytes()
    record |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (out / "manifest.json").write_text(json.dumps(manifest))
    return out


def is_cache(name: str) -> bool:
    return name.startswith(("past_key_values.", "present."))


def halved(value: onnx.ValueInfoProto, nodes: list[onnx.NodeProto], wide: str) -> tuple[str, str]:
    """Makes a graph's input or output half; its nodes use another name from now on. Returns both names."""
    value.type.tensor_type.elem_type = TensorProto.FLOAT16
    for node in nodes:
        for names in (node.input, node.output):
            names[:] = [wide if name == value.name else name for name in names]
    return value.name, wide
