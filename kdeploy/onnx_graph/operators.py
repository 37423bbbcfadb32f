"""Which operators could run as integers, and which names say that they did.

The names are those of ONNX, of ONNX Runtime's fused kernels and of OpenVINO's executed graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

INTEGER = frozenset(
    {
        *("QLinearConv", "ConvInteger", "QLinearConvTranspose"),
        *("QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"),
        *("QGemm", "QAttention", "DynamicQuantizeLSTM"),
    }
)
FLOATING = frozenset(
    {
        *("Conv", "FusedConv", "NhwcFusedConv", "ConvTranspose"),
        *("MatMul", "FusedMatMul", "FusedMatMulActivation", "TransposeMatMul", "MatMulNBits"),
        *("Gemm", "FusedGemm", "Attention", "MultiHeadAttention"),
        *("LSTM", "GRU", "RNN"),
    }
)
# A file with one of these (or of INTEGER) was meant to be quantized.
QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})


def integer_and_eligible(operators: Mapping[str, int]) -> tuple[int, int]:
    """Return how many executed operators are integer, and how many could have been."""
    integer = sum(count for name, count in operators.items() if name in INTEGER)
    floating = sum(count for name, count in operators.items() if name in FLOATING)
    return integer, integer + floating


def is_quantized(operators: Iterable[str]) -> bool:
    """Say whether a file with operators of these types was meant to run as integers."""
    return any(name in INTEGER or name in QUANTIZERS for name in operators)
