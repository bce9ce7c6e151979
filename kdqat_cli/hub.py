"""Checks once whether the model hub answers; its clients notice a failure only after half a minute of retries."""

import re
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from kdqat_cli.errors import MissingInputError
from kdqat_cli.files import names_in, read_bytes

TIMEOUT = 10.0
"""Seconds after which the hub counts as unreachable."""


CONFIG = "config.json"
_MODEL_TYPE = b'"model_type"'
"""A key in the config.json of a model, which other config.json files (sentence-transformers) do not have."""
_LARGEST_CONFIG = 2**24  # bytes
_SHOWN = 3  # folders in one sentence
_MODEL = "the same command with a model folder, or a hub id (OWNER/NAME)"
_PART = r"[\w-][\w.-]*"  # one part of a hub id OWNER/NAME


def refuse_absent(model: str, fix: str | None) -> None:
    """Refuses the name of a model that is not a folder and does not have the form of a hub id. Loads nothing.

    Args:
        model: the name from the user.
        fix: the command that makes the folder, for the error; None: a model in a folder nearby, if there is one.

    Raises:
        MissingInputError: there is no such folder, and the name is not a hub id.
    """
    path = Path(model)
    if path.is_dir() or re.fullmatch(f"{_PART}/{_PART}", model, re.ASCII):
        return
    if path.is_file():
        raise MissingInputError(f"{model} is a file, not a model folder.", f"the same command with {path.parent}")
    sentence = f"There is no model folder {model}."
    near = _models_near(path)
    if near:
        more = f" and {len(near) - _SHOWN} more" if len(near) > _SHOWN else ""
        sentence += f" Near it: {', '.join(map(str, near[:_SHOWN]))}{more}."
        meant = get_close_matches(path.parts[len(near[0].parts) - 1], [folder.name for folder in near], n=1)
        if meant:
            fix = fix or f"the same command with {near[0].with_name(meant[0])}"
    elif re.fullmatch(_PART, model, re.ASCII):  # the form of old hub ids, without an owner
        sentence += " A hub id has the form OWNER/NAME."
        fix = fix or f"search the model hub for {model}, and give OWNER/{model}"
    raise MissingInputError(sentence, fix or _MODEL)


def _models_near(absent: Path) -> list[Path]:
    """The model folders in the nearest existing parent of an absent folder, sorted."""
    parent = next((folder for folder in absent.parents if folder.is_dir()), None)
    if parent is None:
        return []
    configs = (*parent.glob(f"*/{CONFIG}"), *parent.glob(f"*/model/{CONFIG}"))  # plain folders, and kdqat's own
    return sorted({parent / path.relative_to(parent).parts[0] for path in configs})


def refuse_hollow(folder: Path, fix: str | None) -> None:
    """Refuses a folder without a model, and names a model in one of its folders, for example a checkpoint.

    Raises:
        MissingInputError: always.
    """
    names = names_in(folder)
    fix = fix or _MODEL
    if not names:
        raise MissingInputError(f"The folder {folder} is empty.", fix)
    refuse_adapter(folder)
    inner = model_inside(folder)
    sentence = f"The folder {folder} has no model: it has no {CONFIG} with a model_type"
    if inner is None:
        raise MissingInputError(f"{sentence}.", fix)
    raise MissingInputError(f"{sentence}. Its folder {inner.name} has one.", f"the same command with {inner}")


def refuse_adapter(folder: Path) -> None:
    """Refuses an adapter, because transformers would load its base model, perhaps from the hub.

    Raises:
        MissingInputError: the folder has an adapter.
    """
    if (folder / "adapter_config.json").is_file():
        raise MissingInputError(
            f"The folder {folder} holds an adapter (adapter_config.json), not a model.",
            "merge_and_unload() of the adapted model, and save_pretrained into another folder",
        )


def model_inside(folder: Path) -> Path | None:
    """The last of the folders in a folder that have a model; numbers in names are compared as numbers."""
    inner = [path.parent for path in folder.glob(f"*/{CONFIG}") if _MODEL_TYPE in read_bytes(path, _LARGEST_CONFIG)]
    return max(inner, key=lambda path: [int(part) for part in re.findall(r"\d+", path.name)], default=None)


def why_unreachable(identifier: str, kind: Literal["model", "dataset"], revision: str | None = None) -> str:
    """Why the hub does not give a repository; empty if it does. Its cache may still have the repository.

    Args:
        identifier: the id of the repository, with its owner.
        kind: the kind of the repository.
        revision: branch, tag or commit; None: the main branch.
    """
    from huggingface_hub import HfApi, is_offline_mode
    from huggingface_hub.errors import HfHubHTTPError

    if is_offline_mode():
        return "HF_HUB_OFFLINE is set"
    api = HfApi()
    ask = api.model_info if kind == "model" else api.dataset_info
    try:
        ask(identifier, revision=revision, timeout=TIMEOUT)
    except (HfHubHTTPError, ValueError) as error:  # the hub refuses, or the id is not one
        return first_line(error)
    except Exception as error:  # exceptions of the HTTP library, which are not OSErrors
        return f"no network ({first_line(error)})"
    return ""


def first_line(error: Exception) -> str:
    """The first line of an error without its full stop, and the second if the first ends with a colon; or its class."""
    lines = [line.strip() for line in str(error).strip().splitlines()]
    if not lines:
        return type(error).__name__
    if isinstance(error, KeyError):  # its text is only the key
        return f"there is no {lines[0]}"
    return " ".join(lines[:2] if lines[0].endswith(":") else lines[:1]).rstrip(".")
