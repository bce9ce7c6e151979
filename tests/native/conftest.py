"""Every kernel of this CPU, and several threads."""

from collections.abc import Iterator

import pytest
import torch

from kdqat_cli.native import fused
from kdqat_cli.native.library import KERNEL_VARIABLE, kernels


@pytest.fixture(params=kernels())
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Each kernel in turn."""
    monkeypatch.setenv(KERNEL_VARIABLE, request.param)
    fused._kernel.cache_clear()
    yield request.param
    fused._kernel.cache_clear()


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Threads of torch, of which the library has as many."""
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(1)
