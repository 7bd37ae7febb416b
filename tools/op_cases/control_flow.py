"""Control flow, lists, states, classification: programs of several operations."""

import numpy as np

from .case import Family, floats


def family():
    f = Family("control_flow")
    x = floats(2, 3)
    for flag in False, True:
        f.program(f"cond.{flag}", "tensor<fp32, [2, 3]> y0 = cond(pred = p) () { tensor<fp32, [2, 3]> t = relu(x = x); } -> (t) "
                  "() { tensor<fp32, [2, 3]> e = square(x = x); } -> (e);", {"p": np.array(flag), "x": x},
                  {"y0": np.maximum(x, 0) if flag else x * x})
    # Doubles until the sum exceeds 100; counts the rounds.
    total, rounds = np.float32(1.5), 0
    while total <= 100:
        total, rounds = total * 2, rounds + 1
    f.program("while_loop.0", "fp32 y0, int32 y1 = while_loop(loop_vars = (start, int32(0))) "
              "(fp32 a, int32 i) { bool more = less_equal(x = a, y = fp32(100)); } -> (more) "
              "(fp32 b, int32 j) { fp32 twice = mul(x = b, y = fp32(2)); int32 next = add(x = j, y = int32(1)); } -> (twice, next);",
              {"start": np.array(1.5, np.float32)}, {"y0": np.array(total), "y1": np.array(rounds, np.int32)})
    f.program("while_loop.none", "fp32 y0 = while_loop(loop_vars = start) (fp32 a) { bool more = less(x = a, y = fp32(0)); } -> (more) "
              "(fp32 b) { fp32 twice = mul(x = b, y = fp32(2)); } -> (twice);",
              {"start": np.array(1.5, np.float32)}, {"y0": np.array(1.5, np.float32)})
    a, b = floats(2), floats(2)
    make = "list<tensor<fp32, [2]>, 2> l = make_list(init_length = int32(2), dynamic_length = bool(true), elem_shape = tensor<int32, [1]>([2]), dtype = string(\"fp32\"));"
    fill = make + " list<tensor<fp32, [2]>, 2> l1 = list_write(ls = l, index = int32(0), value = a); list<tensor<fp32, [2]>, 2> l2 = list_write(ls = l1, index = int32(1), value = b);"
    inputs = {"a": a, "b": b}
    f.program("list_read.0", fill + " tensor<fp32, [2]> y0 = list_read(ls = l2, index = int32(1)); int32 y1 = list_length(ls = l2);", inputs,
              {"y0": b, "y1": np.array(2, np.int32)})
    f.program("list_gather.0", fill + " tensor<fp32, [3, 2]> y0 = list_gather(ls = l2, indices = tensor<int32, [3]>([1, 0, 1]));", inputs,
              {"y0": np.stack([b, a, b])})
    f.program("list_scatter.0", make + " tensor<fp32, [2, 2]> both = stack(values = (a, b), axis = int32(0)); "
              "list<tensor<fp32, [2]>, 2> l1 = list_scatter(ls = l, indices = tensor<int32, [2]>([1, 0]), value = both); "
              "tensor<fp32, [2, 2]> y0 = list_gather(ls = l1, indices = tensor<int32, [2]>([0, 1]));", inputs, {"y0": np.stack([b, a])})
    # The state starts at zero; each read returns the value at its time.
    body = ("tensor<fp16, [2, 3]> before = read_state(input = s); write_state(data = x, input = s); "
            "tensor<fp16, [2, 3]> y1 = read_state(input = s); tensor<fp16, [2, 3]> y0 = add(x = before, y = y1);")
    h = x.astype(np.float16)
    f.program("read_state.0", body, {"x": h}, {"y0": h, "y1": h}, "ios18", states="state<tensor<fp16, [2, 3]>> s")
    f.program("coreml_update_state.0", "tensor<fp16, [2, 3]> y0 = coreml_update_state(state = s, value = x);", {"x": h}, {"y0": h}, "ios18",
              states="state<tensor<fp16, [2, 3]>> s")
    return f
