"""The model that a run's model learns from: what it would say, and what its layers attend to.

Both losses are sums over the tokens of the answers, so that micro-batches and processes do not change them.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from himix_edge.checkpoints.assemble import assemble
from himix_edge.checkpoints.source import Source, open_source
from himix_edge.config import ModelConfig, VisionConfig
from himix_edge.errors import InputError
from himix_edge.model import KVCache, VanillaModel, VisionLanguageModel
from himix_edge.text import TextProcessor
from himix_edge.training.batch import Batch
from himix_edge.training.recipe import Recipe
from himix_edge.training.start import Start
from himix_edge.training.teacher_forced import at_targets, encode, logits_behind

TALK = [("What is it?", "A cat, and 3 more of them."), ("Why?", "It looks like one.")]  # in both models' words


@dataclass(frozen=True)
class Said:
    """What a model makes of a batch at its K target positions.

    Attributes:
        logits: (K, V) float32.
        attended: of each of the layers that were asked for, what its attention gives the residual stream: (K, d).
    """

    logits: Tensor
    attended: tuple[Tensor, ...]


@dataclass(frozen=True)
class Teacher:
    """A model that does not learn.

    Attributes:
        model: vanilla or HiMix.
        layers: those whose attention a student is compared with: where the student sees the image.
        has_tower: whether it encodes images itself; else its tower is the student's, which does not learn either.
        text: of a teacher whose picture is one tile in its text, and reads its rows as `Batch.theirs`; else None.
        before: ids of the words that stand before the picture there.
    """

    model: VisionLanguageModel
    layers: tuple[int, ...]
    has_tower: bool
    text: TextProcessor | None = None
    before: tuple[int, ...] = ()

    @torch.no_grad()
    def say(self, batch: Batch, features: Tensor, attention: bool) -> Said:
        """What it makes of a batch; `features` (I, N, d_v) are the student's.

        Args:
            batch: of the student's training.
            features: used where the tower is the student's.
            attention: whether `attended` is asked for.
        """
        images = None
        if len(batch.image_of_row):
            images = self._inject(encode(self.model, batch) if self.has_tower else features)
        return say(self.model, batch.theirs or batch, images, self.layers if attention else ())

    def _inject(self, features: Tensor) -> KVCache:
        if not isinstance(self.model, VanillaModel) or not self.before:
            return self.model.inject(features)
        words = self.model.model.embed_tokens(torch.tensor(self.before, device=features.device))
        tokens = self.model.connect(features)
        cache: KVCache = self.model.model.run(torch.cat([words.expand(len(tokens), -1, -1), tokens], 1), None)[1]
        return cache


def say(model: VisionLanguageModel, batch: Batch, images: KVCache | None, layers: Sequence[int]) -> Said:
    """What a model makes of a batch behind its images' keys and values, and the attention of `layers`."""
    with _recorded([model.model.layers[layer].self_attn for layer in layers]) as passes:
        logits = logits_behind(model, batch, images)
    return Said(logits, tuple(at_targets(blocks, batch) for blocks in passes))


def divergence(student: Said, teacher: Said, asked: Tensor, temperature: float) -> Tensor:
    """KL divergence of the student's distributions from the teacher's, in nats, summed over the targets.

    Logits are divided by `temperature` and the sum multiplied by its square, which leaves the gradients' size as it
    is. `asked` bool (K,): the targets that count.
    """
    now, before = ((said.logits / temperature).log_softmax(-1) for said in (student, teacher))
    each = F.kl_div(now, before, reduction="none", log_target=True).sum(-1)
    return temperature**2 * (each * asked).sum()


def attention_distance(student: Said, teacher: Said, asked: Tensor) -> Tensor:
    """Squared distance of what attention gives, as a share of the square of what the teacher's gives.

    Mean over layers, summed over the targets of which `asked` bool (K,) is true.
    """
    shares = [
        (now.float() - before.float()).square().sum(-1) / before.float().square().sum(-1).clamp_min(1e-12)
        for now, before in zip(student.attended, teacher.attended, strict=True)
    ]
    return (torch.stack(shares).mean(0) * asked).sum()


def open_teacher(recipe: Recipe, start: Start, device: torch.device) -> Teacher | None:
    """The recipe's teacher; None if it has none.

    Raises:
        InputError: see `open_source`; no teacher where a stage needs one, or one without a use; a teacher that sees no
            image or other pixels than the student, or reads text in another way.
    """
    used = any(stage.taught for stage in recipe.stages)
    if not recipe.teacher:
        if used:
            raise InputError("teacher_loss, attention_loss: no teacher to learn from; himix distill --teacher FOLDER")
        return None
    if not used:
        raise InputError(f"{recipe.teacher}: no stage learns from a teacher; --set teacher_loss=1")
    source = open_source(recipe.teacher)
    config = source.config.picture_in_front("himix distill --teacher")
    text = source.load_text()
    _require_alike(config, text, start, source.where, any(stage.attention_loss for stage in recipe.stages))
    teacher = teacher_of(source, start.model.config.injected_layers)
    learns = any("tower" in stage.learn for stage in recipe.stages)
    if not learns and _same_tower(teacher.model, start.model):
        teacher = replace(teacher, has_tower=False)
        teacher.model.vision_tower = None
    teacher.model.to(device)
    return teacher


def teacher_of(source: Source, layers: tuple[int, ...] = ()) -> Teacher:
    """An opened model as a teacher that encodes images itself; `layers` are those whose attention is compared."""
    model = assemble(source.config, source.weights, source.where)
    own = None if source.config.images is None else source.load_text()
    return Teacher(model, layers, True, own, tuple(source.words_before_a_picture()))


def _require_alike(theirs: ModelConfig, text: TextProcessor, start: Start, where: str, attention: bool) -> None:
    ours = start.model.config
    if theirs.vision is None or ours.vision is None:
        raise InputError(f"{where}: teacher and student have to see images")
    if _pixels(theirs.vision) != _pixels(ours.vision):
        raise InputError(
            f"{where}: the teacher sees images of {theirs.vision.image_size} pixels ({theirs.vision.resample}), "
            f"the student of {ours.vision.image_size} ({ours.vision.resample}); they have to be the same"
        )
    if attention and theirs.decoder.num_hidden_layers != ours.decoder.num_hidden_layers:
        raise InputError(
            f"{where}: the teacher has {theirs.decoder.num_hidden_layers} layers, the student "
            f"{ours.decoder.num_hidden_layers}: --set attention_loss=0"
        )
    if theirs.decoder.vocab_size != ours.decoder.vocab_size or not _same_words(text, start.text):
        raise InputError(
            f"{where}: teacher and student differ in tokenizer or chat template; himix convert --to himix makes "
            "a student that has the teacher's"
        )


def _pixels(vision: VisionConfig) -> tuple[int, str]:
    return vision.image_size, vision.resample


def _same_words(one: TextProcessor, other: TextProcessor) -> bool:
    """Whether both read a conversation as the same tokens."""
    return one.tokenizer.get_vocab(with_added_tokens=True) == other.tokenizer.get_vocab(
        with_added_tokens=True
    ) and one.encode_conversation(TALK) == other.encode_conversation(TALK)


def _same_tower(one: VisionLanguageModel, other: VisionLanguageModel) -> bool:
    """Whether both make the same features of the same pixels."""
    visions = [model.config.vision and replace(model.config.vision, resample="bicubic") for model in (one, other)]
    if visions[0] != visions[1]:
        return False
    ours, theirs = (model.vision_tower.state_dict() for model in (one, other))
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@contextlib.contextmanager
def _recorded(attentions: Sequence[nn.Module]) -> Iterator[list[list[Tensor]]]:
    """What each of the modules gives while the block runs, of every pass."""
    passes: list[list[Tensor]] = [[] for _ in attentions]
    hooks = [
        attention.register_forward_hook(lambda _module, _inputs, output, rows=rows: rows.append(output[0]))
        for attention, rows in zip(attentions, passes, strict=True)
    ]
    try:
        yield passes
    finally:
        for hook in hooks:
            hook.remove()
