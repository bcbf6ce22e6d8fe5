"""Names of models: which can be served, and how headers and logs write them."""

import unicodedata
from urllib.parse import quote

_UNWRITABLE = {"Cc", "Cs", "Zl", "Zp"}
"""Categories of characters that are control characters, half of a pair, or ends of lines."""

_PATH = "/:@!$&'()*+,;="
"""Characters that a path has as they are, beside letters, digits and -._~"""

RESERVED = {"stats"}
"""As /v2/models/stats is the statistics of all models."""

ACTION = ":reload"
"""Which a path ends with that names an action on a model."""


def check_name(name: str) -> str | None:
    """Why no model can be served by a name, if none can."""
    if any(map(_is_byte, name)):
        return "is not UTF-8"
    if not name or any(unicodedata.category(character) in _UNWRITABLE for character in name):
        return "is empty or holds control characters"
    if name.endswith(ACTION):
        return f"ends with {ACTION}, which in a path asks for an action"
    if name in RESERVED:
        return "has another meaning in paths"
    return None


def escape(text: str) -> str:
    """A text with what cannot be written, or is no part of a line, as in Python's literals."""
    escaped = []
    for character in text:
        if _is_byte(character):
            character = f"\\x{ord(character) - 0xDC00:02x}"
        elif unicodedata.category(character) in _UNWRITABLE:
            character = character.encode("unicode_escape").decode()
        escaped.append(character)
    return "".join(escaped)


def write_disposition(filename: str) -> str:
    """The Content-Disposition of a download (RFC 6266): a name for all clients and, where that is another, the real one
    for those that know RFC 8187."""
    filename = filename.replace("\\", "_")  # which separates folders on Windows
    plain = "".join(character if " " <= character <= "~" and character not in '"%' else "_" for character in filename)
    disposition = f'attachment; filename="{plain}"'
    return disposition if plain == filename else f"{disposition}; filename*=UTF-8''{quote(filename, safe='')}"


def write_location(path: str, query: str) -> str:
    """A path and a query as a header has them (RFC 3986)."""
    return f"{quote(path, _PATH)}?{query}"


def _is_byte(character: str) -> bool:
    """Whether a character is a byte of a path that is not UTF-8, as Python has them."""
    return "\udc80" <= character <= "\udcff"
