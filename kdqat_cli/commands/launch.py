"""Trainings on several devices: how their processes start, and which settings are refused."""

import typer

from kdqat_cli import group
from kdqat_cli.config import Settings, Training
from kdqat_cli.errors import ConfigError


def share_out(training: Training, devices: int) -> None:
    """Starts this command once per device and exits with the exit code of these processes.

    It returns if there is only one device, or if this process is already one of them.

    Raises:
        ConfigError: a batch cannot be divided into equal shares, or there are fewer GPUs than devices.
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
    """Refuses a distillation on several devices if the rows of a batch depend on each other.

    Raises:
        ConfigError: the rows share an activation scale, or a padded length that the loss includes.
    """
    if devices == 1:
        return
    if settings.quantization.activations == "int8" and settings.quantization.activation_scale == "batch":
        raise ConfigError(
            f"With quantization.activation_scale batch, all rows of a batch share a scale, but {devices} devices do "
            "not exchange it.",
            "--set quantization.activation_scale=token, or one device",
        )
    if settings.distillation.padding == "counted" and settings.student.padding == "longest":
        raise ConfigError(
            f"With distillation.padding counted, all rows of a batch must have the same length, but each of {devices} "
            "devices pads its rows to its own longest.",
            "--set student.padding=max_length, or --set distillation.padding=ignored",
        )
