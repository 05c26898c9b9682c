"""What a saved graph may consist of: ops by name, and nothing that writes, draws random numbers, reads files or calls back into Python."""

from __future__ import annotations

import math
import operator
from typing import Any

import torch

from rewrite.errors import FileError, nearest

ATEN = frozenset(
    """
    __and__ __or__ _log_softmax _native_batch_norm_legit_no_training _safe_softmax _softmax _to_copy
    _unsafe_view _weight_norm abs acos acosh adaptive_avg_pool1d adaptive_avg_pool2d add addbmm addcdiv addcmul addmm addmv addr alias
    all amax amin any arange argmax argmin argsort as_strided asin asinh atan atan2 atanh avg_pool1d avg_pool2d baddbmm batch_norm
    bitwise_and bitwise_not bitwise_or bitwise_xor bmm broadcast_to bucketize cat ceil celu chunk clamp clamp_max clamp_min clone
    constant_pad_nd contiguous conv1d conv2d conv3d conv_transpose1d conv_transpose2d convolution copy cos cosh cross cumprod cumsum
    detach diag diag_embed diagonal diagonal_scatter diff div dot dropout einsum elu embedding empty_like eq erf erfc erfinv exp exp2
    expand expand_as expm1 eye fill flatten flip floor floor_divide fmod full full_like gather ge gelu glu group_norm gru_cell gt
    hardsigmoid hardswish hardtanh index index_add index_copy index_fill index_put index_select inverse isfinite isinf isnan isneginf
    isposinf kron layer_norm le leaky_relu lerp lgamma linalg_cholesky linalg_inv linalg_inv_ex linalg_lstsq linalg_matrix_norm
    linalg_norm linalg_pinv linalg_qr linalg_solve linalg_solve_ex linalg_svd linalg_vector_norm linear linspace log log10 log1p log2
    log_sigmoid log_sigmoid_forward log_softmax logaddexp logical_and logical_not logical_or logical_xor logsumexp lstm lt mT
    masked_fill masked_scatter matmul matrix_exp max max_pool1d max_pool2d max_pool2d_with_indices maximum mean median min minimum mish
    mm movedim mul mv nan_to_num narrow native_group_norm native_layer_norm ne neg new_empty new_full new_ones new_zeros norm numpy_T
    one_hot ones ones_like outer pad permute pixel_shuffle pixel_unshuffle polar positive pow prelu prod reciprocal relu relu6 remainder
    repeat repeat_interleave reshape rms_norm roll rot90 round rsqrt rsub scalar_tensor scaled_dot_product_attention scatter scatter_add
    scatter_reduce searchsorted select select_scatter selu sgn sigmoid sign silu sin sinh slice slice_scatter softmax softplus sort
    split split_with_sizes sqrt square squeeze stack std sub sum swapaxes sym_size sym_stride sym_numel sym_storage_offset t take
    take_along_dim tan tanh tensordot threshold tile to topk trace transpose tril triu true_divide trunc type_as unbind unflatten unfold
    unsqueeze upsample_bilinear2d upsample_nearest2d var var_mean view view_as view_as_complex view_as_real where xlogy zeros zeros_like
    """.split()
)
PYTHON: dict[str, Any] = {
    **{
        f"operator.{name}": getattr(operator, name)
        for name in "add sub mul floordiv truediv mod pow neg eq ne lt le gt ge and_ or_ not_ getitem".split()
    },
    "math.ceil": math.ceil,
    "math.floor": math.floor,
    **{f"torch.{name}": getattr(torch, name) for name in "sym_max sym_min sym_int sym_float sym_not sym_ite".split()},
}
WITH_DROPOUT = ("dropout", "lstm", "scaled_dot_product_attention")  # random only when a dropout is asked for
_NAMES = {target: name for name, target in PYTHON.items()}


def op_name(target: Any) -> str:
    """The name under which an op is saved.

    Raises: FileError for an op that a saved program may not contain.
    """
    if isinstance(target, torch._ops.OpOverload):
        op(str(target))
        return str(target)
    if target in _NAMES:
        return _NAMES[target]
    raise FileError(f"save: expected ops that a saved program may contain, got {target}. Export it, or rewrite that part with ATen ops.")


def op(name: str) -> Any:
    """The op called `name`.

    Raises: FileError for anything outside the list, in particular ops that write, read files or draw random numbers.
    """
    if name in PYTHON:
        return PYTHON[name]
    namespace, _, rest = name[:100].partition(".")
    base, _, overload = rest.partition(".")
    if namespace != "aten" and hasattr(torch.ops, namespace) and hasattr(getattr(torch.ops, namespace), base):
        raise FileError(f"op {name[:100]!r}: expected an op of ATen, got one of {namespace}: such programs are not saved. Trace anew.")
    if namespace != "aten" or base not in ATEN:
        raise FileError(f"op {name[:100]!r}: expected an op of the allow-list, got one outside it.{nearest(base, ATEN)}")
    packet = getattr(torch.ops.aten, base, None)
    found = getattr(packet, overload, None) if packet is not None and overload in packet.overloads() else None
    if found is None:
        raise FileError(f"op {name!r}: expected an overload that this torch has, got {overload!r}. It was saved by another version.")
    random = torch.Tag.nondeterministic_seeded in found.tags and base not in WITH_DROPOUT
    if found._schema.is_mutable or random:
        raise FileError(f"op {name!r}: expected a functional, deterministic op, got one that writes or draws random numbers.")
    return found


def draws(target: torch._ops.OpOverload, args: Any, kwargs: Any) -> bool:
    """Whether a call of one of the ops that may drop out asks for it."""
    if target._opname not in WITH_DROPOUT:
        return False
    names = (argument.name for argument in target._schema.arguments)
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    rate = next((given[name] for name in ("dropout_p", "dropout", "p") if name in given), 0)
    return bool(rate) and bool(given.get("train", True))
