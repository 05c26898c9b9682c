"""Operators on functions of one number and on norms: other kinds, constants, statistics, types, derivatives, neurons that never fire."""

from __future__ import annotations

import torch
from torch import fx

from benchmarks.mutants.draft import Draft, is_float, operator, val

aten = torch.ops.aten
GELU = aten.gelu.default
ACTIVATIONS = (GELU, aten.silu.default, aten.relu.default, aten.tanh.default, aten.sigmoid.default)
LAYER_NORM = aten.layer_norm.default
WRITTEN = (aten.linear.default, aten.addmm.default, aten.convolution.default, aten.conv2d.default, *ACTIVATIONS)
FAR = 2.0**14


def _small(value: object) -> bool:
    return isinstance(value, float) and 0 < value < 1e-3


@operator
def another_eps(draft: Draft) -> bool:
    """The eps of a norm times 1 + 2^-20."""
    return _other_eps(draft, 1 + 2.0**-20)


@operator
def no_eps(draft: Draft) -> bool:
    """A norm without its eps."""
    return _other_eps(draft, 0.0)


def _other_eps(draft: Draft, factor: float) -> bool:
    node = draft.pick(draft.ops(), lambda n: any(map(_small, (*n.args, n.kwargs.get("eps")))))
    if node is not None:
        args = [x * factor if _small(x) else x for x in node.args]  # type: ignore[operator]
        draft.call(node, node.target, *args, **{k: v * factor if _small(v) else v for k, v in node.kwargs.items()})  # type: ignore[operator]
    return node is not None


@operator
def bessel(draft: Draft) -> bool:
    """A norm that divides its squares by n - 1."""
    node = draft.pick([*draft.ops(LAYER_NORM), *[n for n in draft.ops(aten.mean.dim) if _of_squares(n)]])
    if node is None:
        return False
    if node.target is aten.mean.dim:
        size = val(node.args[0]).shape[-1]
        draft.after(node, aten.mul.Tensor, size / (size - 1))
        return True
    x, shape, weight, bias, eps = (*node.args, *(None, None, 1e-5)[len(node.args) - 2 :])[:5]
    if len(shape) != 1:  # type: ignore[arg-type]
        return False
    centred = draft.before(node, aten.sub.Tensor, x, draft.before(node, aten.mean.dim, x, [-1], True))
    spread = draft.before(node, aten.add.Tensor, draft.before(node, aten.var.correction, x, [-1], correction=1, keepdim=True), eps)
    value = draft.before(node, aten.mul.Tensor, centred, draft.before(node, aten.rsqrt.default, spread))
    value = value if weight is None else draft.before(node, aten.mul.Tensor, value, weight)
    draft.instead(node, value if bias is None else draft.before(node, aten.add.Tensor, value, bias))
    return True


def _of_squares(node: fx.Node) -> bool:
    return len(node.args) > 1 and node.args[1] == [-1] and getattr(node.args[0], "target", None) is aten.pow.Tensor_Scalar


@operator
def other_gelu(draft: Draft) -> bool:
    """GELU by tanh for GELU by erf, or the other way round."""
    node = draft.pick(draft.ops(GELU))
    if node is not None:
        draft.call(node, GELU, node.args[0], approximate="none" if node.kwargs.get("approximate") == "tanh" else "tanh")
    return node is not None


@operator
def another_activation(draft: Draft) -> bool:
    """Another activation."""
    node = draft.pick(draft.ops(*ACTIVATIONS))
    if node is not None:
        draft.call(node, draft.choice.choice([t for t in ACTIVATIONS if t is not node.target]), node.args[0])
    return node is not None


@operator
def another_attention_scale(draft: Draft) -> bool:
    """The scale of attention times 1 + 2^-18."""
    node = draft.pick(draft.ops(aten.scaled_dot_product_attention.default))
    if node is not None:
        scale = node.kwargs.get("scale") or int(val(node.args[0]).shape[-1]) ** -0.5
        draft.call(node, node.target, *node.args, **{**node.kwargs, "scale": scale * (1 + 2.0**-18)})  # type: ignore[operator]
    return node is not None


@operator
def cast_to_half(draft: Draft) -> bool:
    """A value cast to float16 and back: in the arithmetic of a proof that is rounding, which the report names."""
    node = draft.pick(draft.ops(*WRITTEN), lambda n: val(n).dtype is torch.float32)
    if node is not None:
        half = draft.before(node.next, aten._to_copy.default, node, dtype=torch.float16)
        draft.instead(node, draft.before(half.next, aten._to_copy.default, half, dtype=torch.float32))
    return node is not None


@operator
def cast_to_bytes(draft: Draft) -> bool:
    """A value, cut to whole numbers of eight bits and back, added: zero while it stays below one."""
    node = draft.pick(draft.ops(*WRITTEN))
    if node is not None:
        small = draft.before(node.next, aten.mul.Tensor, node, 1 / FAR)
        whole = draft.before(small.next, aten._to_copy.default, small, dtype=torch.int8)
        draft.add(node, draft.before(whole.next, aten._to_copy.default, whole, dtype=val(node).dtype))
    return node is not None


@operator
def detach(draft: Draft) -> bool:
    """A value without its gradient: the outputs are the same function."""
    node = draft.pick(draft.ops(*WRITTEN, LAYER_NORM, aten.mul.Tensor), lambda n: is_float(n, 2))
    if node is not None:
        draft.gradients = True
        draft.after(node, aten.detach.default)
    return node is not None


@operator
def dead_neuron(draft: Draft) -> bool:
    """A unit more, behind a ReLU that no example reaches."""
    node = draft.pick(draft.ops(*WRITTEN))
    if node is not None:
        far = draft.before(node.next, aten.sub.Tensor, node, FAR)
        fires = draft.before(far.next, aten.relu.default, far)
        draft.add(node, draft.before(fires.next, aten.mul.Tensor, fires, 3.0))
    return node is not None


@operator
def weight_of_a_dead_neuron(draft: Draft) -> bool:
    """A unit that no example reaches is in both; its weight is another one."""
    node = draft.pick(draft.ops(*WRITTEN))
    if node is None:
        return False
    name = node.name

    def unit(one: Draft, weight: float) -> None:
        place = next(n for n in one.graph.nodes if n.name == name)
        far = one.before(place.next, aten.sub.Tensor, place, FAR)
        fires = one.before(far.next, aten.relu.default, far)
        one.add(place, one.before(fires.next, aten.mul.Tensor, fires, weight))

    unit(draft, 3.0)
    draft.also.append(lambda one: unit(one, 3.0 + 2.0**-10))
    return True
