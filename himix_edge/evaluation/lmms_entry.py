"""What lmms-eval reads at our entry point in `lmms_eval.models`, so that it knows `--model himix`."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest


def manifest() -> "ModelManifest":
    """lmms-eval's record of our model class, which it imports when that model is asked for."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="himix", simple_class_path="himix_edge.evaluation.lmms.HimixLmms")
