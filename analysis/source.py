"""Where a program comes from: a folder that holds a saved one, or a model to trace, named `hf:NAME_OR_DIR` or `file.py:factory`."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from rewrite import FileError, InputError, Program, load, trace

BATCH, SEQUENCE, SEED = 2, 8, 0
Model = tuple[nn.Module, Mapping[str, Any]]


def names_a_model(text: str) -> bool:
    """True if `text` names a model, False if it can only be a folder."""
    return text.startswith("hf:") or ".py:" in text


def program_of(text: str, like: Program | None = None) -> Program:
    """The program that `text` names: a folder is loaded, a model is traced, on the example of `like` if that is given.

    Raises: FileError, InputError or TraceError when that cannot be done.
    """
    if not names_a_model(text):
        return load(text)
    model, example = model_of(text, needs_example=like is None)
    args, kwargs = like.example if like is not None else ((), example)
    return trace(model, *args, **kwargs)


def model_of(text: str, example: Path | None = None, *, needs_example: bool = True) -> Model:
    """The model that `text` names, in eval mode, and keyword arguments of an example call: those of the file `example` if given.

    Raises: InputError or FileError for a name that leads to no model, or a model for which no example can be made.
    """
    tensors = read_tensors(example) if example is not None else None if needs_example else {}
    if text.startswith("hf:"):
        return _from_hub(text.removeprefix("hf:"), tensors)
    if ".py:" in text:
        return _from_file(text, tensors)
    advice = f"Write {text}:FUNCTION." if text.endswith(".py") else "Put hf: in front of a model's name or folder."
    raise InputError(f"{text}: expected hf:NAME_OR_DIR or file.py:factory, got neither. {advice}")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name.

    Raises: FileError if it is missing or not one.
    """
    if not path.is_file():
        raise FileError(f"{path}: expected a safetensors file, got {'a folder' if path.is_dir() else 'nothing there'}. Check the path.")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise FileError(f"{path}: expected a safetensors file, got another kind of file ({error}). Write it with safetensors.") from error


# Hugging Face


def _from_hub(name: str, tensors: dict[str, Tensor] | None) -> Model:
    try:
        import transformers
    except ImportError as error:
        raise InputError(f"hf:{name}: expected transformers to be installed, got none. Run: pip install 'tautomer[hf]'.") from error
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        config = transformers.AutoConfig.from_pretrained(name)
        architecture = getattr(transformers, (config.architectures or ["AutoModel"])[0], transformers.AutoModel)
        model, loading = architecture.from_pretrained(name, output_loading_info=True)
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise InputError(f"hf:{name}: expected a model's name or folder, got none ({reason}). Check the name, or the network.") from error
    if missing := sorted(loading["missing_keys"]):
        raise InputError(
            f"hf:{name}: expected a checkpoint with every weight of {architecture.__name__}, got one without {missing[0]}"
            f"{f' and {len(missing) - 1} more' if len(missing) > 1 else ''}. They would be random numbers."
        )
    return model.eval(), _random_ids(name, config) if tensors is None else tensors


def _random_ids(name: str, config: Any) -> dict[str, Tensor]:
    """Random token ids. Shapes: [2, 8]."""
    size = getattr(config.get_text_config(), "vocab_size", None)
    if not size:
        raise InputError(f"hf:{name}: expected a vocabulary to draw example ids from, got none. Give --example FILE.safetensors.")
    ids = torch.randint(0, size, (BATCH, SEQUENCE), generator=torch.Generator().manual_seed(SEED))
    return {"input_ids": ids, "decoder_input_ids": ids} if getattr(config, "is_encoder_decoder", False) else {"input_ids": ids}


# A factory in a file


def _from_file(text: str, tensors: dict[str, Tensor] | None) -> Model:
    place, _, name = text.rpartition(":")
    path = Path(place)
    if not path.is_file():
        raise FileError(f"{text}: expected a Python file at {path}, got nothing there. Check the path.")
    with _beside(path):
        module = _guarded(lambda: _imported(path.resolve(), path.stat().st_mtime_ns), text)
        factory = getattr(module, name, None)
        if not callable(factory):
            known = [n for n, value in vars(module).items() if callable(value) and getattr(value, "__module__", "") == module.__name__]
            raise InputError(f"{text}: expected a function {name!r} in {path}, got none. It has: {', '.join(known) or 'no functions'}.")
        made = _guarded(factory, text)
    model, example = made if isinstance(made, tuple) and len(made) == 2 else (None, None)
    if not isinstance(model, nn.Module) or not isinstance(example, Mapping):
        kinds = ", ".join(type(one).__name__ for one in made) if isinstance(made, tuple) else type(made).__name__
        raise InputError(f"{text}: expected (module, dict of example inputs), got {kinds}. Return these two.")
    return model.eval(), example if tensors is None else tensors


@cache
def _imported(path: Path, changed: int) -> ModuleType:
    """The file, last `changed` then, as a module, run once: two models of one file share the ops that it registers."""
    spec = importlib.util.spec_from_file_location(f"tautomer_source_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


def _guarded(run: Callable[[], Any], text: str) -> Any:
    try:
        return run()
    except Exception as error:
        raise InputError(f"{text}: expected it to run, got {type(error).__name__}: {error}. Try it in Python.") from error


@contextmanager
def _beside(path: Path) -> Iterator[None]:
    """Imports inside find what lies beside the file, as if it were run."""
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
