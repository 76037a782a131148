"""A client of the conformance suite: reads its files alone and says where the package does otherwise."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from himix_edge.bundle import read_manifest
from himix_edge.config import ImageLayout
from himix_edge.errors import HimixError, InputError
from himix_edge.image_text import Slots
from himix_edge.picture_tokens import arrange, slots
from himix_edge.preprocess import load_image, resize
from himix_edge.reading import validated
from himix_edge.runtimes import ImageKV, Session, open_bundle
from himix_edge.runtimes.sampling import Sampler
from himix_edge.runtimes.stopping import StopTexts
from himix_edge.text import Message, TextProcessor
from himix_edge.tiles import load_tiles

TURNS = {
    1: lambda p: p, 2: lambda p: p[:, ::-1], 3: lambda p: p[::-1, ::-1], 4: lambda p: p[::-1],
    5: lambda p: p.swapaxes(0, 1), 6: lambda p: p[::-1].swapaxes(0, 1), 7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
    8: lambda p: p[:, ::-1].swapaxes(0, 1),
}  # fmt: skip
Case = dict[str, Any]


class Client:
    """Its checks are generators of what is wrong; a client that conforms gives nothing."""

    def __init__(self, suite: Path, bundle: Path):
        self.suite, self.bundle = suite, bundle
        self.session: Session = open_bundle(bundle)
        self._read: dict[str, Any] = {}

    def json(self, name: str) -> Any:
        """A file of the suite, the same object every time."""
        if name not in self._read:
            self._read[name] = json.loads((self.suite / name).read_text(encoding="utf-8"))
        return self._read[name]

    def answers(self) -> Any:
        return self.json(f"answers/{self.bundle.name}.json")

    def check_pixels(self) -> Iterator[str]:
        for name, facts in self.json("images.json").items():
            shape = facts["height"], facts["width"], facts["channels"]
            stored = np.frombuffer((self.suite / facts["raw"]).read_bytes(), np.uint8).reshape(shape)
            upright = np.ascontiguousarray(TURNS[facts["orientation"]](over_white(stored)))
            expected = facts["upright"]
            if (*upright.shape, digest(upright)) != (expected["height"], expected["width"], 3, expected["sha256"]):
                yield f"{name}: upright pixels"
            for case in facts["resized"]:
                method = case["method"].split("-")[1]
                found = [resize(Image.fromarray(upright), case["size"], method)]
                if facts["lossless"]:
                    found.append(load_image(self.suite / facts["file"], case["size"], method))
                else:
                    found.append(np.frombuffer((self.suite / case["pixels"]).read_bytes(), np.uint8))
                if {digest(pixels) for pixels in found} != {case["sha256"]}:
                    yield f"{name}: {case}"

    def check_tiles(self) -> Iterator[str]:
        for case in self.json("tiles.json"):
            layout = validated(ImageLayout, case["layout"], case["image"])
            tiles = load_tiles(self.suite / "images" / case["image"], case["size"], layout, case["alone"])
            found = tiles.rows, tiles.columns, [digest(tile) for tile in tiles.pixels], digest(tiles.pixels)
            if found != (case["rows"], case["columns"], case["tiles"], case["sha256"]):
                yield f"{case['image']}: {case['layout']}"
        for case in self.json("arranged.json"):
            layout = validated(ImageLayout, case["layout"], case["image"])
            tiles = load_tiles(self.suite / "images" / case["image"], case["size"], layout)
            given = np.array(case["embeddings"], np.float32)[..., None]
            count = slots(tiles, layout, given.shape[1]).tokens
            tokens = arrange(tiles, layout, given)[:, 0]
            expected = np.array(case["expected"], np.float32)
            if not count == case["slots"] == len(tokens) == len(expected) or np.abs(tokens - expected).max() > 1e-6:
                yield f"{case['image']}: arranged as {case['layout']}"

    def check_picture_texts(self) -> Iterator[str]:
        for name in self.json("suite.json")["pictures"]:
            text = TextProcessor.load(self.suite / "pictures" / name)
            cases = self.json(f"pictures/{name}/cases.json")
            count, slot_id = cases["tile_tokens"], cases["slot_id"]
            for case in cases["pictures"]:
                places = [Slots(rows, columns, count) for rows, columns in case["grids"]]
                ids = text.encode_pictures(places, case["system"] or "")
                if [-1 if number == slot_id else number for number in ids] != case["ids"]:
                    yield f"{name}: {case['grids']} behind {case['system']}"
            for case in cases["prompts"]:
                found = text.encode_behind_pictures(case["prompt"]), text.encode_next_turn(case["prompt"])
                if found != (case["behind"], case["next_turn"]):
                    yield f"{name}: {case['prompt']!r}"

    def check_texts(self) -> Iterator[str]:
        for name in self.json("suite.json")["tokenizers"]:
            text = TextProcessor.load(self.suite / "tokenizers" / name)
            cases = self.json(f"tokenizers/{name}/cases.json")
            for case in cases["texts"]:
                content = case["text"]
                if text.encode_text(content) != case["ids"] or text.decode(case["ids"]) != case["decoded"]:
                    yield f"{name}: {content!r}"
                if "question" in case and (
                    text.encode_chat([Message("user", content)]) != case["question"]
                    or text.encode_next_turn(content) != case["next_turn"]
                ):
                    yield f"{name}: {content!r} as a question"
            for case in [*cases["texts"], *cases["streams"]]:
                stream = text.stream()
                if [stream.step(number) for number in case["ids"]] != case["pieces"]:
                    yield f"{name}: pieces of {case['ids']}"
            for case in cases["conversations"]:
                if text.encode_chat([Message(*message) for message in case["messages"]]) != case["ids"]:
                    yield f"{name}: {case['messages']}"
            yield from (f"{name}: {prompt!r} was taken" for prompt in cases["empty"] if not empty(text, prompt))

    def check_sampling(self) -> Iterator[str]:
        for case in self.json("sampling.json")["probabilities"]:
            logits = np.array(case["logits"], np.float32)
            found = Sampler(case["temperature"], case["top_p"]).probabilities(logits)
            if np.abs(found - case["probabilities"]).max() > 1e-12 or Sampler(0).pick(logits) != case["greedy"]:
                yield f"temperature {case['temperature']}, top_p {case['top_p']}"
        for case in self.json("sampling.json")["stops"]:
            texts = StopTexts(case["stops"])
            shown = [list(texts.feed(piece)) for piece in case["pieces"][: len(case["shown"])]]
            if shown != case["shown"] or texts.rest() != case["rest"]:
                yield f"stops {case['stops']}"

    def check_answers(self) -> Iterator[str]:
        expected = self.answers()
        limit = expected["limit"]
        for case in expected["questions"] + expected["descriptions"]:
            image = self.suite / "images" / case["image"]
            answer = self.session.generate(case["prompt"], image, max_new_tokens=limit, temperature=0)
            pieces = list(answer)
            found = [piece.token_id for piece in pieces], [piece.text for piece in pieces], answer.stats.finish_reason
            if found != (case["token_ids"], case["pieces"], case["finish_reason"]):
                yield f"{case['image']}: {case['prompt']}: {found}"
        talk = expected["conversations"]
        chats = {
            name: self.session.chat([self.suite / "images" / image for image in chat["images"]] or None, chat["system"])
            for name, chat in talk["chats"].items()
        }
        for turn in talk["turns"]:
            pieces = list(chats[turn["chat"]].send(turn["prompt"], max_new_tokens=turn["limit"], temperature=0))
            if [piece.token_id for piece in pieces] != turn["token_ids"]:
                yield f"{turn['chat']}: {turn['prompt'][:40]}"

    def check_image_kv(self) -> Iterator[str]:
        case = self.answers()["image_kv"]
        image = ImageKV.load(self.suite / case["file"])
        found = list(image.key.shape), image.model_id, image.next_position, digest(image.key), digest(image.value)
        if found != tuple(case[name] for name in ("shape", "model_id", "next_position", "key_sha256", "value_sha256")):
            yield f"{case['file']}: {found}"
        pieces = list(self.session.generate(case["prompt"], image, max_new_tokens=16, temperature=0))
        if [piece.token_id for piece in pieces] != case["token_ids"]:
            yield f"{case['file']}: its answer"

    def check_hostile_files(self) -> Iterator[str]:
        """Images and saved ImageKVs."""

        def picture(case: Case) -> bool:
            pixels = load_image(self.suite / case["file"], 64)
            return case.get("sha256", digest(pixels)) == digest(pixels)

        def image_kv(case: Case) -> bool:
            self.session.generate("What?", ImageKV.load(self.suite / case["file"])).close()
            return True

        yield from self._tried("images", picture)
        yield from self._tried("image_kvs", image_kv)

    def check_hostile_bundles(self, work: Path) -> Iterator[str]:
        """Manifests and tokenizers in a copy of the bundle, and whole bundles."""
        copy = work / "bundle"
        shutil.copytree(self.bundle, copy)
        good = (copy / "manifest.json").read_bytes()

        def manifest(case: Case) -> bool:
            shutil.copyfile(self.suite / case["file"], copy / "manifest.json")
            open_bundle(copy)
            return True

        def tokenizer(case: Case) -> bool:
            content = (self.suite / case["file"]).read_bytes()
            (copy / "tokenizer.json").write_bytes(content)
            changed = json.loads(good)
            record = next(record for record in changed["files"] if record["path"] == "tokenizer.json")
            record |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            (copy / "manifest.json").write_text(json.dumps(changed))
            text = open_bundle(copy).text
            hostile = self.json("hostile.json")
            return case["expect"] == "either" or text.encode_text(hostile["text"]) == hostile["ids"]

        def tile_manifest(case: Case) -> bool:
            shutil.copyfile(self.suite / case["file"], copy / "manifest.json")
            return read_manifest(copy).preprocessing.method == "pillow-tiles"

        def folder(case: Case) -> bool:
            open_bundle(self.suite / case["folder"])
            return True

        yield from self._tried("manifests", manifest)
        yield from self._tried("tile_manifests", tile_manifest)
        yield from self._tried("tokenizers", tokenizer)
        yield from self._tried("bundles", folder)
        yield from self._tried("folders", folder)

    def _tried(self, kind: str, trial: Callable[[Case], bool]) -> Iterator[str]:
        cases = self.json("hostile.json")[kind]
        if len(cases) < 10:
            yield f"{kind}: {len(cases)} -> too few cases"
        for case in cases:
            try:
                right = trial(case)
            except HimixError as error:
                message = str(error)
                if "\n" in message or not all(word in message for word in case["words"]) or case["expect"] == "same":
                    yield f"{kind}: {case['name']} -> {message}"
            else:
                if case["expect"] == "refused" or not right:
                    yield f"{kind}: {case['name']} -> {'was not refused' if right else 'is not the same'}"


def over_white(stored: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """RGB of RGB or RGBA, in the whole numbers that the specification states."""
    if stored.shape[2] == 3:
        return stored
    color, alpha = stored[..., :3].astype(np.int64), stored[..., 3:].astype(np.int64)
    mixed = (color * alpha + 255 * (255 - alpha) + 128) << 7
    return ((((mixed >> 8) + mixed) >> 8) >> 7).astype(np.uint8)


def digest(values: np.ndarray[Any, Any]) -> str:
    return hashlib.sha256(values.tobytes()).hexdigest()


def empty(text: TextProcessor, prompt: str) -> bool:
    """Whether a prompt is refused as an empty one."""
    try:
        text.encode_next_turn(prompt)
    except InputError as error:
        return "empty" in str(error)
    return False
