"""Finds the files of kdqat that the result of a command depends on, which a stage of dvc.yaml must name under `deps`.

The files are found by reading modules, without running them. The search starts at the module of the command (`kdqat
distill` is stages/distill.py) and follows every import of a module of kdqat, also inside functions. Files that a module
reads at run time are added (`_READS`). Left out are

- the modules that print and parse options (`_SILENT`), so that a changed help text retrains nothing;
- `__init__.py` files with only a docstring, and that of the package, which has the version;
- the recipes, because dvc.yaml names them under `params`, section by section.

`fetch` depends only on its own module, because downloads are checked by sha256.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from kdqat_cli.errors import ConfigError

PACKAGE = Path("kdqat_cli")
_SILENT = ("__init__.py", "__main__.py", "cli.py", "commands", "errors.py", "output.py")
_READS = {
    "exporters/stock.py": "exporters/stock_logits.py",  # run as a program
    "native/library.py": "native/src",  # the sources of the compiled library
    "analysis/published.py": "published",
    "analysis/report_page.py": "analysis/page",
    "tasks/registry.py": "tasks",
}
_BUILT_INTO = ("native",)  # the compiled library is there, which differs between machines
_CHECKED_BY_HASH = ("fetch",)
_COMMAND = re.compile(r"(?:^|[\s;&|(])kdqat\s+([a-z][a-z-]*)")


class Modules:
    """The files of one kdqat_cli folder, and the imports of each."""

    def __init__(self, package: Path = PACKAGE) -> None:
        """Reads every module of the package.

        Args:
            package: the folder kdqat_cli.

        Raises:
            ConfigError: a module is not valid Python.
        """
        self.package = package
        trees = {path: _tree(path) for path in sorted(package.rglob("*.py"))}
        self._imports = {
            path: {file for name in _imported(tree) for file in self._files(name)}
            for path, tree in trees.items()
            if not self._silent(path, tree)
        }

    def needed(self, commands: Iterable[str]) -> list[str]:
        """The files that a stage with these shell commands depends on; a folder stands for everything in it.

        Args:
            commands: the `cmd` of the stage.
        """
        files: set[Path] = set()
        for name in {name for command in commands for name in _COMMAND.findall(command)}:
            entry = self.package / "stages" / f"{name.replace('-', '_')}.py"
            if entry in self._imports:
                files |= {entry} if name in _CHECKED_BY_HASH else self._closure(entry)
        paths = self._folded(self.package, files)
        return [(PACKAGE / path.relative_to(self.package)).as_posix() for path in paths]

    def _closure(self, entry: Path) -> set[Path]:
        found: set[Path] = set()
        waiting = [entry]
        while waiting:
            path = waiting.pop()
            if path in found or path not in self._imports:
                continue
            found.add(path)
            waiting += self._imports[path]
            if name := _READS.get(path.relative_to(self.package).as_posix()):
                read = self.package / name
                files = {file for file in read.iterdir() if file.is_file()} if read.is_dir() else {read}
                waiting += [file for file in files if file in self._imports]
                found |= {file for file in files if file.suffix != ".py"}
        return found

    def _files(self, name: str) -> Iterator[Path]:
        """The files that an import of `name` runs: the module and the packages around it."""
        top, *parts = name.split(".")
        if top == PACKAGE.name:
            for depth in range(1, len(parts) + 1):
                within = self.package.joinpath(*parts[:depth])
                yield from (file for file in (within.with_suffix(".py"), within / "__init__.py") if file.is_file())

    def _silent(self, path: Path, tree: ast.Module) -> bool:
        if path.relative_to(self.package).parts[0] in _SILENT:
            return True
        return path.name == "__init__.py" and all(isinstance(node, ast.Expr) for node in tree.body)

    def _folded(self, folder: Path, files: set[Path]) -> list[Path]:
        """The files, with a folder in place of all its modules."""
        children = sorted(folder.iterdir())
        below = [self._folded(child, files) if child.is_dir() else [child] * (child in files) for child in children]
        parts = [path for paths in below for path in paths]
        modules = {path for path in self._imports if path.is_relative_to(folder)}
        if parts and modules <= files and folder.relative_to(self.package).as_posix() not in _BUILT_INTO:
            return [folder]
        return parts


def _tree(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes(), str(path))
    except SyntaxError as error:
        raise ConfigError(f"{path} is not valid Python: {error.msg}, line {error.lineno}.") from error


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
