"""Benchmarks of models whose pictures are tiles in the text: what is counted, and where they are refused."""

import json
import shutil
from pathlib import Path

import pytest

from conformance.hostile_tiles import tiles_manifest
from conformance.picture_texts import processor
from himix_edge.bench.devices.adb_app import AppBench
from himix_edge.bench.devices.ssh import SshDevice
from himix_edge.bench.plan import Plan
from himix_edge.cli.bench import sweep_sizes
from himix_edge.data import load_dataset
from himix_edge.errors import InputError
from himix_edge.image_text import Slots
from himix_edge.presets import SHIPPED

PROBE = load_dataset(str(SHIPPED / "probe" / "probe.json"))
QUICK = Plan(warm_up=1, timed=5, new_tokens=4, loads=1)


@pytest.fixture(scope="module")
def tiles_bundle(nano_bundles, tmp_path_factory) -> Path:
    """What a plan reads of a bundle: manifest and tokenizer. A picture of the probe set is one tile of 16 tokens."""
    folder = tmp_path_factory.mktemp("tiles") / "bundle"
    shutil.copytree(nano_bundles["int8"], folder)
    manifest = tiles_manifest(json.loads((folder / "manifest.json").read_text()))
    for layout in (manifest["model"]["images"], manifest["preprocessing"]["layout"]):
        layout["longest"] = 64
    (folder / "manifest.json").write_text(json.dumps(manifest))
    processor("rows").tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_pictures_count_with_their_tags(tiles_bundle):
    text = processor("rows")
    one = len(text.encode_pictures([Slots(0, 0, 16)]))
    longest = max(len(text.encode_behind_pictures(q.prompt)) for item in QUICK.job(tiles_bundle, PROBE).items
                  for q in item.questions)  # fmt: skip
    fits = Plan(timed=5, new_tokens=512 - one - longest)
    fits.job(tiles_bundle, PROBE)
    with pytest.raises(InputError, match="its context capacity is 512"):
        Plan(timed=5, new_tokens=512 - one - longest + 1).job(tiles_bundle, PROBE)
    assert [len(item.images) for item in Plan(timed=5, images=3).job(tiles_bundle, PROBE).items] == [3] * 5
    with pytest.raises(InputError, match="tiles fit"):
        Plan(timed=5, images=40, new_tokens=1).job(tiles_bundle, PROBE)


def test_a_prompt_of_a_fixed_length_follows_the_pictures(tiles_bundle):
    job = Plan(timed=5, prompt_tokens=20).job(tiles_bundle, PROBE)
    ids = [question.ids for item in job.items for question in item.questions]
    text = processor("rows")
    asked = text.encode_behind_pictures(job.items[0].questions[0].prompt)
    assert {len(prompt) for prompt in ids} == {20}
    assert (ids[0][:3], ids[0][-5:]) == (asked[:3], asked[-5:])


@pytest.mark.parametrize("sizes", ["auto", "0,8"])
def test_no_sweep_over_the_tokens_of_tiles(tiles_bundle, sizes):
    with pytest.raises(InputError, match=r"--sweep-vision-tokens: .* its pictures are tiles in its text"):
        sweep_sizes(sizes, tiles_bundle, QUICK)


@pytest.mark.parametrize(("device", "target"), [(SshDevice, "onnx"), (SshDevice, "executorch"), (AppBench, "onnx")])
def test_another_device_is_not_asked(tiles_bundle, tmp_path, monkeypatch, device, target):
    manifest = json.loads((tiles_bundle / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "target": target}))
    place = device.__new__(device)  # connected to nothing: whatever it sends is an AttributeError
    monkeypatch.setattr(AppBench, "_check", lambda self, plan, dataset: None)
    with pytest.raises(InputError, match="does not take a model whose pictures are tiles in its text"):
        place.measure(tmp_path, QUICK, PROBE, "", lambda *at: None)
