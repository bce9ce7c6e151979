"""Packages that only an export needs."""

from importlib.util import find_spec

from kdqat_cli.errors import MissingInputError


def require_packages(format_name: str, packages: tuple[str, ...]) -> None:
    """Checks that a format's packages are installed.

    Args:
        format_name: what the error calls the format.
        packages: names as pip knows them; the module's name is the same with underscores.

    Raises:
        MissingInputError: with the names of those missing.
    """
    missing = [package for package in packages if find_spec(_MODULES.get(package, package.replace("-", "_"))) is None]
    if missing:
        raise MissingInputError(
            f"The format {format_name} needs {' and '.join(missing)}, not installed here.",
            f"pip install {' '.join(missing)}",
        )


_MODULES = {"llama-cpp-python": "llama_cpp"}
