"""The parity gate: an export is published only if every stage computes what the PyTorch reference computes.

Stages, each on real images and prompts:
  subgraphs   the three roles chained with a KV cache against one full forward pass of the model
  quantised   the dequantized weights against the original ones: no weight is off by more than a rounding step
  packed      the exported files with float activations against the dequantized reference: tight
  runtime     the bundle as it is opened, against the same reference: looser where activations are int8
Quantization itself is not judged here (it belongs in an accuracy table): the reference has the dequantized weights.
"""

import copy
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from himix_edge.bundle import ParityResult
from himix_edge.config.images import SLOT
from himix_edge.data import Sample
from himix_edge.errors import InputError
from himix_edge.export.quantization.tensors import QuantizedModel, QuantizedTensor, digests_of
from himix_edge.export.tolerance import FLOAT32, Tolerance
from himix_edge.export.traces import (
    Ahead,
    Array,
    Encode,
    Question,
    Trace,
    distance,
    encoder,
    noise_of,
    pairs_of,
)
from himix_edge.model import VanillaModel, VisionLanguageModel
from himix_edge.preprocess import load_image
from himix_edge.runtimes.engine import Engine, as_picture_engine
from himix_edge.runtimes.pictures import connect_pictures, picture_ids, read_pictures
from himix_edge.runtimes.pytorch_engine import PytorchEngine
from himix_edge.text import Message, TextProcessor
from himix_edge.tiles import load_tiles

NOISE = 2.0
MAX_NEW_TOKENS = 12
EMULATED_QUESTIONS, EMULATED_BYTES = 8, 64 << 20  # a chip's emulation takes seconds for a token of a tiny decoder


class Gate:
    """The probe questions, the reference's answers to them, and the comparisons made so far."""

    def __init__(self, model: QuantizedModel, text: TextProcessor, samples: tuple[Sample, ...], capacity: int):
        """Ask the reference. Raises InputError for a sample without an image or a prompt beyond `capacity` slots."""
        self.model, self.text, self.capacity = model, text, capacity
        self.results: list[ParityResult] = []
        self.decisive: list[Question] = []  # whose answers are surer than what the last engine checked may differ by
        engine = PytorchEngine(model.reference, model.reference.config.decoder.max_position_embeddings)
        encode, asked = encoder(engine), [(s, turns[0].question) for s in samples for turns in s.conversations]
        self.questions = [self._ask(engine, encode, sample, prompt) for sample, prompt in asked]

    def copy(self) -> "Gate":
        """The same questions and the results so far, for the next target's own."""
        other = copy.copy(self)
        other.results = list(self.results)
        return other

    @property
    def failures(self) -> list[ParityResult]:
        return [result for result in self.results if not result.passed]

    def check_subgraphs(self) -> None:
        """Stage "subgraphs": chained roles with a cache against `model(input_ids, pixel_values)` without one."""
        worst = 0.0
        for question in self.questions:
            said = question.ids + question.reference.tokens[:-1]
            with torch.inference_mode():
                full = self._in_one_pass(question, said)
            worst = max(worst, distance(full[-len(question.reference.tokens) :].numpy(), question.reference.logits))
        self._at_most("subgraphs", "decoder", "max diff / std", worst, FLOAT32.limit)

    def check_quantized(self) -> None:
        """Stage "quantised": every dequantized weight within a rounding step of the weight it stands for."""
        off = 0
        for name, found in self.model.deviation.items():
            if not found.steps <= found.limit:
                off += 1
                self._at_most("quantised", name, found.metric, found.steps, found.limit)
        self._at_most("quantised", "all", f"weights off, of {len(self.model.tensors)}", float(off), 0.0)

    def check_weights(self, stored: Iterable[tuple[str, QuantizedTensor]]) -> None:
        """Stage "weights": what is stored in the exported files against what was quantized."""
        found = digests_of(stored, self.model.digests)
        off = 0
        for name, expected in self.model.digests.items():
            if found.get(name) != expected:
                off += 1
                self._add("weights", name, "stored as quantized", 0.0, 1.0, False)
        self._at_most("weights", "all", f"tensors off, of {len(self.model.tensors)}", float(off), 0.0)

    def check_engine(self, stage: str, allowed: Tolerance, engine: Engine, most: int | None = None) -> None:
        """Each role by itself on the reference's input, then end to end on the engine's own tokens.

        `most`: how many questions are asked, those of which the reference is surest; None: all.
        """
        asked = self.questions
        if most is not None:
            asked = sorted(asked, key=lambda question: question.reference.margin, reverse=True)[:most]
        self._check(stage, allowed, engine, None, allowed, asked)

    def check_emulated(
        self, stage: str, allowed: Tolerance, shipped: Tolerance, engine: Engine, emulation: VisionLanguageModel
    ) -> None:
        """The same with an emulation in the place of the reference, where a format rounds more than the weights.

        Two programs that round activations to int8 part ways: a last bit decides how a value in between is rounded,
        and each layer multiplies such cases, until they differ by as much as the rounding costs. So an emulation is
        met within NOISE times its own distance from the float reference, where that is more than `allowed`, and never
        more loosely than `shipped`, a bundle as it is opened.
        """
        other = PytorchEngine(emulation, emulation.config.decoder.max_position_embeddings)
        self._check(stage, allowed, engine, other, shipped, self.questions)

    def _check(
        self, stage: str, allowed: Tolerance, engine: Engine, other: Engine | None, loosest: Tolerance,
        questions: list[Question],
    ) -> None:  # fmt: skip
        encode, encode_other = encoder(engine), None if other is None else encoder(other)
        roles = list(pairs_of(self.questions[0].reference, self.questions[0].reference))
        worst = dict.fromkeys(roles, 0.0)
        kept = [role for role in roles if role.endswith((": key", ": value"))]
        rows = {role: np.zeros(self.model.reference.config.num_vision_rows) for role in kept}
        limits = dict.fromkeys(worst, allowed.limit)
        # what passed through all layers holds the rounding of each, and outlier channels, for thousands of slots: the
        # largest difference tells nothing there
        config = self.model.reference.config
        through = kept if config.architecture == "vanilla" or config.injection.mixing is not None else []
        judged = {role: replace(allowed, rms=allowed.rms or role in through) for role in roles}
        equal = decisive_equal = 0
        self.decisive = []
        for question in questions:
            expected, margin = question.reference, allowed.margin
            features = encode(question.image, question.pixels)
            if other is not None and encode_other is not None:
                features_other = encode_other(question.image, question.pixels)
                expected = self._run(other, features_other, question.ids, question.ahead, None)
                for role, noise in noise_of(question.reference, expected).items():
                    limits[role] = max(limits[role], min(NOISE * noise, loosest.limit))
                margin = max(margin, limits["decoder"] * margin / allowed.limit)
            alone = self._run(engine, features, question.ids, question.ahead, expected)
            pairs = pairs_of(expected, alone)
            for role, pair in pairs.items():
                worst[role] = max(worst[role], distance(*pair, rms=judged[role].rms))
            for role, found in rows.items():
                both = zip(*pairs[role], strict=False)  # shapes may differ
                each = [distance(*row, rms=judged[role].rms) for row in both]
                rows[role] = np.maximum(found, each)
            own = self._run(engine, features, question.ids, question.ahead, None)
            same = own.tokens == expected.tokens
            equal += same
            if expected.margin > margin * float(expected.logits.std(dtype=np.float64)):
                self.decisive.append(question)
                decisive_equal += same
        for role, value in worst.items():
            self._at_most(stage, role, judged[role].metric, value, limits[role])
        layer_of_row = self.model.reference.config.vision_rows.index
        for role, found in rows.items():
            for row in np.flatnonzero(~(found <= limits[role])) if not worst[role] <= limits[role] else ():
                where = f"{role}, layer {layer_of_row(int(row))}"
                self._at_most(stage, where, judged[role].metric, found[row], limits[role])
        decisive = len(self.decisive)
        share = decisive_equal / decisive if decisive else 1.0
        self._add(stage, "end to end", f"equal of {decisive} decisive", share, 1.0, decisive_equal == decisive)
        self._add(stage, "end to end", f"equal of all {len(questions)}", equal / len(questions), 0.0, True)

    def check_chip(self, chip: str, allowed: Tolerance, engine: Engine, decoder_bytes: int) -> None:
        """As `check_engine`, with few questions: it is emulated. Of a large decoder none, tower and injector alone."""
        if decoder_bytes <= EMULATED_BYTES:
            decisive = self.decisive
            self.check_engine(chip, allowed, engine, EMULATED_QUESTIONS)
            self.decisive = decisive  # what a bundle as it is opened was sure of
            return
        question, expected = self.questions[0], self.questions[0].reference
        found = {"vision_encoder": (expected.features, encoder(engine)(question.image, question.pixels))}
        if question.ahead is None:
            key, value = engine.inject(expected.features)
            found |= {"vision_injector: key": (expected.key, key), "vision_injector: value": (expected.value, value)}
        for role, pair in found.items():
            self._at_most(chip, role, allowed.metric, distance(*pair, rms=allowed.rms), allowed.limit)
        self._add(chip, "decoder", "compiled for it, not emulated", 0.0, 0.0, True)

    def most_certain(self) -> Question:
        """The question whose answer the reference is surest of: the one to check a device with."""
        return max(self.questions, key=lambda question: question.reference.margin)

    def _ask(self, engine: Engine, encode: Encode, sample: Sample, prompt: str) -> Question:
        config = self.model.reference.config
        assert config.vision is not None
        if not isinstance(sample.image, Path):
            raise InputError(f"the gate's question {prompt!r} has no image file; every probe needs one")
        ahead = None
        if config.images is None:
            pixels = load_image(sample.image, config.vision.image_size, config.vision.resample)
            ids = self.text.encode_chat([Message("user", prompt)])
            needed = config.tile_tokens + len(ids) + MAX_NEW_TOKENS
        else:
            picture = load_tiles(sample.image, config.vision.image_size, config.images)
            pixels, ids = picture.pixels, self.text.encode_behind_pictures(prompt)
            ahead = Ahead(picture, picture_ids(self.text, config, [picture], None, self.capacity))
            needed = len(ahead.ids) + len(ids) + MAX_NEW_TOKENS
        if needed > self.capacity:
            raise InputError(
                f"the gate's question {prompt!r} needs {needed} cache slots, the capacity is {self.capacity}"
            )
        made = self._run(engine, encode(sample.image, pixels), ids, ahead, None)
        return Question(sample.image, prompt, pixels, ids, ahead, made)

    def _in_one_pass(self, question: Question, said: list[int]) -> torch.Tensor:
        """Logits (T, V) of a whole conversation, without a cache."""
        model = self.model.reference
        if question.ahead is None:
            found: torch.Tensor = model(torch.tensor([said]), pixel_values=torch.from_numpy(question.pixels.copy()))
            return found[0]
        assert isinstance(model, VanillaModel)
        ids = torch.from_numpy(np.array([*question.ahead.ids, *said], np.int64))[None]
        rows = torch.zeros(1, ids.shape[1], model.config.decoder.hidden_size)
        assert question.reference.embeddings is not None
        rows[ids == SLOT] = torch.from_numpy(question.reference.embeddings)
        return model.read(ids, rows)[0][0]

    def _run(
        self,
        engine: Engine,
        features: Array,
        ids: list[int],
        ahead: Ahead | None,
        forced: Trace | None,
    ) -> Trace:
        """A greedy answer of at most 12 tokens, stop token included, to a question about what `engine` encoded.

        With `forced`, each role gets that trace's inputs and the decoder its tokens; without, the roles are chained.
        """
        embeddings = None
        if ahead is None:
            key, value = engine.inject(forced.features if forced else features)
        else:
            pictures = as_picture_engine(engine)
            layout = self.model.reference.config.images
            assert layout is not None
            given = forced.features if forced else features
            embeddings = connect_pictures(pictures, layout, [ahead.picture], given)
            read = embeddings if forced is None or forced.embeddings is None else forced.embeddings
            key, value = read_pictures(pictures, self.model.reference.config, ahead.ids, read)
        vision = (forced.key, forced.value) if forced else (key, value)
        engine.start(*vision, self.model.reference.config.first_text_position(key.shape[2]))
        logits = [engine.step(np.array(ids, np.int64))]
        tokens = [int(logits[0].argmax())]
        fed = forced.tokens if forced else tokens
        while len(logits) < len(fed) if forced else not self._ended(tokens):
            logits.append(engine.step(np.array([fed[len(logits) - 1]], np.int64)))
            tokens.append(int(logits[-1].argmax()))
        return Trace(features, key, value, np.stack(logits), tokens, embeddings)

    def _ended(self, tokens: list[int]) -> bool:
        return tokens[-1] in self.text.stop_ids or len(tokens) >= MAX_NEW_TOKENS

    def _at_most(self, stage: str, role: str, metric: str, value: float, limit: float) -> None:
        self._add(stage, role, metric, value, limit, bool(value <= limit))  # NaN is not within any limit

    def _add(self, stage: str, role: str, metric: str, value: float, limit: float, passed: bool) -> None:
        value = value if np.isfinite(value) else 1e30  # JSON has no NaN
        self.results.append(
            ParityResult(stage=stage, role=role, metric=metric, value=value, limit=limit, passed=passed)
        )
