"""Dictionaries: the features of a sparse autoencoder as a family, its bias, and the error that it leaves.

    y = sum_i a_i(y) D[i] + b + (y - sum_i a_i(y) D[i] - b)        for every encoder a, decoder D and bias b

Activations: ReLU, JumpReLU (with `threshold`), TopK (with `k`). The error keeps its own copy of the reconstruction, so editing a
feature moves the output; unedited the copies are computed once, and no tensor of features times d_model is ever made.
Source: Bricken et al. 2023, "Towards Monosemanticity"; Rajamanoharan et al. 2024 (JumpReLU); Gao et al. 2024 (TopK).
Names of the tensors as SAELens writes them.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import sympy
import torch
from torch import Tensor, nn

from rewrite import Family, PassError, Skip, Terms, split

KNOWN = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")


@split(name="feature")
def dictionary(y: Tensor, *, sae: Mapping[str, Tensor] | nn.Module, k: int | None = None, center: bool = True) -> Terms:
    """The contribution of each feature of `sae` as a family, the decoder bias, and the error.

    `sae` holds W_enc, b_enc, W_dec, and if it has them b_dec and threshold (JumpReLU). `k` makes it TopK: the k largest are kept.
    `center` takes b_dec off the input first.

    Shapes: y [..., d_model], W_enc [d_model, features], b_enc and threshold [features], W_dec [features, d_model], b_dec [d_model];
    terms [..., d_model], coordinate [..., features].
    """
    decoder, bias = _tensor(sae, "W_dec"), _tensor(sae, "b_dec", needed=False)
    acts = activations(y - bias if center and bias is not None else y, sae, k)
    reconstruction = acts @ decoder
    error = y - reconstruction
    return Terms(Family("...f,fm->...m", acts, decoder, axis="f", act=acts), bias=bias, error=error if bias is None else error - bias)


def activations(x: Tensor, sae: Mapping[str, Tensor] | nn.Module, k: int | None) -> Tensor:
    """The feature activations of `x`. Shapes: x [..., d_model]; result [..., features]."""
    pre = x @ _tensor(sae, "W_enc") + _tensor(sae, "b_enc")
    threshold = _tensor(sae, "threshold", needed=False)
    if k is not None:
        top = pre.topk(k, dim=-1)
        return torch.zeros_like(pre).scatter(-1, top.indices, torch.relu(top.values))
    acts = torch.relu(pre)
    return acts if threshold is None else acts * (pre > threshold)


def _tensor(sae: Any, name: str, *, needed: bool = True) -> Any:
    value = sae.get(name) if isinstance(sae, Mapping) else getattr(sae, name, None)
    if value is None and needed:
        raise PassError(f"dictionary: expected sae to have {name}, got none. Rename its tensors to W_enc, b_enc, W_dec, b_dec.")
    return value


@dictionary.guard
def _fits(y: Tensor, *, sae: Mapping[str, Tensor] | nn.Module, k: int | None, center: bool) -> Skip | None:
    odd = sorted(map(str, sae.keys() - set(KNOWN))) if isinstance(sae, Mapping) else []
    if odd:
        raise PassError(f"dictionary: expected sae to hold {', '.join(KNOWN)}, got also {odd[0]!r}. Leave it out; TopK's k goes in as k=.")
    width = _tensor(sae, "W_dec").shape[-1]
    return None if width == y.shape[-1] else Skip(f"the dictionary is for width {width}, the site's last axis is {y.shape[-1]}")


@dictionary.claim("feature i is parallel to row i of the decoder", member="i")
def _parallel(t: Terms, y: Tensor, *, sae: Any, k: int | None, center: bool, i: Tensor):
    row = _tensor(sae, "W_dec").index_select(0, i.reshape(1)).squeeze(0)
    return t[0][i] * (row @ row), (t[0][i] @ row).unsqueeze(-1) * row


SMALL = {"W_enc": (2, 3), "b_enc": (3,), "W_dec": (3, 2), "b_dec": (2,)}


@dictionary.identity("features, bias and error sum to y", y=(2, 2), sae=SMALL)
def _sum(law: Any, y: Any, sae: Any):
    return law(y, sae=sae).total, y


@dictionary.identity("feature i is max(0, (y - b_dec).W_enc[:, i] + b_enc[i]) times row i of the decoder", y=(2, 2), sae=SMALL)
def _written(law: Any, y: Any, sae: Any):
    acts = np.frompyfunc(lambda e: sympy.Max(0, e), 1, 1)((y - sae["b_dec"]) @ sae["W_enc"] + sae["b_enc"])
    return np.stack(law(y, sae=sae).members), np.stack([acts[:, i : i + 1] * sae["W_dec"][i] for i in range(3)])


@dictionary.identity("it is linear in the decoder", y=(2, 2), sae=SMALL, more=(3, 2))
def _linear(law: Any, y: Any, sae: Any, more: Any):
    of = lambda decoder: law(y, sae={**sae, "W_dec": decoder})[0]  # noqa: E731
    return of(sae["W_dec"] + more), of(sae["W_dec"]) + of(more)
