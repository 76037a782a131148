"""Vision-language models of other people's, beside transformers' own classes and processors.

Two things of theirs are set right for it. Pillow 13 begins some resizings with the vertical pass, earlier versions and
this project never do. And transformers from 4.55.1 on places a float32 tower's patches one row and column too far up
and left for SmolVLM and Idefics3 (its issue 41190; in bfloat16, in which these models are used, it does not).
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers.processors import TemplateProcessing

from himix_edge.checkpoints import open_source
from himix_edge.checkpoints.convert import Conversion, convert
from himix_edge.checkpoints.folder import save_source
from himix_edge.config.images import SLOT
from himix_edge.errors import InputError
from himix_edge.evaluation.similarity import require_vision_sequence
from himix_edge.image_text import ImageText
from himix_edge.picture_tokens import arrange, slots
from himix_edge.presets import resolve_model
from himix_edge.runtimes import open_checkpoint
from himix_edge.tiles import Tiles, best_grid, load_tiles

transformers = pytest.importorskip("transformers")

TEXT = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 2048, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1,
}  # fmt: skip
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
SIDE = 32
TAGS = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
SHAPES = [(40, 30), (32, 32), (150, 33), (33, 150), (7, 9), (130, 128)]
END = "<|im_end|>"
IDEFICS3 = (
    "<|im_start|>{% for m in messages %}{{ m.role | capitalize }}{{ ':' if m.content[0].type == 'image' else ': ' }}"
    "{% for part in m.content %}{{ '<image>' if part.type == 'image' else part.text }}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
LLAVA = (
    "{% for m in messages %}{{ m.role | upper }}: {% for part in m.content if part.type == 'image' %}<image>\n"
    "{% endfor %}{% for part in m.content if part.type == 'text' %}{{ part.text }}{% endfor %}<|im_end|> {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
VICUNA = (  # llava-v1.6-vicuna's own, as the next two
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
MISTRAL = (
    "{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ '<<SYS>>\n' + message['content'][0]['text'] + '\n<</SYS>>\n\n' }}"
    "{% elif message['role'] == 'user' %}{{ '[INST] ' }}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] }}{% endfor %}"
    "{{' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'][0]['text'] + '<\\s> '}}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
ONEVISION = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] }}{% endfor %}"
    "{{'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ONEVISION_SPACED = (  # that of transformers' own tests, and of some published folders
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + ' '}}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ '\n' + content['text'] }}"
    "{% endfor %}{{'<|im_end|>'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
INTERNVL = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for part in m.content %}"
    "{{ '<IMG_CONTEXT>\n' if part.type == 'image' else part.text }}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass
class Theirs:
    """A tiny model in a Hugging Face folder, its class and its processor."""

    folder: Path
    model: "transformers.PreTrainedModel"
    processor: "transformers.ProcessorMixin"

    def inputs(self, messages: list, pictures: list[Image.Image]) -> dict:
        text = self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        found = dict(self.processor(text=text, images=[pictures] if pictures else None, return_tensors="pt"))
        names = ("input_ids", "pixel_values", "image_sizes", "batch_num_images")
        return {name: found[name] for name in names if name in found}

    def greedy(self, inputs: dict, count: int) -> list[int]:
        ids = inputs["input_ids"]
        settings = {"max_new_tokens": count, "do_sample": False, "eos_token_id": None}
        said = self.model.generate(**inputs, attention_mask=torch.ones_like(ids), **settings)
        return said[0, ids.shape[1] :].tolist()


@pytest.fixture(autouse=True)
def set_right(monkeypatch: pytest.MonkeyPatch) -> None:
    resize, bucketize = Image.Image.resize, torch.bucketize

    def horizontal_first(image: Image.Image, size: tuple[int, int], *rest: object, **more: object) -> Image.Image:
        return resize(resize(image, (size[0], image.height), *rest, **more), size, *rest, **more)

    monkeypatch.setattr(Image.Image, "resize", horizontal_first)
    monkeypatch.setattr(torch, "bucketize", lambda x, edges, right: bucketize(x.bfloat16().float(), edges, right=right))


def idefics3(tokenizer, name: str = "Idefics3"):
    from transformers.models.idefics3.image_processing_idefics3 import Idefics3ImageProcessor
    from transformers.models.idefics3.processing_idefics3 import Idefics3Processor

    config = getattr(transformers, f"{name}Config")(
        text_config={**TEXT, "model_type": "llama", "vocab_size": len(tokenizer) + 8},
        vision_config={**TOWER, "image_size": SIDE, "patch_size": 8}, scale_factor=2,
        tie_word_embeddings=name == "SmolVLM",
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    pixels = Idefics3ImageProcessor(size={"longest_edge": 4 * SIDE}, max_image_size={"longest_edge": SIDE})
    return config, Idefics3Processor(pixels, tokenizer, image_seq_len=4, chat_template=IDEFICS3)


def smolvlm(tokenizer):
    return idefics3(tokenizer, "SmolVLM")


def llava(tokenizer, **pixels):
    settings = pixels or {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    config = transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(**TEXT, vocab_size=len(tokenizer) + 8),
        vision_config=transformers.CLIPVisionConfig(**TOWER, image_size=SIDE, patch_size=8),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    processor = transformers.LlavaProcessor(
        transformers.CLIPImageProcessor(**settings), tokenizer, patch_size=8, chat_template=LLAVA,
        vision_feature_select_strategy="default", num_additional_image_tokens=1,
    )  # fmt: skip
    return config, processor


def llava_squashed(tokenizer):
    return llava(tokenizer, size={"height": SIDE, "width": SIDE}, do_center_crop=False)


def llava_padded(tokenizer):
    from transformers.models.llava.image_processing_llava import LlavaImageProcessor

    config, processor = llava(tokenizer)
    square = {"height": SIDE, "width": SIDE}
    mean = transformers.CLIPImageProcessor().image_mean
    processor.image_processor = LlavaImageProcessor(
        do_pad=True, size={"shortest_edge": SIDE}, crop_size=square, image_mean=mean
    )
    return config, processor


def internvl(tokenizer, decoder: str = "qwen2"):
    from transformers.models.got_ocr2.image_processing_got_ocr2 import GotOcr2ImageProcessor

    class Processor:
        """InternVLProcessor's own text around GOT-OCR2's pixels; the class itself wants torchvision for videos."""

        image_processor = GotOcr2ImageProcessor(
            size={"height": SIDE, "width": SIDE}, crop_to_patches=True, min_patches=1, max_patches=6
        )

        def save_pretrained(self, folder: Path) -> None:
            tokenizer.save_pretrained(folder)
            self.image_processor.save_pretrained(folder)
            (folder / "chat_template.jinja").write_text(INTERNVL)

        def apply_chat_template(self, messages, add_generation_prompt, tokenize):
            return tokenizer.apply_chat_template(
                messages, chat_template=INTERNVL, add_generation_prompt=True, tokenize=False
            )

        def __call__(self, text, images, return_tensors):
            found = self.image_processor(images, return_tensors="pt") if images else {"num_patches": ()}
            for count in found.pop("num_patches"):
                text = text.replace("<IMG_CONTEXT>", f"<img>{'<context>' * 4 * count}</img>", 1)
            return {**tokenizer(text.replace("<context>", "<IMG_CONTEXT>"), return_tensors="pt"), **found}

    sizes = {**TEXT, "vocab_size": len(tokenizer) + 8}
    text = transformers.Qwen2Config(**sizes) if decoder == "qwen2" else transformers.Qwen3Config(**sizes, head_dim=16)
    config = transformers.InternVLConfig(
        text_config=text, image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"), image_seq_length=4,
        vision_config=transformers.InternVLVisionConfig(**TOWER, image_size=[SIDE] * 2, patch_size=[8] * 2),
    )  # fmt: skip
    return config, Processor()


def internvl3(tokenizer):
    return internvl(tokenizer, "qwen3")


def llava_bos(tokenizer):
    """As LLaVA 1.5: its tokenizer writes `<s>` in front of a text, the chat template does not."""
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    number = tokenizer.convert_tokens_to_ids("<s>")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", number)])
    return llava(tokenizer)


def llava_siglip(tokenizer):
    """As LLaVA-Interleave: SigLIP, whose processor crops nothing."""
    config, processor = llava(tokenizer)
    config.vision_config = transformers.SiglipVisionConfig(**TOWER, image_size=SIDE, patch_size=8)
    config.vision_feature_layer, config.vision_feature_select_strategy = -1, "full"
    processor.vision_feature_select_strategy, processor.num_additional_image_tokens = "full", 0
    processor.image_processor = transformers.SiglipImageProcessor(size={"height": SIDE, "width": SIDE})
    return config, processor


def llava_next(tokenizer, text: str = "Llama", template: str = VICUNA):
    grids = [[SIDE * rows, SIDE * columns] for rows, columns in ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))]
    config = transformers.LlavaNextConfig(
        text_config=getattr(transformers, f"{text}Config")(**TEXT, vocab_size=len(tokenizer) + 8),
        vision_config=transformers.CLIPVisionConfig(**TOWER, image_size=SIDE, patch_size=8),
        image_grid_pinpoints=grids, image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    pixels = transformers.LlavaNextImageProcessor(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=grids
    )
    processor = transformers.LlavaNextProcessor(
        pixels, tokenizer, patch_size=8, chat_template=template, vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )  # fmt: skip
    return config, processor


def llava_next_mistral(tokenizer):
    return llava_next(tokenizer, "Mistral", MISTRAL)


def llava_onevision(tokenizer, most: int = 4, aspect: str = "anyres_max_9", template: str = ONEVISION):
    class Processor(transformers.LlavaOnevisionProcessor):
        """Without the videos, which want torchvision."""

        attributes = ("image_processor", "tokenizer")

        def __init__(self, image_processor, tokenizer, chat_template):
            transformers.ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)
            self.image_token, self.image_token_id = "<image>", tokenizer.convert_tokens_to_ids("<image>")
            self.num_image_tokens, self.vision_feature_select_strategy = 16, "full"
            self.vision_aspect_ratio = aspect

    grids = [[SIDE * rows, SIDE * columns] for rows in range(1, most + 1) for columns in range(1, most + 1)]
    config = transformers.LlavaOnevisionConfig(
        text_config=transformers.Qwen2Config(**TEXT, vocab_size=len(tokenizer) + 8), image_grid_pinpoints=grids,
        vision_config=transformers.SiglipVisionConfig(**TOWER, image_size=SIDE, patch_size=8, vision_use_head=False),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"), vision_aspect_ratio=aspect,
        video_token_index=len(tokenizer),
    )  # fmt: skip
    pixels = transformers.LlavaOnevisionImageProcessor(size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=grids)
    return config, Processor(pixels, tokenizer, chat_template=template)


def llava_onevision_small(tokenizer):
    return llava_onevision(tokenizer, 3, "anyres_max_4", ONEVISION_SPACED)


FAMILIES = [
    smolvlm, idefics3, llava, llava_squashed, llava_padded, llava_bos, llava_siglip, llava_next, llava_next_mistral,
    llava_onevision, llava_onevision_small, internvl, internvl3,
]  # fmt: skip


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.__name__)
def theirs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Theirs:
    return made(request.param, tmp_path_factory.mktemp(request.param.__name__))


def made(family, folder: Path) -> Theirs:
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(resolve_model("nano") / "tokenizer.json"), eos_token=END, pad_token=END, bos_token=None,
        additional_special_tokens=[
            "<image>", "<fake_token_around_image>", "<global-img>", "<img>", "</img>", "<IMG_CONTEXT>", "<|im_start|>",
            *TAGS,
        ],
    )  # fmt: skip
    config, processor = family(tokenizer)
    torch.manual_seed(0)
    model = getattr(transformers, type(config).__name__.replace("Config", "ForConditionalGeneration"))(config).eval()
    for parameter in model.parameters():
        noise = torch.randn_like(parameter)
        parameter.data = noise * 0.08 if parameter.ndim > 1 else parameter.data + noise * 0.05
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return Theirs(folder, model, processor)


def picture(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def asked(pictures: list[Image.Image], words: str, system: str = "") -> list:
    first = [{"role": "system", "content": [{"type": "text", "text": system}]}] if system else []
    content = [*[{"type": "image"}] * len(pictures), {"type": "text", "text": words}]
    return [*first, {"role": "user", "content": content}]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_pixels_are_those_of_their_processor(theirs, shape):
    config = open_source(theirs.folder).config
    ours = load_tiles(picture(*shape), SIDE, config.images).pixels
    expected = theirs.inputs(asked([picture(*shape)], "What?"), [picture(*shape)])["pixel_values"].reshape(
        -1, 3, SIDE, SIDE
    )
    mean, std = np.array(config.vision.image_mean), np.array(config.vision.image_std)
    normed = ((ours / 255 - mean) / std).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(normed, expected.numpy(), atol=1e-5)


CASES: list[tuple[list[tuple[int, int]], str]] = [
    ([(40, 30)], ""), ([(150, 33)], "Be brief."), ([(33, 150), (7, 9)], ""), ([], ""), ([], "Say it."),
]  # fmt: skip


@pytest.mark.parametrize(("shapes", "system"), CASES, ids=str)
def test_ids_and_logits_are_theirs(theirs, shapes, system):
    session = open_checkpoint(theirs.folder)
    pictures = [picture(*shape) for shape in shapes]
    inputs = theirs.inputs(asked(pictures, "What is this?", system), pictures)
    grids = [load_tiles(p, SIDE, session.config.images, len(pictures) == 1) for p in pictures]
    text = session.text
    if pictures:
        places = [slots(g, session.config.images, session.config.tile_tokens) for g in grids]
        ahead = text.encode_pictures(places, system)
        ids = ahead + text.encode_behind_pictures("What is this?")
    else:
        from himix_edge.text import Message

        ids = text.encode_chat([*([Message("system", system)] if system else []), Message("user", "What is this?")])
    assert ids == inputs["input_ids"][0].tolist()
    with torch.no_grad():
        expected = theirs.model(**inputs).logits[0]
    assert (logits(session, ids, grids) - expected).abs().max() < 2e-5


def logits(session, ids: list[int], pictures: list[Tiles]) -> torch.Tensor:
    """Of every position: (T, V)."""
    engine, layout = session.engine, session.config.images
    embeddings = [np.concatenate([engine.connect(engine.encode(tile[None])) for tile in p.pixels]) for p in pictures]
    read = np.array([SLOT if number == layout.slot_id else number for number in ids])
    rows = np.zeros((len(ids), session.config.decoder.hidden_size), np.float32)
    if pictures:
        rows[read == SLOT] = np.concatenate([arrange(p, layout, e) for p, e in zip(pictures, embeddings, strict=True)])
    with torch.no_grad():
        found = engine.model.read(torch.from_numpy(read)[None], torch.from_numpy(rows)[None])[0][0]
        if layout.strategy != "anyres":
            tiles = torch.from_numpy(np.concatenate([p.pixels for p in pictures])) if pictures else None
            torch.testing.assert_close(engine.model(torch.tensor([ids]), tiles)[0], found)
    return found


def test_greedy_answers_are_theirs_and_a_kept_picture_gives_the_same(theirs):
    session = open_checkpoint(theirs.folder)
    pictures = [picture(150, 33)]
    for words in ("What is this?", "And why?"):
        inputs = theirs.inputs(asked(pictures, words), pictures)
        expected = theirs.greedy(inputs, 32)
        ends = [i for i, token in enumerate(expected) if token in session.text.stop_ids]
        expected = expected[: ends[0]] if ends else expected
        kept = session.encode_images(pictures)
        for given in (pictures, kept):
            pieces = session.generate(words, given, max_new_tokens=32, temperature=0)
            assert [piece.token_id for piece in pieces if piece.token_id is not None] == expected


def test_a_second_turn_is_theirs(theirs):
    session = open_checkpoint(theirs.folder)
    pictures, system = [picture(150, 33)], "Be brief."
    chat = session.chat(pictures, system)
    first = [piece.token_id for piece in chat.send("What is this?", max_new_tokens=5, temperature=0)]
    second = [piece.token_id for piece in chat.send("Why?", max_new_tokens=8, temperature=0)]
    inputs = theirs.inputs(asked(pictures, "What is this?", system), pictures)
    followed = session.text.encode_next_turn("Why?")
    ids = torch.tensor([[*inputs["input_ids"][0].tolist(), *first, *followed]])
    assert theirs.greedy({**inputs, "input_ids": ids}, len(second)) == second
    messages = [
        *asked(pictures, "What is this?", system),
        {"role": "assistant", "content": [{"type": "text", "text": "A circle."}]},
        {"role": "user", "content": [{"type": "text", "text": "Why?"}]},
    ]
    whole = theirs.inputs(messages, pictures)["input_ids"][0].tolist()
    assert whole[-len(followed) :] == followed
    start = inputs["input_ids"][0].tolist()  # its last token may be white space, of which LLaVA-OneVision has two kinds
    assert whole[: len(start) - 1] == start[:-1]


def test_a_history_is_theirs(theirs):
    from himix_edge.text import Message

    session = open_checkpoint(theirs.folder)
    pictures, system = [picture(150, 33)], "Be brief."
    messages = [
        *asked(pictures, "What is this?", system),
        {"role": "assistant", "content": [{"type": "text", "text": "A circle."}]},
        {"role": "user", "content": [{"type": "text", "text": "Why?"}]},
    ]
    inputs = theirs.inputs(messages, pictures)
    start = theirs.inputs(asked(pictures, "What is this?", system), pictures)["input_ids"][0].tolist()
    whole = inputs["input_ids"][0].tolist()
    assert whole[: len(start) - 1] == start[:-1]  # LLaVA-OneVision has a space more before an answer that was given
    more = whole[len(start) - 1] != start[-1]
    ids = torch.tensor([[*start, *whole[len(start) + more :]]])
    expected = theirs.greedy({**inputs, "input_ids": ids}, 8)
    ends = [i for i, token in enumerate(expected) if token in session.text.stop_ids]
    chat = session.chat(pictures, system, [Message("user", "What is this?"), Message("assistant", "A circle.")])
    pieces = chat.send("Why?", max_new_tokens=8, temperature=0)
    found = [piece.token_id for piece in pieces if piece.token_id is not None]
    assert found == (expected[: ends[0]] if ends else expected)
    with pytest.raises(InputError, match="begin with that one"):
        session.chat(pictures, system, [Message("assistant", "Yes?")]).send("Why?")


def test_a_picture_that_was_read_behind_another_system_message_is_refused(theirs):
    session = open_checkpoint(theirs.folder)
    kept = session.encode_image(picture(40, 30))
    with pytest.raises(InputError, match="behind another system message"):
        session.chat(kept, system="Be brief.").send("What?")
    with pytest.raises(InputError, match="one behind the other"):
        session.answer("What?", [kept, kept])


def test_too_many_tiles_are_told_apart_from_a_long_prompt(theirs):
    session = open_checkpoint(theirs.folder)
    session.engine.capacity = 60
    with pytest.raises(InputError, match="tiles fit"):
        session.answer("What?", [picture(150, 33)] * 9)


def test_a_saved_checkpoint_is_the_same_model(theirs, tmp_path):
    source = open_source(theirs.folder)
    save_source(tmp_path / "ours", source)
    assert open_source(tmp_path / "ours").config == source.config
    one, other = open_checkpoint(theirs.folder), open_checkpoint(tmp_path / "ours")
    assert one.text.template == other.text.template
    assert one.answer("What?", picture(150, 33), 12) == other.answer("What?", picture(150, 33), 12)


def change(folder: Path, name: str, **values: object) -> None:
    settings = json.loads((folder / name).read_text())
    for path, value in values.items():
        *parts, last = path.split("__")
        inner = settings
        for part in parts:
            inner = inner[part]
        inner[last] = value
    (folder / name).write_text(json.dumps(settings))


@pytest.mark.parametrize(
    ("family", "file", "changes", "says"),
    [
        (llava, "config.json", {"model_type": "bunny"}, "supported: idefics3, smolvlm, llava, llava_next"),
        (llava, "config.json", {"projector_hidden_act": "relu"}, "projector_hidden_act 'relu'"),
        (llava, "config.json", {"vision_feature_layer": 3}, "vision_feature_layer 3"),
        (llava, "config.json", {"text_config__model_type": "gemma"}, "gemma"),
        (llava, "config.json", {"vision_config__model_type": "pixtral"}, "pixtral"),
        (
            llava,
            "config.json",
            {"text_config__tie_word_embeddings": "x"},
            r"text_config\.tie_word_embeddings 'x' is nei",
        ),
        (llava, "config.json", {"tie_word_embeddings": 1}, r"config\.json: tie_word_embeddings 1 is neither"),
        (llava, "config.json", {"image_token_index": 10**6}, "image_token_index 1000000 is no whole number"),
        (llava, "preprocessor_config.json", {"do_pad": True, "image_mean": "grey"}, "image_mean"),
        (llava, "preprocessor_config.json", {"crop_size": {"height": 24, "width": 24}}, "crop_size"),
        (llava, "preprocessor_config.json", {"do_center_crop": False}, "size"),
        (llava, "preprocessor_config.json", {"resample": 5}, "resample 5"),
        (llava, "preprocessor_config.json", {"image_std": [0, 1, 1]}, r"preprocessor_config\.json: image_std"),
        (llava, "preprocessor_config.json", {"rescale_factor": 1.0}, r"preprocessor_config\.json: pixels are scaled"),
        (llava, "preprocessor_config.json", {"do_resize": False}, "do_resize is false"),
        (llava, "preprocessor_config.json", {"do_normalize": 0}, "do_normalize 0 is neither"),
        (smolvlm, "config.json", {"text_config": None}, "text_config is not a JSON object"),
        (smolvlm, "config.json", {"scale_factor": 10**6}, "scale_factor 1000000"),
        (
            smolvlm,
            "preprocessor_config.json",
            {"size": {"longest_edge": 10**15}},
            r"preprocessor_config.json: size.longest",
        ),
        (smolvlm, "preprocessor_config.json", {"max_image_size": {"longest_edge": "x" * 5000}}, "gives tiles of 'xxx"),
        (smolvlm, "preprocessor_config.json", {"max_image_size": {"longest_edge": 48}}, "tiles of 48 pixels"),
        (smolvlm, "config.json", {"scale_factor": 3}, "must divide"),
        (internvl, "config.json", {"downsample_ratio": 0.3}, "downsample_ratio"),
        (internvl, "config.json", {"vision_config__norm_type": "rms_norm"}, "rms_norm"),
        (internvl, "preprocessor_config.json", {"size": {"height": 64, "width": 64}}, "a tower of 32"),
        (internvl, "preprocessor_config.json", {"resample": [3]}, "resample"),
        (internvl, "preprocessor_config.json", {"max_patches": 10**6}, "max_patches 1000000"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(family, file, changes, says, tmp_path):
    folder = made(family, tmp_path).folder
    change(folder, file, **changes)
    with pytest.raises(InputError, match=says) as caught:
        open_source(folder)
    assert "\n" not in str(caught.value)


def test_another_template_is_refused_and_a_strange_model_type_too(tmp_path):
    made(smolvlm, tmp_path / "theirs")
    with pytest.raises(InputError, match=r"--chat-template: .* chat_template\.jinja"):
        convert(Conversion(str(tmp_path / "theirs"), chat_template="chatml"))
    change(tmp_path / "theirs", "config.json", model_type={})
    with pytest.raises(InputError, match=r"model_type \{\} are not supported"):
        open_source(tmp_path / "theirs")


@pytest.mark.parametrize("texts", [
    {"alone": ""}, {"tile": "{slots}{slots}"}, {"whole": "{slots}{slots}"}, {"before": "<image>"},
    {"row_end": "{slots}"},
])  # fmt: skip
def test_texts_around_tiles_hold_their_places_once(texts):
    with pytest.raises(ValueError, match=next(iter(texts))):
        ImageText(**{"slot": "<image>", "before": "", "between": "", "after": "", **texts})


@pytest.mark.parametrize(
    "name", ["multi_modal_projector.linear_1.bias", "vision_tower.vision_model.pre_layrnorm.weight"]
)
def test_a_missing_and_a_surplus_tensor_are_named(name, tmp_path):
    folder = made(llava, tmp_path).folder
    tensors = load_file(folder / "model.safetensors")
    del tensors[name]
    save_file(tensors | {"one.too.many": torch.ones(1)}, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"missing .*"):
        open_source(folder)


@pytest.mark.parametrize(("window", "positions"), [(None, 8192), (4096, 4096)])
def test_a_window_that_is_null_is_none(window, positions, tmp_path):
    """As llava-v1.6-mistral-7b has it; Mistral's default is another."""
    folder = made(llava_next_mistral, tmp_path).folder
    change(folder, "config.json", text_config__sliding_window=window, text_config__max_position_embeddings=8192)
    assert open_source(folder).config.decoder.max_position_embeddings == positions


def test_a_folder_without_its_processor_is_refused(tmp_path):
    folder = made(llava, tmp_path).folder
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(InputError, match=r"preprocessor_config\.json: no such file"):
        open_source(folder)


def test_the_tokens_of_pictures_cannot_be_typed(theirs):
    session = open_checkpoint(theirs.folder)
    typed = session.text.encode_behind_pictures(f"Is {session.text.template.image.slot} a token?")
    assert session.config.images.slot_id not in typed


def test_the_best_grid_is_the_nearest_in_shape():
    assert best_grid(800, 400, 448, 1, 12) == (2, 1)
    assert best_grid(4000, 2000, 448, 1, 12) == (4, 2)  # as near as 2 x 1, and filled
    assert best_grid(10, 1000, 448, 1, 12) == (1, 12)


def test_what_does_not_take_tiles_yet_says_so(tmp_path):
    folder = made(llava, tmp_path).folder
    with pytest.raises(InputError, match="himix analyze does not"):
        require_vision_sequence(open_source(folder).config)


def test_another_tower_makes_it_a_himix_model(tmp_path):
    folder = made(llava, tmp_path / "vlm").folder
    tower = transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**TOWER, image_size=SIDE, patch_size=8))
    tower.save_pretrained(tmp_path / "tower")
    source = convert(Conversion(str(folder), tower=str(tmp_path / "tower")))
    assert source.config.architecture == "himix"
    assert source.config.images is None
    assert source.load_text().template.image is None
