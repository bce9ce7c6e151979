"""The measures by name; each module says what its own are.

`register` adds one: its name is then a value of `--measure`, its table a file of the result, and `kdqat figure` draws
it where the table has the columns `layer` and `value`.
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
        ValueError: the name is taken.
    """
    MEASURE_NAMES.add(name, None)
    MEASURES[name] = spec
