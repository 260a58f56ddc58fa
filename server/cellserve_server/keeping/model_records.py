"""The models that clients define as bytes: what the stores keep, so that any replica can go on with their sessions."""

from __future__ import annotations

import json
from collections.abc import Mapping

import safetensors.numpy
from google.protobuf.message import DecodeError
from safetensors import SafetensorError

from cellserve.errors import CellServeError, RecordCorruptError
from cellserve.specs import ModelDescription, model_from_proto, model_to_proto
from cellserve.tensors import Array
from cellserve.v1 import model_pb2
from cellserve_server.models.loaded_model import ModelDraft, draft_model

# The format's name and number, and the length of what follows as JSON; then the spec as a message, and the weights as
# a safetensors file.
_MAGIC = b"CSd\x01"
_LENGTH_BYTES = 4


def encode_model(description: ModelDescription, weights: Mapping[str, Array] | None, seed: int | None) -> bytes:
    """A defined model as bytes: with its weights, or with the seed from which they are drawn."""
    spec = model_to_proto(description).SerializeToString(deterministic=True)
    head = json.dumps({"seed": seed, "spec_bytes": len(spec)}).encode()
    body = b"" if weights is None else safetensors.numpy.save(dict(weights))
    return b"".join((_MAGIC, len(head).to_bytes(_LENGTH_BYTES, "little"), head, spec, body))


def decode_model(data: bytes) -> ModelDraft:
    """The model, ready to serve. This takes long; it may run in another thread.

    Raises:
        RecordCorruptError: the bytes are not what was written, or of a later release's format.
    """
    if data[: len(_MAGIC)] != _MAGIC:
        raise RecordCorruptError("the stored model is none, or of a later release's format")
    start = len(_MAGIC) + _LENGTH_BYTES
    end = start + int.from_bytes(data[len(_MAGIC) : start], "little")
    try:
        head = json.loads(data[start:end])
        spec_end = end + head["spec_bytes"]
        spec = model_pb2.ModelSpec.FromString(data[end:spec_end])
        weights = None if head["seed"] is not None else safetensors.numpy.load(data[spec_end:])
        return draft_model(model_from_proto(spec), weights=weights, seed=head["seed"])
    except (ValueError, KeyError, TypeError, DecodeError, SafetensorError, CellServeError) as error:
        raise RecordCorruptError("the stored model is damaged") from error
