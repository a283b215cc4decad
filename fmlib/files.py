"""Files that appear whole or not at all: written beside their name, then renamed."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_beside(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write(temporary path)` write a file, then rename it: nothing half-written ever has the final name."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(beside)
        with open(beside, "rb") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text as it stands, in UTF-8, by `write_beside`."""
    write_beside(path, lambda beside: beside.write_text(text, encoding="utf-8", newline=""))


def write_json(path: Path, data: Any, indent: int | None = 2) -> None:
    """Write what JSON can hold, by `write_beside`."""
    write_text(path, json.dumps(data, indent=indent, ensure_ascii=False) + "\n")
