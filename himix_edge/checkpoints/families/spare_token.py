"""The token that stands for a picture's features in a model whose vocabulary has none for it."""

from abc import abstractmethod
from dataclasses import replace
from functools import cached_property

from tokenizers import AddedToken, Tokenizer

from himix_edge.checkpoints.chat_templates import token_text
from himix_edge.checkpoints.families.parts import ConfigFolder, read_apart
from himix_edge.checkpoints.start_token import start_token, with_start_token
from himix_edge.checkpoints.tokenizers import folder_tokenizer
from himix_edge.config import ModelConfig
from himix_edge.errors import InputError
from himix_edge.image_text import ImageText
from himix_edge.text import ChatTemplate

IMAGE = "<image>"
PROBE = "What is it?"


class SpareTokenFolder(ConfigFolder):
    """A folder whose code puts a picture's features between two texts, each read by itself."""

    @property
    @abstractmethod
    def conversation(self) -> ChatTemplate:
        """What stands around messages, pictures aside."""

    @property
    @abstractmethod
    def embedding_rows(self) -> tuple[object, str]:
        """How many a configuration says there are, and where it is."""

    def tokenizer(self) -> Tokenizer:
        self._slot  # noqa: B018 (its token is added)
        return self._tokenizer

    def template(self, config: ModelConfig, tokenizer: Tokenizer) -> ChatTemplate:
        assert config.images is not None
        slot = token_text(tokenizer, config.images.slot_id, f"{self.where}: the picture's token")
        template = with_start_token(self.conversation, start_token(self.folder), tokenizer, str(self.folder))
        behind = read_apart(tokenizer, "\n", PROBE, str(self.folder))
        return replace(template, image=ImageText(slot, template.user[0], behind, behind))

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return folder_tokenizer(self.folder)

    @cached_property
    def _slot(self) -> int:
        rows, where = self.embedding_rows
        return spare_token(self._tokenizer, rows if type(rows) is int else 0, self.conversation, where)


def spare_token(tokenizer: Tokenizer, rows: int, template: ChatTemplate, where: str) -> int:
    """The id of a special token that no text ever has: the model never sees it, features stand in its place.

    It is `<image>`: the tokenizer's own, or added to it where the embedding has a row that no token uses. Else the last
    special token that the template does not write (`<unk>` of Llama's, which falls back to bytes).

    Args:
        tokenizer: the model's; `<image>` may be added to it.
        rows: of the embedding.
        template: what the model is asked with.
        where: the file, for messages.

    Raises:
        InputError: there is none.
    """
    added = tokenizer.get_added_tokens_decoder()
    size = max([tokenizer.get_vocab_size(with_added_tokens=False), *(number + 1 for number in added)])
    if not any(token.content == IMAGE for token in added.values()) and size < rows:
        tokenizer.add_special_tokens([AddedToken(IMAGE, special=True, normalized=False)])
        added = tokenizer.get_added_tokens_decoder()
    special = {token.content: number for number, token in sorted(added.items()) if token.special and number < rows}
    if IMAGE in special:
        return special[IMAGE]
    written = "".join([template.bos, *template.user, *template.assistant, *(template.system or ()), *template.stop])
    unused = [number for token, number in special.items() if token not in written]
    if not unused:
        raise InputError(f"{where}: no token is left that could stand for a picture; the embedding has {rows} rows")
    return unused[-1]
