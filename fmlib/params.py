"""Flat, typed parameters: one rule for notebooks, the training loop and the command line.

A parameter is a bool, int, float, str, None or a flat list of these. Its type is the one declared beside its default
(`lr: float = 1e-3`), or, where nothing is declared, the type of the default.
"""

import ast
import difflib
import io
import json
import math
import sys
import tokenize
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

SCALARS = {"bool": bool, "int": int, "float": float, "str": str, "None": type(None)}
ANY = "bool | int | float | str | None | list"


def check_params(
    given: dict[str, Any], defaults: dict[str, Any], where: str, types: dict[str, str] | None = None
) -> dict[str, Any]:
    """Lay the given values over the defaults; an unknown name or a wrong type is an error.

    Args:
        given: values by name; an int given for a float becomes a float.
        defaults: every known name with its default.
        where: what the parameters belong to, for the error message.
        types: declared types by name, as text ("float | None", "list[int]"); default: the type of each default.

    Returns:
        Every parameter, in the order of the defaults.

    Raises:
        ValueError: an unknown name, a value of the wrong type, a NaN or an infinity.
    """
    for name in given:
        if name not in defaults:
            raise ValueError(f"{where} has no parameter {name!r}{_suggest(name, defaults)}")
    types = {name: type_of(value) for name, value in defaults.items()} | (types or {})
    checked = {name: _check(value, types[name], f"{where}: parameter {name!r}") for name, value in given.items()}
    return defaults | checked


def declared_types(parameters: type) -> dict[str, str]:
    """Declared types of a dataclass's fields by name, as text; an empty list would otherwise be a list of anything."""
    return {f.name: f.type.__name__ if type(f.type) is type else str(f.type) for f in fields(parameters)}


def run_each(
    run: Callable[[dict[str, Any]], object],
    words: list[str] | None,
    defaults: dict[str, Any],
    types: dict[str, str] | None = None,
) -> None:
    """Do what a command line asks for: a run for each JSON file, without files one; ``--name=value`` holds for all.

    Args:
        run: takes the values given for one run.
        words: of the command line; None: this process's own.
        defaults, types: as for `parse_setting`.

    Raises:
        Exception: what `run` raises, with a note that names the run's folder; later runs are not begun.
    """
    words = sys.argv[1:] if words is None else words
    named = dict(parse_setting(word[2:], defaults, types) for word in words if word.startswith("--"))
    files = [json.loads(Path(word).read_text()) for word in words if not word.startswith("--")]
    for given in files or [{}]:
        asked = given | named
        try:
            run(asked)
        except Exception as error:
            error.add_note(f"run folder: {asked.get('out', defaults['out'])}")
            raise


def parse_setting(text: str, defaults: dict[str, Any], types: dict[str, str] | None = None) -> tuple[str, Any]:
    """Read `name=value` from a command line; the value gets the type of its default.

    Args:
        text: for instance "lr=1e-4", "amp=true", "bands=['B04', 'B08']"; text of a str parameter needs no quotes.
        defaults: every known name with its default.
        types: declared types by name; default: the type of each default.

    Returns:
        Name and value.

    Raises:
        ValueError: no "=", an unknown name, or a value of another type.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"a setting reads name=value, got {text!r}")
    if name not in defaults:
        raise ValueError(f"no parameter {name!r}{_suggest(name, defaults)}")
    declared = (types or {}).get(name) or type_of(defaults[name])
    return name, _check(_read(value, declared), declared, f"parameter {name!r}")


def type_of(default: Any) -> str:
    """The declared type that a default implies: "float", "list[int]", anything for None."""
    if default is None:
        return ANY
    if isinstance(default, list):
        return f"list[{' | '.join(dict.fromkeys(map(type_of, default)))}]" if default else "list"
    return type(default).__name__


def _suggest(name: str, known) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(known) or 'none'}"


def _read(text: str, declared: str) -> Any:
    """Text to a value: words for bools, text as it is where text is allowed, else a Python literal."""
    kinds = [name for name, _ in _alternatives(declared)]
    words = {"true": True, "false": False} if "bool" in kinds else {}
    words |= {"none": None, "null": None} if "None" in kinds else {}
    if text.lower() in words:
        return words[text.lower()]
    if kinds == ["str"]:
        return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text  # right where a str is allowed, and refused by the type check where not


def _check(value: Any, declared: str, what: str) -> Any:
    for name, elements in _alternatives(declared):
        if name == "list" and isinstance(value, list):
            return [_check(item, elements, f"{what}, element {i}") for i, item in enumerate(value)]
        if name in SCALARS and type(value) is SCALARS[name]:
            return _finite(value, what)
    if type(value) is int and "float" in dict(_alternatives(declared)):
        return float(value)
    raise ValueError(f"{what} must be {declared}, got {value!r} ({type(value).__name__})")


def _finite(value: Any, what: str) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{what} must be a finite number, got {value}")
    return value


def _alternatives(declared: str) -> list[tuple[str, str]]:
    """Take a declared type apart: "list[int] | None" → [("list", "int"), ("None", "")]."""
    return _take_apart(ast.parse(declared.strip(), mode="eval").body, declared)


def _take_apart(node: ast.expr, declared: str) -> list[tuple[str, str]]:
    match node:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _take_apart(left, declared) + _take_apart(right, declared)
        case ast.Constant(value=None):
            return [("None", "")]
        case ast.Name(id="list"):
            return [("list", "bool | int | float | str | None")]
        case ast.Name(id=name) if name in SCALARS:
            return [(name, "")]
        case ast.Subscript(value=ast.Name(id="list"), slice=elements):
            return [("list", ast.unparse(elements))]
    raise ValueError(f"a parameter is bool, int, float, str, None or a list of these, not {declared!r}")


# ---- the parameters cell of a notebook --------------------------------------------------------------------------


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell: `name: type = default  # help`."""

    name: str
    type: str
    default: Any
    help: str


def read_parameters(notebook: str | Path) -> list[Parameter]:
    """Read the cell tagged `parameters` without running it.

    Args:
        notebook: path of an .ipynb file.

    Returns:
        The parameters in the order of the cell.

    Raises:
        ValueError: not exactly one such cell, or a line that is not `name: type = literal`.
    """
    cells = json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"]
    tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    if len(tagged) != 1:
        raise ValueError(f"{notebook}: expected one cell tagged 'parameters', found {len(tagged)}")
    source = "".join(tagged[0]["source"])
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise ValueError(f"{notebook}: parameters cell, line {error.lineno}: {error.msg}") from None
    comments = _comments(source)
    return [_parameter(line, comments, f"{notebook}: parameters cell, line {line.lineno}") for line in tree.body]


def notebook_params(notebook: str | Path) -> dict[str, Any]:
    """The parameters of a notebook with their defaults."""
    return {p.name: p.default for p in read_parameters(notebook)}


def _comments(source: str) -> dict[int, str]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}


def _parameter(line: ast.stmt, comments: dict[int, str], where: str) -> Parameter:
    text = ast.unparse(line)
    if not (isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value):
        raise ValueError(f"{where}: expected 'name: type = literal', got {text!r}")
    try:
        default = ast.literal_eval(line.value)
    except ValueError:
        raise ValueError(f"{where}: {text!r} is not a plain literal; derive values in the next cell") from None
    name, declared = line.target.id, ast.unparse(line.annotation)
    default = check_params({name: default}, {name: default}, where, {name: declared})[name]
    return Parameter(name, declared, default, comments.get(line.end_lineno, ""))


def profile_params(notebook: str | Path, profile: str) -> tuple[dict[str, Any], float]:
    """What a profile says of a notebook.

    Args:
        notebook: path of the notebook; the profiles lie beside it, in `profiles/NAME.toml`.
        profile: name of the profile.

    Returns:
        The notebook's parameters, and its time limit in minutes.

    Raises:
        FileNotFoundError: no such profile.
    """
    notebook = Path(notebook)
    folder = notebook.resolve().parent / "profiles"
    if not (folder / f"{profile}.toml").is_file():
        known = ", ".join(sorted(path.stem for path in folder.glob("*.toml"))) or "none"
        raise FileNotFoundError(f"no profile {profile!r} in {folder}; there is {known}")
    table = tomllib.loads((folder / f"{profile}.toml").read_text(encoding="utf-8"))
    return table.get(notebook.stem, {}), table["run"]["timeout"]
