"""Models without weights: what they cost, and that the ones with weights are as before."""

import subprocess
import sys

import torch
from torch import nn

from himix_edge.checkpoints.assemble import meta_model
from himix_edge.model import build_model
from himix_edge.model.meta import meta_device
from himix_edge.presets import TOWERS, preset

CODE = """
import sys
from himix_edge.checkpoints.assemble import meta_model
from himix_edge.presets import preset
for tower in ("nano", "siglip-so400m", "efficientnet-lite0"):
    meta_model(preset("nano", tower))
print("torch._dynamo" in sys.modules)
"""


def test_it_has_the_same_names_shapes_and_buffers():
    for tower in ("nano", "efficientnet-lite0"):
        config = preset("nano", tower)
        whole, empty = build_model(config), meta_model(config)
        for kind in ("named_parameters", "named_buffers"):
            tensors = {name: tensor.shape for name, tensor in getattr(whole, kind)()}
            assert tensors == {name: tensor.shape for name, tensor in getattr(empty, kind)()}
        assert all(tensor.is_meta for tensor in (*empty.parameters(), *empty.buffers()))
        assert not any(tensor.is_meta for tensor in (*whole.parameters(), *whole.buffers()))


def test_nothing_of_torchs_compiler_is_read_for_it():
    assert {"siglip-so400m", "efficientnet-lite0"} <= TOWERS.keys()
    result = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_initialisation_is_left_out_within_and_there_again_behind():
    with meta_device():
        inside = nn.Linear(4, 4, bias=False)
        nn.init.ones_(inside.weight)
    assert inside.weight.is_meta
    behind = nn.Linear(4, 4, bias=False)
    nn.init.ones_(behind.weight)
    assert torch.equal(behind.weight, torch.ones(4, 4))
