"""Trainings on several devices: what is refused, and who starts them."""

import typer

from kdqat_cli import group
from kdqat_cli.config import Settings, Training
from kdqat_cli.errors import ConfigError


def share_out(training: Training, devices: int) -> None:
    """Runs this command as so many processes and leaves with their exit code; in one of them, or alone, it goes on.

    Raises:
        ConfigError: they cannot have equal shares of a batch, or there are fewer GPUs.
    """
    rows = training.batch_size
    if rows % devices:
        raise ConfigError(
            f"A batch of {rows} rows has no equal shares for {devices} devices.",
            f"--batch-size {devices * -(-rows // devices)}",
        )
    if devices > 1 and not group.started():
        from kdqat_cli.parallel.launch import launch

        raise typer.Exit(launch(devices))


def refuse_coupled(settings: Settings, devices: int) -> None:
    """Refuses a distillation on several devices in which the rows of a batch depend on each other.

    Raises:
        ConfigError: they share an activation scale, or the length of the padding that counts.
    """
    if devices == 1:
        return
    if settings.quantization.activations == "int8" and settings.quantization.activation_scale == "batch":
        raise ConfigError(
            f"With quantization.activation_scale batch all rows of a batch share a scale, which {devices} devices "
            "would have to agree on at every layer.",
            "--set quantization.activation_scale=token, or one device",
        )
    if settings.distillation.padding == "counted" and settings.student.padding == "longest":
        raise ConfigError(
            f"With distillation.padding counted all rows of a batch must be equally long, but each of {devices} "
            "devices pads its own to the longest.",
            "--set student.padding=max_length, or --set distillation.padding=ignored",
        )
