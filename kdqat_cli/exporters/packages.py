"""Checks for packages that only an export needs."""

from importlib.util import find_spec

from kdqat_cli.errors import MissingInputError


def require_packages(format_name: str, packages: tuple[str, ...]) -> None:
    """Checks that a format's packages are installed.

    Args:
        format_name: the name of the format in the error.
        packages: names of packages for pip.

    Raises:
        MissingInputError: a package is missing; the error names it.
    """
    missing = [package for package in packages if find_spec(_MODULES.get(package, package.replace("-", "_"))) is None]
    if missing:
        raise MissingInputError(
            f"The format {format_name} needs {' and '.join(missing)}, which is not installed.",
            f"pip install {' '.join(missing)}",
        )


_MODULES = {"llama-cpp-python": "llama_cpp"}
