"""The chat templates of well-known families, by the names that --chat-template takes."""

from himix_edge.text import ChatTemplate

VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
NAMED = {
    "chatml": ChatTemplate(
        user=("<|im_start|>user\n", "<|im_end|>\n"), assistant=("<|im_start|>assistant\n", "<|im_end|>\n"),
        system=("<|im_start|>system\n", "<|im_end|>\n"), stop=("<|im_end|>",),
    ),
    "llama-2": ChatTemplate(  # its system message stands inside the first user message
        user=("", " [/INST]"), assistant=("", " </s><s>[INST] "), system=("<<SYS>>\n", "\n<</SYS>>\n\n"),
        stop=("</s>",), bos="<s>[INST] ", said=" ",
    ),
    "llama-3": ChatTemplate(
        user=("<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"),
        assistant=("<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"),
        system=("<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>"),
        stop=("<|eot_id|>",), bos="<|begin_of_text|>",
    ),
    "zephyr": ChatTemplate(
        user=("<|user|>\n", "</s>\n"), assistant=("<|assistant|>\n", "</s>\n"), system=("<|system|>\n", "</s>\n"),
        stop=("</s>",),
    ),
    "vicuna": ChatTemplate(
        user=("USER: ", " "), assistant=("ASSISTANT:", "</s>"), system=("", " "), stop=("</s>",), bos="<s>",
        default_system=VICUNA_SYSTEM,
    ),
    "tulu-2": ChatTemplate(
        user=("<|user|>\n", "\n"), assistant=("<|assistant|>\n", "</s>\n"), system=("<|system|>\n", "\n"),
        stop=("</s>",),
    ),
    "tulu-3": ChatTemplate(
        user=("<|user|>\n", "\n"), assistant=("<|assistant|>\n", "<|end_of_text|>\n"), system=("<|system|>\n", "\n"),
        stop=("<|end_of_text|>",),
    ),
    "phi-3": ChatTemplate(
        user=("<|user|>\n", "<|end|>\n"), assistant=("<|assistant|>\n", "<|end|>\n"),
        system=("<|system|>\n", "<|end|>\n"), stop=("<|end|>",),
    ),
    "phi-4": ChatTemplate(
        user=("<|im_start|>user<|im_sep|>", "<|im_end|>"), assistant=("<|im_start|>assistant<|im_sep|>", "<|im_end|>"),
        system=("<|im_start|>system<|im_sep|>", "<|im_end|>"), stop=("<|im_end|>",),
    ),
    "phi-4-mini": ChatTemplate(
        user=("<|user|>", "<|end|>"), assistant=("<|assistant|>", "<|end|>"), system=("<|system|>", "<|end|>"),
        stop=("<|end|>",),
    ),
    "gemma": ChatTemplate(
        user=("<start_of_turn>user\n", "<end_of_turn>\n"), assistant=("<start_of_turn>model\n", "<end_of_turn>\n"),
        stop=("<end_of_turn>",), bos="<bos>",
    ),
    "mistral": ChatTemplate(
        user=("[INST] ", " [/INST]"), assistant=("", "</s>"), stop=("</s>",), bos="<s>", said=" ",
    ),
    "mistral-v3": ChatTemplate(
        user=("[INST] ", "[/INST]"), assistant=("", "</s>"), stop=("</s>",), bos="<s>", said=" ",
    ),
    "granite": ChatTemplate(
        user=("<|start_of_role|>user<|end_of_role|>", "<|end_of_text|>\n"),
        assistant=("<|start_of_role|>assistant<|end_of_role|>", "<|end_of_text|>\n"),
        system=("<|start_of_role|>system<|end_of_role|>", "<|end_of_text|>\n"), stop=("<|end_of_text|>",),
    ),
    "smolvlm": ChatTemplate(
        user=("User: ", "<end_of_utterance>\n"), assistant=("Assistant:", "<end_of_utterance>\n"),
        system=("System: ", "<end_of_utterance>\n"), stop=("<end_of_utterance>",), bos="<|im_start|>", said=" ",
    ),
}  # fmt: skip
