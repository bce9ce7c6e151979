"""The list of formats, and the message about a missing package."""

import subprocess
import sys

import pytest

from kdqat_cli.errors import MissingInputError
from kdqat_cli.exporters.catalogue import FORMATS
from kdqat_cli.exporters.packages import require_packages
from kdqat_cli.names import FORMATS as FORMAT_NAMES


def test_every_name_has_a_format() -> None:
    assert list(FORMAT_NAMES) == ["packed", *FORMATS]


def test_names_need_no_torch() -> None:
    program = "import sys, kdqat_cli.exporters; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_missing_package_is_named_with_its_command() -> None:
    with pytest.raises(MissingInputError) as caught:
        require_packages("gguf", ("numpy", "no-such-package", "nor-this-one"))
    assert caught.value.sentence == "The format gguf needs no-such-package and nor-this-one, which is not installed."
    assert caught.value.fix == "pip install no-such-package nor-this-one"
    assert caught.value.exit_code == 3


def test_an_installed_package_is_found_by_the_name_of_its_module() -> None:
    require_packages("dense", ("huggingface-hub", "torch"))
