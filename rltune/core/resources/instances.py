"""MIG instances that stand on a GPU, in use or idle, and the seconds to change them.

An instance stays where it is when its job ends, as on real GPUs: a next job of the same profile there begins at once. For any
other, those in its way are destroyed and its own is created, one after the other (seconds: FAR, arXiv 2507.13601, table in
`rltune.nouns.mig_profiles`). A GPU that serves whole after slices, or the other way, also changes its MIG mode.

How a *layout* is written: `rltune.nouns.mig_layout`.
"""

from __future__ import annotations

from rltune.compiled import inner
from rltune.nouns.mig_layout import ANY, BITS, MODE
from rltune.nouns.mig_profiles import CREATE_S, DESTROY_S, KIND, SIZE_OF_KIND, STARTS_MOST


@inner
def kind_at(layout, start):
    """Kind of the instance that begins at this memory slice; -1: none does."""
    return (layout >> (BITS * start) & ANY) - 1


@inner
def stands(layout, profile, start, gpu_type):
    """Whether an instance of just this profile begins there."""
    return kind_at(layout, start) == KIND[profile, gpu_type]


@inner
def in_the_way(layout, begin, size, start, gpu_type):
    """Whether the instance that begins at ``start`` has one of the memory slices ``begin, ..., begin + size - 1``."""
    kind = kind_at(layout, start)
    return kind >= 0 and start < begin + size and start + SIZE_OF_KIND[kind, gpu_type] > begin


@inner
def cleared(layout, begin, size, gpu_type):
    """The layout without the instances on these memory slices, and the seconds to destroy them."""
    seconds, left = 0.0, layout
    for start in range(STARTS_MOST):
        if in_the_way(layout, begin, size, start, gpu_type):
            left &= ~(ANY << (BITS * start))
            seconds += DESTROY_S[kind_at(layout, start), gpu_type]
    return left, seconds


@inner
def idle_part(layout, taken, gpu_type):
    """The instances of a layout on none of the memory slices ``taken`` (bits), alone."""
    left = 0
    for start in range(STARTS_MOST):
        kind = kind_at(layout, start)
        if kind >= 0 and taken >> start & ((1 << SIZE_OF_KIND[kind, gpu_type]) - 1) == 0:
            left |= (kind + 1) << (BITS * start)
    return left


@inner
def with_slice(layout, profile, start, gpu_type, mode_s):
    """The layout with an instance of this profile there, and the seconds until it is; ``mode_s``: to turn MIG mode on."""
    if stands(layout, profile, start, gpu_type):
        return layout, 0.0
    kind = KIND[profile, gpu_type]
    left, seconds = cleared(layout, start, SIZE_OF_KIND[kind, gpu_type], gpu_type)
    if layout & MODE == 0:
        seconds += mode_s
    return left | (kind + 1) << (BITS * start) | MODE, seconds + CREATE_S[kind, gpu_type]


@inner
def layout_for(layout, profile, start, gpu_type, mode_s):
    """The layout once a slice from ``start`` is to be used, or the GPU whole or shared (profile -1), and the seconds until."""
    if profile >= 0:
        return with_slice(layout, profile, start, gpu_type, mode_s)
    return as_whole(layout, gpu_type, mode_s)


@inner
def as_whole(layout, gpu_type, mode_s):
    """The layout of a GPU that serves whole, 0, and the seconds until it does; ``mode_s``: to turn MIG mode off."""
    if layout == 0:
        return layout, 0.0
    _, seconds = cleared(layout, 0, STARTS_MOST, gpu_type)
    return 0 * layout, seconds + mode_s
