"""The model: this project's modules under this project's names, called as transformers calls a model."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from himix_edge.checkpoints import open_source
from himix_edge.checkpoints.assemble import assemble
from himix_edge.errors import InputError
from himix_edge.hf.configuration import HimixConfig
from himix_edge.model import KVCache, VisionLanguageModel, build_model

# what the Auto classes and pipelines add to a call, and what is so anyway
NEUTRAL = {
    "_from_auto", "_commit_hash", "adapter_kwargs", "trust_remote_code", "low_cpu_mem_usage", "use_safetensors",
    "weights_only", "cache_dir", "local_files_only", "token", "revision",
}  # fmt: skip


class HimixCache:
    """What `generate` carries from token to token: the image's slots, which have no place in the text, and the text's.

    Attributes:
        kv: keys and values of every layer.
        text: how many tokens of text are in it.
    """

    is_compileable = False

    def __init__(self, kv: KVCache, text: int):
        self.kv, self.text = kv, text

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens of text, by which transformers counts places."""
        return self.text

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Take over the rows of the beams that go on."""
        self.kv = self.kv.select(beam_idx)


class HimixForConditionalGeneration(PreTrainedModel, GenerationMixin):  # type: ignore[misc]  # transformers' own clash
    """HiMix or vanilla, whichever `config.himix["architecture"]` says.

    Parameters are called as in this project's checkpoints (and Hugging Face's Llama and Qwen2).
    """

    config_class = HimixConfig
    main_input_name = "input_ids"
    _supports_cache_class = False
    generation_config: GenerationConfig
    _himix: VisionLanguageModel

    def __init__(self, config: HimixConfig, model: VisionLanguageModel | None = None):
        """With `model`, around that one; it is of the same configuration."""
        super().__init__(config)
        model = model or build_model(config.model)
        for name, module in model.named_children():
            self.add_module(name, module)
        for name, parameter in model.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        object.__setattr__(self, "_himix", model)  # its modules are ours now, and it is none of them
        self.generation_config = GenerationConfig(max_new_tokens=64, do_sample=False)

    @classmethod
    def from_pretrained(  # type: ignore[override]  # theirs takes settings that have no meaning here
        cls, pretrained_model_name_or_path: str | Path, *args: Any, dtype: Any = None, **settings: Any
    ) -> "HimixForConditionalGeneration":
        """Open what `himix_edge.load_checkpoint` opens, in float32 unless `dtype` says otherwise, on the CPU.

        Raises:
            InputError: as `load_checkpoint`; also a setting of transformers that is not followed here, by name.
        """
        dtype = settings.pop("torch_dtype", dtype)
        settings.pop("config", None)  # the folder's own
        if settings.pop("device_map", None) not in (None, "cpu", {"": "cpu"}):
            raise InputError("device_map is not supported: load the model, then move it with .to(device)")
        refused = sorted(name for name, value in settings.items() if name not in NEUTRAL and value is not None)
        if refused or args:
            raise InputError(f"from_pretrained takes no {', '.join(refused) or 'further argument'} here")
        source = open_source(pretrained_model_name_or_path)
        config = HimixConfig.of(source.config)
        model = assemble(source.config, source.weights, source.where).requires_grad_(True)
        made = cls(config, model)
        made.name_or_path = config.name_or_path = str(pretrained_model_name_or_path)
        try:
            ends = sorted(source.load_text().stop_ids)
            made.generation_config.eos_token_id, made.generation_config.pad_token_id = ends, ends[0]
        except InputError:  # a model without a tokenizer: whoever generates says where an answer ends
            pass
        if dtype not in (None, "auto"):
            made.to(getattr(torch, dtype) if isinstance(dtype, str) else dtype)
        return made.eval()

    def get_input_embeddings(self) -> torch.nn.Module:
        """The table of tokens."""
        table: torch.nn.Module = self._himix.model.embed_tokens
        return table

    def set_input_embeddings(self, value: torch.nn.Module) -> None:
        """Not supported: the table is the head, too."""
        raise InputError("the embedding of this model is fixed; train or convert one with another vocabulary")

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: HimixCache | None = None,
        labels: Tensor | None = None,
        vision_features: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        return_dict: bool | None = None,
        cache_position: Tensor | None = None,
        num_items_in_batch: Any = None,
        **settings: Any,
    ) -> CausalLMOutputWithPast:
        """Logits, and the loss of `labels`.

        Args:
            input_ids: int (B, T).
            pixel_values: uint8 (B, S, S, 3) RGB, one image a row, as `HimixProcessor` makes them; None: no image.
            attention_mask: (B, T), zeros at the end of rows only: what pads there is seen by nobody.
            past_key_values: of an earlier call; then there is no image, it is in there.
            labels: int (B, T), -100 where nothing is learned; the token behind each place.
            vision_features: float (B, N, d_v) in place of pixels.
            use_cache: whether to return the cache.
            logits_to_keep: only those of the last so many places; 0: all.
            return_dict: True or None.
            cache_position: transformers' own count, which is not needed.
            num_items_in_batch: what the loss is divided by, in `Trainer`; None: the labels that count.
            settings: nothing else is taken.

        Raises:
            ValueError: an argument that is not taken, or a mask with zeros in front, where rows differ in length.
        """
        unknown = sorted(name for name, value in settings.items() if value is not None)
        if unknown or return_dict is False:
            raise ValueError(f"{', '.join(unknown) or 'return_dict=False'}: not supported by this model")
        self._check_mask(attention_mask, past_key_values is not None or bool(use_cache and labels is None))
        if past_key_values is None:
            if pixel_values is not None:
                vision_features = self._himix.encode_image(pixel_values)
            start = None if vision_features is None else self._himix.inject(vision_features)
        else:
            start = past_key_values.kv
        states, kv = self._himix.hidden(input_ids, start)
        logits: Any = self._himix.project_out(states[:, -logits_to_keep:] if logits_to_keep else states).float()
        loss = None
        if labels is not None:
            size = logits.shape[-1]
            loss = self.loss_function(logits, labels, vocab_size=size, num_items_in_batch=num_items_in_batch)
        length = input_ids.shape[1] + (past_key_values.text if past_key_values else 0)
        cache: Any = HimixCache(kv, length) if use_cache is not False and labels is None else None
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=cache)

    def prepare_inputs_for_generation(  # type: ignore[override]  # theirs takes whatever a model's forward does
        self, input_ids: Tensor, past_key_values: HimixCache | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """What `forward` is given next: the tokens that are not in the cache, and the image the first time."""
        given = {name: kwargs.get(name) for name in ("attention_mask", "use_cache")}
        if past_key_values is not None:
            return {"input_ids": input_ids[:, past_key_values.text :], "past_key_values": past_key_values, **given}
        image = {name: kwargs.get(name) for name in ("pixel_values", "vision_features")}
        return {"input_ids": input_ids, **image, **given, "logits_to_keep": 1}

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # its slots count an image's as places in the text

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Nothing: the modules are initialized when they are built."""

    @staticmethod
    def _check_mask(mask: Tensor | None, generating: bool) -> None:
        if mask is None or bool(mask.all()):
            return
        if generating or bool((mask[:, 1:] > mask[:, :-1]).any()):
            raise ValueError(
                "rows of different length: answer them one by one, or train with padding at the end of rows "
                '(padding_side="right")'
            )
