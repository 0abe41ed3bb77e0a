"""Networks that lie on the Hugging Face Hub, by `hf:OWNER/NAME` or `hf:OWNER/NAME@REVISION`."""

from __future__ import annotations

import logging
from pathlib import Path

from anynet_dist.runs.file_names import MODEL
from anynet_dist.system.errors import UserError

logger = logging.getLogger(__name__)

PREFIX = "hf:"
WANTED = (MODEL, "config.json", "*.py")
"""Weights without pickle, their description, and plug-ins, which are run only when that is allowed."""


def hub_folder(name: str) -> Path:
    """The folder with the files of `hf:OWNER/NAME`, downloaded into the Hub's own cache if need be.

    Raises UserError where huggingface_hub is missing, the name cannot be one, the repository holds no network
    of ours, or the Hub refuses or is not reached and the cache has no copy.
    """
    try:
        import huggingface_hub as hub
        from huggingface_hub.errors import (
            GatedRepoError,
            LocalEntryNotFoundError,
            OfflineModeIsEnabled,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )
    except ImportError:
        raise UserError(f"{name} needs huggingface_hub: pip install huggingface_hub") from None
    repository, _, revision = name.removeprefix(PREFIX).partition("@")
    if repository.count("/") != 1:
        raise UserError(f"{name}: write hf:OWNER/NAME, or hf:OWNER/NAME@REVISION")
    try:
        folder = Path(
            hub.snapshot_download(repository, revision=revision or None, allow_patterns=list(WANTED))
        )
    except RevisionNotFoundError:
        raise UserError(f"{name}: the repository has no revision '{revision}'") from None
    except GatedRepoError:
        raise UserError(f"{name}: access must be asked for on its page, then 'hf auth login'") from None
    except RepositoryNotFoundError:
        raise UserError(
            f"{name}: the Hub has no such repository, or it is private: 'hf auth login', or set HF_TOKEN"
        ) from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        raise UserError(
            f"{name}: the Hub is not reached and its cache has no copy: download the repository where there"
            " is a connection and name the folder instead"
        ) from None
    except (OSError, ValueError) as error:
        cause = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{name}: {cause}") from None
    if not (folder / WANTED[0]).is_file():
        raise UserError(f"{name}: the repository has no {WANTED[0]}")
    logger.info("%s: revision %s", name, folder.name)
    return folder
