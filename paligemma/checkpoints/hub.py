"""Downloads from the Hugging Face hub, with huggingface_hub's cache, token and offline mode.

Every failure is a ValueError of one sentence that says what to do.
"""

import hashlib
import json
import re
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

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
from huggingface_hub.utils import httpx, tqdm

from paligemma.devices import format_bytes, free_disk_space

ProgressCallback = Callable[[int, int], None]  # (bytes done, bytes in all)

REPO_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*(@\w[\w./-]*)?", re.ASCII)  # owner/model[@revision]
MODEL_FILES, TOKENIZER_FILES = ["*.json", "*.safetensors"], ["tokenizer.json"]
ADAPTER_FILES = ["adapter_config.json", "adapter_model.safetensors"]  # peft's
UNCHECKED_BYTES = 100_000_000  # smaller downloads are not worth a look at their config first
BYTES_BAR = "huggingface_hub.snapshot_download"  # the bar of what is written to the disk
# The published mask codec and its digest (google-research/big_vision).
MASK_CODEC_REPO, MASK_CODEC_FILE = "google/paligemma-hf", "vae-oid.npz"
MASK_CODEC_SHA256 = "5586010257b8536dddefab65e7755077f21d5672d5674dacf911f73ae95a4447"


def fetch_model(
    name: str,
    progress: ProgressCallback | None = None,
    check: Callable[[Path], None] | None = None,
    token: str | None = None,
) -> Path:
    """The folder of `owner/model` or `owner/model@revision`, downloaded unless it is cached.

    `progress` is called from other threads. An exception that it raises cancels the download and
    is raised here; files that are complete by then stay in the cache. `check` is called with the
    folder of config.json before the weights of a large model are fetched, and refuses them by a
    ValueError. `token`: in place of this machine's. Raises ValueError if the model cannot be had.
    """
    repo, _, revision = name.partition("@")
    return _fetch(repo, revision or None, MODEL_FILES, progress, check, token)


def fetch_tokenizer(name: str) -> Path:
    """The folder with the tokenizer.json of `owner/model`. Raises ValueError if there is none."""
    repo, _, revision = name.partition("@")
    return _fetch(repo, revision or None, TOKENIZER_FILES, None)


def fetch_mask_codec() -> Path:
    """The published mask codec. Raises ValueError if it cannot be had or has another digest."""
    download = partial(hf_hub_download, MASK_CODEC_REPO, MASK_CODEC_FILE, repo_type="space")
    try:
        try:
            path = Path(download(local_files_only=True))
        except LocalEntryNotFoundError:
            path = Path(download())
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except Exception as error:
        reason = _explain(error, f"spaces/{MASK_CODEC_REPO}")
        raise ValueError(
            f"The mask codec is missing: {reason} Boxes need no codec; for masks, a "
            f"{MASK_CODEC_FILE} on this machine can be given with --mask-codec."
        ) from error
    if digest != MASK_CODEC_SHA256:
        raise ValueError(
            f"{path.resolve()} is not the published mask codec: its sha256 differs. Delete it."
        )
    return path


def _fetch(
    repo: str,
    revision: str | None,
    patterns: list[str],
    progress: ProgressCallback | None,
    check: Callable[[Path], None] | None = None,
    token: str | None = None,
) -> Path:
    download = partial(
        snapshot_download, repo, revision=revision, allow_patterns=patterns, token=token
    )
    cancelled: list[Exception] = []  # what `progress` raised
    try:
        cached = _find_cached(download)
        if cached is not None:
            if not _missing_file(cached, patterns):
                return cached
            if constants.HF_HUB_OFFLINE:
                raise LocalEntryNotFoundError("The files in the cache are incomplete.")
            download = partial(download, revision=cached.name)  # the rest of the same commit
        size = _download_size(download)
        _check_disk_space(repo, size)
        if check and size > UNCHECKED_BYTES:
            folder = Path(download(allow_patterns=["config.json"]))
            check(folder)
            download = partial(download, revision=folder.name)  # of the commit that was checked
            size = _download_size(download)
        if progress is None:
            folder = Path(download())
        else:
            # Xet swallows what a bar raises, so it cannot be cancelled; plain HTTP can.
            constants.HF_HUB_DISABLE_XET = True
            folder = Path(download(tqdm_class=_progress_bar(progress, size, cancelled)))
        if missing := _missing_file(folder, patterns):
            raise FileNotFoundError(f"it has no {missing}.")
    except Exception as error:  # the library, its transports and the disk raise a dozen types
        if cancelled:
            raise cancelled[0] from None
        raise ValueError(f"{repo} cannot be loaded: {_explain(error, repo, revision)}") from error
    return folder


def _download_size(download: Callable) -> int:
    return sum(file.file_size or 0 for file in download(dry_run=True) if file.will_download)


def _find_cached(download: Callable) -> Path | None:
    """The folder in the cache, perhaps incomplete; None if there is none."""
    try:
        return Path(download(local_files_only=True))
    except LocalEntryNotFoundError:
        if constants.HF_HUB_OFFLINE:
            raise
        return None


def _missing_file(folder: Path, patterns: list[str]) -> str | None:
    """The first required file of a model, an adapter or a tokenizer that the folder lacks."""
    weights, index = constants.SAFETENSORS_SINGLE_FILE, folder / constants.SAFETENSORS_INDEX_FILE
    whole = (folder / weights).is_file() or index.is_file()
    if patterns == TOKENIZER_FILES:
        required = TOKENIZER_FILES
    elif (folder / ADAPTER_FILES[0]).is_file() and not whole:  # a config.json may be beside it
        required = ADAPTER_FILES
    elif (folder / weights).is_file() or not index.is_file():
        required = ["config.json", weights]
    else:
        try:
            shards = json.loads(index.read_text("utf-8"))["weight_map"].values()
        except (ValueError, KeyError, TypeError, AttributeError):  # reported when it is loaded
            shards = ()
        required = ["config.json", *sorted(map(str, shards))]
    return next((name for name in required if not (folder / name).is_file()), None)


def _progress_bar(progress: ProgressCallback, size: int, cancelled: list[Exception]) -> type[tqdm]:
    """The terminal's bar that also calls `progress`, even if no terminal shows the bar."""
    lock, done = threading.Lock(), 0

    class Bar(tqdm):
        def __init__(self, *args, name: str | None = None, **kwargs) -> None:
            self.counts_bytes = name == BYTES_BAR
            super().__init__(*args, name=name, **kwargs)

        def update(self, n: float | None = 1) -> bool | None:
            nonlocal done
            drawn = super().update(n)
            if not self.counts_bytes:
                return drawn
            with lock:
                if cancelled:
                    raise cancelled[0]
                done += int(n or 0)
                try:
                    progress(done, size)
                except Exception as error:
                    cancelled.append(error)
                    raise
            return drawn

    return Bar


def _check_disk_space(repo: str, needed: int) -> None:
    cache = Path(constants.HF_HUB_CACHE)
    free = free_disk_space(cache)
    if needed > free:
        raise OSError(
            f"the download takes {format_bytes(needed)}, and the disk of {cache} has "
            f"{format_bytes(free)} free."
        )


def _explain(error: Exception, repo: str, revision: str | None = None) -> str:
    """What went wrong and what to do, as the end of a sentence."""
    if isinstance(error, DryRunError | LocalEntryNotFoundError) and isinstance(
        error.__cause__, Exception
    ):
        error = error.__cause__
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
            return "it is incomplete in the cache, and HF_HUB_OFFLINE forbids the network."
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
        case httpx.ConnectError() | httpx.TimeoutException():
            return f"it is not in the cache, and there is no network to {hub}."
        case httpx.HTTPError():
            return f"the connection to {hub} broke off; try again."
    return " ".join(str(error).split()).rstrip(".") + "."
