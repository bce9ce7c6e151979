"""The distillation losses of logits, as pure functions of tensors; losses.py has those of layers."""

import torch
import torch.nn.functional as F
from torch import Tensor


def logits_loss(student: Tensor, teacher: Tensor, temperature: float = 1.0, mask: Tensor | None = None) -> Tensor:
    """Soft cross entropy −T² · Σ_c softmax(t/T)_c · log softmax(s/T)_c, mean over the batch; one column: squared error.

    For logits per token (B, L, C) it is the mean over the real tokens of the batch. The public code of Polino et al.
    instead divides the sum over all tokens, padding included, by the number of sentences.

    The factor T² keeps the size of the gradient (Hinton et al., 2015). The loss differs from the loss of Polino et al.,
    T² · KL(teacher ‖ student), only by the teacher's entropy, which has no gradient.

    Args:
        student: logits (B, C) or (B, L, C).
        teacher: logits of the same shape.
        temperature: T.
        mask: (B, L), true at real tokens; used for logits per token.
    """
    if student.dim() == 3 and mask is not None:
        student, teacher = student[mask.bool()], teacher[mask.bool()]
    if student.size(-1) == 1:
        return F.mse_loss(student, teacher)
    return temperature**2 * F.cross_entropy(student / temperature, (teacher / temperature).softmax(-1))


def label_sets_loss(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """−T² · Σ_c p_c · log σ(s_c/T) + (1 − p_c) · log(1 − σ(s_c/T)), with p = σ(t/T), mean over the batch.

    It is `logits_loss` for multi-label rows: the labels of a row are independent Bernoulli variables, and the sum over
    them differs from T² · KL(teacher ‖ student) of the sets of labels only by the teacher's entropy.

    Args:
        student: logits s (B, C).
        teacher: logits t (B, C).
        temperature: T.
    """
    total = F.binary_cross_entropy_with_logits(
        student / temperature, (teacher / temperature).sigmoid(), reduction="sum"
    )
    return temperature**2 * total / len(student)


def wide(values: Tensor) -> Tensor:
    """Converts half precision to FP32, because the losses square, exponentiate and sum; wider types stay."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
