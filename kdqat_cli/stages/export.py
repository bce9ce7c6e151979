"""export: ternary student → packed checkpoint."""

from pathlib import Path
from typing import Any

from kdqat_cli.errors import ConfigError
from kdqat_cli.packing.checkpoint import FILE_NAME
from kdqat_cli.packing.hf_model import save_packed
from kdqat_cli.stages.digest import file_digest
from kdqat_cli.stages.folder import MODEL, output_folder
from kdqat_cli.stages.models import TOKENIZER_FILE, load_classifier, size_figures
from kdqat_cli.stages.record import Stopwatch, write_run


def export(student: str, out: Path, half: bool = False) -> dict[str, Any]:
    """Packs a ternary student at five codes a byte.

    Args:
        student: a folder that `distill` or `quantize` wrote.
        out: receives model/ and run.json.
        half: store what is not ternary as FP16; logits then differ slightly.

    Returns:
        The folder, the file's bytes, bits per weight, ratio to FP32 and the seconds.

    Raises:
        ConfigError: the folder holds no ternary student.
        MissingInputError: no such folder, or the output folder is in use.
    """
    watch = Stopwatch()
    with output_folder(out) as scratch:
        source = load_classifier(student, "kdqat distill")
        made = source.kind if source.kind in ("student", "ternary") else None
        weights = source.about["quantization"]["weights"] if made else None
        if weights != "ternary" or source.weights is None:
            what = f"{weights} weights" if made else f"a {source.kind} model"
            raise ConfigError(
                f"{student} holds {what}; only ternary weights can be packed.", "kdqat distill --weights ternary"
            )
        folder = scratch / MODEL
        folder.mkdir()
        source.tokenizer.save_pretrained(folder)
        about = dict(source.about) | {"kind": "packed", "tokenizer": file_digest(folder / TOKENIZER_FILE)}
        # What is served must not depend on batch mates, so a scale that a batch shared becomes one a token. `evaluate`
        # measures what that changes.
        about["quantization"] = about["quantization"] | {"activation_scale": "token"}
        about.pop("batches", None)
        about["sources"] = dict(about["sources"]) | {"student": file_digest(source.weights)}
        save_packed(source.model, folder, about, half)
        figures = size_figures(source.model, folder / FILE_NAME)
        run = write_run(scratch, watch, **figures)
    return {"folder": str(out), **figures, "seconds": run["seconds"]}
