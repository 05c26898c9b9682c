"""Where a model comes from: `hf:NAME_OR_DIR`, `file.py:factory`, or a folder that holds a saved program."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rewrite import InputError, Program, load, trace

BATCH, SEQUENCE = 2, 8


def program_of(spec: str, *, example: Path | None = None, dynamic: bool = True, forward_only: bool = False, like: Program | None = None) -> Program:
    """The program that `spec` names: a folder is loaded, a model is traced, on `like`'s example if that is given.

    Raises: InputError when there is nothing of that name, or the example does not fit.
    """
    if Path(spec).is_dir():
        return load(spec)
    model, kwargs = model_of(spec)
    args: tuple[Any, ...] = ()
    if like is not None:
        args, kwargs = like.example
    elif example is not None:
        kwargs = _example_file(example)
    return trace(model, *args, dynamic=dynamic, forward_only=forward_only, **kwargs)


def model_of(spec: str) -> tuple[nn.Module, dict[str, Any]]:
    """The model that `spec` names, in eval mode, and example keyword arguments for it.

    Raises: InputError when there is nothing of that name.
    """
    if spec.startswith("hf:"):
        return _from_hub(spec.removeprefix("hf:"))
    path, _, factory = spec.rpartition(":")
    if not path.endswith(".py") or not factory:
        known = "a folder that tautomer wrote, hf:NAME_OR_DIR, or file.py:factory"
        raise InputError(f"{spec}: expected {known}, got none of these. There is no such folder here.")
    return _from_file(Path(path), factory)


def _from_hub(name: str) -> tuple[nn.Module, dict[str, Any]]:
    try:
        import transformers
    except ImportError:
        raise InputError(f"hf:{name}: expected transformers to be installed, got no such package. Run: pip install 'tautomer[hf]'.") from None
    try:
        config = transformers.AutoConfig.from_pretrained(name)
        kind = getattr(transformers, (config.architectures or ["AutoModel"])[0], transformers.AutoModel)
        model = kind.from_pretrained(name).eval()
    except (OSError, ValueError) as error:
        raise InputError(f"hf:{name}: expected a model folder or a name on the hub, got: {str(error).strip().splitlines()[0]}") from None
    return model, random_ids(model)


def random_ids(model: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """Example inputs of random token ids. Shapes: [2, 8] each.

    Raises: InputError for a model that does not read token ids.
    """
    name = type(model).__name__
    parameters = inspect.signature(model.forward).parameters
    vocabulary = getattr(getattr(model, "config", None), "vocab_size", None)
    if "input_ids" not in parameters or not isinstance(vocabulary, int):
        raise InputError(f"{name}: expected a model that reads input_ids, got one that reads {list(parameters)[:3]}. Pass --example FILE.safetensors.")
    generator = torch.Generator().manual_seed(seed)
    names = [n for n in ("input_ids", "decoder_input_ids") if n in parameters]
    return {n: torch.randint(0, vocabulary, (BATCH, SEQUENCE), generator=generator) for n in names}


def _from_file(path: Path, factory: str) -> tuple[nn.Module, dict[str, Any]]:
    if not path.is_file():
        raise InputError(f"{path}:{factory}: expected a Python file, got no such file. Check the path.")
    loaded = importlib.util.spec_from_file_location(path.stem, path)
    assert loaded is not None and loaded.loader is not None
    module = importlib.util.module_from_spec(loaded)
    sys.modules[path.stem] = module
    loaded.loader.exec_module(module)
    function = getattr(module, factory, None)
    if not callable(function):
        raise InputError(f"{path}:{factory}: expected a function of that name in the file, got none. It must return (model, example inputs).")
    made = function()
    if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], nn.Module) and isinstance(made[1], dict)):
        raise InputError(f"{path}:{factory}: expected (module, dict of example inputs), got {type(made).__name__}. Return these two.")
    return made


def _example_file(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except Exception as error:
        raise InputError(f"--example {path}: expected a safetensors file of inputs by name, got: {str(error).splitlines()[0]}") from None
