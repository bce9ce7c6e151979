"""A simple implementation of the distillation step, from the formulas of the paper: the baseline of training.py.

Every matrix is ternarised and every input is rounded where it is used, in plain torch, with x + (x̂ - x).detach() for
the straight-through gradient. Scores, hidden states and outputs of both models are stored, and compared at the end.
"""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, BertConfig, BertForSequenceClassification
from transformers.masking_utils import eager_mask

CLIP = 2.5
NAME = "straightforward"


def rounded(x: Tensor) -> Tensor:
    """Rounds to 8 bits, with one scale per token."""
    x = x.clamp(-CLIP, CLIP)
    scale = x.abs().amax(-1, keepdim=True).clamp(min=1e-8) / 127
    return x + ((x / scale).round() * scale - x).detach()


def ternary(weight: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Ternary values -α, 0, +α of a matrix, or of each row."""
    weight = weight.clamp(-CLIP, CLIP)
    size = weight.abs()
    kept = (size > 0.7 * size.mean(dims, keepdim=True)).to(weight.dtype)
    alpha = (size * kept).sum(dims, keepdim=True) / kept.sum(dims, keepdim=True).clamp(min=1)
    return weight + (alpha * weight.sign() * kept - weight).detach()


class Linear(nn.Linear):
    """A linear layer of the student."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., I) → (..., O)."""
        return F.linear(rounded(input), ternary(self.weight, (0, 1)), self.bias)


class Embedding(nn.Embedding):
    """The student's word embedding."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, L) → (B, L, D)."""
        return F.embedding(input, ternary(self.weight, (1,)), self.padding_idx)


def attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, dropout: float = 0, **_: Any
) -> tuple[Tensor, None]:
    """Attention that stores its scores in the module; a student's also rounds its inputs."""
    quantize: Callable[[Tensor], Tensor] = rounded if module.is_student else nn.Identity()
    scores = quantize(query) @ quantize(key).mT * query.size(-1) ** -0.5
    module.scores = scores if attention_mask is None else scores + attention_mask
    probabilities = F.dropout(module.scores.softmax(-1), dropout, module.training)
    return (quantize(probabilities) @ quantize(value)).transpose(1, 2).contiguous(), None


def models(sizes: dict[str, int], device: str) -> tuple[Any, Any]:
    """Teacher and student."""
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, eager_mask)
    with torch.device(device):
        teacher = BertForSequenceClassification(BertConfig(**sizes)).eval()
    student = deepcopy(teacher).train()
    for module in student.base_model.modules():
        if isinstance(module, nn.Linear):
            module.__class__ = Linear
    student.base_model.embeddings.word_embeddings.__class__ = Embedding
    for model in (teacher, student):
        model.set_attn_implementation(NAME)
        for layer in model.base_model.encoder.layer:
            layer.attention.self.is_student = model is student
            layer.attention.register_forward_hook(lambda module, _, out: setattr(module, "out", out[0]))
    return teacher, student


def step_of(sizes: dict[str, int], device: str) -> Callable[[dict[str, Tensor]], None]:
    """A training step with the losses map + output, hidden states and logits, and AdamW."""
    teacher, student = models(sizes, device)
    optimizer = torch.optim.AdamW(student.parameters())

    def step(batch: dict[str, Tensor]) -> None:
        with torch.no_grad():
            taught = teacher(**batch, output_hidden_states=True)
        own = student(**batch, output_hidden_states=True)
        loss: Any = F.cross_entropy(own.logits, taught.logits.softmax(-1))
        real = batch["attention_mask"][:, None, :, None]
        for s, t in zip(student.base_model.encoder.layer, teacher.base_model.encoder.layer, strict=True):
            logs = [layer.attention.self.scores.log_softmax(-1) for layer in (s, t)]
            loss = loss + (F.kl_div(logs[0], logs[1], reduction="none", log_target=True) * real).sum(-1).mean()
            loss = loss + F.mse_loss(s.attention.out, t.attention.out)
        for s, t in zip(own.hidden_states, taught.hidden_states, strict=True):
            loss = loss + F.mse_loss(s, t)
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step
