"""Files from the Hugging Face hub, through huggingface_hub: its cache, its token, its offline mode.

Every way in which a download can fail is one sentence (ValueError) that says what to do.
"""

import hashlib
import json
import re
import threading
from collections.abc import Callable
from pathlib import Path

import httpx2
from huggingface_hub import constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    DryRunError,
    EntryNotFoundError,
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import tqdm
from huggingface_hub.utils._xet import abort_xet_session

from paligemma.devices import free_disk, gigabytes

ProgressCallback = Callable[[int, int], None]  # (bytes done, bytes in all)

# owner/model, and @revision to pin one
NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*(@\w[\w./-]*)?", re.ASCII)
PATTERNS, TOKENIZER = ["*.json", "*.safetensors"], ["tokenizer.json"]
BYTES_BAR = "huggingface_hub.snapshot_download"  # the bar of what is written to the disk
# The published mask codec, and what its bytes must be (google-research/big_vision).
MASK_CODEC_REPO, MASK_CODEC_FILE = "google/paligemma-hf", "vae-oid.npz"
MASK_CODEC_SHA256 = "5586010257b8536dddefab65e7755077f21d5672d5674dacf911f73ae95a4447"


def fetch_model(name: str, progress: ProgressCallback | None = None) -> Path:
    """The folder of `owner/model` or `owner/model@revision`, downloaded where it is not cached.

    `progress` is called from other threads; what it raises ends the download and is raised here.
    Files that are whole by then stay. Raise ValueError where the model cannot be had.
    """
    repo, _, revision = name.partition("@")
    return _fetch(repo, revision or None, PATTERNS, progress)


def fetch_tokenizer(name: str) -> Path:
    """The folder with the tokenizer.json of `owner/model`."""
    repo, _, revision = name.partition("@")
    return _fetch(repo, revision or None, TOKENIZER, None)


def fetch_mask_codec() -> Path:
    """The published mask codec, checked. Raise ValueError where it cannot be had."""
    wanted = {"repo_id": MASK_CODEC_REPO, "filename": MASK_CODEC_FILE, "repo_type": "space"}
    try:
        try:
            path = Path(hf_hub_download(**wanted, local_files_only=True))
        except LocalEntryNotFoundError:
            path = Path(hf_hub_download(**wanted))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except Exception as error:
        raise ValueError(
            f"The mask codec is missing: {_reason(error, f'spaces/{MASK_CODEC_REPO}')} Boxes need "
            f"no codec; for masks, a {MASK_CODEC_FILE} on this machine can be given with "
            "--mask-codec."
        ) from error
    if digest != MASK_CODEC_SHA256:
        raise ValueError(
            f"{path.resolve()} is not the published mask codec: its sha256 differs. Delete it."
        )
    return path


def _fetch(
    repo: str, revision: str | None, patterns: list[str], progress: ProgressCallback | None
) -> Path:
    shared = {"repo_id": repo, "revision": revision, "allow_patterns": patterns}
    stopped: list[Exception] = []  # what `progress` raised
    try:
        folder = _cached(shared)
        if folder is None:
            files = snapshot_download(**shared, dry_run=True)
            missing = sum(file.file_size or 0 for file in files if file.will_download)
            _require_disk(repo, missing)
            bar = tqdm if progress is None else _bar(progress, missing, stopped)
            folder = Path(snapshot_download(**shared, tqdm_class=bar))
        if not stopped and (lacking := _lacking(folder, patterns)):
            raise FileNotFoundError(f"it has no {lacking}.")
    except Exception as error:  # the library, its transports and the disk raise a dozen types
        if not stopped:
            raise ValueError(
                f"{repo} cannot be loaded: {_reason(error, repo, revision)}"
            ) from error
    if stopped:
        raise stopped[0]
    return folder


def _cached(shared: dict) -> Path | None:
    """The folder in the cache where it is whole: that needs no network.

    Other programs fetch only some of the files: what is missing is then of the same commit.
    """
    try:
        folder = Path(snapshot_download(**shared, local_files_only=True))
        if _lacking(folder, shared["allow_patterns"]):
            shared["revision"] = folder.name
            raise LocalEntryNotFoundError("not whole")
    except LocalEntryNotFoundError:
        if constants.HF_HUB_OFFLINE:
            raise
        return None
    return folder


def _lacking(folder: Path, patterns: list[str]) -> str | None:
    """A file that a model (a tokenizer) cannot do without and the folder lacks."""
    whole, index = constants.SAFETENSORS_SINGLE_FILE, folder / constants.SAFETENSORS_INDEX_FILE
    needed = TOKENIZER if patterns == TOKENIZER else ["config.json", whole]
    if whole in needed and not (folder / whole).is_file() and index.is_file():
        try:
            shards = json.loads(index.read_text("utf-8"))["weight_map"].values()
        except (ValueError, KeyError, TypeError, AttributeError):  # loading it says so
            shards = ()
        needed = ["config.json", *sorted(map(str, shards))]
    return next((name for name in needed if not (folder / name).is_file()), None)


def _bar(progress: ProgressCallback, total: int, stopped: list[Exception]) -> type[tqdm]:
    """The terminal's bar, which tells `progress` as well, also where no terminal shows it."""
    lock, done = threading.Lock(), 0

    def tell(count: float) -> None:
        nonlocal done
        try:
            with lock:
                if stopped:
                    raise stopped[0]
                done += int(count)
                progress(done, total)
        except Exception as error:
            stopped.append(error)
            abort_xet_session()  # which does not hear of exceptions
            raise

    class Bar(tqdm):
        def __init__(self, *args, name: str | None = None, **kwargs) -> None:
            self.tells = name == BYTES_BAR
            super().__init__(*args, name=name, **kwargs)

        def update(self, n: float | None = 1) -> bool | None:
            drawn = super().update(n)
            if self.tells:
                tell(n or 0)
            return drawn

    return Bar


def _require_disk(repo: str, needed: int) -> None:
    cache = Path(constants.HF_HUB_CACHE)
    free = free_disk(cache)
    if needed > free:
        raise OSError(
            f"the download takes {gigabytes(needed)}, and the disk of {cache} has "
            f"{gigabytes(free)} free."
        )


def _reason(error: Exception, repo: str, revision: str | None = None) -> str:
    if isinstance(error, DryRunError | LocalEntryNotFoundError):
        error = error.__cause__ or error
    hub, page = constants.ENDPOINT, f"{constants.ENDPOINT}/{repo}"
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
                f"there is no such model at {hub}, or it is private and needs a token (hf auth "
                "login, or HF_TOKEN)."
            )
        case OfflineModeIsEnabled():
            return "it is not in the cache, and HF_HUB_OFFLINE forbids the network."
        case LocalEntryNotFoundError() if constants.HF_HUB_OFFLINE:
            return "it is not whole in the cache, and HF_HUB_OFFLINE forbids the network."
        case EntryNotFoundError():
            return f"a file is missing at {page}."
        case HfHubHTTPError() if error.response.status_code in (401, 403):
            return f"{hub} refuses this token; give a valid one (hf auth login, or HF_TOKEN)."
        case HfHubHTTPError():
            return f"{hub} answered {error.response.status_code}; try again later."
        case FileMetadataError() | json.JSONDecodeError():
            return (
                f"what answers at {hub} is not the hub; HF_ENDPOINT may be wrong, or the network "
                "wants a login first."
            )
        case httpx2.ConnectError() | httpx2.TimeoutException():
            return f"it is not in the cache, and there is no network to {hub}."
        case httpx2.HTTPError():
            return f"the connection to {hub} broke off; try again."
    return " ".join(str(error).split()).rstrip(".") + "."
