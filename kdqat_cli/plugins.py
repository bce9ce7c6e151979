"""Python files of the user's that add something to kdqat: a loss, a quantiser, a network, an export format.

params.yaml names them under `plugins`. A plugin calls a `register` of the module that it adds to, for example
`kdqat_cli.distillation.losses.register`. It runs as part of kdqat, with all that the user may do.
"""

import importlib.util
import sys
from pathlib import Path
from typing import Any

from kdqat_cli.errors import ConfigError, KdqatError
from kdqat_cli.files import open_file

_loaded: dict[Path, Any] = {}


def load_plugins(names: list[str], folder: Path, where: str) -> None:
    """Imports plugins, each of them once.

    Args:
        names: paths of Python files.
        folder: what relative paths start from.
        where: what the errors call the list.

    Raises:
        ConfigError: a plugin fails.
        MissingInputError: there is no such file.
    """
    for name in names:
        path = (folder / name).resolve()
        if path not in _loaded:
            open_file(path).close()  # says what is wrong with a path that is no file
            _loaded[path] = _imported(path, f"{where}: the plugin {name}")


def _imported(path: Path, what: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"kdqat_plugin_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{what} is not a Python file.", f"{path.stem}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except KdqatError:
        raise
    except Exception as error:  # whatever a user's program may raise
        raise ConfigError(f"{what} fails: {type(error).__name__}: {error}.") from error
    return module
