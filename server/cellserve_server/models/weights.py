"""Weights that somebody gives: checked against a model's description, made ready, and digested."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping

import numpy as np

from cellserve.cells import Variable
from cellserve.errors import FieldInvalidError
from cellserve.specs import ModelDescription, Standardise, model_to_proto, place_layers
from cellserve.tensors import Array, require_dtype, require_shape

_DIGEST_HEADER = b"cellserve model, digest 1"
# A given name may be so much longer than the model's longest: there is a scope in front of it. And there may be so many
# times the model's variables, so that what is surplus is named where a training's slots came along.
MAX_SCOPE_CHARS = 512
MAX_NAMES_FACTOR = 4
_NAMES_SHOWN = 5
_NAME_CHARS_SHOWN = 200


def model_variables(description: ModelDescription) -> list[Variable]:
    """All weights of a model, under the names that the server has for them, in the order in which they are drawn."""
    return [variable for layer in place_layers(description) for variable in layer.variables]


def parameter_count(description: ModelDescription) -> int:
    """The number of the weights' elements."""
    return sum(math.prod(variable.shape) for variable in model_variables(description))


def weight_bytes(description: ModelDescription) -> int:
    """The bytes of the weights, known before there are any."""
    return parameter_count(description) * description.dtype.itemsize


def model_bytes(description: ModelDescription) -> int:
    """The bytes that a model is counted with: its weights', and its description's, as a message."""
    return weight_bytes(description) + model_to_proto(description).ByteSize()


def prepare_weights(
    description: ModelDescription, weights: Mapping[str, Array], field: str = "weights"
) -> dict[str, Array]:
    """Checks weights and copies them into the layout that the arithmetic wants.

    Args:
        description: the model.
        weights: an array for each variable. The names are TensorFlow's, with or without its ``:0``; one common scope in
            front of all of them (``rnn/``, ``my/scope/rnn/``) is allowed and dropped.
        field: what the weights are called in messages.

    Returns:
        An array for each of ``model_variables(description)``, in that order: C-contiguous, of the model's dtype,
        read-only, the caller's arrays copied.

    Raises:
        FieldInvalidError: a variable is missing, surplus or given twice, has an element that is no finite number, or
            is a scale with a 0 in it.
        ShapeMismatchError: a variable has another shape.
        DtypeMismatchError: a variable has another dtype than the model: nothing is rounded unasked.
    """
    variables = model_variables(description)
    plain = match_names(variables, weights, field)
    prepared = {}
    for variable in variables:
        given = weights[plain[variable.name]]
        name = f"{field}[{variable.name}]"
        require_shape(given, variable.shape, name)
        # By name: an array of the other byte order has the right type and is turned round by the copy.
        if given.dtype.name != description.dtype.name:
            require_dtype(given, description.dtype, name)
        _require_finite(given, name)
        prepared[variable.name] = np.array(given, dtype=description.dtype, order="C")
        prepared[variable.name].flags.writeable = False
    _require_scales(description, prepared, field)
    return prepared


def match_names(variables: Iterable[Variable], names: Collection[str], field: str = "weights") -> dict[str, str]:
    """Finds out which of the given names stands for which variable, in a time linear in the names' characters.

    Returns:
        The given name for each variable's name.

    Raises:
        FieldInvalidError: a variable is missing, surplus or given twice, or a name is too long.
    """
    expected = [variable.name for variable in variables]
    if len(names) > MAX_NAMES_FACTOR * len(expected):
        raise FieldInvalidError(f"{field}: expected the {len(expected)} variables of the model; got {len(names)}")
    max_chars = max(map(len, expected), default=0) + MAX_SCOPE_CHARS
    given: dict[str, str] = {}
    for name in names:
        if len(name) > max_chars:
            raise FieldInvalidError(
                f"{field}: expected names of at most {max_chars} characters, for this model; got {len(name)}"
            )
        plain = name.removesuffix(":0")
        if plain in given:
            raise FieldInvalidError(f"{field}: expected each variable once; got both {given[plain]!r} and {name!r}")
        given[plain] = name
    scope = _common_scope(frozenset(expected), given)
    missing = [name for name in expected if scope + name not in given]
    surplus = sorted(given.keys() - {scope + name for name in expected})
    if missing or surplus:
        parts = [f"missing {_some(missing)}"] if missing else []
        parts += [f"surplus {_some(surplus)}"] if surplus else []
        raise FieldInvalidError(
            f"{field}: expected the {len(expected)} variables of the model; got {len(given)}: " + "; ".join(parts)
        )
    return {name: given[scope + name] for name in expected}


def _common_scope(expected: frozenset[str], given: Iterable[str]) -> str:
    """The scope that stands in front of most of the given names that end in a variable's name; most often none."""
    parts = max((name.count("/") + 1 for name in expected), default=0)
    votes = Counter(name.removesuffix(tail) for name in given for tail in _tails(name, parts) if tail in expected)
    return max(votes, key=lambda scope: (votes[scope], -len(scope)), default="")


def _tails(name: str, parts: int) -> Iterator[str]:
    """The ends of a name that are its last part, its last two, and so on to its last ``parts``, or all it has.

    No longer ones: a name of nothing but ``/`` has as many ends as characters, each a copy.
    """
    start = len(name)
    for _ in range(parts):
        start = name.rfind("/", 0, start)
        yield name[start + 1 :]
        if start < 0:
            return


def _some(names: list[str]) -> str:
    shown = [name if len(name) <= _NAME_CHARS_SHOWN else name[:_NAME_CHARS_SHOWN] + "..." for name in names]
    more = len(shown) - _NAMES_SHOWN
    return ", ".join(shown[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _require_finite(array: Array, name: str) -> None:
    finite = np.isfinite(array)
    if finite.all():
        return
    position = tuple(int(index) for index in np.argwhere(~finite)[0])
    raise FieldInvalidError(f"{name}: expected finite numbers; got {array[position]} at {list(position)}")


def _require_scales(description: ModelDescription, weights: Mapping[str, Array], field: str) -> None:
    for placed in place_layers(description):
        if not isinstance(placed.layer, Standardise):
            continue
        name = f"{placed.prefix}standardise/scale"
        zeros = np.flatnonzero(weights[name] == 0)
        if len(zeros):
            raise FieldInvalidError(
                f"{field}[{name}]: expected no 0, inputs are divided by it; got 0 at {int(zeros[0])}"
            )


def weights_digest(description: ModelDescription, weights: Mapping[str, Array]) -> str:
    """SHA-256 over a model's description and its weights, in hexadecimal: those who agree on it compute the same.

    Args:
        description: the model.
        weights: as ``prepare_weights`` or ``draw_weights`` give them.
    """
    spec = model_to_proto(description).SerializeToString(deterministic=True)
    digest = hashlib.sha256(_DIGEST_HEADER)
    digest.update(len(spec).to_bytes(8, "little") + spec)
    for name in sorted(weights):
        array = weights[name]
        head = f"{name}\0{array.dtype.name}\0{','.join(map(str, array.shape))}\0".encode()
        digest.update(len(head).to_bytes(8, "little") + head)
        # The bytes as they are on the wire, whatever the machine's own order; no copy where they are that already.
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        digest.update(little.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
