"""onnxruntime's LSTM with the weights of a ``BasicLSTMCell``."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from cellserve.tensors import Array

THREADS = 2
# The opset and the file version that introduced nothing this needs: older onnxruntimes read them too.
OPSET = 17
IR_VERSION = 8
FORGET_BIAS = 1.0


class OnnxLstm:
    """A graph of one LSTM node, time first, from a state of zeros.

    Args:
        weights: ``.../kernel`` ``[width + units, 4 units]`` and ``.../bias``, gates in TensorFlow's order i, j, f, o.
        units: the width of the state.
    """

    def __init__(self, weights: Mapping[str, Array], units: int) -> None:
        (kernel,) = (array for name, array in weights.items() if name.endswith("kernel"))
        (bias,) = (array for name, array in weights.items() if name.endswith("bias"))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            _graph(kernel, bias, units), options, providers=["CPUExecutionProvider"]
        )

    def run(self, inputs: Array) -> Array:
        """``[time, batch, width]`` to ``[time, batch, units]``."""
        outputs: Array = self._session.run(None, {"X": inputs})[0]
        return outputs[:, 0]


def _graph(kernel: Array, bias: Array, units: int) -> bytes:
    """The model. ONNX's gates stand in the order i, o, f, c (its LSTM operator's text), each matrix transposed."""
    i, j, f, o = np.split(kernel, 4, axis=1)
    arranged = np.concatenate((i, o, f, j), axis=1).T
    width = kernel.shape[0] - units
    i, j, f, o = np.split(bias, 4)
    biases = np.concatenate((i, o, f + FORGET_BIAS, j, np.zeros(4 * units, np.float32)), dtype=np.float32)
    constants = {"W": arranged[:, :width], "R": arranged[:, width:], "B": biases}
    graph = helper.make_graph(
        [helper.make_node("LSTM", ["X", "W", "R", "B"], ["Y"], hidden_size=units)],
        "lstm",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["time", "batch", width])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, ["time", 1, "batch", units])],
        [numpy_helper.from_array(np.ascontiguousarray(array[np.newaxis]), name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", OPSET)]
    model: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION).SerializeToString()
    return model
