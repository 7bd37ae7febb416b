//! A program per operation. `$OP` stands for its name; see `Extents::fill` for the extents. An opset other than iOS18
//! precedes the program.

/// Operation, program, and true if a result takes negligible memory whenever its operands do.
pub(crate) const ROWS: &[(&str, &str, bool)] = &[
    (
        "abs acos asin atan atanh ceil cos cosh erf exp exp2 floor inverse log round rsqrt sign sin sinh sqrt square tan tanh \
         relu relu6 sigmoid silu softplus softsign gelu clamped_relu elu leaky_relu linear_activation scaled_tanh \
         sigmoid_hard thresholded_relu softmax",
        "tensor<fp32, [$A, $H, $H]> y = $OP(x = x);",
        false,
    ),
    ("abs sign square round exp2 ceil floor", "tensor<int32, [$A, $H, $H]> y = $OP(x = i);", false),
    ("softmax", "tensor<fp32, [$A, $H, $H]> y = $OP(x = x, axis = int32(0));", false),
    ("threshold", "tensor<fp32, [$A, $H, $H]> y = threshold(x = x, alpha = fp32(0.5));", false),
    ("threshold", "tensor<int32, [$A, $H, $H]> y = threshold(x = i, alpha = fp32(0.5));", false),
    ("clip", "tensor<fp32, [$A, $H, $H]> y = clip(x = x, alpha = fp32(0), beta = fp32(1));", false),
    ("clip", "tensor<int32, [$A, $H, $H]> y = clip(x = i, alpha = fp32(0), beta = fp32(1));", false),
    ("cast", "tensor<int32, [$A, $H, $H]> y = cast(x = x, dtype = string(\"int32\"));", false),
    ("cast", "tensor<bool, [$A, $H, $H]> y = cast(x = x, dtype = string(\"bool\"));", false),
    ("cast", "tensor<fp16, [$A, $H, $H]> y = cast(x = x, dtype = string(\"fp16\"));", false),
    ("cast", "tensor<fp16, [$A, $H, $H]> y = cast(x = i, dtype = string(\"fp16\"));", false),
    ("cast", "tensor<fp32, [$A, $H, $H]> y = cast(x = i, dtype = string(\"fp32\"));", false),
    ("cast", "tensor<int8, [$A, $H, $H]> y = cast(x = i, dtype = string(\"int8\"));", false),
    ("logical_not", "tensor<bool, [$A, $H, $H]> y = logical_not(x = b);", false),
    ("prelu", "tensor<fp32, [$A, $H, $H]> y = prelu(x = x, alpha = ch);", false),
    ("softplus_parametric", "tensor<fp32, [$A, $H, $H]> y = softplus_parametric(x = x, alpha = ch, beta = ch);", false),
    (
        "add floor_div maximum minimum mod mul pow real_div sub",
        "tensor<fp32, [$A, $H, $H]> y = $OP(x = x, y = x);",
        false,
    ),
    (
        "add floor_div maximum minimum mod mul pow real_div sub",
        "tensor<int32, [$A, $H, $H]> y = $OP(x = i, y = i);",
        false,
    ),
    ("add pow mod", "tensor<fp32, [$M, $M]> y = $OP(x = left, y = right);", false),
    ("add", "tensor<fp32, [$A, $H, $H]> y = add(x = x, y = i);", false),
    (
        "equal greater greater_equal less less_equal not_equal",
        "tensor<bool, [$A, $H, $H]> y = $OP(x = x, y = x);",
        false,
    ),
    (
        "equal greater greater_equal less less_equal not_equal",
        "tensor<bool, [$A, $H, $H]> y = $OP(x = i, y = i);",
        false,
    ),
    ("logical_and logical_or logical_xor", "tensor<bool, [$A, $H, $H]> y = $OP(x = b, y = b);", false),
    ("select", "tensor<fp32, [$A, $H, $H]> y = select(cond = b, a = x, b = x);", false),
    ("select", "tensor<int32, [$A, $H, $H]> y = select(cond = b, a = i, b = i);", false),
    (
        "quantize",
        "tensor<int8, [$A, $H, $H]> y = quantize(input = x, scale = fp32(0.1), zero_point = int8(1), output_dtype = string(\"int8\"));",
        false,
    ),
    (
        "dequantize",
        "tensor<fp32, [$A, $H, $H]> y = dequantize(input = q8, scale = fp32(0.1), zero_point = int8(1));",
        false,
    ),
    // Lists and blocks.
    (
        "make_list list_write list_gather",
        "list<tensor<fp32, [$A, $H, $H]>, 2> e = make_list(init_length = int32(2), elem_shape = (int32(1)), dtype = string(\"fp32\"), dynamic_length = bool(false)); \
         list<tensor<fp32, [$A, $H, $H]>, 2> f = list_write(ls = e, index = int32(0), value = x); \
         tensor<fp32, [2, $A, $H, $H]> y = list_gather(ls = f, indices = tensor<int32, [2]>([0, 0]));",
        false,
    ),
    (
        "list_read list_scatter",
        "list<tensor<fp32, [$H, $H]>, $A> e = make_list(init_length = int32($A), elem_shape = (int32(1)), dtype = string(\"fp32\"), dynamic_length = bool(false)); \
         list<tensor<fp32, [$H, $H]>, $A> f = list_scatter(ls = e, indices = av, value = x); \
         tensor<fp32, [$H, $H]> r = list_read(ls = f, index = int32(0)); fp32 y = reduce_max(x = ch, axes = tensor<int32, [1]>([0]), keep_dims = bool(false));",
        true,
    ),
    (
        "make_list list_length",
        "list<tensor<fp32, [$A, $H, $H]>, 2> e = make_list(init_length = int32(2), elem_shape = (int32($A), int32($H), int32($H)), dtype = string(\"fp32\"), dynamic_length = bool(false)); \
         int32 y = list_length(ls = e);",
        false,
    ),
    (
        "cond",
        "tensor<fp32, [$A, $H, $H]> y = cond(pred = bool(true)) { tensor<fp32, [$A, $H, $H]> t = exp(x = x); } -> (t) { } -> (x);",
        false,
    ),
    (
        "while_loop",
        "tensor<fp32, [?]> y, int32 n = while_loop(loop_vars = (s, int32(0))) \
         (tensor<fp32, [?]> c, int32 k) { tensor<int32, [1]> z = shape(x = c); int32 e = squeeze(x = z); bool more = less(x = e, y = int32($N)); } -> (more) \
         (tensor<fp32, [?]> d, int32 l) { tensor<fp32, [?]> t = concat(values = (d, d), axis = int32(0), interleave = bool(false)); int32 u = add(x = l, y = int32(1)); } -> (t, u);",
        false,
    ),
    // Whole tensors.
    ("argsort", "tensor<int32, [$A, $H, $H]> y = argsort(x = x, axis = int32(-1), ascending = bool(true));", false),
    ("argsort", "tensor<int32, [$A, $H, $H]> y = argsort(x = i, axis = int32(1), ascending = bool(true));", false),
    ("argsort", "tensor<int32, [$N]> y = argsort(x = v, axis = int32(0), ascending = bool(true));", false),
    ("band_part", "tensor<fp32, [$A, $H, $H]> y = band_part(x = x, lower = int32(1), upper = int32(1));", false),
    ("band_part", "tensor<fp32, [$M, $M]> y = band_part(x = m, lower = int32(1), upper = int32(1));", false),
    ("concat", "tensor<fp32, [?]> y = concat(values = (v, v), axis = int32(0), interleave = bool(false));", false),
    ("concat", "tensor<fp32, [?]> y = concat(values = (v, v), axis = int32(0), interleave = bool(true));", false),
    ("concat", "tensor<fp32, [?]> y = concat(values = (v, iv), axis = int32(0), interleave = bool(false));", false),
    (
        "cumsum",
        "tensor<fp32, [$A, $H, $H]> y = cumsum(x = x, axis = int32(1), exclusive = bool(false), reverse = bool(false));",
        false,
    ),
    (
        "cumsum",
        "tensor<int32, [$A, $H, $H]> y = cumsum(x = i, axis = int32(1), exclusive = bool(false), reverse = bool(false));",
        false,
    ),
    (
        "cumsum",
        "tensor<fp32, [$N]> y = cumsum(x = v, axis = int32(0), exclusive = bool(true), reverse = bool(true));",
        false,
    ),
    ("fill", "tensor<fp32, [?, ?]> y = fill(shape = tensor<int32, [2]>([$M, $2H]), value = fp32(1));", false),
    ("fill_like", "tensor<int32, [$A, $H, $H]> y = fill_like(ref_tensor = x, value = int32(1));", false),
    ("flatten2d", "tensor<fp32, [?, ?]> y = flatten2d(x = x, axis = int32(1));", false),
    (
        "identity",
        "tensor<fp32, [$A, $H, $H]> z = identity(x = x); fp32 y = reduce_max(x = ch, axes = tensor<int32, [1]>([0]), keep_dims = bool(false));",
        true,
    ),
    (
        "non_maximum_suppression",
        "ios15: tensor<fp32, [?, ?, ?]> y, tensor<fp32, [?, ?, ?]> sc, tensor<int32, [?, ?]> k, tensor<int32, [?]> n = non_maximum_suppression(boxes = boxes, scores = scores, iou_threshold = fp32(0.5), score_threshold = fp32(-1), max_boxes = int32(8), per_class_suppression = bool(false));",
        false,
    ),
    ("non_zero", "tensor<int32, [?, ?]> y = non_zero(x = x);", false),
    (
        "one_hot",
        "tensor<fp32, [?, ?]> y = one_hot(indices = hv, one_hot_vector_size = int32($NH), axis = int32(-1), on_value = fp32(1), off_value = fp32(0));",
        false,
    ),
    (
        "one_hot",
        "tensor<fp32, [?, ?]> y = one_hot(indices = hv, one_hot_vector_size = int32($NH), axis = int32(0), on_value = fp32(1), off_value = fp32(0));",
        false,
    ),
    (
        "pad",
        "tensor<fp32, [?, ?, ?]> y = pad(x = x, pad = tensor<int32, [4]>([1, 1, 1, 1]), mode = string(\"constant\"), constant_val = fp32(2));",
        false,
    ),
    (
        "pad",
        "tensor<fp32, [?]> y = pad(x = s, pad = tensor<int32, [2]>([$N2, $N2]), mode = string(\"replicate\"), constant_val = fp32(0));",
        false,
    ),
    (
        "pad",
        "tensor<int32, [?, ?, ?]> y = pad(x = i, pad = tensor<int32, [4]>([2, 2, 2, 2]), mode = string(\"constant\"), constant_val = int32(2));",
        false,
    ),
    ("range_1d", "tensor<int32, [?]> y = range_1d(start = int32(0), end = int32($N), step = int32(1));", false),
    ("range_1d", "tensor<fp32, [?]> y = range_1d(start = fp32(0), end = fp32($N), step = fp32(1));", false),
    ("shape", "tensor<int32, [3]> y = shape(x = x);", true),
    (
        "split",
        "tensor<fp32, [?, ?, ?]> z, tensor<fp32, [?, ?, ?]> w = split(x = x, num_splits = int32(2), axis = int32(1)); tensor<int32, [3]> y = shape(x = z);",
        true,
    ),
    ("stack", "tensor<fp32, [?, ?, ?, ?]> y = stack(values = (x, x), axis = int32(1));", false),
    ("tile", "tensor<fp32, [?]> y = tile(x = s, reps = tensor<int32, [1]>([$N4]));", false),
    ("tile", "tensor<fp32, [?, ?, ?]> y = tile(x = x, reps = tensor<int32, [3]>([1, 2, 1]));", false),
    (
        "topk",
        "tensor<fp32, [?, ?, ?]> y, tensor<int32, [?, ?, ?]> k = topk(x = x, k = int32($H2), axis = int32(-1), ascending = bool(false));",
        false,
    ),
    (
        "topk",
        "tensor<int32, [?, ?, ?]> y, tensor<int32, [?, ?, ?]> k = topk(x = i, k = int32($H1), axis = int32(1), ascending = bool(false));",
        false,
    ),
    // Products.
    ("einsum", "tensor<fp32, [?, ?]> y = einsum(values = (left, right), equation = string(\"ab,bc->ac\"));", false),
    (
        "einsum",
        "tensor<fp32, [?, ?, ?, ?]> y = einsum(values = (left, right), equation = string(\"ab,cd->cabd\"));",
        false,
    ),
    ("einsum", "tensor<fp32, [?, ?]> y = einsum(values = (x, x), equation = string(\"abc,adc->bd\"));", false),
    ("linear engine.linear", "tensor<fp32, [?, ?]> y = $OP(x = m, weight = m);", false),
    ("linear", "tensor<fp32, [?, ?]> y = linear(x = m, weight = m, bias = tensor<fp32, [1]>([0.5]));", false),
    (
        "matmul",
        "tensor<fp32, [?, ?]> y = matmul(x = m, y = m, transpose_x = bool(false), transpose_y = bool(false));",
        false,
    ),
    (
        "matmul",
        "tensor<fp32, [?, ?]> y = matmul(x = m, y = m, transpose_x = bool(true), transpose_y = bool(true));",
        false,
    ),
    (
        "matmul",
        "tensor<fp32, [?, ?, ?]> y = matmul(x = x, y = x, transpose_x = bool(false), transpose_y = bool(false));",
        false,
    ),
    (
        "matmul",
        "tensor<int32, [?, ?]> y = matmul(x = im2, y = im2, transpose_x = bool(false), transpose_y = bool(false));",
        false,
    ),
    (
        "matmul",
        "tensor<fp32, [?, ?]> y = matmul(x = left, y = right, transpose_x = bool(false), transpose_y = bool(false));",
        false,
    ),
    (
        "linear",
        "tensor<fp32, [64, $H]> w = fill(shape = tensor<int32, [2]>([64, $H]), value = fp32(0.5)); tensor<fp32, [?, ?, ?]> y = linear(x = x, weight = w);",
        false,
    ),
    (
        "engine.products",
        "tensor<fp32, [64, $H]> w = fill(shape = tensor<int32, [2]>([64, $H]), value = fp32(0.5)); \
         tensor<fp32, [?, ?, ?]> y, tensor<fp32, [?, ?, ?]> z = engine.products(x = x, weight_0 = w, weight_1 = w, count = int32(2), channels_first = bool(false));",
        false,
    ),
    // Windows.
    (
        "avg_pool max_pool l2_pool",
        "tensor<fp32, [?, ?, ?, ?]> y = $OP(x = im, kernel_sizes = tensor<int32, [2]>([3, 3]), strides = tensor<int32, [2]>([1, 1]), pad_type = string(\"same\"));",
        false,
    ),
    (
        "avg_pool",
        "tensor<fp32, [?, ?, ?, ?]> y = avg_pool(x = im, kernel_sizes = tensor<int32, [2]>([16, 16]), strides = tensor<int32, [2]>([1, 1]), pad_type = string(\"same\"), exclude_padding_from_average = bool(true));",
        false,
    ),
    ("conv", "tensor<fp32, [?, ?, ?, ?]> y = conv(x = im, weight = kernel, pad_type = string(\"same\"));", false),
    (
        "conv engine.conv",
        "tensor<fp32, [8, $A, 3, 3]> w = fill(shape = tensor<int32, [4]>([8, $A, 3, 3]), value = fp32(0.5)); tensor<fp32, [?, ?, ?, ?]> y = $OP(x = im, weight = w, pad_type = string(\"same\"));",
        false,
    ),
    (
        "conv",
        "tensor<fp32, [32, $A, 3, 3]> w = fill(shape = tensor<int32, [4]>([32, $A, 3, 3]), value = fp32(0.5)); tensor<fp32, [1, 32, $H, $H]> y = conv(x = im, weight = w, pad_type = string(\"same\"), dilations = tensor<int32, [2]>([2, 2]));",
        false,
    ),
    (
        "conv",
        "tensor<fp32, [64, $A, 1, 1]> w = fill(shape = tensor<int32, [4]>([64, $A, 1, 1]), value = fp32(0.5)); tensor<fp32, [?, ?, ?, ?]> y = conv(x = im, weight = w);",
        false,
    ),
    (
        "conv",
        "tensor<fp32, [$A, 1, 5, 5]> w = fill(shape = tensor<int32, [4]>([$A, 1, 5, 5]), value = fp32(0.5)); tensor<fp32, [?, ?, ?, ?]> y = conv(x = im, weight = w, pad_type = string(\"same\"), groups = int32($A));",
        false,
    ),
    (
        "conv_quantized",
        "tensor<fp32, [?, ?, ?, ?]> y = conv_quantized(x = im, weight = kernel, pad_type = string(\"same\"), quantization_type = string(\"linear\"));",
        false,
    ),
    (
        "conv_transpose",
        "tensor<fp32, [?, ?, ?, ?]> y = conv_transpose(x = im, weight = back, pad_type = string(\"same\"), strides = tensor<int32, [2]>([2, 2]));",
        false,
    ),
    (
        "conv_transpose",
        "tensor<fp32, [$A, 8, 3, 3]> w = fill(shape = tensor<int32, [4]>([$A, 8, 3, 3]), value = fp32(0.5)); tensor<fp32, [?, ?, ?, ?]> y = conv_transpose(x = im, weight = w, pad_type = string(\"same\"), strides = tensor<int32, [2]>([2, 2]));",
        false,
    ),
    // Shapes.
    (
        "batch_to_space",
        "tensor<fp32, [?, ?, ?, ?]> y = batch_to_space(x = ib, block_shape = tensor<int32, [2]>([2, 2]), crops = tensor<int32, [2, 2]>([[0, 0], [0, 0]]));",
        false,
    ),
    (
        "space_to_batch",
        "tensor<fp32, [?, ?, ?, ?]> y = space_to_batch(x = im, block_shape = tensor<int32, [2]>([2, 2]), paddings = tensor<int32, [2, 2]>([[2, 0], [0, 2]]));",
        false,
    ),
    ("depth_to_space space_to_depth", "tensor<fp32, [?, ?, ?, ?]> y = $OP(x = im, block_size = int32(2));", false),
    ("pixel_shuffle", "tensor<fp32, [?, ?, ?, ?]> y = pixel_shuffle(x = im, upscale_factor = int32(2));", false),
    ("pixel_unshuffle", "tensor<fp32, [?, ?, ?, ?]> y = pixel_unshuffle(x = im, downscale_factor = int32(2));", false),
    ("reshape", "tensor<fp32, [?]> y = reshape(x = x, shape = tensor<int32, [1]>([-1]));", false),
    (
        "reshape_like",
        "tensor<fp32, [?]> y = reshape_like(x = x, ref_tensors = (v), begins = tensor<int32, [1]>([0]), ends = tensor<int32, [1]>([1]), end_masks = tensor<bool, [1]>([false]));",
        false,
    ),
    (
        "expand_dims squeeze transpose slice_by_size",
        "tensor<fp32, [?, ?, ?, ?]> e = expand_dims(x = x, axes = tensor<int32, [1]>([0])); tensor<fp32, [?, ?, ?]> q = squeeze(x = e); \
         tensor<fp32, [?, ?, ?]> t = transpose(x = q, perm = tensor<int32, [3]>([2, 0, 1])); \
         tensor<fp32, [?, ?, ?]> z = slice_by_size(x = t, begin = tensor<int32, [3]>([0, 0, 0]), size = tensor<int32, [3]>([-1, 1, -1])); tensor<int32, [3]> y = shape(x = z);",
        true,
    ),
    ("reverse", "tensor<fp32, [?, ?, ?]> y = reverse(x = x, axes = tensor<int32, [3]>([0, 1, 2]));", false),
    ("reverse", "tensor<fp32, [?]> y = reverse(x = v, axes = tensor<int32, [1]>([0]));", false),
    (
        "reverse_sequence",
        "tensor<fp32, [?, ?, ?]> y = reverse_sequence(x = x, lengths = av, seq_axis = int32(1), batch_axis = int32(0));",
        false,
    ),
    (
        "slice_by_index",
        "tensor<fp32, [?, ?, ?]> y = slice_by_index(x = x, begin = tensor<int32, [3]>([0, 0, 0]), end = tensor<int32, [3]>([0, 0, 0]), begin_mask = tensor<bool, [3]>([true, true, true]), end_mask = tensor<bool, [3]>([true, true, true]), stride = tensor<int32, [3]>([1, 2, -1]));",
        false,
    ),
    (
        "slice_by_index",
        "tensor<fp32, [?]> y = slice_by_index(x = v, begin = tensor<int32, [1]>([0]), end = tensor<int32, [1]>([0]), begin_mask = tensor<bool, [1]>([true]), end_mask = tensor<bool, [1]>([true]), stride = tensor<int32, [1]>([2]));",
        false,
    ),
    (
        "slice_update",
        "tensor<fp32, [?, ?, ?]> y = slice_update(x = x, update = one, begin = tensor<int32, [3]>([0, 0, 0]), end = tensor<int32, [3]>([$A, $H2, $H1]));",
        false,
    ),
    (
        "slice_update",
        "tensor<int32, [?, ?, ?]> y = slice_update(x = i, update = tensor<int32, [1]>([7]), begin = tensor<int32, [3]>([0, 0, 0]), end = tensor<int32, [3]>([$A, $H, $H]), stride = tensor<int32, [3]>([1, 1, 2]));",
        false,
    ),
    (
        "sliding_windows",
        "tensor<fp32, [?, ?, ?, ?]> y = sliding_windows(x = x, axis = int32(2), size = int32(8), stride = int32(2));",
        false,
    ),
    (
        "sliding_windows",
        "tensor<fp32, [?, ?]> y = sliding_windows(x = v, axis = int32(0), size = int32(3), stride = int32(1));",
        false,
    ),
    // Reductions.
    (
        "reduce_l1_norm reduce_l2_norm reduce_log_sum reduce_log_sum_exp reduce_max reduce_mean reduce_min reduce_prod \
         reduce_sum reduce_sum_square",
        "tensor<fp32, [?, ?]> y = $OP(x = x, axes = tensor<int32, [1]>([0]), keep_dims = bool(false));",
        false,
    ),
    (
        "reduce_max reduce_log_sum_exp",
        "fp32 y = $OP(x = x, axes = tensor<int32, [3]>([0, 1, 2]), keep_dims = bool(false));",
        false,
    ),
    (
        "reduce_sum",
        "tensor<int32, [?, ?, ?]> y = reduce_sum(x = i, axes = tensor<int32, [1]>([1]), keep_dims = bool(true));",
        false,
    ),
    (
        "reduce_sum",
        "tensor<int32, [?, ?, ?]> y = reduce_sum(x = i, axes = tensor<int32, [3]>([0, 1, 2]), keep_dims = bool(true));",
        false,
    ),
    (
        "reduce_argmax reduce_argmin",
        "tensor<int32, [?, ?]> y = $OP(x = x, axis = int32(0), keep_dims = bool(false));",
        false,
    ),
    // Normalizations.
    (
        "batch_norm",
        "tensor<fp32, [?, ?, ?, ?]> y = batch_norm(x = im, mean = ca, variance = ca, gamma = ca, beta = ca, epsilon = fp32(0.1));",
        false,
    ),
    (
        "batch_norm",
        "tensor<fp32, [?, ?, ?, ?]> y = batch_norm(x = im, mean = tensor<fp32, [1]>([0]), variance = tensor<fp32, [1]>([1]), epsilon = fp32(0.1));",
        false,
    ),
    (
        "instance_norm",
        "tensor<fp32, [?, ?, ?, ?]> y = instance_norm(x = im, gamma = ca, beta = ca, epsilon = fp32(0.1));",
        false,
    ),
    ("l2_norm", "tensor<fp32, [?, ?, ?, ?]> y = l2_norm(x = im, epsilon = fp32(0.1));", false),
    (
        "layer_norm",
        "tensor<fp32, [?, ?, ?]> y = layer_norm(x = x, axes = tensor<int32, [1]>([2]), gamma = ch, beta = ch, epsilon = fp32(0.1));",
        false,
    ),
    (
        "layer_norm",
        "tensor<fp32, [?, ?, ?]> y = layer_norm(x = x, axes = tensor<int32, [1]>([1]), gamma = ch, beta = ch, epsilon = fp32(0.1));",
        false,
    ),
    (
        "local_response_norm",
        "tensor<fp32, [?, ?, ?, ?]> y = local_response_norm(x = im, size = int32(3), alpha = fp32(0.1), beta = fp32(0.5), k = fp32(1));",
        false,
    ),
    ("engine.rms_norm", "tensor<fp32, [?, ?, ?]> y = engine.rms_norm(x = x, epsilon = fp32(0.1));", false),
    // Attention and idioms.
    (
        "scaled_dot_product_attention engine.sdpa",
        "tensor<fp32, [?, ?, ?]> y = $OP(query = x, key = x, value = x);",
        false,
    ),
    (
        "scaled_dot_product_attention",
        "tensor<fp32, [?, ?, ?]> y = scaled_dot_product_attention(query = x, key = x, value = x, attn_mask = b);",
        false,
    ),
    ("engine.rotary", "tensor<fp32, [?, ?, ?]> y = engine.rotary(x = x, cos = ch, sin = ch);", false),
    ("engine.silu_mul", "tensor<fp32, [?, ?, ?]> y = engine.silu_mul(gate = x, x = x);", false),
    ("engine.from_end", "tensor<int32, [$A, $H, $H]> y = engine.from_end(x = i, rows = int32(7));", false),
    (
        "engine.hard_swish",
        "tensor<fp32, [?, ?, ?]> y = engine.hard_swish(x = x, slope = fp32(0.1), offset = fp32(0.5));",
        false,
    ),
    // Images.
    (
        "affine",
        "tensor<fp32, [?, ?, ?, ?]> y = affine(x = pixel, transform_matrix = six, output_height = int32($M), output_width = int32($M), sampling_mode = string(\"bilinear\"), padding_mode = string(\"constant\"), padding_value = fp32(0), coordinates_mode = string(\"normalized_minus_one_to_one\"), align_corners = bool(true));",
        false,
    ),
    (
        "crop",
        "tensor<fp32, [?, ?, ?, ?]> z = crop(x = im, crop_height = tensor<int32, [2]>([1, 1]), crop_width = tensor<int32, [2]>([1, 1])); tensor<int32, [4]> y = shape(x = z);",
        true,
    ),
    (
        "crop_resize",
        "tensor<fp32, [?, ?, ?, ?]> y = crop_resize(x = im, boxes = rois, box_indices = tensor<int32, [8]>([0, 0, 0, 0, 0, 0, 0, 0]), target_height = int32($H), target_width = int32($H), normalized_coordinates = bool(true));",
        false,
    ),
    (
        "resample",
        "tensor<fp32, [?, ?, ?, ?]> y = resample(x = pixel, coordinates = grid, sampling_mode = string(\"bilinear\"), padding_mode = string(\"constant\"), padding_value = fp32(0), coordinates_mode = string(\"normalized_minus_one_to_one\"), align_corners = bool(true));",
        false,
    ),
    (
        "resize",
        "tensor<fp32, [?, ?, ?, ?]> y = resize(x = im, shape = tensor<int32, [2]>([$2H, $H]), resized_dims = int32(2), interpolation_mode = string(\"LINEAR\"), sampling_mode = string(\"DEFAULT\"));",
        false,
    ),
    (
        "resize",
        "tensor<fp32, [?, ?, ?, ?]> y = resize(x = pixel, shape = tensor<int32, [2]>([$N, 1]), resized_dims = int32(2), interpolation_mode = string(\"NEAREST_NEIGHBOR\"), sampling_mode = string(\"DEFAULT\"));",
        false,
    ),
    (
        "resize_bilinear",
        "tensor<fp32, [?, ?, ?, ?]> y = resize_bilinear(x = pixel, target_size_height = int32(2), target_size_width = int32($N2), sampling_mode = string(\"DEFAULT\"));",
        false,
    ),
    (
        "resize_nearest_neighbor",
        "tensor<fp32, [?, ?, ?, ?]> y = resize_nearest_neighbor(x = pixel, target_size_height = int32($N), target_size_width = int32(1));",
        false,
    ),
    (
        "upsample_bilinear",
        "tensor<fp32, [?, ?, ?, ?]> y = upsample_bilinear(x = pixel, scale_factor_height = fp32($N), scale_factor_width = fp32(1));",
        false,
    ),
    (
        "upsample_nearest_neighbor",
        "tensor<fp32, [?, ?, ?, ?]> y = upsample_nearest_neighbor(x = pixel, scale_factor_height = fp32($N), scale_factor_width = fp32(1));",
        false,
    ),
    // States.
    ("read_state", "tensor<fp16, [$A, $H, $H]> y = read_state(input = st);", false),
    (
        "write_state read_state",
        "write_state(input = st, data = x); tensor<fp16, [$A, $H, $H]> y = read_state(input = st);",
        false,
    ),
    ("coreml_update_state", "tensor<fp16, [$A, $H, $H]> y = coreml_update_state(state = st, value = x);", false),
    (
        "engine.state_slice engine.state_update",
        "tensor<fp16, [$A, $H, $H]> r = read_state(input = st); \
         tensor<fp16, [?, ?, ?]> y = slice_by_index(x = r, begin = tensor<int32, [3]>([0, 0, 0]), end = tensor<int32, [3]>([$A, $H2, $H])); \
         tensor<fp16, [?, ?, ?]> u = slice_update(x = r, update = x, begin = tensor<int32, [3]>([0, 0, 0]), end = tensor<int32, [3]>([$A, $H, $H])); write_state(input = st, data = u);",
        false,
    ),
    (
        "engine.state_shift",
        "tensor<fp16, [$A, $H, $H]> r = read_state(input = st); tensor<fp16, [$A, $H, $H]> u = cast(x = x, dtype = string(\"fp16\")); \
         tensor<fp16, [?, ?, ?]> t = slice_by_index(x = r, begin = tensor<int32, [3]>([0, $H2, 0]), end = tensor<int32, [3]>([$A, $H, $H])); \
         tensor<fp16, [$A, $H2, $H]> n = slice_by_index(x = u, begin = tensor<int32, [3]>([0, 0, 0]), end = tensor<int32, [3]>([$A, $H2, $H])); \
         tensor<fp16, [?, ?, ?]> k = concat(values = (t, n), axis = int32(1), interleave = bool(false)); \
         tensor<fp16, [?, ?, ?]> w = slice_update(x = r, update = k, begin = tensor<int32, [3]>([0, 0, 0]), end = tensor<int32, [3]>([$A, $H, $H])); write_state(input = st, data = w); tensor<fp16, [$A, $H, $H]> y = read_state(input = st);",
        false,
    ),
    // Positions.
    (
        "gather",
        "tensor<fp32, [?, ?, ?]> y = gather(x = x, indices = hv, axis = int32(1), batch_dims = int32(0));",
        false,
    ),
    ("gather", "tensor<fp32, [?]> y = gather(x = s, indices = iv, axis = int32(0), batch_dims = int32(0));", false),
    (
        "gather",
        "tensor<fp32, [?, ?, ?]> y = gather(x = x, indices = nd, axis = int32(1), batch_dims = int32(1));",
        false,
    ),
    ("gather_along_axis", "tensor<fp32, [?, ?, ?]> y = gather_along_axis(x = x, indices = i, axis = int32(1));", false),
    ("gather_nd", "tensor<fp32, [?, ?, ?]> y = gather_nd(x = x, indices = nd, batch_dims = int32(0));", false),
    ("gather_nd", "tensor<fp32, [?]> y = gather_nd(x = x, indices = nd3, batch_dims = int32(0));", false),
    (
        "scatter",
        "tensor<fp32, [?, ?, ?]> y = scatter(data = x, indices = hv, updates = x, axis = int32(1), mode = string(\"add\"));",
        false,
    ),
    (
        "scatter",
        "tensor<int32, [?, ?, ?]> y = scatter(data = i, indices = hv, updates = i, axis = int32(1), mode = string(\"update\"));",
        false,
    ),
    (
        "scatter_along_axis",
        "tensor<fp32, [?, ?, ?]> y = scatter_along_axis(data = x, indices = i, updates = x, axis = int32(1), mode = string(\"add\"));",
        false,
    ),
    (
        "scatter_nd",
        "tensor<fp32, [?, ?, ?]> y = scatter_nd(data = x, indices = nd, updates = x, mode = string(\"add\"));",
        false,
    ),
    // Sequences.
    (
        "rnn",
        "tensor<fp32, [?, ?, ?]> y, tensor<fp32, [?, ?]> h = rnn(x = x, initial_h = hidden, weight_ih = w1, weight_hh = r1, output_sequence = bool(true));",
        false,
    ),
    (
        "gru",
        "tensor<fp32, [?, ?, ?]> y, tensor<fp32, [?, ?]> h = gru(x = x, initial_h = hidden, weight_ih = w3, weight_hh = r3, output_sequence = bool(true));",
        false,
    ),
    (
        "lstm",
        "tensor<fp32, [?, ?, ?]> y, tensor<fp32, [?, ?]> h, tensor<fp32, [?, ?]> c = lstm(x = x, initial_h = hidden, initial_c = hidden, weight_ih = w4, weight_hh = r4, output_sequence = bool(true));",
        false,
    ),
    (
        "lstm",
        "tensor<fp32, [?, ?, ?]> y, tensor<fp32, [?, ?]> h, tensor<fp32, [?, ?]> c = lstm(x = x, initial_h = wide, initial_c = wide, weight_ih = w4, weight_hh = r4, weight_ih_back = w4, weight_hh_back = r4, direction = string(\"bidirectional\"), output_sequence = bool(true));",
        false,
    ),
    // Random numbers.
    (
        "random_bernoulli",
        "tensor<fp32, [?, ?]> y = random_bernoulli(shape = tensor<int32, [2]>([$M, $M]), prob = fp32(0.5), seed = int32(1));",
        false,
    ),
    (
        "random_normal",
        "tensor<fp32, [?, ?]> y = random_normal(shape = tensor<int32, [2]>([$M, $M]), mean = fp32(0), stddev = fp32(1), seed = int32(1));",
        false,
    ),
    (
        "random_uniform",
        "tensor<fp32, [?, ?]> y = random_uniform(shape = tensor<int32, [2]>([$M, $M]), low = fp32(0), high = fp32(1), seed = int32(1));",
        false,
    ),
    (
        "random_categorical",
        "tensor<fp32, [?, ?, ?]> y = random_categorical(x = x, mode = string(\"probs\"), size = int32(4), seed = int32(1));",
        false,
    ),
];

/// Operations whose sizes are those of literals in the program, so nothing beyond the file can be claimed: compressed
/// constants and classifier labels. `operation_cases/limits.rs` loads them under limits.
pub(crate) const ELSEWHERE: &[&str] = &[
    "classify",
    "constexpr_affine_dequantize",
    "constexpr_blockwise_shift_scale",
    "constexpr_cast",
    "constexpr_lut_to_dense",
    "constexpr_lut_to_sparse",
    "constexpr_sparse_blockwise_shift_scale",
    "constexpr_sparse_to_dense",
    // Produced by a rewrite from slices of a state and a mask; covered by `candle-coreml`'s models.
    "engine.cached_attention",
    // Produced by lowering, never by a file: results have the size of the model's features and tables; `tests/classic.rs`.
    "engine.categories",
    "engine.confidences",
    "engine.copy",
    "engine.dictionary_vector",
    "engine.custom_layer",
    "engine.custom_model",
    "engine.double",
    "engine.features",
    "engine.first_best",
    "engine.glm",
    "engine.impute",
    "engine.label",
    "engine.map_category",
    "engine.neighbors",
    "engine.normalize",
    "engine.probit",
    "engine.recommend",
    "engine.scale",
    "engine.select",
    "engine.suppress",
    "engine.svm",
    "engine.trees",
    // Produced by lowering for layers of networks. The first two are stored weights; a column of the third is claimed in
    // `ops/network.rs`; the others are computed as `non_maximum_suppression`, `gru`, `lstm` and `rnn` above.
    "engine.linear_weight",
    "engine.table_weight",
    "engine.embedding",
    "engine.suppress_boxes",
    "engine.gru",
    "engine.lstm",
    "engine.rnn",
];
