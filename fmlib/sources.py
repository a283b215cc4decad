"""Which of fmlib's files a notebook uses, found by reading the code: what has to be unchanged for a result to stand.

    used_sources("notebooks/02_pretrain_fusmae.ipynb")  # [Path(".../fmlib/__init__.py"), Path(".../fmlib/data/…"), …]

A package's `__init__.py` often only hands on what its files define. So it counts with what its own code uses, and of
what it hands on only the names asked for count: a notebook that calls `viz.mask_gallery` does not use `viz/places.py`.
"""

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

FMLIB = Path(__file__).parent


@dataclass
class Code:
    """What one piece of code asks of fmlib.

    Args:
        bound: names that its imports bind → what they stand for, e.g. ``{"viz": "fmlib.viz"}``.
        used: what it uses, as full names, e.g. ``{"fmlib.viz.mask_gallery", "fmlib.train"}``.
        files: files other than Python's that it names, e.g. a style sheet.
    """

    bound: dict[str, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    files: set[Path] = field(default_factory=set)


def used_sources(notebook: str | Path) -> list[Path]:
    """The files of fmlib that a notebook uses, directly or through others, sorted.

    Imports count wherever they stand, inside functions too, and so do modules that are named as text: processes are
    started by the name of a module (``"fmlib.train"``), readers are chosen by theirs (``f"fmlib.data.{name}"``: all of
    that package).

    Args:
        notebook: path of an .ipynb file; lines of IPython's own (``%…``, ``!…``) are passed over.

    Raises:
        ValueError: a code cell, or a file of fmlib, that is not Python.
    """
    cells = json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    start = _read(re.sub(r"(?m)^(\s*)[%!].*$", r"\1pass", text), Path(notebook), hands_on=False)
    files, names, todo = set(start.files), set(), list(start.used)
    while todo:
        if (name := todo.pop()) not in names:
            names.add(name)
            for path, more in _resolve(name):
                files |= {path} | code_of(path).files
                todo += more
    return sorted(files)


def code_of(path: Path) -> Code:
    """What a file of fmlib asks for; read once for each state of the file."""
    return _cached(path, path.stat().st_mtime_ns)


@cache
def _cached(path: Path, changed: int) -> Code:
    return _read(path.read_text(encoding="utf-8"), path, hands_on=path.name == "__init__.py")


def _resolve(name: str) -> Iterator[tuple[Path, list[str]]]:
    """The files that a full name leads to, each with the names to go on with."""
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        module = FMLIB.parent.joinpath(*parts[:count])
        if (path := module.with_suffix(".py")).is_file():
            yield path, [*code_of(path).used]
        elif (path := module / "__init__.py").is_file():
            code, rest = code_of(path), parts[count:]
            asked = [code.bound[rest[0]]] if rest and rest[0] in code.bound else []
            yield path, [*code.used, *(asked if rest else code.bound.values())]


# ---- reading one piece of code ----------------------------------------------------------------------------------


def _read(text: str, path: Path, hands_on: bool) -> Code:
    """Imports, the names they bind and how these are used; `hands_on`: a name that is only imported is not used."""
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise ValueError(f"{path}, line {error.lineno}: {error.msg}; mend it first") from None
    code, nodes = Code(), list(ast.walk(tree))
    for node in nodes:
        _note_import(node, path, code)
        _note_text(node, path, code)
    inner = {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}  # a.b inside a.b.c
    chains = {_dotted(node) for node in nodes if isinstance(node, ast.Attribute | ast.Name) and id(node) not in inner}
    roots = {chain.partition(".")[0] for chain in chains}
    chains |= set() if hands_on else code.bound.keys() - roots
    for root, dot, rest in (chain.partition(".") for chain in chains):
        if root in code.bound:
            code.used.add(code.bound[root] + dot + rest)
    return code


def _note_import(node: ast.AST, path: Path, code: Code) -> None:
    match node:
        case ast.Import(names=names):
            for name in (n for n in names if n.name.split(".")[0] == "fmlib"):
                code.bound[name.asname or "fmlib"] = name.name if name.asname else "fmlib"
                code.used.add(name.name) if "." in name.name else None
        case ast.ImportFrom(names=names):
            base = _absolute(node, path)
            for name in names if base.split(".")[0] == "fmlib" else ():
                star = name.name == "*"
                code.used |= {base} if star else set()
                code.bound |= {} if star else {name.asname or name.name: f"{base}.{name.name}"}


def _absolute(node: ast.ImportFrom, path: Path) -> str:
    """The full name of what ``from … import`` reads from; each dot is a folder upwards."""
    if not node.level:
        return node.module
    package = path.parents[node.level - 1].relative_to(FMLIB.parent).parts
    return ".".join([*package, *filter(None, [node.module])])


def _note_text(node: ast.AST, path: Path, code: Code) -> None:
    """Modules that are named as text, to be run or imported, and files of fmlib beside the code or at its top."""
    match node:
        case ast.Constant(value=str(text)) if re.fullmatch(r"fmlib(\.\w+)+", text):
            code.used |= {text, f"{text}.__main__"}
        case ast.Constant(value=str(text)) if re.fullmatch(r"[\w-]+\.\w+", text) and not text.endswith(".py"):
            code.files |= {folder / text for folder in (path.parent, FMLIB) if (folder / text).is_file()} - {path}
        case ast.JoinedStr(values=[ast.Constant(value=str(text)), *_]) if text.startswith("fmlib."):
            package = text.rpartition(".")[0]
            folder = FMLIB.parent.joinpath(*package.split("."))
            code.used |= {f"{package}.{file.stem}" for file in folder.glob("*.py") if file.stem != "__init__"}


def _dotted(node: ast.AST) -> str:
    """``a.b.c`` of an attribute of an attribute of a name; nothing for other expressions."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""
