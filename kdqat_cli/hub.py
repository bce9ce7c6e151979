"""Whether the model hub answers, asked once: its own clients find out only after half a minute of retries."""

from typing import Literal

TIMEOUT = 10.0
"""Seconds that the hub may take to answer at all."""


def why_unreachable(identifier: str, kind: Literal["model", "dataset"], revision: str | None = None) -> str:
    """Why the hub does not give a repository, or nothing; what is in its cache may be loaded all the same.

    Args:
        identifier: the repository's id, with its namespace.
        kind: what it holds.
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
    except Exception as error:  # the HTTP library's own, which shares no base class with OSError
        return f"no network ({first_line(error)})"
    return ""


def first_line(error: Exception) -> str:
    """An error's first line without its full stop, or its class."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
