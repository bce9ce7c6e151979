"""Without a GPU, Triton interprets its kernels. It reads the setting when it is first imported, so it is set here."""

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
