"""The model class for lmms-eval: `python -m lmms_eval --model himix --model_args bundle=FOLDER --tasks ...`.

lmms-eval imports this file; ours never do, as its base class is there only where lmms-eval is.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from lmms_eval.api.instance import GenerationResult
from lmms_eval.api.model import lmms
from PIL import Image

from himix_edge.errors import InputError
from himix_edge.presets import DEFAULT_MODEL
from himix_edge.runtimes import ImageKV, Session, open_bundle, open_checkpoint
from himix_edge.text import as_text

MARK = "<image>"  # where a picture stood; the pictures stand in front of the text here
OPTIONS = ("until", "max_new_tokens", "temperature", "top_p", "do_sample", "num_beams")
Answered = TypeVar("Answered")
FIELDS = 6  # of a request: context, options or target, doc_to_visual, number, task, split


class Request(Protocol):
    """What is read of lmms-eval's `Instance`."""

    @property
    def args(self) -> tuple[Any, ...]:
        """Context, options or target, doc_to_visual, number of the document, task, split."""


class HimixLmms(lmms):
    """A bundle or checkpoint that answers lmms-eval's questions one after the other, each in a chat of its own.

    Attributes:
        session: the open model.
    """

    is_simple = True

    def __init__(
        self,
        bundle: str | None = None,
        model: str = DEFAULT_MODEL,
        adapter: str | None = None,
        seed: int = 0,
        batch_size: int | str | None = 1,
        device: str | None = None,
        max_batch_size: int | None = None,
        **unknown: object,
    ):
        """Open the model.

        Args:
            bundle: an exported bundle's folder, or "hf://OWNER/NAME"; None takes `model`.
            model: a shipped model or a checkpoint folder, run in PyTorch on the CPU.
            adapter: a file of `himix adapter` for `bundle`.
            seed: of the first request that is sampled; each later one has the next.
            batch_size: 1.
            device: of `bundle`, as `open_bundle` takes it.
            max_batch_size: lmms-eval gives it with `batch_size=auto`, which is refused.

        Raises:
            InputError: an argument that is unknown or not for this model, another batch size, several processes; as
                `open_bundle` and `open_checkpoint`.
        """
        super().__init__()
        if unknown:
            raise InputError(f"--model_args: himix does not know {', '.join(sorted(unknown))}; "
                             "it takes bundle or model, adapter, seed")  # fmt: skip
        if str(batch_size) != "1":
            raise InputError(f"--batch_size {batch_size}: himix answers one question at a time; give 1")
        if max_batch_size is not None:
            raise InputError("--max_batch_size: himix answers one question at a time; leave it out")
        if os.environ.get("WORLD_SIZE", "1") != "1":
            raise InputError("himix runs in one process; start lmms_eval without accelerate launch or torchrun")
        if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
            raise InputError(f"seed is {seed!r}; give a whole number of 0 or more")
        if bundle is None and (adapter is not None or device not in {None, "cpu"}):
            raise InputError("adapter and --device are of a bundle; add bundle=FOLDER to --model_args")
        self.session: Session = (
            open_checkpoint(str(model)) if bundle is None
            else open_bundle(_location(bundle), device=device, adapter=adapter)
        )  # fmt: skip
        self._seed, self._asked = seed, 0
        self._seen: tuple[object, ImageKV | None] = (None, None)  # the last document and its pictures

    def generate_until(self, requests: Sequence[Request]) -> list[str]:
        """Answer each question.

        Args:
            requests: their options are `until`, `max_new_tokens` (None: the model's default), `temperature`, `top_p`,
                `do_sample` and `num_beams`, which is 1. Without a temperature, or with `do_sample` false, greedy.

        Returns:
            the answers without white space at their ends; a text of `until` is not part of one.

        Raises:
            InputError: an option that is not known, a visual that is not a picture; as `Session.generate`. The task and
                the document's number are named.
        """
        return [self._named(request, self._generate) for request in requests]

    def loglikelihood(self, requests: Sequence[Request]) -> list[GenerationResult]:
        """How likely each target is as the whole answer, its end included, see `Session.rank`.

        White space in front of a target is lmms-eval's delimiter and not part of the answer.

        Returns:
            for each, as the `text` of lmms-eval's GenerationResult, since its evaluator makes a bare pair a string: the
            natural logarithm, and whether the greedy answer is the target. Of a choice of multiple_choice it is the
            negative logarithm, as lmms-eval takes the smallest.

        Raises:
            InputError: as `generate_until`, also a request without a document (`acc_mutual_info`).
        """
        return [self._named(request, self._likelihood) for request in requests]

    def generate_until_multi_round(self, requests: Sequence[Request]) -> list[str]:
        """Raises InputError: questions of several rounds are not asked."""
        raise InputError("himix answers tasks of one round; this one asks in several (generate_until_multi_round)")

    def _named(self, request: Request, do: Callable[..., Answered]) -> Answered:
        if len(request.args) != FIELDS:
            raise InputError("a request without a document, as acc_mutual_info makes; himix does not count that metric")
        *_, number, task, split = request.args
        try:
            return do(*request.args)
        except InputError as error:
            raise InputError(f"task {task}, {split} {number}: {error}") from None

    def _generate(
        self, context: str, options: Mapping[str, Any], visual: Callable[[Any], Any], number: int, task: str, split: str
    ) -> str:
        temperature, top_p = _sampling(options)
        image = self._image(visual, number, task, split)
        answer = self.session.generate(
            _prompt(context, image), image, options.get("max_new_tokens"), temperature, top_p,
            self._seed + self._asked, options.get("until") or (),
        )  # fmt: skip
        self._asked += 1
        said = "".join(piece.text for piece in answer).strip()
        self.cache_hook.add_partial("generate_until", (context, options), said)
        return said

    def _likelihood(
        self, context: str, target: object, visual: Callable[[Any], Any], number: int, task: str, split: str
    ) -> GenerationResult:
        answer = as_text(target(self.task_dict[task][split][number]) if callable(target) else target, "the target")
        answer = answer.lstrip()
        image = self._image(visual, number, task, split)
        prompt = _prompt(context, image)
        (value,) = self.session.rank(prompt, [answer], image)
        most = len(self.session.text.encode_answer(answer))
        greedy = self.session.generate(prompt, image, most, temperature=0)
        said = "".join(piece.text for piece in greedy)
        is_greedy = greedy.stats.finish_reason == "stop" and said.strip() == answer.strip()
        found = GenerationResult((value if callable(target) else -value, is_greedy))  # only a choice is given as text
        self.cache_hook.add_partial("loglikelihood", (context, answer), found)
        return found

    def _image(self, visual: Callable[[Any], Any], number: int, task: str, split: str) -> ImageKV | None:
        """The K/V of a document's pictures, those of the last one kept; None if it has none."""
        document = (task, split, number, visual)
        if self._seen[0] != document:
            pictures = _pictures(visual(self.task_dict[task][split][number]))
            self._seen = document, self.session.encode_images(pictures) if pictures else None
        return self._seen[1]


def _location(bundle: object) -> str | Path:
    return bundle if isinstance(bundle, str) and bundle.startswith("hf://") else Path(str(bundle))


def _pictures(visuals: object) -> list[Image.Image]:
    if visuals is None:
        return []
    pictures = []
    for place, one in enumerate(visuals if isinstance(visuals, list | tuple) else [visuals], 1):
        if not isinstance(one, Image.Image):
            raise InputError(f"visual {place} is {_kind(one)}; himix takes pictures, as Pillow images")
        pictures.append(one)
    return pictures


def _kind(visual: object) -> str:
    if isinstance(visual, str | Path):
        return f"a file, such as a video ({str(visual)!r:.80})"
    if isinstance(visual, Mapping):
        return "a record, such as sound" if "array" in visual else f"a record of {', '.join(map(str, visual))!r:.80}"
    return f"of type {type(visual).__name__}"


def _prompt(context: object, image: ImageKV | None) -> str:
    text = as_text(context, "the context")
    return text.replace(MARK, "").strip() if image is not None else text


def _sampling(options: Mapping[str, Any]) -> tuple[float, float | None]:
    """Temperature and top_p of an answer. Raises InputError for options that would be passed over."""
    unknown = [name for name, value in options.items() if value is not None and name not in OPTIONS]
    if unknown:
        raise InputError(f"generation_kwargs: himix does not know {', '.join(unknown)}; it takes {', '.join(OPTIONS)}")
    if options.get("num_beams") not in {None, 1}:
        raise InputError(f"generation_kwargs: num_beams is {options['num_beams']}; himix has no beam search, give 1")
    sample, temperature = options.get("do_sample"), options.get("temperature")
    if temperature is None:
        temperature = 1.0 if sample else 0.0
    if sample is not None and not sample:
        temperature = 0.0
    return temperature, options.get("top_p")
