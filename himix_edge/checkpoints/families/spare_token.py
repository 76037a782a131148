"""The token that stands for a picture's features in a model whose vocabulary has none for it."""

from tokenizers import AddedToken, Tokenizer

from himix_edge.errors import InputError
from himix_edge.text import ChatTemplate

IMAGE = "<image>"


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
