"""Files from the Hugging Face hub, through huggingface_hub: its cache, its token, its offline mode.

Every way in which a download can fail is one sentence (ValueError) that says what to do.
"""

import hashlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import httpx2
from huggingface_hub import constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    DryRunError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import tqdm

from paligemma.devices import gigabytes

Report = Callable[[int, int], None]  # told bytes done and bytes in all while a download runs

NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")  # owner/model, and @revision to pin one
PATTERNS = ["*.json", "*.safetensors"]
# The published mask codec, and what its bytes must be (google-research/big_vision).
CODEC_REPO, CODEC_FILE = "google/paligemma-hf", "vae-oid.npz"
CODEC_SHA256 = "5586010257b8536dddefab65e7755077f21d5672d5674dacf911f73ae95a4447"


def fetch_model(name: str, report: Report | None = None) -> Path:
    """The folder of `owner/model` or `owner/model@revision`, downloaded where it is not cached.

    `report` is called from other threads; what it raises ends the download, which goes on from
    there the next time. Raise ValueError where the model cannot be had.
    """
    repo, _, revision = name.partition("@")
    return _fetch(repo, revision or None, PATTERNS, report)


def fetch_tokenizer(name: str) -> Path:
    """The folder with the tokenizer.json of `owner/model`."""
    repo, _, revision = name.partition("@")
    return _fetch(repo, revision or None, ["tokenizer.json"], None)


def fetch_codec() -> Path:
    """The published mask codec, checked. Raise ValueError where it cannot be had."""
    try:
        path = Path(hf_hub_download(CODEC_REPO, CODEC_FILE, repo_type="space"))
    except (OSError, httpx2.HTTPError) as error:
        raise ValueError(
            f"The mask codec is missing: {_reason(error, CODEC_REPO)} Boxes need no codec; for "
            f"masks, a {CODEC_FILE} on this machine can be given with --codec."
        ) from error
    if hashlib.sha256(path.read_bytes()).hexdigest() != CODEC_SHA256:
        raise ValueError(f"{path} is not the published mask codec: its sha256 differs. Delete it.")
    return path


def _fetch(repo: str, revision: str | None, patterns: list[str], report: Report | None) -> Path:
    shared = {"repo_id": repo, "revision": revision, "allow_patterns": patterns}
    try:
        try:  # what is whole in the cache needs no network
            return Path(snapshot_download(**shared, local_files_only=True))
        except LocalEntryNotFoundError:
            pass
        if not constants.HF_HUB_OFFLINE:
            try:
                files = snapshot_download(**shared, dry_run=True)
            except DryRunError as error:  # it wraps what was the matter
                raise error.__cause__ or error from None
            missing = sum(file.file_size for file in files if file.will_download)
            _require_disk(repo, missing)
        return Path(snapshot_download(**shared, tqdm_class=_bar(report)))
    except (OSError, httpx2.HTTPError) as error:
        raise ValueError(f"{repo} cannot be loaded: {_reason(error, repo, revision)}") from error


def _bar(report: Report | None) -> type[tqdm]:
    """The terminal's bar, which tells `report` as well."""
    if report is None:
        return tqdm

    class Bar(tqdm):
        def update(self, n: float | None = 1) -> bool | None:
            drawn = super().update(n)
            if self.unit == "B" and self.total:
                report(int(self.n), int(self.total))
            return drawn

    return Bar


def _require_disk(repo: str, needed: int) -> None:
    cache = Path(constants.HF_HUB_CACHE)
    there = next(parent for parent in (cache, *cache.parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise OSError(
            f"the download takes {gigabytes(needed)}, and the disk of {cache} has "
            f"{gigabytes(free)} free."
        )


def _reason(error: Exception, repo: str, revision: str | None = None) -> str:
    page = f"{constants.ENDPOINT}/{repo}"
    match error:
        case GatedRepoError():
            return (
                f"its licence must be accepted once. Open {page}, accept it, then give a token: "
                "hf auth login, or the environment variable HF_TOKEN."
            )
        case RevisionNotFoundError():
            return f"it has no revision {revision!r}; {page}/tree/main lists them."
        case RepositoryNotFoundError():
            return (
                f"there is no such model at {constants.ENDPOINT}, or it is private and needs a "
                "token (hf auth login, or HF_TOKEN)."
            )
        case LocalEntryNotFoundError() if constants.HF_HUB_OFFLINE:
            return "it is not in the cache, and HF_HUB_OFFLINE forbids the network."
        case LocalEntryNotFoundError():
            return f"it is not in the cache, and there is no network to {constants.ENDPOINT}."
        case EntryNotFoundError():
            return f"a file is missing at {page}."
        case HfHubHTTPError():
            return f"{constants.ENDPOINT} answered {error.response.status_code}; try again later."
        case httpx2.HTTPError():
            return f"there is no network to {constants.ENDPOINT}."
    return str(error)
