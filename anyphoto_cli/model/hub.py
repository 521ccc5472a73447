"""Folders of the hub: downloaded once, then taken from the cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anyphoto_cli.errors import EnvironmentFault


def hub_folder(what: str, repository: str, patterns: Sequence[str], **options: Any) -> Path:
    """The local copy of those files of a repository. what: for people, "the adapter". options: huggingface_hub's.

    Raises EnvironmentFault when the hub cannot give it.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, allow_patterns=list(patterns), **options))
    except Exception as error:  # the hub raises requests', httpx' and its own kinds
        reason = type(error).__name__
        told = f"{what} {repository!r} is not in this folder and could not be had from the hub ({reason})"
        raise EnvironmentFault(told) from error
