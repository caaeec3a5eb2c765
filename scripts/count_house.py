"""Counts of how the library is built, printed one a line: what a refactoring should make smaller.

    python scripts/count_house.py [FOLDER]

FOLDER is a package, default src/convspectra. A repeated name is one that several files, or classes, have; a
circle is a set of files that import each other, or of rooms; imports inside of functions count.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path


def main() -> None:
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1] / "src" / "convspectra")
    sources = {path: path.read_text(encoding="utf-8") for path in sorted(root.rglob("*.py"))}
    trees = {path: ast.parse(text) for path, text in sources.items()}
    files = Counter(path.name for path in sources if not path.name.startswith("__"))
    classes = Counter(
        node.name for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
    )
    arguments = [names_of(node) for tree in trees.values() for node in ast.walk(tree) if is_function(node)]
    show("repeated file names", repeated(files))
    show("repeated class names", repeated(classes))
    edges = imports(root, trees)
    show("circles of files", [" ".join(circle) for circle in circles(edges)])
    show("circles of rooms", [" ".join(circle) for circle in circles(by_room(edges))])
    print(f"signatures with `solver`: {sum('solver' in names for names in arguments)}")
    both = sum({"executor", "memory"} <= names for names in arguments)
    print(f"signatures with `executor` and `memory`: {both}")
    print(f"Python files: {len(sources)}")
    print(f"lines of Python: {sum(text.count(chr(10)) for text in sources.values())}")
    print(f"files over 400 lines: {sum(text.count(chr(10)) > 400 for text in sources.values())}")
    native = sorted([*(root / "_native").glob("*.h"), *(root / "_native").glob("*.cpp")])
    lengths = [
        (f"{path.name}:{line}", n) for path in native for line, n in functions(path.read_text("utf-8"))
    ]
    long = [where for where, n in lengths if n > 60]
    show("functions of C++ over 60 lines", long)


def functions(text: str) -> Iterator[tuple[int, int]]:
    """Where each function of a C++ source begins, and how many lines it takes: by its braces."""
    code = re.sub(r"""//[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])'""", "", text)
    code = re.sub(r"^#(?:.*\\\n)*.*", blank, code, flags=re.MULTILINE)
    opened: list[tuple[int, bool]] = []
    start = 0
    for found in re.finditer(r"[{};]", code):
        header = code[start : found.start()]
        if found[0] == "{":
            named = re.search(
                r"\b(namespace|class|struct)\b[^()]*$", re.sub(r"template\s*<[^()]*?>", "", header)
            )
            first = start + len(header) - len(header.lstrip())
            opened.append((first, "(" in header and not named))
        elif found[0] == "}":
            first, is_function = opened.pop()
            if is_function and not any(inside for _, inside in opened):
                line = code.count("\n", 0, first) + 1
                yield line, code.count("\n", 0, found.start()) + 2 - line
        start = found.end()


def blank(found: re.Match[str]) -> str:
    """As many lines of nothing."""
    return "\n" * found[0].count("\n")


def show(what: str, found: list[str]) -> None:
    print(f"{what}: {len(found)}{': ' if found else ''}{', '.join(found)}")


def repeated(names: Counter[str]) -> list[str]:
    return sorted(name for name, count in names.items() if count > 1)


def is_function(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def names_of(node: ast.AST) -> set[str]:
    """The arguments of a function."""
    given = node.args  # type: ignore[attr-defined]
    return {one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs)}


def imports(root: Path, trees: dict[Path, ast.Module]) -> dict[str, set[str]]:
    """Which files each file imports; what only type checkers see is no import."""
    names = {module_of(root, path): path for path in trees}
    return {name: set(imported(root, path, trees[path], set(names))) - {name} for name, path in names.items()}


def by_room(edges: dict[str, set[str]]) -> dict[str, set[str]]:
    """The same of the files and folders of the package itself."""
    rooms: dict[str, set[str]] = defaultdict(set)
    for name, targets in edges.items():
        if "." in name:
            room = name.split(".")[1]
            rooms[room] |= {one.split(".")[1] for one in targets if "." in one} - {room}
    return rooms


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """The strongly connected sets of more than one name."""
    order: list[str] = []
    seen: set[str] = set()
    for start in edges:
        visit(start, edges, seen, order)
    back: dict[str, set[str]] = defaultdict(set)
    for name, targets in edges.items():
        for target in targets:
            back[target].add(name)
    seen, found = set(), []
    for start in reversed(order):
        if start not in seen:
            visit(start, back, seen, together := [])
            found.append(sorted(together))
    return [one for one in found if len(one) > 1]


def visit(start: str, edges: dict[str, set[str]], seen: set[str], order: list[str]) -> None:
    """Depth first, without recursion; names in the order in which they are left."""
    if start in seen:
        return
    seen.add(start)
    path = [(start, iter(edges.get(start, ())))]
    while path:
        name, rest = path[-1]
        following = next((one for one in rest if one not in seen), None)
        if following is None:
            order.append(name)
            path.pop()
        else:
            seen.add(following)
            path.append((following, iter(edges.get(following, ()))))


def module_of(root: Path, path: Path) -> str:
    parts = path.relative_to(root.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(root: Path, path: Path, tree: ast.Module, known: set[str]) -> Iterator[str]:
    """The files that a file imports: of `from room import name` the file `name`, or else the room."""
    package = [*path.relative_to(root.parent).parts[:-1]]
    typed = {id(node) for block in ast.walk(tree) if is_typed(block) for node in ast.walk(block)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in typed:
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *(node.module.split(".") if node.module else [])])
            for alias in node.names:
                whole = f"{stem}.{alias.name}"
                yield from (one for one in (whole if whole in known else stem,) if one in known)


def is_typed(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


if __name__ == "__main__":
    main()
