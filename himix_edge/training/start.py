"""What a run starts from: a fresh model of a preset, or pretrained weights with fresh injection weights."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from himix_edge.checkpoints.assemble import assemble
from himix_edge.checkpoints.convert import Conversion, convert
from himix_edge.checkpoints.lazy import Weights, as_weights
from himix_edge.checkpoints.packages import PACKAGES
from himix_edge.checkpoints.source import Source, base_weights
from himix_edge.checkpoints.trained import Base, is_adapter, overlay
from himix_edge.config import CNNConfig, Injection, ModelConfig, ViTConfig
from himix_edge.data import Dataset
from himix_edge.errors import InputError
from himix_edge.model import VisionLanguageModel, build_model
from himix_edge.presets import DEFAULT_TOWERS, preset
from himix_edge.text import TextProcessor
from himix_edge.training.recipe import Recipe
from himix_edge.training.tokenizer import train_tokenizer

TOKENIZER_SAMPLES = 4000  # of each dataset, for a tokenizer's training


@dataclass(frozen=True)
class Variant:
    """Which model of a recipe's decoder and tower: HiMix's variants (paper Fig. 4), or the vanilla baseline."""

    vanilla: bool = False
    injection: Injection = field(default_factory=Injection)
    feature_layers: tuple[int, ...] | None = None
    pooling: int = 1


@dataclass
class Start:
    """A model in float32 on the CPU, its text processing, and the weights it was made of.

    Attributes:
        base: the packages that the weights come from; None if they come from elsewhere.
        fresh: weights that `base` lacks, by name: a checkpoint needs them whether they learn or not.
        trained: what an earlier run trained, by name; adapters, as LINEAR.lora_A and LINEAR.lora_B, are not in the
            model and the weights.
        before: how the checkpoint was made that it starts from.
    """

    model: VisionLanguageModel
    text: TextProcessor
    weights: Weights
    base: Base | None = None
    fresh: dict[str, Tensor] = field(default_factory=dict)
    trained: dict[str, Tensor] = field(default_factory=dict)
    before: dict[str, object] = field(default_factory=dict)


def start(recipe: Recipe, variant: Variant, datasets: Iterable[Dataset], seed: int) -> Start:
    """The model that a run starts from; the same for the same arguments.

    Args:
        recipe: says from what.
        variant: which of its models.
        datasets: what a tokenizer is trained on, for a model that starts from nothing.
        seed: of fresh weights.

    Raises:
        InputError: see `convert`; an unknown preset; a variant that the model does not allow.
    """
    if recipe.model in PACKAGES or not recipe.pretrained:
        variant = replace(variant, injection=_injection(recipe, variant))
    if recipe.pretrained:
        return _pretrained(recipe, variant, seed)
    torch.manual_seed(seed)
    config = fresh_config(recipe.model, variant, recipe.vocab_size)
    model = build_model(config)
    text = train_tokenizer(_corpus(datasets), config.decoder.vocab_size)
    return Start(model, text, as_weights({name: tensor.detach() for name, tensor in model.state_dict().items()}))


def _injection(recipe: Recipe, variant: Variant) -> Injection:
    """The variant's, in the recipe's layers where it names none."""
    if variant.vanilla or variant.injection.layers is not None:
        return variant.injection
    return replace(variant.injection, layers=recipe.injection_layers)


def fresh_config(name: str, variant: Variant, vocab_size: int | None = None) -> ModelConfig:
    """A preset's configuration in this variant. Raises InputError if they contradict each other."""
    config = preset(name)
    vision, decoder = config.vision, config.decoder
    if vocab_size:
        decoder = replace(decoder, vocab_size=vocab_size)
    try:
        if isinstance(vision, ViTConfig):
            layers = variant.feature_layers or vision.feature_layers
            vision = replace(vision, feature_layers=layers, pooling=variant.pooling)
        elif isinstance(vision, CNNConfig):
            vision = replace(vision, pooling=variant.pooling)
        size = vision.feature_size if vision else None
        return ModelConfig("vanilla" if variant.vanilla else "himix", decoder, size, vision, variant.injection)
    except ValueError as error:
        raise InputError(f"{name}: {error}") from None


def _pretrained(recipe: Recipe, variant: Variant, seed: int) -> Start:
    if not recipe.model:
        raise InputError("the recipe names no model: himix distill --student FOLDER, or --set model=FOLDER")
    known = recipe.model in PACKAGES
    if not known and variant != Variant(variant.vanilla):
        raise InputError(f"{recipe.model}: has its injection already; himix convert makes one with another")
    request = Conversion(
        recipe.model, None, variant.vanilla, variant.injection, variant.feature_layers or (-2,), variant.pooling,
        chat_template=recipe.chat_template, seed=seed,
    )  # fmt: skip
    source = convert(request)
    source.config.refuse_pictures_in_text("himix train")
    if (source.config.architecture == "vanilla") != variant.vanilla:
        raise InputError(
            f"{recipe.model}: its architecture is {source.config.architecture}, and that cannot be changed"
        )
    if source.base is not None:
        return _further(source, source.base, recipe)
    begun = Start(assemble(source.config, source.weights, source.where), source.load_text(), source.weights)
    if not known:
        begun.before = source.provenance
    else:
        begun.base = Base(recipe.model, DEFAULT_TOWERS[recipe.model])
        held = base_weights(begun.base)
        begun.fresh = {name: tensor.read() for name, tensor in source.weights.items() if name not in held}
    return begun


def _further(source: Source, base: Base, recipe: Recipe) -> Start:
    """A checkpoint of what was trained goes on as one: its base stays, and its adapters are not folded into it."""
    plain = {name: tensor for name, tensor in source.trained.items() if not is_adapter(name)}
    weights = overlay(base_weights(base), plain, 0.0, source.where)
    scale = base.lora_scale * recipe.lora_rank / recipe.lora_alpha  # to this recipe's
    trained = {
        name: tensor.read().float() * (scale if name.endswith(".lora_B") else 1.0)
        for name, tensor in source.trained.items()
    }
    model = assemble(source.config, weights, source.where)
    return Start(model, source.load_text(), weights, base, trained=trained, before=source.provenance)


def _corpus(datasets: Iterable[Dataset]) -> Iterable[str]:
    for dataset in datasets:
        for sample in dataset.first(TOKENIZER_SAMPLES).samples:
            for conversation in sample.conversations:
                for turn in conversation:
                    yield turn.question
                    yield turn.answer
