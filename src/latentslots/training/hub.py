"""Uploading a finished model."""

import re
from pathlib import Path

from huggingface_hub import HfApi


def check_repo(repo_id: str) -> None:
    """Find out before a long training whether the upload could work.

    Raises:
        ValueError: If the name has another form than USER/NAME, or nobody is logged in.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo_id):
        raise ValueError(f"--push-to-hub takes USER/NAME, got {repo_id!r}")
    if HfApi().token is None and not _stored_token():
        raise ValueError("--push-to-hub needs a login: run `hf auth login`, or set HF_TOKEN")


def _stored_token() -> str | None:
    from huggingface_hub import get_token

    return get_token()


def push_to_hub(run_dir: Path, repo_id: str, *, endpoint: str | None = None) -> str:
    """Upload a run's `pipeline/` as a hub repository; returns its address."""
    api = HfApi(endpoint=endpoint)
    repo = api.create_repo(repo_id, exist_ok=True)
    api.upload_folder(repo_id=repo.repo_id, folder_path=run_dir / "pipeline")
    return str(repo)
