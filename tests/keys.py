"""Files of API keys."""

from pathlib import Path

from service.operation.access import KeyScope, create_key


def write_keys(path: Path, **scopes: list[KeyScope]) -> dict[str, str]:
    """Writes a file of keys with some scopes each; returns the keys by name."""
    made = {name: create_key(name, listed) for name, listed in scopes.items()}
    path.write_text("\n".join(entry for _, entry in made.values()))
    return {name: key for name, (key, _) in made.items()}
