"""The figures of the house, measured on the code itself: `python -m scripts.house --measure [PATH ...]`.

What is counted, and how:

- A module is a Python file that is not empty; its lines are all lines. A function's lines are those of its
  body without the docstring.
- Parameters are counted with their defaults, without `self` and `cls`.
- Comment density is the number of lines with a comment per 100 lines with code.
- A binding is a name that a scope defines: a variable, a parameter, a field, a function, a class. Each counts
  once a scope.
- A vague name is a binding that consists of nothing but words of `VAGUE_WORDS`: a reader cannot know what it
  holds without reading its assignment.
- An arrow back up is an import from a room of the arrow into a later one; a cycle is a strongly connected set
  of modules.
"""

from __future__ import annotations

import ast
import io
import statistics
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

VAGUE_WORDS = frozenset(
    """
    all another any anything asked at been both chosen done each else everything former found given gone got
    have held here how it its kept known latter like looked made many mine more most much none noted nothing
    one ones other others own part parts piece pieces place places put rest said same seen several shown so
    some still such taken tell that them then there these thing things this those told tried two used wanted
    was way what when where which who whole whose with without
    """.split()  # noqa: SIM905  the list would be a column of 80 lines
)
LONGEST_COLUMN = 110
ARROW = ("network", "spool", "ledger", "study", "volumes", "results", "delivery")


@dataclass(frozen=True)
class HouseFigures:
    """Figures of a set of modules.

    Lengths are in lines, densities per 100 lines of code or per 1,000 bindings.
    """

    modules: int
    lines: int
    module_lines_median: float
    module_lines_p95: float
    function_lines_median: float
    function_lines_p95: float
    function_lines_longest: int
    parameters_p95: float
    comments_per_100: float
    vague_per_1000: float
    wide_lines: int
    arrows_back: int
    modules_in_cycles: int

    def table(self) -> list[str]:
        """Return the rows of a Markdown table."""
        rows = {
            "modules / lines": f"{self.modules} / {self.lines:,}",
            "module lines, median / p95": f"{self.module_lines_median:.0f} / {self.module_lines_p95:.0f}",
            "function lines, median / p95 / longest": (
                f"{self.function_lines_median:.0f} / {self.function_lines_p95:.0f} / "
                f"{self.function_lines_longest}"
            ),
            "parameters, p95": f"{self.parameters_p95:.0f}",
            "comment lines per 100 code lines": f"{self.comments_per_100:.1f}",
            "vague names per 1,000 bindings": f"{self.vague_per_1000:.1f}",
            f"lines over {LONGEST_COLUMN} columns": str(self.wide_lines),
            "imports against the arrow": str(self.arrows_back),
            "modules in import cycles": str(self.modules_in_cycles),
        }
        return ["| figure | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]


def measure(paths: Sequence[Path]) -> HouseFigures:
    """Measure the modules below `paths` (files or folders).

    Raises
    ------
    ValueError
        There is no module below the paths.
    """
    files = sorted({file for path in paths for file in ([path] if path.is_file() else path.rglob("*.py"))})
    sources = {file: text for file in files if (text := file.read_text(encoding="utf-8")).strip()}
    if not sources:
        raise ValueError("no Python module there: name folders or files of the project")
    trees = {file: ast.parse(text) for file, text in sources.items()}
    functions = [
        node
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    module_lines = [len(text.splitlines()) for text in sources.values()]
    function_lines = [_body_lines(function) for function in functions] or [0]
    counted = [_comment_and_code_lines(text) for text in sources.values()]
    bindings = [name for tree in trees.values() for _, name in _bindings(tree)]
    imports = {_module(file): _imports(tree) for file, tree in trees.items()}
    return HouseFigures(
        modules=len(sources),
        lines=sum(module_lines),
        module_lines_median=statistics.median(module_lines),
        module_lines_p95=_percentile(module_lines, 95),
        function_lines_median=statistics.median(function_lines),
        function_lines_p95=_percentile(function_lines, 95),
        function_lines_longest=max(function_lines),
        parameters_p95=_percentile([_parameters(function) for function in functions] or [0], 95),
        comments_per_100=100
        * sum(comments for comments, _ in counted)
        / max(sum(code for _, code in counted), 1),
        vague_per_1000=1000 * sum(map(is_vague, bindings)) / max(len(bindings), 1),
        wide_lines=len(wide_lines(files)),
        arrows_back=sum(
            _goes_back(module, target) for module, targets in imports.items() for target in targets
        ),
        modules_in_cycles=_in_cycles(imports),
    )


def wide_lines(paths: Sequence[Path]) -> list[tuple[Path, int]]:
    """Return (file, line) of each line below `paths` that is longer than `LONGEST_COLUMN`."""
    files = sorted({file for path in paths for file in ([path] if path.is_file() else path.rglob("*.py"))})
    return [
        (file, number)
        for file in files
        for number, line in enumerate(file.read_text(encoding="utf-8").split("\n"), 1)
        if len(line) > LONGEST_COLUMN
    ]


def vague_names(paths: Sequence[Path]) -> list[tuple[Path, int, str]]:
    """Return (file, line, name) of each vague binding below `paths`."""
    files = sorted({file for path in paths for file in ([path] if path.is_file() else path.rglob("*.py"))})
    return [
        (file, line, name)
        for file in files
        for line, name in _bindings(ast.parse(file.read_text(encoding="utf-8")))
        if is_vague(name)
    ]


def is_vague(name: str) -> bool:
    """Return whether a name says nothing about what it holds."""
    words = [word for word in name.lower().split("_") if word]
    return bool(words) and all(word in VAGUE_WORDS for word in words)


def _percentile(values: Sequence[float], percent: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def _body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    statements = function.body
    first = statements[0]
    if (
        isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    ):
        statements = statements[1:]
    return (statements[-1].end_lineno or 0) - statements[0].lineno + 1 if statements else 0


def _parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    arguments = function.args
    named = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len([name for name in named if name not in {"self", "cls"}])


def _comment_and_code_lines(text: str) -> tuple[int, int]:
    """Return how many lines hold a comment and how many hold code; blank lines and docstrings are neither."""
    comments, code = set[int](), set[int]()
    layout = {
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENCODING,
        tokenize.ENDMARKER,
    }
    starts_statement = True
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            comments.add(token.start[0])
        elif token.type in layout:
            starts_statement = starts_statement or token.type == tokenize.NEWLINE
        else:
            # A string that begins a statement is a docstring.
            if not (starts_statement and token.type == tokenize.STRING):
                code.update(range(token.start[0], token.end[0] + 1))
            starts_statement = False
    return len(comments), len(code)


def _bindings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield (line, name) of every binding, each name once a scope."""
    yield from _scope_bindings(tree.body, [])


def _scope_bindings(body: Sequence[ast.AST], parameters: Sequence[ast.arg]) -> Iterator[tuple[int, str]]:
    names = {
        parameter.arg: parameter.lineno for parameter in parameters if parameter.arg not in {"self", "cls"}
    }
    nested: list[tuple[Sequence[ast.AST], list[ast.arg]]] = []
    waiting = list(body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            names.setdefault(node.name, node.lineno)
            nested.append((node.body, _arguments(node.args)))
            continue
        if isinstance(node, ast.ClassDef):
            names.setdefault(node.name, node.lineno)
            nested.append((node.body, []))
            continue
        if isinstance(node, ast.Lambda):
            nested.append(([node.body], _arguments(node.args)))
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.setdefault(node.id, node.lineno)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.setdefault(node.attr, node.lineno)
        waiting.extend(ast.iter_child_nodes(node))
    yield from ((line, name) for name, line in sorted(names.items(), key=lambda pair: pair[1]))
    for statements, arguments in nested:
        yield from _scope_bindings(statements, arguments)


def _arguments(arguments: ast.arguments) -> list[ast.arg]:
    starred = [a for a in (arguments.vararg, arguments.kwarg) if a is not None]
    return [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *starred]


def _module(file: Path) -> str:
    parts = list(file.with_suffix("").parts)
    for top in ("dicomnode", "pipeline"):
        if top in parts:
            dotted = parts[len(parts) - 1 - parts[::-1].index(top) :]
            return ".".join(dotted).removesuffix(".__init__")
    return ".".join(parts)


def _imports(tree: ast.Module) -> set[str]:
    """Return the modules of ours that a module imports when it is loaded."""
    targets = set[str]()
    for node in tree.body:
        if isinstance(node, ast.Import):
            targets.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            targets.add(node.module)
            targets.update(f"{node.module}.{alias.name}" for alias in node.names)
    return {target for target in targets if target.split(".")[0] in {"dicomnode", "pipeline"}}


def _goes_back(module: str, target: str) -> bool:
    rooms = [
        name.split(".")[1] if name.count(".") and name.startswith("dicomnode.") else ""
        for name in (module, target)
    ]
    if not all(room in ARROW for room in rooms):
        return False
    # Receiving writes ahead of the arrow: spool and ledger are its two shelves.
    return (
        ARROW.index(rooms[0]) < ARROW.index(rooms[1])
        and set(rooms) != {"spool", "ledger"}
        and target.count(".") == 1
    )


def _in_cycles(imports: dict[str, set[str]]) -> int:
    """Return how many modules can reach themselves by imports."""
    graph = {
        module: {target for target in targets if target in imports and target != module}
        for module, targets in imports.items()
    }

    def reaches_itself(start: str) -> bool:
        reached, waiting = set[str](), [*graph[start]]
        while waiting:
            module = waiting.pop()
            if module == start:
                return True
            if module not in reached:
                reached.add(module)
                waiting.extend(graph[module])
        return False

    return sum(reaches_itself(module) for module in graph)
