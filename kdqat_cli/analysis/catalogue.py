"""The measures by name. The modules explain them.

`register` adds a measure. Its name is then a value of `--measure`, and its table is a file of the result. If the table
has the columns `layer` and `value`, `kdqat figure` can draw it.
"""

from kdqat_cli.analysis import answers, diagnosis, hessian, layers, weights
from kdqat_cli.analysis.measure import Spec
from kdqat_cli.names import MEASURES as MEASURE_NAMES

MEASURES: dict[str, Spec] = {
    **layers.SPECS,
    **weights.SPECS,
    **answers.SPECS,
    **hessian.SPECS,
    **diagnosis.SPECS,
}


def register(name: str, spec: Spec) -> None:
    """Adds a measure.

    Raises:
        ValueError: the name is already used.
    """
    MEASURE_NAMES.add(name, None)
    MEASURES[name] = spec
