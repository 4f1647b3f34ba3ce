"""Which model and weights a recipe names, found in open_clip's files without importing torch."""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from curate.errors import ConfigError

Json = dict[str, Any]

LOCAL_DIR = "local-dir:"
QUICKSTART = "quickstart"  # the model that ships with this package
QUICKSTART_FOLDER = Path(__file__).parents[2] / "quickstart" / "clip"
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
CONFIG = "open_clip_config.json"
# The order in which open_clip looks for weights in a folder.
WEIGHT_NAMES = (
    "open_clip_model.safetensors", "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin", "open_clip_pytorch_model.pth",
    "model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth",
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """A model and its weights, as open_clip is to load them."""

    model: str  # an architecture of open_clip's, or local-dir:PATH
    config: Json  # the architecture
    pictures: Json  # how pictures are prepared
    weights: Path

    @property
    def local_folder(self) -> Path | None:
        """The folder that holds everything, if one does."""
        return _folder_of(self.model)

    def recipe(self) -> Json:
        """All that the numbers depend on; no path is part of it."""
        config = json.dumps(self.config, sort_keys=True)
        return {
            "open_clip": importlib.metadata.version("open_clip_torch"),
            "model": LOCAL_DIR if self.local_folder else self.model,
            "config_sha256": hashlib.sha256(config.encode()).hexdigest(),
            "weights_sha256": _file_sha256(self.weights),
            "activation": "quick_gelu" if self.config.get("quick_gelu") else "gelu",
            "pictures": {"size": self.config["vision_cfg"].get("image_size", 224), **self.pictures},
            "tokenizer": self._tokenizer(),
        }

    def _tokenizer(self) -> Json:
        text = self.config["text_cfg"]
        length = text.get("context_length", 77)
        name = text.get("hf_tokenizer_name")
        if not name:
            vocabulary = _library() / "bpe_simple_vocab_16e6.txt.gz"
            return {"context_length": length, "vocabulary_sha256": _file_sha256(vocabulary)}
        # A tokenizer on the hub has no hash that could be had offline: its name has to do.
        file = (self.local_folder or Path()) / "tokenizer.json"
        own = self.local_folder is not None and file.is_file()
        digest = {"vocabulary_sha256": _file_sha256(file)} if own else {"name": name}
        return {"context_length": length, **digest}


def problems(model: str, weights: str | None) -> list[str]:
    """What is wrong with a model and its weights; nothing is downloaded."""
    folder = _folder_of(model)
    if folder is not None:
        return _folder_problems(folder, weights)
    if model.startswith("hf-hub:"):
        repository = model.removeprefix("hf-hub:")
        return [
            f"model: {model} is not read from the hub, so that its files stay what they are: run "
            f"`hf download {repository} --local-dir FOLDER` and write {LOCAL_DIR}FOLDER"
        ]
    if model not in _models():
        known = [*_models(), QUICKSTART]
        return [f"model: open_clip has no {model!r}{_did_you_mean(model, known)}"]
    if weights is None:
        tags = ", ".join(_published().get(model, {})) or "none"
        return [f"weights: {model} needs a published tag ({tags}) or the path of a file"]
    entry = _entry(model, weights)
    if entry is not None:
        return _activation_problems(model, weights, trained_quick=bool(entry.get("quick_gelu")))
    return _file_problems(model, weights)


def locate(model: str, weights: str | None) -> Source:
    """A model and its weights; published weights are downloaded unless they are cached.

    Raises:
        ConfigError: they do not exist, do not fit, or cannot be downloaded.
    """
    if found := problems(model, weights):
        raise ConfigError("\n".join(found))
    folder = _folder_of(model)
    if folder is not None:
        given = _json(folder / CONFIG)
        pictures = _pictures(given.get("preprocess_cfg", {}))
        file = _weights_in(folder)[0]
        return Source(f"{LOCAL_DIR}{folder}", given["model_cfg"], pictures, file)
    assert weights is not None  # `problems` demands them
    entry = _entry(model, weights)
    config = _json(_library() / "model_configs" / f"{model}.json")
    file = Path(weights) if entry is None else _fetched(entry, f"{model} {weights}")
    return Source(model, config, _pictures(entry or {}), file)


def _folder_of(model: str) -> Path | None:
    if model == QUICKSTART:
        return QUICKSTART_FOLDER
    return Path(model.removeprefix(LOCAL_DIR)) if model.startswith(LOCAL_DIR) else None


def _folder_problems(folder: Path, weights: str | None) -> list[str]:
    if weights is not None:
        return [f"weights: {folder} has its own; leave `weights` out"]
    file = folder / CONFIG
    if not file.is_file():
        return [f"model: there is no {file}"]
    try:
        config = _json(file)
    except ConfigError as error:
        return [f"model: {error}"]
    if not {"vision_cfg", "text_cfg"} <= config.get("model_cfg", {}).keys():
        return [f"model: {file} has no model_cfg with vision_cfg and text_cfg"]
    found = _weights_in(folder)
    if not found:
        return [f"model: there are no weights in {folder} ({WEIGHT_NAMES[0]}, say)"]
    if len(found) > 1 and found[0].name not in WEIGHT_NAMES:
        names = ", ".join(path.name for path in found)
        return [f"model: {folder} has several weights ({names}): keep one, as {WEIGHT_NAMES[0]}"]
    return []


def _weights_in(folder: Path) -> list[Path]:
    """Weights in a folder; the one that open_clip takes comes first."""
    named = [folder / name for name in WEIGHT_NAMES if (folder / name).is_file()]
    others = sorted(path for path in folder.glob("*") if path.suffix in SUFFIXES)
    return named or [path for path in others if path.suffix != ".pt"]  # which it does not look for


def _file_problems(model: str, weights: str) -> list[str]:
    file = Path(weights)
    if not file.is_file():
        tags = list(_published().get(model, {}))
        hint = _did_you_mean(weights, tags) or f"; its tags: {', '.join(tags) or 'none'}"
        return [f"weights: {weights!r} is neither a published tag of {model} nor a file{hint}"]
    if file.suffix not in SUFFIXES:
        return [f"weights: {weights} is none of {', '.join(SUFFIXES)}"]
    beside = file.with_name(CONFIG)
    config = _json(beside).get("model_cfg", {}) if beside.is_file() else {}
    says_so = bool(config.get("quick_gelu")) or "quickgelu" in file.name
    return _activation_problems(model, weights, trained_quick=says_so)


def _activation_problems(model: str, weights: str, *, trained_quick: bool) -> list[str]:
    """Weights trained with QuickGELU score wrongly, and silently, under GELU."""
    config = _json(_library() / "model_configs" / f"{model}.json")
    if not trained_quick or config.get("quick_gelu"):
        return []
    quick = f"{model}-quickgelu"
    remedy = f"write model: {quick}" if quick in _models() else "take a config with quick_gelu"
    return [f"model: {weights} was trained with QuickGELU, which {model} does not use: {remedy}"]


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return f"; did you mean {by_lower[close[0]]!r}?" if close else ""


def _library() -> Path:
    """The folder of the installed open_clip."""
    found = importlib.util.find_spec("open_clip")
    if found is None or not found.submodule_search_locations:
        raise ConfigError("open_clip is not installed: pip install open_clip_torch")
    return Path(found.submodule_search_locations[0])


@cache
def _models() -> list[str]:
    return sorted(path.stem for path in (_library() / "model_configs").glob("*.json"))


@cache
def _constants() -> Json:
    values: Json = {}
    exec((_library() / "constants.py").read_text(encoding="utf-8"), values)
    return values


@cache
def _published() -> Mapping[str, Mapping[str, Json]]:
    """{model: {tag: where its weights are, and how its pictures are prepared}}.

    Run from open_clip's own source without the lines that import the rest of it: those load torch
    and take many seconds. A test compares the result with open_clip's.
    """
    tree = ast.parse((_library() / "pretrained.py").read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if not _imports_more(node)]
    values = dict(_constants())
    exec(compile(tree, "pretrained.py", "exec"), values)
    return values["_PRETRAINED"]  # type: ignore[no-any-return]  # what was run has no types


def _imports_more(node: ast.stmt) -> bool:
    return isinstance(node, ast.Try) or (isinstance(node, ast.ImportFrom) and node.level > 0)


def _entry(model: str, tag: str) -> Json | None:
    return _published().get(model, {}).get(tag.lower().replace("-", "_"))


def _pictures(given: Mapping[str, Any]) -> Json:
    """Preparation of pictures, open_clip's defaults filled in."""
    defaults = {
        "mean": _constants()["OPENAI_DATASET_MEAN"],
        "std": _constants()["OPENAI_DATASET_STD"],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
        "fill_color": 0,
    }
    return {key: given[key] if given.get(key) is not None else defaults[key] for key in defaults}


def _fetched(entry: Json, what: str) -> Path:
    """Published weights in the hub's cache, downloaded where they are not there yet."""
    from huggingface_hub import try_to_load_from_cache

    repository, _, given = entry["hf_hub"].rpartition("/")
    names = _file_names(given)
    cached = [try_to_load_from_cache(repository, name) for name in names]
    if there := [path for path in cached if isinstance(path, str)]:
        return Path(there[0])
    for name in names:
        if (path := _downloaded(repository, name, what)) is not None:
            return path
    raise ConfigError(f"{what}: {repository} has none of {', '.join(names)}: give a file's path")


def _downloaded(repository: str, name: str, what: str) -> Path | None:
    """A file of a repository on the hub; None where it has no such file."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repository, name))
    except LocalEntryNotFoundError as error:  # which is an EntryNotFoundError, of another sort
        failure: Exception = error
    except EntryNotFoundError:
        return None
    except OSError as error:
        failure = error
    raise ConfigError(
        f"{what}: these weights are not in the hub's cache, and cannot be downloaded "
        f"({str(failure).splitlines()[0]}): fetch {name} of {repository} where there is a network, "
        "and give its path as `weights`"
    )


def _file_names(given: str) -> list[str]:
    """Files to ask a repository for, safetensors first."""
    if not given:
        return ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
    stem, _, suffix = given.rpartition(".")
    return [f"{stem}.safetensors", given] if suffix in ("bin", "pth") else [given]


def _json(path: Path) -> Json:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path} is not a JSON object")
    return value


def _file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while chunk := handle.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()
