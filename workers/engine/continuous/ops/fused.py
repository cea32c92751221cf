"""The operations for cards: Triton kernels where torch has none that does the work in one pass over memory."""

from workers.engine.continuous.ops.attention import attend
from workers.engine.continuous.ops.chunk_attention import attend_chunks
from workers.engine.continuous.ops.experts import experts, route
from workers.engine.continuous.ops.norms import add_layer_norm, add_norm, gelu_linear, silu_product
from workers.engine.continuous.ops.paged_attention import attend_paged
from workers.engine.continuous.ops.products import linear, norm_linear
from workers.engine.continuous.ops.rotary import rotate, rotate_patches
from workers.engine.continuous.ops.step_attention import attend_step

__all__ = [
    "add_layer_norm",
    "add_norm",
    "attend",
    "attend_chunks",
    "attend_paged",
    "attend_step",
    "experts",
    "gelu_linear",
    "linear",
    "norm_linear",
    "rotate",
    "rotate_patches",
    "route",
    "silu_product",
]
