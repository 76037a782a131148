"""llama.cpp's mtmd on its own conversion of a Hugging Face folder, through llama-cpp-python.

    python -m benchmarks.vlms.llama_cpp FILES

FILES is what `build` made: model.gguf in Q4_0, and the tower with its connector in Q8_0, once for each number of tiles.
"""

import ctypes
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.timing import milliseconds, report
from benchmarks.vlms.cases import DECODED, PROMPT, TILES, Timings

SLOTS, BATCH = 2048, 512
THREADS = 2
END = b"<end_of_utterance>\nAssistant:"


def build(folder: Path, converter: Path, out: Path) -> None:
    """Convert a folder.

    Args:
        folder: of Hugging Face.
        converter: llama.cpp's convert_hf_to_gguf.py; llama-cpp-python's source has it, below vendor.
        out: gets the files.
    """
    import llama_cpp

    out.mkdir(parents=True)
    command = [sys.executable, str(converter), str(folder), "--outfile"]
    subprocess.run([*command, str(out / "wide.gguf"), "--outtype", "bf16"], check=True)
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0
    settings.pure = True  # embedding and head too, as in our bundles
    assert not llama_cpp.llama_model_quantize(
        str(out / "wide.gguf").encode(), str(out / "model.gguf").encode(), ctypes.byref(settings)
    )
    (out / "wide.gguf").unlink()
    pixels = json.loads((folder / "preprocessor_config.json").read_text())
    config = json.loads((folder / "config.json").read_text())
    for count, (rows, _) in TILES.items():
        with tempfile.TemporaryDirectory() as scratch:  # how many tiles a picture becomes stands in the file
            shutil.copytree(folder, scratch, dirs_exist_ok=True)
            if "longest_edge" in pixels["size"]:
                changed = pixels | {"size": {"longest_edge": max(rows, 1) * pixels["max_image_size"]["longest_edge"]}}
                (Path(scratch) / "preprocessor_config.json").write_text(json.dumps(changed))
            else:  # InternVL, whose converter reads their own layout's names
                config["vision_config"]["architectures"] = ["InternVisionModel"]
                config |= {"min_dynamic_patch": 1, "max_dynamic_patch": max(rows * rows, 1)}
                (Path(scratch) / "config.json").write_text(json.dumps(config))
            command = [sys.executable, str(converter), scratch, "--mmproj", "--outtype", "q8_0", "--outfile"]
            subprocess.run([*command, str(out / f"tower-{count}.gguf")], check=True)
    (out / "side.json").write_text(json.dumps(side(folder)))


def side(folder: Path) -> int:
    """Of a tile, in pixels."""
    size: int | list[int] = json.loads((folder / "config.json").read_text())["vision_config"]["image_size"]
    return size if isinstance(size, int) else size[0]


class Eyes:
    """A picture of some tiles and a prompt behind it, as mtmd sees them."""

    def __init__(self, files: Path, count: int, model: Any):
        import llama_cpp
        from llama_cpp import mtmd_cpp

        self.model, self.llama, self.mtmd = model, llama_cpp, mtmd_cpp
        settings = mtmd_cpp.mtmd_context_params_default()
        settings.use_gpu, settings.n_threads, settings.print_timings = False, THREADS, False
        path = files / f"tower-{count}.gguf"
        self.context = mtmd_cpp.mtmd_init_from_file(str(path).encode(), model.model, settings)
        assert self.context
        pixels = json.loads((files / "side.json").read_text())
        height, width = (pixels * max(grid, 1) for grid in TILES[count])
        picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        bytes_of = picture.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        bitmap = mtmd_cpp.mtmd_bitmap_init(width, height, bytes_of)
        text = b"<|im_start|>User:" + mtmd_cpp.mtmd_default_marker() + PROMPT.encode() + END
        self.chunks = self.parse(text, [bitmap])
        self.prompt = self.parse(PROMPT.encode() + END, [])
        tiles = [chunk for chunk in self.chunks if self.is_image(chunk)]
        self.tiles = tiles[len(tiles) - count :]  # one tile alone comes twice, as the whole and as its part
        self.chunks = [chunk for chunk in self.chunks if chunk in self.tiles or chunk not in tiles]
        self.embeddings: list[Any] = []

    def parse(self, text: bytes, bitmaps: list[Any]) -> list[Any]:
        """Text and pictures in turn."""
        given = self.mtmd.mtmd_input_text(text=text, text_len=len(text), add_special=False, parse_special=True)
        parsed = self.mtmd.mtmd_input_chunks_init()
        array = (self.mtmd.mtmd_bitmap_p_ctypes * max(len(bitmaps), 1))(*bitmaps)
        assert not self.mtmd.mtmd_tokenize(self.context, parsed, ctypes.byref(given), array, len(bitmaps))
        return [self.mtmd.mtmd_input_chunks_get(parsed, i) for i in range(self.mtmd.mtmd_input_chunks_size(parsed))]

    def is_image(self, chunk: Any) -> bool:
        return bool(self.mtmd.mtmd_input_chunk_get_type(chunk) == self.mtmd.MTMD_INPUT_CHUNK_TYPE_IMAGE)

    def tower(self) -> None:
        """Tower and connector of every tile."""
        width = self.llama.llama_model_n_embd(self.model.model)
        self.embeddings.clear()
        for chunk in self.tiles:
            assert not self.mtmd.mtmd_encode_chunk(self.context, chunk)
            size = self.mtmd.mtmd_input_chunk_get_n_tokens(chunk) * width
            floats = ctypes.string_at(self.mtmd.mtmd_get_output_embd(self.context), 4 * size)
            self.embeddings.append((ctypes.c_float * size).from_buffer_copy(floats))

    def read(self, chunks: list[Any], past: int) -> int:
        """Decode chunks behind `past` slots; the cache's new length."""
        embeddings, end = iter(self.embeddings), self.llama.llama_pos(past)
        self.llama.llama_memory_seq_rm(self.llama.llama_get_memory(self.model.ctx), 0, past, -1)
        for chunk in chunks:
            place = (end, 0, BATCH)
            if self.is_image(chunk):
                nobody = self.mtmd.mtmd_helper_post_decode_callback()
                failed = self.mtmd.mtmd_helper_decode_image_chunk(
                    self.context, self.model.ctx, chunk, next(embeddings), *place, ctypes.byref(end), nobody, None
                )
            else:
                last = chunk is chunks[-1]
                failed = self.mtmd.mtmd_helper_eval_chunk_single(
                    self.context, self.model.ctx, chunk, *place, last, ctypes.byref(end)
                )
            assert not failed
        self.llama.llama_synchronize(self.model.ctx)
        return end.value

    def again(self) -> float:
        """Milliseconds of a second prompt."""
        end = self.read(self.chunks[:-1], 0)
        return milliseconds(lambda: self.read(self.prompt, end))

    def decode(self) -> float:
        """Milliseconds of a token."""
        self.read(self.chunks, 0)
        began = time.perf_counter()
        for token in range(DECODED):
            batch = self.llama.llama_batch_get_one((self.llama.llama_token * 1)(token + 5), 1)
            assert not self.llama.llama_decode(self.model.ctx, batch)
            self.llama.llama_get_logits(self.model.ctx)
        return 1e3 * (time.perf_counter() - began) / DECODED


def timings(files: Path) -> Timings:
    """Tower and connector, reading of picture and prompt, a second prompt, a token; in milliseconds."""
    import llama_cpp

    model = llama_cpp.Llama(
        str(files / "model.gguf"), n_ctx=SLOTS, n_batch=BATCH, n_ubatch=BATCH, n_threads=THREADS,
        n_threads_batch=THREADS, verbose=False,
    )  # fmt: skip
    cases: Timings = {}
    for count in TILES:
        eyes = Eyes(files, count, model)
        assert len(eyes.tiles) == count, (len(eyes.tiles), count)
        eyes.tower()
        cases |= {
            f"tower, {count} tiles": lambda eyes=eyes: milliseconds(eyes.tower),  # type: ignore[misc]
            f"prefill, {count} tiles": lambda eyes=eyes: milliseconds(lambda: eyes.read(eyes.chunks, 0)),  # type: ignore[misc]
            f"second question, {count} tiles": eyes.again,
            f"token, {count} tiles": eyes.decode,
        }
    return cases


if __name__ == "__main__":
    report(timings(Path(sys.argv[1])))
