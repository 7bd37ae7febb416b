"""Compressed constants, quantization."""

import numpy as np

from .case import Family, floats

R = np.random.default_rng(11)


def family():
    f = Family("weights")
    x = floats(2, 4)

    def weight(name, body, value, opset):
        """Add a weight that `body` defines as `w`, both returned and multiplied."""
        value = value.astype(np.float32)
        text = f"{body} tensor<fp32, [2, {value.shape[0]}]> y0 = linear(x = x, weight = w); tensor<fp32, {list(value.shape)}> y1 = identity(x = w);"
        f.program(name, text, {"x": x}, {"y0": x @ value.T, "y1": value}, opset)

    q = R.integers(-128, 128, (3, 4))
    scale, zero = np.array([0.5, 0.25, 2.0]), np.array([1, -2, 3])
    lists = lambda a: str(np.asarray(a).tolist())
    weight("constexpr_affine_dequantize.0", f"tensor<fp32, [3, 4]> w = constexpr_affine_dequantize()[axis = int32(0), "
           f"quantized_data = tensor<int8, [3, 4]>({lists(q)}), scale = tensor<fp32, [3]>({lists(scale)}), "
           f"zero_point = tensor<int8, [3]>({lists(zero)})];", (q - zero[:, None]) * scale[:, None], "ios16")
    u = R.integers(0, 256, (3, 4))
    weight("constexpr_affine_dequantize.1", f"tensor<fp32, [3, 4]> w = constexpr_affine_dequantize()[axis = int32(1), "
           f"quantized_data = tensor<uint8, [3, 4]>({lists(u)}), scale = fp32(0.125), zero_point = uint8(128)];", (u - 128.0) * 0.125, "ios16")
    table = floats(4)
    index = R.integers(0, 4, 12)
    packed = [sum(int(index[4 * i + j]) << (2 * j) for j in range(4)) for i in range(3)]
    weight("constexpr_lut_to_dense.0", f"tensor<fp32, [3, 4]> w = constexpr_lut_to_dense()[indices = tensor<uint8, [3]>({packed}), "
           f"lut = tensor<fp32, [4]>({lists(table)}), shape = tensor<uint32, [2]>([3, 4])];", table[index].reshape(3, 4), "ios16")
    for bits in 1, 2, 3, 4, 6, 8:
        n = 1 << bits
        luts, idx = floats(2, n), R.integers(0, n, (4, 4))
        dense = np.stack([luts[r // 2][idx[r]] for r in range(4)])
        weight(f"constexpr_lut_to_dense.grouped{bits}", f"tensor<fp32, [4, 4]> w = constexpr_lut_to_dense(indices = tensor<uint{bits}, [4, 4]>({lists(idx)}), "
               f"lut = tensor<fp32, [2, 1, {n}, 1]>({lists(luts.reshape(2, 1, n, 1))}));", dense, "ios18")
    vectors, idx = floats(1, 1, 4, 2), R.integers(0, 4, (2, 4))
    dense = np.zeros((4, 4), np.float32)
    for r in range(2):
        for c in range(4):
            dense[2 * r : 2 * r + 2, c] = vectors[0, 0, idx[r, c]]
    weight("constexpr_lut_to_dense.vector", f"tensor<fp32, [4, 4]> w = constexpr_lut_to_dense(indices = tensor<uint2, [2, 4]>({lists(idx)}), "
           f"lut = tensor<fp32, [1, 1, 4, 2]>({lists(vectors)}), vector_axis = int32(0));", dense, "ios18")
    for kind, low, high in ("int4", -8, 8), ("uint4", 0, 16), ("int8", -128, 128), ("uint8", 0, 256):
        data, s = R.integers(low, high, (4, 4)), floats(4, 2, low=0.25)
        offset = R.integers(low, high, (4, 2))
        wide = lambda a: np.repeat(a, 2, 1)
        weight(f"constexpr_blockwise_shift_scale.{kind}", f"tensor<fp32, [4, 4]> w = constexpr_blockwise_shift_scale(data = tensor<{kind}, [4, 4]>({lists(data)}), "
               f"offset = tensor<{kind}, [4, 2]>({lists(offset)}), scale = tensor<fp32, [4, 2]>({lists(s)}));", (data - wide(offset)) * wide(s), "ios18")
        weight(f"constexpr_blockwise_shift_scale.{kind}.symmetric", f"tensor<fp32, [4, 4]> w = constexpr_blockwise_shift_scale(data = tensor<{kind}, [4, 4]>({lists(data)}), "
               f"scale = tensor<fp32, [4, 2]>({lists(s)}));", data * wide(s), "ios18")
    mask = R.integers(0, 2, (4, 4))
    nonzero = floats(int(mask.sum()))
    dense = np.zeros((4, 4), np.float32)
    dense[mask == 1] = nonzero
    weight("constexpr_sparse_to_dense.0", f"tensor<fp32, [4, 4]> w = constexpr_sparse_to_dense(mask = tensor<uint1, [4, 4]>({lists(mask)}), "
           f"nonzero_data = tensor<fp32, [{len(nonzero)}]>({lists(nonzero)}));", dense, "ios18")
    bits = [sum(int(mask.reshape(2, 8)[i, j]) << j for j in range(8)) for i in range(2)]
    weight("constexpr_sparse_to_dense.1", f"tensor<fp32, [4, 4]> w = constexpr_sparse_to_dense()[mask = tensor<uint8, [2]>({bits}), "
           f"nonzero_data = tensor<fp32, [{len(nonzero)}]>({lists(nonzero)}), shape = tensor<uint32, [2]>([4, 4])];", dense, "ios16")
    chosen = R.integers(0, 4, len(nonzero))
    dense = np.zeros((4, 4), np.float32)
    dense[mask == 1] = table[chosen]
    weight("constexpr_lut_to_sparse.0", f"tensor<uint1, [4, 4]> m, tensor<fp32, [{len(nonzero)}]> nz = constexpr_lut_to_sparse("
           f"indices_mask = tensor<uint1, [4, 4]>({lists(mask)}), indices_nonzero_data = tensor<uint2, [{len(nonzero)}]>({lists(chosen)}), "
           f"lut = tensor<fp32, [1, 1, 4, 1]>({lists(table.reshape(1, 1, 4, 1))})); "
           f"tensor<fp32, [4, 4]> w = constexpr_sparse_to_dense(mask = m, nonzero_data = nz);", dense, "ios18")
    data, s = R.integers(-8, 8, len(nonzero)), floats(4, 1, low=0.25)
    dense = np.zeros((4, 4), np.float32)
    dense[mask == 1] = data
    weight("constexpr_sparse_blockwise_shift_scale.0", f"tensor<uint1, [4, 4]> m, tensor<fp32, [{len(nonzero)}]> nz = constexpr_sparse_blockwise_shift_scale("
           f"data_mask = tensor<uint1, [4, 4]>({lists(mask)}), nonzero_data = tensor<int4, [{len(nonzero)}]>({lists(data)}), "
           f"scale = tensor<fp32, [4, 1]>({lists(s)})); tensor<fp32, [4, 4]> w = constexpr_sparse_to_dense(mask = m, nonzero_data = nz);", dense * s, "ios18")
    half = floats(3, 4).astype(np.float16)
    weight("constexpr_cast.0", f'tensor<fp32, [3, 4]> w = constexpr_cast()[source_val = tensor<fp16, [3, 4]>({lists(half.astype(float))}), output_dtype = string("fp32")];', half, "ios16")
    quantization(f)
    return f


def quantization(f):
    x = floats(3, 4, low=-20, high=20)
    scale, zero = np.array([0.5, 0.25, 0.125], np.float32), np.array([1, -2, 3], np.int8)
    # Away from ties, which implementations round differently.
    x = (np.round(x / scale[:, None]) + 0.25) * scale[:, None]
    q = np.clip(np.round(x / scale[:, None]) + zero[:, None], -128, 127).astype(np.int8)
    f.add("quantize", {"input": x.astype(np.float32)}, lambda v: q, scale=scale, zero_point=zero, axis=0, output_dtype="int8", opset="ios17")
    f.add("dequantize", {"input": q}, lambda v: (v.numpy().astype(np.float32) - zero[:, None]) * scale[:, None], scale=scale, zero_point=zero,
          axis=0, opset="ios17", half=False)
