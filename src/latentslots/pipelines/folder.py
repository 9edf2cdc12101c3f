"""The folder of a pipeline: a path, a run folder, the bundled model, or a hub repository."""

from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from latentslots.bundled import bundled_folder
from latentslots.files import restore_folder

PIPELINE_FILE = "model_index.json"
BUNDLED_MODEL = "lsd-scenes-64"


def pipeline_folder(name: str | Path, kwargs: dict[str, Any]) -> Path:
    """Locate the folder of a pipeline, and fetch it from the hub if necessary.

    Args:
        name: See `SlotPipeline.from_pretrained`.
        kwargs: The further arguments of that method; those for the hub are removed.

    Raises:
        ValueError: If there is no such folder or repository, or it contains no pipeline.
    """
    folder = Path(name)
    if name == "bundled":
        folder = bundled_folder(BUNDLED_MODEL)
    restore_folder(folder)
    restore_folder(folder / "pipeline")
    if not folder.is_dir():
        if len(folder.parts) != 2 or folder.is_absolute() or folder.parts[0] in (".", ".."):
            raise ValueError(f"there is no folder {folder}")
        # diffusers refuses hub repositories with components from other packages, so the
        # repository becomes a folder first.
        hub_options = ("revision", "token", "local_files_only", "cache_dir", "force_download")
        hub = {key: kwargs.pop(key) for key in hub_options if key in kwargs}
        try:
            folder = Path(snapshot_download(str(name), **hub))
        except OSError as error:
            raise ValueError(
                f"there is no folder {folder}, and no hub repository of that name could be "
                f"loaded ({str(error).strip().splitlines()[0]})"
            ) from error
    if not (folder / PIPELINE_FILE).is_file():
        if not (folder / "pipeline" / PIPELINE_FILE).is_file():
            raise ValueError(f"{folder} contains no pipeline: {PIPELINE_FILE} is missing")
        folder = folder / "pipeline"
    return folder
