"""Captures of a forward pass: hidden states, attention scores, values, MHA and attention outputs, to be compared."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor, nn
from transformers import PreTrainedModel

from kdqat_cli.networks.modules import family_of, layers_of, module_at


@dataclass
class Captures:
    """Tensors of one forward pass, from the first layer to the last.

    Attributes:
        hidden: N+1 hidden states (B, L, D): the inputs of the layers, and the output of the last layer.
        scores: N attention scores (B, H, L, L): QKᵀ/√d_h plus any position bias, before mask and softmax.
        outputs: N attention outputs (B, L, D): Y = LayerNorm(X + MHA(X)); see family.py for a pre-norm family.
        mha: N outputs of multi-head attention (B, L, D): MHA(X), before dropout, residual and LayerNorm.
        values: N values V of the attention (B, H, L, D/H), before they are rounded.
    """

    hidden: list[Tensor] = field(default_factory=list)
    scores: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    mha: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)

    def append(self, name: str, tensor: Tensor) -> None:
        """Adds the next tensor of a field."""
        getattr(self, name).append(tensor)


@contextmanager
def capture(
    model: PreTrainedModel, names: frozenset[str], seen: Callable[[str, Tensor], None] | None = None
) -> Iterator[Captures]:
    """Records the named captures of the forward passes made inside.

    Args:
        model: a classifier that runs kdqat's attention function.
        names: fields of `Captures`.
        seen: called with the name of the field and the tensor, as each tensor is computed; nothing is recorded then.
            None: all tensors are recorded.
    """
    captures = Captures()
    if not names:
        yield captures
        return
    with ExitStack() as stack:
        for remove in _watch(model, names, captures.append if seen is None else seen):
            stack.callback(remove)
        yield captures


def _watch(
    model: PreTrainedModel, names: frozenset[str], seen: Callable[[str, Tensor], None]
) -> Iterator[Callable[[], object]]:
    """Registers a hook for each named tensor of each layer, and yields the functions that remove these hooks."""
    family = family_of(model)

    def watch(module: nn.Module, name: str) -> Callable[[], object]:
        return module.register_forward_hook(lambda _module, _inputs, output: seen(name, _tensor(output))).remove

    layers = layers_of(model)
    for layer in layers:
        if "hidden" in names:
            yield layer.register_forward_pre_hook(lambda _module, inputs: seen("hidden", inputs[0])).remove
        if "outputs" in names:
            yield watch(module_at(layer, family.attention_output), "outputs")
        if "mha" in names:
            yield watch(module_at(layer, family.mha), "mha")
        attention = module_at(layer, family.attention)
        for name in ("scores", "values"):
            if name in names:
                setattr(attention, f"on_{name}", partial(seen, name))
                yield partial(delattr, attention, f"on_{name}")
    if "hidden" in names:
        last = family.last_hidden
        yield watch(layers[-1] if last is None else module_at(model, last), "hidden")


def _tensor(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    return output[0] if isinstance(output, tuple) else output
