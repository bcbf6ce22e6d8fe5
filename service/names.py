"""Names of models: which are allowed, and how paths, headers and logs write them."""

import unicodedata
from urllib.parse import quote

from starlette.types import Scope

_UNWRITABLE = {"Cc", "Cs", "Zl", "Zp"}
"""Unicode categories of control characters, surrogates, and line separators."""

_PATH = "/:@!$&'()*+,;="
"""Characters that need no escape in a path, beside letters, digits and -._~"""

RESERVED_NAMES = {"stats"}
"""Names that paths use otherwise: /v2/models/stats has the statistics of all models."""

ACTIONS = (":reload", ":promote", ":rollback")
"""Ends of paths that name an action on a model."""


def check_name(name: str) -> str | None:
    """The reason why a model cannot have a name, if so. It completes a sentence that begins with "its name"."""
    if any(map(_is_byte, name)):
        return "is not UTF-8"
    if not name or any(unicodedata.category(character) in _UNWRITABLE for character in name):
        return "is empty or contains control characters"
    if name.endswith(ACTIONS):
        return f"ends with :{name.rpartition(':')[2]}, which names an action in paths"
    if name in RESERVED_NAMES:
        return "has another meaning in paths"
    return None


def escape(text: str) -> str:
    """Escapes characters that cannot be written on a line, as Python's literals do."""
    escaped = []
    for character in text:
        if _is_byte(character):
            character = f"\\x{ord(character) - 0xDC00:02x}"
        elif unicodedata.category(character) in _UNWRITABLE:
            character = character.encode("unicode_escape").decode()
        escaped.append(character)
    return "".join(escaped)


def write_disposition(filename: str) -> str:
    """The Content-Disposition of a download (RFC 6266): a name for all clients and, if the real name differs, that name
    for clients that know RFC 8187."""
    filename = filename.replace("\\", "_")  # backslashes separate folders on Windows
    plain = "".join(character if " " <= character <= "~" and character not in '"%' else "_" for character in filename)
    disposition = f'attachment; filename="{plain}"'
    return disposition if plain == filename else f"{disposition}; filename*=UTF-8''{quote(filename, safe='')}"


def find_path(scope: Scope) -> str:
    """A request's path below the one that the service is served at."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("app_root_path", scope["root_path"]))


def write_location(path: str, query: str) -> str:
    """A path and a query, escaped for a header (RFC 3986)."""
    return f"{quote(path, _PATH)}?{query}"


def _is_byte(character: str) -> bool:
    """Whether a character is Python's escape for a byte of a path that is not UTF-8."""
    return "\udc80" <= character <= "\udcff"
