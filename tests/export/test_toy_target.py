"""A target is a runtime's package and an exporter's package: one made up here works without any other edit."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

from himix_edge.bundle import read_manifest
from himix_edge.discovery import discovered, record_of
from himix_edge.errors import InputError

FILES = {
    "toy_target/__init__.py": "",
    "toy_target/runtime.py": """
        from himix_edge.runtimes.registry import Runtime

        RUNTIME = Runtime(name="toy", title="Toy", ending=".safetensors", packages=("torch", "safetensors"),
                          modules=("torch",), extra="torch", engine="toy_target.engine")
    """,
    "toy_target/engine.py": '''
        """Integers times scales, in PyTorch."""

        from safetensors.torch import load_file

        from himix_edge.model import build_model
        from himix_edge.runtimes.pytorch_engine import PytorchEngine


        def load(files, config, capacity, threads, activations):
            state = {}
            for path in files.values():
                state |= load_file(path)
            for name in [name for name in state if name.endswith(".values")]:
                values, scale = state.pop(name).float(), state.pop(name.replace(".values", ".scale"))
                groups = values.unflatten(1, (scale.shape[1], -1))
                state[name.replace(".values", ".weight")] = (groups * scale[..., None]).flatten(1)
            model = build_model(config).eval().requires_grad_(False)
            model.load_state_dict(state)
            return PytorchEngine(model, capacity)
    ''',
    "toy_target/target.py": '''
        """The model's own tensors, a file for each role."""

        from importlib.metadata import version

        from safetensors.torch import load_file, save_file

        from himix_edge.export.quantization.tensors import QuantizedTensor
        from himix_edge.export.tolerance import FLOAT32, INT8, Tolerances
        from himix_edge.export.tolerance import FLOAT32, INT8, Tolerances
        from himix_edge.runtimes.loading import load_engine

        ROLES = ("vision_encoder", "vision_injector", "decoder")


        def role_of(name):
            if name.startswith("vision_tower."):
                return "vision_encoder"
            return "vision_injector" if "_img." in name else "decoder"


        class ToyTarget:
            name = extra = "toy"
            disk = (2.0, 2.0)
            activations = None
            tolerances = Tolerances({"float": FLOAT32, "int8": INT8}, exact=FLOAT32)
            tolerances = Tolerances({"float": FLOAT32, "int8": INT8}, exact=FLOAT32)

            def tools(self):
                return {"safetensors": version("safetensors")}

            def stages(self, model, options):
                def write(role, folder):
                    state = model.reference.state_dict()
                    own = {n: t.contiguous() for n, t in state.items() if role_of(n) == role}
                    save_file(own, folder / f"{role}.safetensors")
                    return [folder / f"{role}.safetensors"]

                return {role: lambda folder, role=role: write(role, folder) for role in ROLES}

            def exact_engine(self, model, bundle, scratch):
                return load_engine(bundle)

            def exact_reference(self, model):
                return model.reference

            def read_weights(self, bundle):
                for role in ROLES:
                    state = load_file(bundle.role_path(role))
                    for name in [name for name in state if name.endswith(".values")]:
                        bits = bundle.manifest.quantization.bits["decoder"]
                        scale = state[name.replace(".values", ".scale")]
                        yield name.replace(".values", ".weight"), QuantizedTensor(state[name], scale, bits)


        TARGET = ToyTarget()
    ''',
    "toy_target-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: toy-target\nVersion: 1.0\n",
    "toy_target-1.0.dist-info/entry_points.txt": """
        [himix_edge.runtimes]
        toy = toy_target.runtime

        [himix_edge.targets]
        toy = toy_target.target
    """,
}


@pytest.fixture(scope="module")
def himix(tmp_path_factory):
    """Calls the command in a process that has the toy's distribution on its path."""
    place = tmp_path_factory.mktemp("site")
    for name, content in FILES.items():
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text(textwrap.dedent(content))
    paths = os.pathsep.join([str(place), *filter(None, [os.environ.get("PYTHONPATH")])])

    def call(*words):
        command = [sys.executable, "-m", "himix_edge", *map(str, words)]
        environment = {**os.environ, "PYTHONPATH": paths}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


@pytest.fixture(scope="module")
def bundle(himix, tmp_path_factory):
    out = tmp_path_factory.mktemp("bundles") / "nano-toy-int8"
    himix("export", "--target", "toy", "--quant", "int8", "--out", out)
    return out


def test_help_names_it(himix):
    assert "toy; several with commas; all" in " ".join(himix("export", "--help").split())


def test_it_passed_the_gate(bundle, himix):
    manifest = read_manifest(bundle)
    assert manifest.target == "toy"
    assert {"subgraphs", "quantised", "packed", "runtime"} <= {result.stage for result in manifest.parity}
    assert all(result.passed for result in manifest.parity)
    (compared,) = json.loads(himix("verify", bundle, "--weights", "--json"))
    assert compared["tensors"] == len(manifest.weights)


def test_it_runs(bundle, himix):
    manifest = read_manifest(bundle)
    image = bundle / manifest.selftest.image
    said = himix("run", "--bundle", bundle, "--image", image, "--prompt", manifest.selftest.prompt)
    assert manifest.selftest.text.strip() in said


def test_it_is_measured(bundle, himix):
    (record,) = json.loads(himix("bench", bundle, "--iterations", "2", "--warm-up", "1", "--new-tokens", "4", "--json"))
    assert record["bundle"]["target"] == "toy"
    assert record["self_test_passed"]
    assert {"torch", "safetensors", "numpy"} <= record["versions"].keys()
    assert len(record["samples"]["ttft"]) == 2


def test_an_entry_point_that_cannot_be_used_says_so(tmp_path, monkeypatch):
    (tmp_path / "bad-1.0.dist-info").mkdir()
    (tmp_path / "bad-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: bad\nVersion: 1.0\n")
    points = "[himix_edge.toys]\nbad = no_such_module\nonnx = no_such_module\n"
    (tmp_path / "bad-1.0.dist-info" / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(tmp_path)
    own = "himix_edge.runtimes"
    known = discovered(own, "himix_edge.toys")
    assert known["onnx"] == "himix_edge.runtimes.onnx"  # one of ours is not replaced
    with pytest.raises(InputError, match=r"target bad: its entry point no_such_module .* No module named"):
        record_of(own, "himix_edge.toys", "bad", "RUNTIME")
    with pytest.raises(InputError, match="unknown target 'abacus'; known: bad, coreai, coreml"):
        record_of(own, "himix_edge.toys", "abacus", "RUNTIME")
