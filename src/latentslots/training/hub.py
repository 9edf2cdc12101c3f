"""Uploading a finished model."""

import re
from pathlib import Path

from huggingface_hub import HfApi, get_token

from latentslots.files import read_json


def check_repo(repo_id: str) -> None:
    """Check, before a long training, that its model can be uploaded.

    Raises:
        ValueError: If the name has another form than USER/NAME, or nobody is logged in.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo_id):
        raise ValueError(f"--push-to-hub takes USER/NAME, got {repo_id!r}")
    if not get_token():
        raise ValueError("--push-to-hub needs a login: run `hf auth login`, or set HF_TOKEN")


def push_to_hub(run_dir: Path, repo_id: str, *, endpoint: str | None = None) -> str:
    """Upload a run's `pipeline/` as a hub repository, and return its address.

    Raises:
        ValueError: If it fails; the message names the folder of the model.
    """
    api = HfApi(endpoint=endpoint)
    pipeline = run_dir / "pipeline"
    index_file = pipeline / "model_index.json"
    if not index_file.is_file():  # an autoencoder: the repository is its folder
        pipeline = pipeline / "vae"
    else:
        index = read_json(index_file)
        local = [one["name"] for one in (index.get("pretrained") or {}).values()]
        local = [name for name in local if Path(name).is_absolute()]
        if local:
            raise ValueError(
                f"the model is in {pipeline}, and was not uploaded: it names {local[0]}, a folder "
                "on this machine; save it with include_pretrained=True first"
            )
    try:
        repo = api.create_repo(repo_id, exist_ok=True)
        api.upload_folder(repo_id=repo.repo_id, folder_path=pipeline)
    except Exception as error:  # of whichever HTTP library the hub's client is built on
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"the model is in {pipeline}, but could not be uploaded to {repo_id}: {reason}"
        ) from error
    return str(repo)
