"""Models that PyTorch, Keras, ONNX and TensorFlow 1 wrote, made into models that the server serves, exactly."""

from __future__ import annotations

from cellserve_server.importers.base import Assumption, ImportedModel, ImportRefusedError, Settings
from cellserve_server.importers.front import ImportResult, import_model
from cellserve_server.importers.verify import Verification

__all__ = [
    "Assumption",
    "ImportRefusedError",
    "ImportResult",
    "ImportedModel",
    "Settings",
    "Verification",
    "import_model",
]
