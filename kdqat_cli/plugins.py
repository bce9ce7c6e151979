"""Loads plugins: Python files of the user that add a loss, a quantiser, a network or an export format.

params.yaml names them under `plugins`. A plugin calls `register` of the module that it adds to, for example
`kdqat_cli.distillation.losses.register`. It runs as part of kdqat, with all rights of the user.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from kdqat_cli.errors import ConfigError, KdqatError
from kdqat_cli.files import open_file

_loaded: dict[Path, ModuleType] = {}


def load_plugins(names: list[str], folder: Path, where: str) -> None:
    """Imports plugins, each only once.

    Args:
        names: paths of Python files.
        folder: the folder of relative paths.
        where: the name of the list in errors.

    Raises:
        ConfigError: a plugin fails.
        MissingInputError: there is no such file.
    """
    for name in names:
        path = (folder / name).resolve()
        if path not in _loaded:
            open_file(path).close()  # reports a path that is not a file
            _loaded[path] = _imported(path, f"{where}: the plugin {name}")


def _imported(path: Path, what: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"kdqat_plugin_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{what} is not a Python file.", f"{path.stem}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except KdqatError:
        raise
    except Exception as error:  # the program of a user may raise anything
        raise ConfigError(f"{what} fails: {type(error).__name__}: {error}.") from error
    return module
