"""What a bundle answers: real questions, descriptions, conversations that take turns, its self-test, an ImageKV."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from conformance.images import Images, digest
from himix_edge.bundle import read_manifest
from himix_edge.data import load_dataset
from himix_edge.preprocess import load_image
from himix_edge.runtimes import ImageKV, Session
from himix_edge.text import Message

DESCRIPTIONS = 10  # answers of several tokens, about the first images
DESCRIBE = "Describe the image."
LIMIT = 16  # new tokens; all answers are greedy
FILLING = "is it red or blue? " * 52  # up to where no whole prefill fits any more
Question = tuple[str, str]  # an image's name and a prompt


def questions(images: Images, count: int) -> list[Question]:
    """Real easy-VQA test questions, evenly from the whole split, each about another image.

    Every other image is enlarged, so that a client has something to resize.
    """
    asked = [
        (sample.image, turn.question)
        for sample in load_dataset("easy-vqa", "test").samples
        for conversation in sample.conversations
        for turn in conversation
    ]
    chosen = []
    for number in range(count):
        file, question = asked[number * len(asked) // count]
        assert isinstance(file, Path)
        name = f"easy-vqa-{number}.png"
        if number % 2:
            with Image.open(file) as image:
                size = (64 + 3 * number, 300 - 2 * number)
                images.save(name, image.convert("RGB").resize(size, Image.Resampling.NEAREST))
        else:
            shutil.copyfile(file, images.path(name))
            images.add(name)
        chosen.append((name, question))
    return chosen


def facts(session: Session, bundle: Path, asked: list[Question], images: Images) -> dict[str, Any]:
    """The contents of a bundle's file in answers/; adds the self-test's image to `images`."""
    described = [(image, DESCRIBE) for image, _ in asked[:DESCRIPTIONS]]
    return {
        "limit": LIMIT,
        "questions": [_answer(session, *question, images) for question in asked],
        "descriptions": [_answer(session, *question, images) for question in described],
        "conversations": _conversations(session, [image for image, _ in asked], images),
        "self_test": _self_test(bundle, images),
        "image_kv": _image_kv(session, bundle.name, asked, images),
    }


def _answer(session: Session, image: str, prompt: str, images: Images) -> dict[str, Any]:
    vision = session.config.vision
    assert vision is not None
    pixels = load_image(images.path(image), vision.image_size, vision.resample)
    answered = _asked(session, prompt, session.encode_image(images.path(image)))
    return {"image": image, "pixels_sha256": digest(pixels), **answered}


def _asked(session: Session, prompt: str, image: ImageKV) -> dict[str, Any]:
    pieces = list(session.generate(prompt, image, max_new_tokens=LIMIT, temperature=0))
    return {
        "prompt": prompt,
        "prompt_ids": session.text.encode_chat([Message("user", prompt)]),
        "token_ids": [piece.token_id for piece in pieces],
        "pieces": [piece.text for piece in pieces],
        "text": "".join(piece.text for piece in pieces),
        "finish_reason": session.stats.finish_reason,
    }


def _conversations(session: Session, names: list[str], images: Images) -> dict[str, Any]:
    """Three that take turns on one cache: about two images, about none, and one that fills the cache to its end."""
    chats: dict[str, dict[str, Any]] = {
        "both": {"images": [names[0], names[3]], "system": "Look well."},
        "none": {"images": [], "system": None},
        "full": {"images": [names[5]], "system": None},
    }
    open_chats = {
        name: session.chat([images.path(image) for image in chat["images"]] or None, system=chat["system"])
        for name, chat in chats.items()
    }
    turns = []
    for who, prompt, limit in [
        ("both", "what color is the shape?", LIMIT), ("none", "is there a circle?", 3), ("both", DESCRIBE, 4),
        ("both", "is there a circle?", LIMIT), ("full", "what shape?", LIMIT), ("full", FILLING, 2),
        ("none", "and now?", LIMIT),
    ]:  # fmt: skip
        pieces = open_chats[who].send(prompt, max_new_tokens=limit, temperature=0)
        turns.append({"chat": who, "prompt": prompt, "limit": limit, "token_ids": [piece.token_id for piece in pieces]})
    return {"chats": chats, "turns": turns}


def _self_test(bundle: Path, images: Images) -> dict[str, Any]:
    """The image of the manifest's self-test, and one that has to fail it."""
    name = f"selftest-{bundle.name}.png"
    shutil.copyfile(bundle / read_manifest(bundle).selftest.image, images.path(name))
    images.add(name)
    return {"image": name, "wrong_image": "noisy-64x64.png"}


def _image_kv(session: Session, name: str, asked: list[Question], images: Images) -> dict[str, Any]:
    """A saved ImageKV, and what is answered from it."""
    image = asked[3][0]
    vision = session.encode_image(images.path(image))
    file = f"answers/{name}.image_kv"
    vision.save(images.out / file)
    return {
        "file": file, "image": image, "shape": list(vision.key.shape), "model_id": vision.model_id,
        "next_position": vision.next_position, "key_sha256": _digest(vision.key), "value_sha256": _digest(vision.value),
        **_asked(session, DESCRIBE, vision),
    }  # fmt: skip


def _digest(array: np.ndarray[Any, Any]) -> str:
    return digest(np.frombuffer(array.astype("<f4").tobytes(), np.uint8))
