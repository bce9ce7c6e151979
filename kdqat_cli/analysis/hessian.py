"""The largest eigenvalues of the Hessian of the loss on the labels, per batch (Kim et al., EMNLP 2022, Fig. 3b).

    H v = ∂/∂w (∂L/∂w · v), w all parameters, L the mean loss of one batch of dev rows

ARPACK's Lanczos iteration (scipy) only needs products H v. The table has the five largest eigenvalues of each of six
batches of eight rows; the figure shows their density over all batches.

A quantised model is measured as the plain network with its quantised weights. The rounding of activations is left out,
because its second derivative is not defined. The eigenvalues show how sharp the loss is around these weights.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor
from torch.nn.utils import parameters_to_vector
from transformers import PreTrainedModel

from kdqat_cli.analysis.measure import Pair, Seen, Spec
from kdqat_cli.analysis.plain import plain_copy
from kdqat_cli.analysis.result import Row
from kdqat_cli.distillation.objective import gold_loss, model_inputs

TOP = 5
BATCHES = 6
ROWS = 8
_TOLERANCE = 5e-2  # relative tolerance of an eigenvalue; the largest ones are far more exact
_VECTORS = 12  # vectors of the Lanczos basis; each is as large as the model


def top_eigenvalues(model: PreTrainedModel, batch: dict[str, Tensor], count: int, seed: int) -> list[float]:
    """The largest eigenvalues of the Hessian of one batch's loss, in falling order.

    Args:
        model: a plain network in eval mode.
        batch: a batch of `Rows.collate` (tasks/kind.py).
        count: number of eigenvalues; a model with few parameters has fewer.
        seed: seed of the first vector.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    loss = gold_loss(model(**model_inputs(batch)).logits, batch["labels"])
    gradients = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
    used = [(p, g) for p, g in zip(parameters, gradients, strict=True) if g is not None]
    parameters = [parameter for parameter, _ in used]
    gradient = torch.cat([g.flatten() for _, g in used])

    def product(vector: NDArray[np.float32]) -> NDArray[np.float32]:
        along = torch.from_numpy(np.ascontiguousarray(vector, dtype=np.float32).reshape(-1)).to(gradient.device)
        parts = torch.autograd.grad(gradient @ along, parameters, retain_graph=True, materialize_grads=True)
        found: NDArray[np.float32] = parameters_to_vector([part.contiguous() for part in parts]).cpu().numpy()
        return found

    size = gradient.numel()
    operator = LinearOperator((size, size), matvec=product, dtype=np.float32)
    start = np.random.default_rng(seed).standard_normal(size).astype(np.float32)
    wanted = min(count, size - 1)
    values = eigsh(
        operator,
        wanted,
        which="LA",
        v0=start,
        ncv=min(size, max(_VECTORS, 2 * wanted)),
        tol=_TOLERANCE,
        return_eigenvectors=False,
    )
    return sorted(map(float, values), reverse=True)


class _Hessian:
    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._batches: list[dict[str, Tensor]] = []

    def add(self, seen: Seen) -> None:
        if len(self._batches) < BATCHES:
            self._batches.append({name: values[:ROWS] for name, values in seen.batch.items()})

    def table(self) -> list[Row]:
        model = plain_copy(self._pair.model)
        rows: list[Row] = []
        for number, batch in enumerate(self._batches):
            for rank, value in enumerate(top_eigenvalues(model, batch, TOP, self._pair.seed)):
                rows.append({"batch": number, "rank": rank + 1, "value": value})
        return rows


SPECS = {
    "hessian": Spec("largest eigenvalues of the Hessian of the loss, per batch", frozenset(), _Hessian, costly=True)
}
