"""Names that commands and stages share, without their heavy imports; above all, where results lie by default."""

from pathlib import Path
from typing import Literal

Listed = Literal["tasks", "losses", "recipes", "encoders", "formats", "published"]
"""What `kdqat ls` lists."""

RUNS = Path("runs")
METRICS = Path("metrics")
PIPELINE = Path("dvc.yaml")


def run_name(loss: str, seed: int) -> str:
    """The name of one distillation among those of its task."""
    return f"{loss}-{seed}"


def teacher_folder(task: str) -> Path:
    """What `finetune-teacher` writes."""
    return RUNS / task / "teacher"


def ternary_folder(task: str) -> Path:
    """What `quantize` writes."""
    return RUNS / task / "ternary"


def student_folder(task: str, loss: str, seed: int) -> Path:
    """What `distill` writes."""
    return RUNS / task / "student" / run_name(loss, seed)


def export_folder(task: str, format_name: str, loss: str, seed: int) -> Path:
    """What `export` writes."""
    return RUNS / task / format_name / run_name(loss, seed)
