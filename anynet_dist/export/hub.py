"""A trained network as a folder for the Hugging Face Hub, and the way there."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from anynet_dist.export.card import model_card
from anynet_dist.export.exporter import TOLERANCE, WEIGHTS, Check, export_network
from anynet_dist.export.optional import require
from anynet_dist.inference.trained import TrainedNetwork
from anynet_dist.runs.file_names import MODEL
from anynet_dist.runs.network_file import NetworkDescription
from anynet_dist.system.errors import UserError
from anynet_dist.system.files import atomic_path, check_outputs, write_json, write_text
from anynet_dist.system.plugins import PluginsNotAllowedError, is_loaded


def write_hub_folder(
    trained: TrainedNetwork,
    out: str | Path | None = None,
    *,
    repo_id: str | None = None,
    tolerance: float = TOLERANCE,
    overwrite: bool = False,
) -> tuple[Path, Check]:
    """Write model.safetensors, config.json and README.md into `out`; returns the folder and the check.

    By default that is `hub` in the run folder's `export`. What else lies in the folder stays; those files are
    replaced where `overwrite` is true. A network of plugged-in parts takes their files along; whoever
    downloads it decides whether to run them. `load_network` and `anynet predict` take the folder. Raises
    UserError where huggingface_hub is missing, a file exists already, or a plug-in was not loaded here.
    """
    folder = Path(out) if out else trained.export_folder / "hub"
    if folder.is_file():
        raise UserError(f"{folder} is a file; a Hub folder is a folder")
    plugins = _plugins_by_name(trained)
    config, readme = folder / "config.json", folder / "README.md"
    others = (folder / name for name in plugins)
    check_outputs(folder / MODEL, config, readme, *others, overwrite=overwrite)
    card = model_card(trained, repo_id, tuple(plugins))
    portable = replace(trained, description=replace(trained.description, plugins=list(plugins)))
    _, check = export_network(portable, WEIGHTS, folder / MODEL, tolerance=tolerance, overwrite=overwrite)
    for name, file in plugins.items():
        with atomic_path(folder / name) as temporary:
            shutil.copyfile(file, temporary)
    write_json(config, hub_config(portable.description))
    write_text(readme, card)
    return folder, check


def _plugins_by_name(trained: TrainedNetwork) -> dict[str, str]:
    """The plug-ins that go along. A weight file could name any file of this disk: only one that was loaded
    does."""
    files = trained.description.plugins
    unknown = [file for file in files if not is_loaded(file)]
    if unknown:
        raise PluginsNotAllowedError(trained.file, unknown)
    plugins = {Path(file).name: file for file in files}
    if len(plugins) < len(files):
        raise UserError(f"plug-ins of one name cannot lie in one folder: {', '.join(files)}")
    return plugins


def hub_config(description: NetworkDescription) -> dict[str, Any]:
    """config.json: the names the Hub looks for, and the whole description."""
    return {
        "model_type": "anynet",
        "architectures": ["AnyNet"],
        "id2label": {str(number): name for number, name in enumerate(description.classes)},
        "label2id": {name: number for number, name in enumerate(description.classes)},
        **asdict(description),
    }


def check_login(repo_id: str) -> None:
    """Raise UserError where the name of a repository is impossible, or no user is logged in to the Hub."""
    hub = require("huggingface_hub")
    try:
        require("huggingface_hub.utils").validate_repo_id(repo_id)
    except ValueError as error:
        raise UserError(f"--push {repo_id}: {error}") from None
    if hub.get_token() is None:
        raise UserError(
            "--push needs a login to the Hugging Face Hub: run 'hf auth login', or set HF_TOKEN to a token"
            " that may write"
        )


def push_folder(folder: Path, repo_id: str, private: bool = False) -> str:
    """Upload a Hub folder to the model repository `repo_id`, made if need be; returns its address.

    A new repository is public unless `private`. Raises UserError where the Hub refuses or is not reached.
    """
    hub = require("huggingface_hub")
    check_login(repo_id)
    failures = (OSError, require("huggingface_hub.errors").HTTPError)
    try:
        address = hub.create_repo(repo_id, private=private, exist_ok=True)
        hub.upload_folder(
            repo_id=address.repo_id, folder_path=folder, commit_message="Upload with anynet export"
        )
    except failures as error:
        raise UserError(f"--push {repo_id}: {error}; the folder is kept: {folder}") from None
    return str(address)
