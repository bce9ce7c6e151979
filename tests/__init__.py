"""Without a GPU, Triton interprets its kernels; it must know so before whatever imports it first."""

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
