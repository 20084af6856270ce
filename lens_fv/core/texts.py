"""Reading of text files written by users; errors name the offending line."""

import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lens_fv.core.json_files import parse_json
from lens_fv.errors import LensFVError


def nfc(text: str) -> str:
    """Canonical composition (NFC) of a text, used in comparisons: "é" is one text however it is encoded."""
    return unicodedata.normalize("NFC", text)


def nfd(text: str) -> str:
    """Canonical decomposition (NFD) of a text: letters and their marks as separate characters."""
    return unicodedata.normalize("NFD", text)


def read_text(path: Path, expected: str) -> str:
    """Read a UTF-8 file, with or without a byte-order mark.

    Args:
        path: Path of the file.
        expected: Expected content, for the message.

    Raises:
        LensFVError: the file is missing, unreadable, not UTF-8, or empty.
    """
    if not path.is_file():
        raise LensFVError(f"{path}: {'a folder' if path.is_dir() else 'no such file'}; give {expected}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise LensFVError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise LensFVError(f"{path}, line {line}: not UTF-8 text; save the file as UTF-8") from None
    if not text.strip():
        raise LensFVError(f"{path}: the file is empty; give {expected}")
    return text


def json_lines(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the location (file and line) and the value of each non-empty line.

    Raises:
        LensFVError: a line is not JSON.
    """
    # Not splitlines(), which also splits at characters that JSON allows inside a string, such as U+2028.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            context = f"{path}, line {number}"
            yield context, parse_json(line, context, remedy="JSON lines hold one value a line")
