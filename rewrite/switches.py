"""Settings of a model that tracing needs changed, put back afterwards; and the models that it refuses by name."""

from __future__ import annotations

import keyword
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from rewrite.errors import TraceError
from rewrite.nested import tensors_in

ADAPTED = ("PeftModel", "LoraModel", "LoraLayer", "LoraLinear")
QUANTISED = (
    "Linear8bitLt",
    "Linear4bit",
    "QuantLinear",
    "WQLinear",
    "HQQLinear",
    "AqlmLinear",
    "EetqLinear",
    "FbgemmFp8Linear",
    "FP8Linear",
    "BitLinear",
    "VptqLinear",
    "HiggsLinear",
)
GROUPED = "TRANSFORMERS_SDPA_FORCE_GQA"  # without it, tracing repeats keys where eager mode groups queries: other rounding in gradients


def refuse(model: nn.Module) -> None:
    """Nothing, for a model that can be traced as it stands.

    Raises: TraceError for a model in training mode, with adapters on it, or quantised.
    """
    where = f"trace({type(model).__name__})"
    if not isinstance(model, nn.Module):
        raise TraceError(f"{where}: expected an nn.Module, got {type(model).__name__}. Wrap the function in a module's forward.")
    training = [path or "the model" for path, module in model.named_modules() if module.training]
    if training:
        raise TraceError(f"{where}: expected a model in eval mode, got {training[0]} in training mode. Call model.eval() first.")
    words = [path for path, _ in model.named_modules() if any(keyword.iskeyword(part) for part in path.split("."))]
    if words:
        raise TraceError(f"{where}: expected modules that code can name, got {words[0]!r}. Rename it: Python keeps that word for itself.")
    for path, module in model.named_modules():
        homes = [f"{cls.__module__}." for cls in type(module).__mro__]
        if type(module).__name__.startswith(ADAPTED) or any(home.startswith("peft.") for home in homes):
            raise TraceError(
                f"{where}: expected a model without adapters, got {type(module).__name__} at {path or 'the root'}."
                " Merge them into the weights first: model = model.merge_and_unload()."
            )
        if type(module).__name__ in QUANTISED or any(".quantized." in home or home.startswith("bitsandbytes.") for home in homes):
            raise TraceError(
                f"{where}: expected weights in a floating point type, got the quantised {type(module).__name__} at {path or 'the root'}."
                " Load the model without a quantisation setting, or dequantise it."
            )


@contextmanager
def switched(model: nn.Module, example: Any) -> Iterator[tuple[str, ...]]:
    """What was switched, as text; on leaving, everything is put back."""
    with ExitStack() as undo:
        made: dict[str, None] = {}
        for config, name, value in _settings(model):
            undo.callback(setattr, config, name, getattr(config, name))
            setattr(config, name, value)
            made[f"config.{name}={value!r}"] = None
        if _groups_heads(model) and not _pads(example) and GROUPED not in os.environ:
            undo.callback(os.environ.pop, GROUPED, None)
            os.environ[GROUPED] = "1"
            made[f"{GROUPED}=1"] = None
        yield tuple(made)


def _settings(model: nn.Module) -> Iterator[tuple[Any, str, Any]]:
    """No key-value cache; experts as plain batched products, not as an opaque kernel."""
    experts = any(type(module).__name__.endswith("Experts") for module in model.modules())
    for config in _configs(model):
        if getattr(config, "use_cache", False) is True:
            yield config, "use_cache", False
        if experts and getattr(config, "_experts_implementation", "batched_mm") not in ("batched_mm", "eager"):
            yield config, "_experts_implementation", "batched_mm"


def _groups_heads(model: nn.Module) -> bool:
    groups = (getattr(module, "num_key_value_groups", 1) for module in model.modules())
    return any(isinstance(count, int) and count > 1 for count in groups)


def _pads(example: Any) -> bool:
    """True if a mask in the example hides something: transformers then repeats keys in eager mode too."""
    masks = (t for name, t in tensors_in(example) if "mask" in name and not t.is_meta)
    return any(not bool((t != 0).all()) for t in masks)


def _configs(model: nn.Module) -> list[Any]:
    """Every config object that a module holds, and those inside it, each once."""
    found: dict[int, Any] = {}
    waiting = [module.__dict__.get("config") for module in model.modules()]
    while waiting:
        config = waiting.pop(0)
        if config is not None and id(config) not in found and hasattr(config, "__dict__"):
            found[id(config)] = config
            waiting += [value for key, value in vars(config).items() if key.endswith("config")]
    return list(found.values())
