"""The same model in several runtimes: the same answers, its size and its time to the first token in each.

python examples/compare_targets.py photo.png --prompt "What color is it?" --targets onnx,openvino --quant int4
"""

import argparse
import tempfile
from pathlib import Path
from statistics import median

import himix_edge as hx
from himix_edge.export.pipeline import export_all

REPEATS = 9


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("image", type=Path)
    parser.add_argument("--prompt", default="Describe the image.")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--targets", default="onnx,openvino")
    parser.add_argument("--quant", default="int8")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        plans = [
            hx.plan_export(hx.ExportRequest(arguments.model, target, arguments.quant, Path(folder) / target))
            for target in arguments.targets.split(",")
        ]
        for made in export_all(plans):  # quantized once for all of them
            if isinstance(made, Exception):
                raise made
            session = hx.open_bundle(made.folder)
            image = session.encode_image(arguments.image)
            answer = session.answer(arguments.prompt, image)
            times = []
            for _ in range(REPEATS):
                session.answer(arguments.prompt, image)
                times.append(session.stats.ttft)
            print(f"{made.manifest.target:12} {made.bytes / 1e6:6.1f} MB  {median(times):6.2f} ms  {answer}")


if __name__ == "__main__":
    main()
