"""HiMix and its vanilla twin as classes of transformers.

    import himix_edge.hf                              # makes them known to the Auto classes
    from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline

`from_pretrained` opens what `load_checkpoint` opens; `save_pretrained` writes a folder that himix and the Auto classes
read. `generate`, `Trainer` and `pipeline("image-text-to-text")` work. docs/guides/transformers.md has the rest.
"""

from himix_edge import extras

with extras.needed("transformers", extras.CONVERT):
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from himix_edge.hf.configuration import HimixConfig
from himix_edge.hf.modeling import HimixCache, HimixForConditionalGeneration
from himix_edge.hf.processing import HimixProcessor

__all__ = ["HimixCache", "HimixConfig", "HimixForConditionalGeneration", "HimixProcessor"]

AutoConfig.register(HimixConfig.model_type, HimixConfig, exist_ok=True)
AutoModelForImageTextToText.register(HimixConfig, HimixForConditionalGeneration, exist_ok=True)
AutoProcessor.register(HimixConfig, HimixProcessor, exist_ok=True)
