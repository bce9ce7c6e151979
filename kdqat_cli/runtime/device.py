"""Where a packed model is computed."""

from typing import Literal

Device = Literal["cpu", "cuda"]
