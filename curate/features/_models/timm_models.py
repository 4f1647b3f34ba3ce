"""Which of timm's models a recipe names, found in timm's files without importing torch."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from curate.errors import ConfigError, did_you_mean

# Facebook's Image Similarity Challenge 2021, descriptor track, first place (2112.04323): the copy
# detector that DataComp removed evaluation pictures with, there called dedup-isc-ft-v107.
ISC = "isc_ft_v107"
ISC_BACKBONE = "tf_efficientnetv2_m.in21k_ft_in1k"
SUFFIXES = (".safetensors", ".pt", ".pth", ".pth.tar", ".bin")

_MODEL = re.compile(r"^@register_model\s*\ndef (\w+)\(", re.MULTILINE)
_TAG = re.compile(r"""^\s*["'](\w+)\.([\w\-.]+)["']\s*:""", re.MULTILINE)


def problems(model: str, weights: str) -> list[str]:
    """What is wrong with a model's name and its weights; nothing is downloaded."""
    found = []
    if model != ISC:
        try:
            found = _name_problems(model)
        except ConfigError as error:
            found = [f"model: {error}"]
    if not weights.endswith(SUFFIXES):
        found.append(f"weights: {weights} is none of {', '.join(SUFFIXES)}")
    elif not Path(weights).is_file():
        found.append(
            f"weights: there is no file {weights}: nothing is downloaded, so fetch the weights of "
            f"{model} where there is a network, and give their path"
        )
    return found


def _name_problems(model: str) -> list[str]:
    name, _, tag = model.partition(".")
    known = tags()
    if model.startswith(("hf-hub:", "hf_hub:", "local-dir:")):
        return [f"model: {model} is no name of timm's: give one, and the file as `weights`"]
    if name not in known:
        return ["model: " + did_you_mean(model, [*known, *_published(), ISC], "timm has no")]
    # Some models' tags are made by timm's code: where none is written, opening the model tells.
    if tag and known[name] and tag not in known[name]:
        there = [f"{name}.{each}" for each in known[name]]
        return ["model: " + did_you_mean(model, there, "timm has no")]
    return []


def _published() -> list[str]:
    return [f"{name}.{tag}" for name, own in tags().items() for tag in own]


@cache
def tags() -> Mapping[str, tuple[str, ...]]:
    """{model: tags of its published weights}, of all models that timm has.

    Read from the text of timm's modules: importing them loads torch and takes seconds. A test
    compares the result with timm's own.
    """
    found: dict[str, tuple[str, ...]] = {}
    pairs: list[tuple[str, str]] = []
    for file in sorted((_library() / "models").glob("*.py")):
        text = file.read_text(encoding="utf-8")
        found |= dict.fromkeys(_MODEL.findall(text), ())
        pairs += _TAG.findall(text)
    for name, tag in pairs:
        if name in found and tag not in found[name]:
            found[name] = (*found[name], tag)
    return found


def _library() -> Path:
    """The folder of the installed timm."""
    found = importlib.util.find_spec("timm")
    if found is None or not found.submodule_search_locations:
        raise ConfigError("timm is not installed: pip install timm")
    return Path(found.submodule_search_locations[0])
