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
    if seen is None:
        seen = captures.append
    family = family_of(model)
    with ExitStack() as stack:

        def watch(module: nn.Module, name: str) -> None:
            handle = module.register_forward_hook(lambda _module, _inputs, output: seen(name, _tensor(output)))
            stack.callback(handle.remove)

        layers = layers_of(model)
        for layer in layers:
            if "hidden" in names:
                handle = layer.register_forward_pre_hook(lambda _module, inputs: seen("hidden", inputs[0]))
                stack.callback(handle.remove)
            if "outputs" in names:
                watch(module_at(layer, family.attention_output), "outputs")
            if "mha" in names:
                watch(module_at(layer, family.mha), "mha")
            attention = module_at(layer, family.attention)
            for name in ("scores", "values"):
                if name in names:
                    setattr(attention, f"on_{name}", partial(seen, name))
                    stack.callback(delattr, attention, f"on_{name}")
        if "hidden" in names:
            last = family.last_hidden
            watch(layers[-1] if last is None else module_at(model, last), "hidden")
        yield captures


def _tensor(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    return output[0] if isinstance(output, tuple) else output
