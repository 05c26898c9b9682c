"""Models as a command line names them: `hf:NAME_OR_DIR` or `file.py:factory`, with an example to trace them on."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from rewrite import FileError, InputError

BATCH, SEQUENCE, SEED = 2, 8, 0


@dataclass(frozen=True)
class Spec:
    """A model and the keyword arguments of an example call; `example` is None where none was asked for."""

    model: nn.Module
    example: Mapping[str, Any]


def is_spec(text: str) -> bool:
    """True if `text` names a model, False if it can only be a folder."""
    return text.startswith("hf:") or ".py:" in text


def read_spec(text: str, example: Path | None = None) -> Spec:
    """The model that `text` names, and its example call: the tensors of the safetensors file `example` if that is given.

    Raises: InputError or FileError for a name that leads to no model, or a model for which no example can be made.
    """
    tensors = None if example is None else read_tensors(example)
    if text.startswith("hf:"):
        return _from_hub(text.removeprefix("hf:"), tensors)
    if ".py:" in text:
        return _from_file(text, tensors)
    raise InputError(f"{text}: expected hf:NAME_OR_DIR or file.py:factory, got neither. Put hf: in front of a model's name or folder.")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name.

    Raises: FileError if it is missing or not one.
    """
    if not path.is_file():
        raise FileError(f"{path}: expected a safetensors file, got {'a folder' if path.is_dir() else 'nothing there'}. Check the path.")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise FileError(f"{path}: expected a safetensors file, got one that cannot be read ({error}). Write it with safetensors.") from error


# Hugging Face


def _from_hub(name: str, tensors: dict[str, Tensor] | None) -> Spec:
    try:
        import transformers
    except ImportError as error:
        raise InputError(f"hf:{name}: expected transformers to be installed, got none. Install tautomer[hf].") from error
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        config = transformers.AutoConfig.from_pretrained(name)
        architecture = getattr(transformers, (config.architectures or ["AutoModel"])[0], transformers.AutoModel)
        model, loading = architecture.from_pretrained(name, output_loading_info=True)
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"hf:{name}: expected a model's name or folder, got none that loads ({reason}). Check the name, or the network.") from error
    if loading["missing_keys"]:
        missing = sorted(loading["missing_keys"])
        raise InputError(f"hf:{name}: expected every weight in the checkpoint, got none for {missing[0]} and {len(missing) - 1} more. They would be random.")
    return Spec(model.eval(), tensors or _random_ids(name, config))


def _random_ids(name: str, config: Any) -> dict[str, Tensor]:
    """Random token ids. Shapes: [2, 8]."""
    size = getattr(config.get_text_config(), "vocab_size", None)
    if not size:
        raise InputError(f"hf:{name}: expected a vocabulary to draw example ids from, got a model without. Give --example FILE.safetensors.")
    ids = torch.randint(0, size, (BATCH, SEQUENCE), generator=torch.Generator().manual_seed(SEED))
    return {"input_ids": ids, "decoder_input_ids": ids} if getattr(config, "is_encoder_decoder", False) else {"input_ids": ids}


# A factory in a file


def _from_file(text: str, tensors: dict[str, Tensor] | None) -> Spec:
    path, _, name = text.rpartition(":")
    module = _imported(Path(path), text)
    factory = getattr(module, name, None)
    if not callable(factory):
        known = [n for n, value in vars(module).items() if callable(value) and getattr(value, "__module__", None) == module.__name__]
        raise InputError(f"{text}: expected a function {name} in {path}, got none. There are: {', '.join(known) or 'no functions'}.")
    with _beside(Path(path)):
        made = _guarded(factory, text)
    model, example = made if isinstance(made, tuple) and len(made) == 2 else (made, tensors)
    if not isinstance(model, nn.Module) or not isinstance(tensors or example, Mapping):
        raise InputError(f"{text}: expected (module, dict of example inputs), got {_kind(made)}. Return both, or give --example FILE.safetensors.")
    return Spec(model.eval(), tensors or example)


def _imported(path: Path, text: str) -> ModuleType:
    if not path.is_file():
        raise FileError(f"{text}: expected a Python file at {path}, got nothing there. Check the path.")
    spec = importlib.util.spec_from_file_location(f"tautomer_spec_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses look themselves up there
    with _beside(path):
        _guarded(lambda: spec.loader.exec_module(module), text)  # type: ignore[union-attr]
    return module


def _guarded(run: Any, text: str) -> Any:
    try:
        return run()
    except Exception as error:
        raise InputError(f"{text}: expected it to run, got {type(error).__name__}: {error}. Try it in Python.") from error


@contextmanager
def _beside(path: Path) -> Iterator[None]:
    """Imports inside find what lies beside the file, as if it were run."""
    sys.path.insert(0, str(path.resolve().parent))
    try:
        yield
    finally:
        sys.path.remove(str(path.resolve().parent))


def _kind(made: Any) -> str:
    return f"({', '.join(type(one).__name__ for one in made)})" if isinstance(made, tuple) else type(made).__name__
