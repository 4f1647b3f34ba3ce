"""Tiny models of timm's with random weights, for tests that need no quality."""

from pathlib import Path

SQUASHED = {"model": "test_efficientnet", "size": 64, "crop": "squash"}  # as a copy detector has it


def write_weights(file: Path, model: str = "test_efficientnet", seed: int = 1) -> str:
    """Random weights of one of timm's models with its classifier; the file's path."""
    import timm
    import torch
    from safetensors.torch import save_file

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = timm.create_model(model)
    values = {name: value.contiguous() for name, value in network.state_dict().items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".safetensors":
        save_file(values, file)
    else:
        torch.save(values, file)
    return str(file)
