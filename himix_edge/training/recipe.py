"""How a model is trained: a recipe is a readable YAML file, its stages follow each other.

The shipped ones are in himix_edge/assets/recipes. `nano` trains everything from nothing; `regular` and `enhanced` are
the paper's two (section 4.1: injection alone, then decoder and injection; a mid-stage and the tower besides);
`further` goes on from what they made, `distill` learns another model's answers.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict

from himix_edge.errors import InputError
from himix_edge.reading import JsonObject, parse_yaml, read_yaml, validated

SHIPPED = Path(__file__).parents[1] / "assets" / "recipes"
MAX_RECIPE_BYTES = 1 << 16
Part = Literal["tower", "injection", "decoder"]
MANY = 1 << 24
LEAST_VOCABULARY = 300  # every byte, ChatML's tokens and some merges
RANGES: dict[str, tuple[float, float]] = {  # both ends may be; NaN is in none
    "steps": (1, MANY), "learning_rate": (0, 10), "warmup_steps": (0, MANY), "decoder_rate": (0, 1e4),
    "tower_rate": (0, 1e4), "key_rate": (0, 1e4), "answer_loss": (0, 1e4), "tower_loss": (0, 1e4),
    "teacher_loss": (0, 1e4), "attention_loss": (0, 1e4), "temperature": (0.01, 100), "samples": (1, MANY),
    "images_per_step": (1, 1 << 16), "conversations_per_image": (1, 1 << 12), "lora_rank": (0, 1 << 12),
    "lora_alpha": (1, 1 << 16), "lora_first_layer": (0, 1024), "own_texts": (0, MANY),
    "own_texts_per_step": (1, 1 << 16), "own_texts_every": (1, MANY), "accumulate": (1, 1 << 16),
    "weight_decay": (0, 100), "gradient_clip": (1e-6, 1e9), "join": (0, 1), "shift": (0, 1024), "shade": (0, 1),
    "jitter": (0, 1), "validation_images": (1, MANY), "evaluate_every": (1, MANY), "checkpoint_every": (1, MANY),
    "vocab_size": (LEAST_VOCABULARY, MANY),
}  # fmt: skip
STRICT = ConfigDict(extra="forbid")  # a misspelt setting is an error


@dataclass(frozen=True)
class DataPart:
    """A dataset by name or LLaVA-format file, its split, and how many samples are used: the first ones; None: all."""

    name: str
    samples: int | None = None
    split: str = "train"
    __pydantic_config__ = STRICT

    def __post_init__(self) -> None:
        _check_ranges(self, f"data {self.name}: ")


@dataclass(frozen=True)
class Stage:
    """One stage: what learns, how long, and how fast.

    Attributes:
        name: what logs and `--set NAME.steps=100` call it.
        learn: parts whose weights learn. "injection" is the connector of a vanilla model.
        steps: optimiser steps.
        learning_rate: peak; linear warm-up, then cosine to zero at the stage's end.
        warmup_steps: of it.
        decoder_rate: the decoder's learning rate, as a factor of `learning_rate`.
        tower_rate: the tower's, likewise.
        key_rate: that of the image's key projections, likewise. All places' keys have much in common, so that a few
            large steps turn every query away from all of them; with no attention left there is no gradient to return.
        answer_loss: weight of the loss of the answers. The decoder runs if this or one of the next two is above 0.
        teacher_loss: weight of the KL divergence from the distributions that the recipe's teacher has for the tokens of
            the answers (Hinton et al., arXiv 1503.02531).
        attention_loss: weight of the distance from what the teacher's layers attend to there, see teacher.py.
        tower_loss: weight of the tower's own loss, see objective.py; for towers that have not learned words, on data
            whose answers name all that an image shows.
        from_words: a fresh injection starts from the decoder's own keys and values for the words that the tower has
            learned to see, see word_start.py.
        data: what is learned from; none: the recipe's.
    """

    name: str
    learn: tuple[Part, ...]
    steps: int
    learning_rate: float
    warmup_steps: int = 50
    decoder_rate: float = 1.0
    tower_rate: float = 1.0
    key_rate: float = 1.0
    answer_loss: float = 1.0
    teacher_loss: float = 0.0
    attention_loss: float = 0.0
    tower_loss: float = 0.0
    from_words: bool = False
    data: tuple[DataPart, ...] = ()
    __pydantic_config__ = STRICT

    def __post_init__(self) -> None:
        if not self.learn:
            raise ValueError(f"stage {self.name}: something must learn")
        _check_ranges(self, f"stage {self.name}: ")

    @property
    def taught(self) -> bool:
        """Whether the recipe's teacher has a part in the loss."""
        return bool(self.teacher_loss or self.attention_loss)

    @property
    def decodes(self) -> bool:
        """Whether the decoder runs."""
        return bool(self.answer_loss) or self.taught


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the result of a training run, beside the variant of the model and the seed.

    Attributes:
        model: a preset to train from nothing, or what `pretrained` weights to start from: a preset whose weights come
            in packages, or a checkpoint folder.
        stages: in order; each has an optimiser of its own.
        data: for stages that name none; the validation questions come from the last stage's. The name of a folder of
            pictures stands for what the teacher answers to `prompts` about them.
        tests: what the finished model is asked.
        images_per_step: images encoded in one optimiser step, over all processes.
        conversations_per_image: conversations about each of them, sharing its K/V.
        pretrained: whether `model` brings weights.
        teacher: a checkpoint whose answers are learned, see Stage.teacher_loss; "": none.
        temperature: that both models' logits are divided by for that, the loss times its square.
        prompts: what the teacher is asked about pictures alone, `conversations_per_image` of them each, in turn.
        vocab_size: most tokens of the tokenizer that a model which starts from nothing gets; none: as its preset says.
        chat_template: name or file, in place of the model's own.
        injection_layers: decoder layers that the image enters where `--injection-layers` names none; null: all. For
            HiMix, and for models without an injection of their own.
        lora_rank: of the adapters that learn in place of the decoder's linears (Hu et al., arXiv 2106.09685); 0: the
            decoder's own weights learn.
        lora_alpha: the adapters' scale is lora_alpha / lora_rank.
        lora_first_layer: layers below it have no adapters. Where they have no injection either, they need no backward
            pass: a step takes half the time if that is so for half of them. A vanilla model's connector needs it in all
            layers, and learns less with adapters in some: it has them in all.
        own_texts: texts of 192 tokens that the model writes before it learns (Williams et al., arXiv 2410.17170). While
            its adapters learn, its distributions over some of them are held to what they were (Li and Hoiem, arXiv
            1606.09282), so that its language stays. 0: none.
        own_texts_per_step, own_texts_every: so many of them in every so-manieth step of a stage where the decoder
            learns; a pass of their own costs a small model as much as the questions do.
        accumulate: micro-batches that each process cuts its share of a step into.
        weight_decay: on matrices, not on norms and biases.
        gradient_clip: global norm.
        precision: of the matrix products; weights and optimiser are float32. "auto": bfloat16 where the device computes
            in it, else float32: a CPU without it is a hundred times slower in bfloat16.
        join: chance that a step makes one multi-turn conversation of each image's.
        blind: leave every image out: what a model can know from the questions alone.
        mirror: mirror half of the images: only where no question is about left, right or text.
        shift: move images by up to this many pixels, edges repeated.
        shade: brightness changes by up to this share from place to place, as by uneven light.
        jitter: brightness and contrast change by up to this share.
        validation_images: first images of each dataset, held out for the periodic evaluation.
    """

    model: str
    stages: tuple[Stage, ...]
    data: tuple[DataPart, ...]
    images_per_step: int
    conversations_per_image: int
    tests: tuple[DataPart, ...] = ()
    pretrained: bool = False
    teacher: str = ""
    temperature: float = 1.0
    prompts: tuple[str, ...] = ()
    vocab_size: int | None = None
    chat_template: str | None = None
    injection_layers: tuple[int, ...] | None = None
    lora_rank: int = 0
    lora_alpha: int = 32
    lora_first_layer: int = 0
    own_texts: int = 0
    own_texts_per_step: int = 8
    own_texts_every: int = 4
    accumulate: int = 1
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    gradient_clip: float = 1.0
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    join: float = 0.0
    blind: bool = False
    mirror: bool = False
    shift: int = 0
    shade: float = 0.0
    jitter: float = 0.0
    validation_images: int = 100
    evaluate_every: int = 200
    checkpoint_every: int = 100
    __pydantic_config__ = STRICT

    def __post_init__(self) -> None:
        if not self.stages or len({stage.name for stage in self.stages}) != len(self.stages):
            raise ValueError("a recipe has stages, each with a name of its own")
        for stage in self.stages:
            if not (stage.data or self.data):
                raise ValueError(f"stage {stage.name}: no data, neither its own nor the recipe's")
            if stage.from_words and not any(one.tower_loss for one in self.stages[: self.stages.index(stage)]):
                raise ValueError(f"stage {stage.name}: from_words needs a stage with a tower_loss before it")
        _check_ranges(self, "")
        if self.vocab_size is not None and self.pretrained:
            raise ValueError("vocab_size: for a model that starts from nothing")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError("betas must be at least 0 and below 1")
        if self.injection_layers is not None and not all(0 <= layer < 1024 for layer in self.injection_layers):
            raise ValueError("injection_layers: numbers of layers, from 0")
        if self.own_texts and not self.lora_rank:
            raise ValueError("own_texts: without adapters (lora_rank) no model is left to compare with; set it to 0")

    @property
    def steps(self) -> int:
        """Optimiser steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    def stage_of(self, step: int) -> tuple[Stage, int]:
        """The stage that a step, counted from 0 over all stages, belongs to, and the step that it begins with."""
        first = 0
        for stage in self.stages:
            if step < first + stage.steps:
                return stage, first
            first += stage.steps
        raise IndexError(step)


def read_recipe(name: str, settings: tuple[str, ...] = ()) -> Recipe:
    """A shipped recipe by name, or a YAML file, with changes.

    Args:
        name: "nano", or the path of a file.
        settings: NAME=VALUE for the recipe or, where it is a stage's setting, for all stages; STAGE.NAME=VALUE for one.

    Raises:
        InputError: unknown name, unreadable file, a setting that does not exist or has a wrong value.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else SHIPPED / f"{Path(name).name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.yaml")))
        raise InputError(f"no recipe {name!r}; give a .yaml file or one of: {known}")
    recipe = validated(Recipe, read_yaml(path, MAX_RECIPE_BYTES), str(path))
    for setting in settings:
        recipe = validated(Recipe, _changed(dataclasses.asdict(recipe), setting), f"--set {setting}")
    return recipe


def learning_from(recipe: Recipe, part: DataPart) -> Recipe:
    """The recipe on one dataset in all stages; its own test split is asked at the end, where it may have one."""
    stages = tuple(dataclasses.replace(stage, data=()) for stage in recipe.stages)
    alone = part.name.endswith(".json") or Path(part.name).is_dir()
    tests = () if alone else (DataPart(part.name, split="test"),)
    return dataclasses.replace(recipe, data=(part,), stages=stages, tests=tests)


def _changed(values: JsonObject, setting: str) -> JsonObject:
    name, separator, text = setting.partition("=")
    stage, _, field = name.rpartition(".")
    stages = values["stages"]
    assert isinstance(stages, list | tuple)
    chosen = [s for s in stages if not stage or s["name"] == stage]
    if not separator or not chosen:
        raise InputError(f"--set {setting}: give NAME=VALUE or STAGE.NAME=VALUE")
    if not stage and field in values:
        places = [values]
    elif all(field in s for s in chosen):
        places = chosen
    else:
        known = sorted({*values, *stages[0]})
        raise InputError(f"--set {setting}: {field!r} is not a setting; known: {', '.join(known)}")
    value = parse_yaml(text, f"--set {setting}")
    for place in places:
        place[field] = value
    return values


def _check_ranges(settings: "DataPart | Stage | Recipe", where: str) -> None:
    for name, (low, high) in RANGES.items():
        value = getattr(settings, name, None)
        if value is not None and not low <= value <= high:
            raise ValueError(f"{where}{name} must be at least {low:g} and at most {high:g}")
