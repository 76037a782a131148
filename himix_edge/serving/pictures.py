"""Pictures of a request: data URLs in it, or files below one folder if the server was started so. None is fetched."""

import base64
import binascii
import re
from pathlib import Path
from urllib.parse import unquote

from himix_edge.data.image_files import image_inside
from himix_edge.errors import InputError
from himix_edge.image_files import MAX_FILE_BYTES
from himix_edge.reading import read_bytes
from himix_edge.serving.refusals import Refused

DATA = re.compile(r"data:(image/[a-zA-Z0-9.+-]{1,64})?(;[a-zA-Z0-9=_.-]{1,64})*;base64,", re.ASCII)


def read_picture(url: str, folder: Path | None) -> bytes:
    """A picture's file.

    Args:
        url: a data URL in base64, or a file URL.
        folder: that files may lie below; None: files are not read at all.

    Raises:
        Refused: another kind of address, no base64, a file that is not below the folder or cannot be read.
    """
    if url[:5].lower() == "data:":
        return _data(url)
    if url[:5].lower() == "file:":
        return _file(url, folder)
    raise _refused(f"{url[:60]!r}: this server fetches nothing; send the picture itself as a data URL (base64)")


def _data(url: str) -> bytes:
    head = DATA.match(url[:512])
    if head is None:
        raise _refused("a data URL begins with data:image/png;base64, or the like")
    try:
        return base64.b64decode(url[head.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise _refused(f"the data URL is not base64 ({error})") from None


def _file(url: str, folder: Path | None) -> bytes:
    if folder is None:
        raise _refused("this server reads no files; start it with --image-folder, or send a data URL")
    rest = url[5:]
    if rest.startswith("//"):
        host, slash, rest = rest[2:].partition("/")
        if host not in ("", "localhost"):
            raise _refused(f"{url[:60]!r}: a file of another machine")
        rest = slash + rest
    try:
        return read_bytes(image_inside(folder, unquote(rest, errors="strict"), "image_url"), MAX_FILE_BYTES)
    except (InputError, UnicodeDecodeError):  # whether other files exist is nobody's business
        raise _refused(f"{url[:60]!r}: no picture below the image folder") from None


def _refused(message: str) -> Refused:
    return Refused(400, f"image_url: {message}", parameter="messages", code="invalid_image_url")
