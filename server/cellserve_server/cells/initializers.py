"""Weights drawn from a seed, the same on every machine.

The recipe, so that others can draw the same:

1. The bit generator is Philox-4x64-10 with the seed as its key and its counter at 0
   (``numpy.random.Philox(key=seed)``).
2. The variables are taken in the order of ``place_layers(description)``. One that begins with zeros, ones or another
   number takes nothing from the generator.
3. Each element of a Glorot variable, in row-major order, takes the generator's next 64-bit word ``w``:
   ``u = (w >> 11) / 2**53``, a double from 0 to below 1 (as ``numpy.random.Generator.random`` makes it), and the
   value is ``(2 u - 1) limit``, computed in float64 and then rounded to the model's dtype.
4. ``limit = sqrt(6 / (fan_in + fan_out))``, where fan_in and fan_out are the two dimensions of the whole kernel
   matrix, as TensorFlow's default initializer has it (Glorot and Bengio 2010). A vector of n (``w_f_diag``) has n for
   both, as there.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cellserve.cells import Variable
from cellserve.errors import FieldInvalidError
from cellserve.specs import ModelDescription, place_layers
from cellserve.tensors import Array

MAX_SEED = 2**64 - 1
_BLOCK_WORDS = 1 << 16


def draw_weights(description: ModelDescription, seed: int) -> dict[str, Array]:
    """Draws all weights of a model by the recipe above. The caller sees to it that they are not too many.

    Returns:
        An array for each variable of ``place_layers(description)``, in that order, of the model's dtype.

    Raises:
        FieldInvalidError: the seed is not from 0 to 2**64 - 1.
    """
    if not 0 <= seed <= MAX_SEED:
        raise FieldInvalidError(f"seed: expected 0 to {MAX_SEED}; got {seed}")
    generator = np.random.Philox(key=seed)
    variables = [variable for layer in place_layers(description) for variable in layer.variables]
    return {variable.name: _draw(variable, generator, description.dtype) for variable in variables}


def _draw(variable: Variable, generator: np.random.Philox, dtype: np.dtype[Any]) -> Array:
    match variable.initializer:
        case "zeros":
            return np.zeros(variable.shape, dtype)
        case "ones":
            return np.ones(variable.shape, dtype)
        case "glorot_uniform":
            return _glorot_uniform(variable.shape, generator, dtype)
        case number:
            return np.full(variable.shape, number, dtype)


def _glorot_uniform(shape: tuple[int, ...], generator: np.random.Philox, dtype: np.dtype[Any]) -> Array:
    assert len(shape) in (1, 2), "Glorot's fans are those of a matrix or a vector"
    limit = math.sqrt(6.0 / (shape[0] + shape[-1]))
    values = np.empty(math.prod(shape), dtype)
    # In blocks: the words and doubles of a large kernel would take several times the kernel's own memory.
    for start in range(0, values.size, _BLOCK_WORDS):
        block = values[start : start + _BLOCK_WORDS]
        words = np.asarray(generator.random_raw(block.size), np.uint64)
        uniform = (words >> np.uint64(11)) * 2.0**-53
        block[:] = (2.0 * uniform - 1.0) * limit
    return values.reshape(shape)
