//! Layers of neural networks, with their lowering.

use coreml_format::model_types::neural_network::NeuralNetworkLayer;
use coreml_format::model_types::neural_network::layer::Layer;

use super::build::Network;
use super::{
    activation, constant, control_flow, convolution, custom, elementwise, linear, normalization, pooling, random,
    recurrent, reduce, resize, scatter_gather, shape, slice, volume,
};
use crate::error::LowerError;

/// Makes the table and what looks layers up in it.
macro_rules! layers {
    (|$n:ident, $l:ident| { $($can:ident($p:pat) $name:literal => $lower:expr;)* }) => {
        /// All kinds of layers.
        pub const LAYERS: &[&str] = &[$($name,)*];

        /// Name of a kind of layer.
        pub(super) const fn name(layer: &Layer) -> &'static str {
            match layer {
                $(Layer::$can(_) => $name,)*
            }
        }

        /// Adds what a layer computes to the program.
        pub(super) fn lower($n: &mut Network, $l: &NeuralNetworkLayer, kind: &Layer) -> Result<(), LowerError> {
            match kind {
                $(Layer::$can($p) => $lower,)*
            }
        }
    };
}

/// The blob under another name.
fn copy(n: &mut Network, layer: &NeuralNetworkLayer) -> Result<(), LowerError> {
    let x = n.only(layer)?;
    n.write(layer, vec![x])
}

layers! { |n, l| {
    Convolution(p) "convolution" => convolution::convolution(n, l, p);
    Pooling(p) "pooling" => pooling::pooling(n, l, p);
    Activation(p) "activation" => activation::activation(n, l, p);
    InnerProduct(p) "innerProduct" => linear::inner_product(n, l, p);
    Embedding(p) "embedding" => linear::embedding(n, l, p);
    Batchnorm(p) "batchnorm" => normalization::batchnorm(n, l, p);
    Mvn(p) "mvn" => normalization::mvn(n, l, p);
    L2normalize(p) "l2normalize" => normalization::l2normalize(n, l, p);
    Softmax(_) "softmax" => activation::softmax(n, l);
    Lrn(p) "lrn" => normalization::lrn(n, l, p);
    Crop(p) "crop" => slice::crop(n, l, p);
    Padding(p) "padding" => resize::padding(n, l, p);
    Upsample(p) "upsample" => resize::upsample(n, l, p);
    ResizeBilinear(p) "resizeBilinear" => resize::resize_bilinear(n, l, p);
    CropResize(p) "cropResize" => resize::crop_resize(n, l, p);
    Unary(p) "unary" => elementwise::function(n, l, p);
    Add(p) "add" => elementwise::fold(n, l, "add", Some(p.alpha));
    Multiply(p) "multiply" => elementwise::fold(n, l, "mul", Some(p.alpha));
    Average(_) "average" => elementwise::average(n, l);
    Scale(p) "scale" => elementwise::scale(n, l, p);
    Bias(p) "bias" => elementwise::bias(n, l, p);
    Max(_) "max" => elementwise::fold(n, l, "maximum", None);
    Min(_) "min" => elementwise::fold(n, l, "minimum", None);
    Dot(p) "dot" => elementwise::dot(n, l, p);
    Reduce(p) "reduce" => reduce::reduce(n, l, p);
    LoadConstant(p) "loadConstant" => constant::load(n, l, p);
    Reshape(p) "reshape" => shape::reshape(n, l, p);
    Flatten(p) "flatten" => shape::flatten(n, l, p);
    Permute(p) "permute" => shape::permute(n, l, p);
    Concat(p) "concat" => slice::concat(n, l, p);
    Split(p) "split" => slice::split(n, l, p);
    SequenceRepeat(p) "sequenceRepeat" => shape::sequence_repeat(n, l, p);
    ReorganizeData(p) "reorganizeData" => shape::reorganize(n, l, p);
    Slice(p) "slice" => slice::slice(n, l, p);
    Copy(_) "copy" => copy(n, l);
    RangeStatic(p) "rangeStatic" => constant::range(n, l, p);
    Clip(p) "clip" => elementwise::clip(n, l, p);
    Ceil(_) "ceil" => elementwise::unary(n, l, "ceil");
    Floor(_) "floor" => elementwise::unary(n, l, "floor");
    Sign(_) "sign" => elementwise::unary(n, l, "sign");
    Round(_) "round" => elementwise::unary(n, l, "round");
    Exp2(_) "exp2" => elementwise::unary(n, l, "exp2");
    Sin(_) "sin" => elementwise::unary(n, l, "sin");
    Cos(_) "cos" => elementwise::unary(n, l, "cos");
    Tan(_) "tan" => elementwise::unary(n, l, "tan");
    Asin(_) "asin" => elementwise::unary(n, l, "asin");
    Acos(_) "acos" => elementwise::unary(n, l, "acos");
    Atan(_) "atan" => elementwise::unary(n, l, "atan");
    Sinh(_) "sinh" => elementwise::unary(n, l, "sinh");
    Cosh(_) "cosh" => elementwise::unary(n, l, "cosh");
    Tanh(_) "tanh" => elementwise::unary(n, l, "tanh");
    Asinh(_) "asinh" => elementwise::asinh(n, l);
    Acosh(_) "acosh" => elementwise::acosh(n, l);
    Atanh(_) "atanh" => elementwise::unary(n, l, "atanh");
    Erf(_) "erf" => elementwise::unary(n, l, "erf");
    Gelu(p) "gelu" => activation::gelu(n, l, p);
    Equal(p) "equal" => elementwise::compare(n, l, "equal", p.alpha);
    NotEqual(p) "notEqual" => elementwise::compare(n, l, "not_equal", p.alpha);
    LessThan(p) "lessThan" => elementwise::compare(n, l, "less", p.alpha);
    LessEqual(p) "lessEqual" => elementwise::compare(n, l, "less_equal", p.alpha);
    GreaterThan(p) "greaterThan" => elementwise::compare(n, l, "greater", p.alpha);
    GreaterEqual(p) "greaterEqual" => elementwise::compare(n, l, "greater_equal", p.alpha);
    LogicalOr(_) "logicalOr" => elementwise::logical(n, l, "logical_or");
    LogicalXor(_) "logicalXor" => elementwise::logical(n, l, "logical_xor");
    LogicalNot(_) "logicalNot" => elementwise::logical_not(n, l);
    LogicalAnd(_) "logicalAnd" => elementwise::logical(n, l, "logical_and");
    ModBroadcastable(_) "modBroadcastable" => elementwise::modulo(n, l);
    MinBroadcastable(_) "minBroadcastable" => elementwise::fold(n, l, "minimum", None);
    MaxBroadcastable(_) "maxBroadcastable" => elementwise::fold(n, l, "maximum", None);
    AddBroadcastable(_) "addBroadcastable" => elementwise::fold(n, l, "add", None);
    PowBroadcastable(_) "powBroadcastable" => elementwise::binary(n, l, "pow");
    DivideBroadcastable(_) "divideBroadcastable" => elementwise::binary(n, l, "real_div");
    FloorDivBroadcastable(_) "floorDivBroadcastable" => elementwise::binary(n, l, "floor_div");
    MultiplyBroadcastable(_) "multiplyBroadcastable" => elementwise::fold(n, l, "mul", None);
    SubtractBroadcastable(_) "subtractBroadcastable" => elementwise::binary(n, l, "sub");
    Tile(p) "tile" => shape::tile(n, l, p);
    Stack(p) "stack" => slice::stack(n, l, p);
    Gather(p) "gather" => scatter_gather::gather(n, l, p);
    Scatter(p) "scatter" => scatter_gather::scatter(n, l, p);
    GatherNd(_) "gatherND" => scatter_gather::gather_nd(n, l);
    ScatterNd(p) "scatterND" => scatter_gather::scatter_nd(n, l, p);
    SoftmaxNd(p) "softmaxND" => activation::softmax_nd(n, l, p);
    GatherAlongAxis(p) "gatherAlongAxis" => scatter_gather::gather_along_axis(n, l, p);
    ScatterAlongAxis(p) "scatterAlongAxis" => scatter_gather::scatter_along_axis(n, l, p);
    Reverse(p) "reverse" => shape::reverse(n, l, p);
    SplitNd(p) "splitND" => slice::split_nd(n, l, p);
    ConcatNd(p) "concatND" => slice::concat_nd(n, l, p);
    Transpose(p) "transpose" => shape::transpose(n, l, p);
    SliceStatic(p) "sliceStatic" => slice::slice_static(n, l, p);
    SlidingWindows(p) "slidingWindows" => slice::sliding_windows(n, l, p);
    TopK(p) "topK" => reduce::top_k(n, l, p);
    ArgMin(p) "argMin" => reduce::arg(n, l, "reduce_argmin", p);
    ArgMax(p) "argMax" => reduce::arg(n, l, "reduce_argmax", p);
    EmbeddingNd(p) "embeddingND" => linear::embedding_nd(n, l, p);
    BatchedMatmul(p) "batchedMatmul" => linear::batched_matmul(n, l, p);
    GetShape(_) "getShape" => constant::get_shape(n, l);
    LoadConstantNd(p) "loadConstantND" => constant::load_nd(n, l, p);
    FillLike(p) "fillLike" => constant::fill_like(n, l, p);
    FillStatic(p) "fillStatic" => constant::fill_static(n, l, p);
    BroadcastToLike(_) "broadcastToLike" => shape::broadcast_like(n, l);
    BroadcastToStatic(p) "broadcastToStatic" => shape::broadcast_to(n, l, p);
    Squeeze(p) "squeeze" => shape::squeeze(n, l, p);
    ExpandDims(p) "expandDims" => shape::expand_dims(n, l, p);
    FlattenTo2d(p) "flattenTo2D" => shape::flatten_to_2d(n, l, p);
    ReshapeLike(_) "reshapeLike" => shape::reshape_like(n, l);
    ReshapeStatic(p) "reshapeStatic" => shape::reshape_static(n, l, p);
    RankPreservingReshape(p) "rankPreservingReshape" => shape::rank_preserving(n, l, p);
    ConstantPad(p) "constantPad" => resize::constant_pad(n, l, p);
    ReduceL1(p) "reduceL1" => reduce::axes(n, l, "reduce_l1_norm", p);
    ReduceL2(p) "reduceL2" => reduce::axes(n, l, "reduce_l2_norm", p);
    ReduceMax(p) "reduceMax" => reduce::axes(n, l, "reduce_max", p);
    ReduceMin(p) "reduceMin" => reduce::axes(n, l, "reduce_min", p);
    ReduceSum(p) "reduceSum" => reduce::axes(n, l, "reduce_sum", p);
    ReduceProd(p) "reduceProd" => reduce::axes(n, l, "reduce_prod", p);
    ReduceMean(p) "reduceMean" => reduce::axes(n, l, "reduce_mean", p);
    ReduceLogSum(p) "reduceLogSum" => reduce::axes(n, l, "reduce_log_sum", p);
    ReduceSumSquare(p) "reduceSumSquare" => reduce::axes(n, l, "reduce_sum_square", p);
    ReduceLogSumExp(p) "reduceLogSumExp" => reduce::axes(n, l, "reduce_log_sum_exp", p);
    MatrixBandPart(p) "matrixBandPart" => shape::band_part(n, l, p);
    LowerTriangular(p) "lowerTriangular" => shape::lower_triangular(n, l, p);
    UpperTriangular(p) "upperTriangular" => shape::upper_triangular(n, l, p);
    WhereBroadcastable(_) "whereBroadcastable" => scatter_gather::select(n, l);
    LayerNormalization(p) "layerNormalization" => normalization::layer_normalization(n, l, p);
    OneHot(p) "oneHot" => scatter_gather::one_hot(n, l, p);
    CumSum(p) "cumSum" => reduce::cum_sum(n, l, p);
    ClampedRelu(p) "clampedReLU" => activation::clamped_relu(n, l, p);
    ArgSort(p) "argSort" => reduce::arg_sort(n, l, p);
    SimpleRecurrent(p) "simpleRecurrent" => recurrent::simple(n, l, p);
    Gru(p) "gru" => recurrent::gru(n, l, p);
    UniDirectionalLstm(p) "uniDirectionalLSTM" => recurrent::one_direction(n, l, p);
    BiDirectionalLstm(p) "biDirectionalLSTM" => recurrent::both_directions(n, l, p);
    Branch(p) "branch" => control_flow::branch(n, l, p);
    Loop(p) "loop" => control_flow::repeat(n, l, p);
    LoopBreak(_) "loopBreak" => control_flow::leave(n, l, true);
    LoopContinue(_) "loopContinue" => control_flow::leave(n, l, false);
    RangeDynamic(p) "rangeDynamic" => constant::range_dynamic(n, l, p);
    ReverseSeq(p) "reverseSeq" => shape::reverse_sequence(n, l, p);
    SliceDynamic(p) "sliceDynamic" => slice::slice_dynamic(n, l, p);
    FillDynamic(p) "fillDynamic" => constant::fill_dynamic(n, l, p);
    BroadcastToDynamic(_) "broadcastToDynamic" => shape::broadcast_dynamic(n, l);
    ReshapeDynamic(_) "reshapeDynamic" => shape::reshape_dynamic(n, l);
    RandomNormalLike(p) "randomNormalLike" => random::like(n, l, random::normal(p.mean, p.std_dev), p.seed);
    RandomNormalStatic(p) "randomNormalStatic" =>
        random::fixed(n, l, random::normal(p.mean, p.std_dev), p.seed, &p.output_shape);
    RandomNormalDynamic(p) "randomNormalDynamic" => random::listed(n, l, random::normal(p.mean, p.std_dev), p.seed);
    RandomUniformLike(p) "randomUniformLike" => random::like(n, l, random::uniform(p.min_val, p.max_val), p.seed);
    RandomUniformStatic(p) "randomUniformStatic" =>
        random::fixed(n, l, random::uniform(p.min_val, p.max_val), p.seed, &p.output_shape);
    RandomUniformDynamic(p) "randomUniformDynamic" =>
        random::listed(n, l, random::uniform(p.min_val, p.max_val), p.seed);
    RandomBernoulliLike(p) "randomBernoulliLike" => random::like(n, l, random::bernoulli(p.prob), p.seed);
    RandomBernoulliStatic(p) "randomBernoulliStatic" =>
        random::fixed(n, l, random::bernoulli(p.prob), p.seed, &p.output_shape);
    RandomBernoulliDynamic(p) "randomBernoulliDynamic" => random::listed(n, l, random::bernoulli(p.prob), p.seed);
    CategoricalDistribution(p) "categoricalDistribution" => random::categorical(n, l, p);
    WhereNonZero(_) "whereNonZero" => scatter_gather::non_zero(n, l);
    NonMaximumSuppression(p) "NonMaximumSuppression" => scatter_gather::suppress_boxes(n, l, p);
    Pooling3d(p) "pooling3d" => volume::pooling(n, l, p);
    GlobalPooling3d(p) "globalPooling3d" => volume::global_pooling(n, l, p);
    SliceBySize(p) "sliceBySize" => slice::slice_by_size(n, l, p);
    Convolution3d(p) "convolution3d" => volume::convolution(n, l, p);
    Custom(p) "custom" => custom::custom(n, l, p);
} }

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layer_has_a_row() {
        assert_eq!(LAYERS.len(), 158);
        let mut names = LAYERS.to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 158);
    }
}
