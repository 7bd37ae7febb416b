//! The 158 kinds of layers.

use super::activation::{Activation, ClampedRelu, Gelu, SoftmaxNd};
use super::constant::{
    CategoricalDistribution, Fill, FillStatic, LoadConstant, RandomBernoulli, RandomBernoulliStatic, RandomNormal,
    RandomNormalStatic, RandomUniform, RandomUniformStatic,
};
use super::control_flow::{Branch, Loop, RangeDynamic, RangeStatic};
use super::convolution::{Convolution, Convolution3d};
use super::custom::CustomLayer;
use super::elementwise::{Add, Bias, Clip, DotProduct, Equality, Multiply, Order, Scale, UnaryFunction};
use super::linear::{BatchedMatMul, Embedding, EmbeddingNd, InnerProduct};
use super::normalization::{
    Batchnorm, L2Normalize, LayerNormalization, LocalResponseNormalization, MeanVarianceNormalize,
};
use super::pooling::{GlobalPooling3d, Pooling, Pooling3d};
use super::recurrent::{BiDirectionalLstm, Gru, SimpleRecurrent, UniDirectionalLstm};
use super::reduce::{ArgReduce, ArgSort, CumSum, Reduce, ReduceAxes, TopK};
use super::resize::{ConstantPadding, CropResize, Padding, ResizeBilinear, Upsample};
use super::scatter_gather::{BoxSuppression, Gather, GatherAlongAxis, OneHot, Scatter, ScatterAlongAxis, ScatterNd};
use super::shape::{
    BroadcastToStatic, ExpandDims, Flatten, FlattenTo2d, MatrixBandPart, Permute, RankPreservingReshape,
    ReorganizeData, Reshape, ReshapeStatic, Reverse, ReverseSeq, SequenceRepeat, Squeeze, Tile, Transpose, Triangular,
};
use super::slice::{
    Concat, ConcatNd, Crop, Slice, SliceBySize, SliceDynamic, SliceStatic, SlidingWindows, Split, SplitNd, Stack,
};
use crate::model_types::data_structures::Empty;

/// A layer and its parameters. Layers without parameters are documented here, the others at their parameter types.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Layer {
    #[prost(message, boxed, tag = "100")]
    Convolution(Box<Convolution>),
    #[prost(message, boxed, tag = "120")]
    Pooling(Box<Pooling>),
    #[prost(message, tag = "130")]
    Activation(Activation),
    #[prost(message, tag = "140")]
    InnerProduct(InnerProduct),
    #[prost(message, tag = "150")]
    Embedding(Embedding),
    #[prost(message, tag = "160")]
    Batchnorm(Batchnorm),
    #[prost(message, tag = "165")]
    Mvn(MeanVarianceNormalize),
    #[prost(message, tag = "170")]
    L2normalize(L2Normalize),
    /// Softmax along axis −3.
    #[prost(message, tag = "175")]
    Softmax(Empty),
    #[prost(message, tag = "180")]
    Lrn(LocalResponseNormalization),
    #[prost(message, tag = "190")]
    Crop(Crop),
    #[prost(message, tag = "200")]
    Padding(Padding),
    #[prost(message, tag = "210")]
    Upsample(Upsample),
    #[prost(message, tag = "211")]
    ResizeBilinear(ResizeBilinear),
    #[prost(message, tag = "212")]
    CropResize(CropResize),
    #[prost(message, tag = "220")]
    Unary(UnaryFunction),
    #[prost(message, tag = "230")]
    Add(Add),
    #[prost(message, tag = "231")]
    Multiply(Multiply),
    /// Elementwise mean, broadcast as in [`Add`](Self::Add).
    #[prost(message, tag = "240")]
    Average(Empty),
    #[prost(message, boxed, tag = "245")]
    Scale(Box<Scale>),
    #[prost(message, tag = "250")]
    Bias(Bias),
    /// Elementwise maximum, broadcast as in [`Add`](Self::Add).
    #[prost(message, tag = "260")]
    Max(Empty),
    /// Elementwise minimum, broadcast as in [`Add`](Self::Add).
    #[prost(message, tag = "261")]
    Min(Empty),
    #[prost(message, tag = "270")]
    Dot(DotProduct),
    #[prost(message, tag = "280")]
    Reduce(Reduce),
    /// `[C, H, W]`.
    #[prost(message, tag = "290")]
    LoadConstant(LoadConstant),
    #[prost(message, tag = "300")]
    Reshape(Reshape),
    #[prost(message, tag = "301")]
    Flatten(Flatten),
    #[prost(message, tag = "310")]
    Permute(Permute),
    #[prost(message, tag = "320")]
    Concat(Concat),
    #[prost(message, tag = "330")]
    Split(Split),
    #[prost(message, tag = "340")]
    SequenceRepeat(SequenceRepeat),
    #[prost(message, tag = "345")]
    ReorganizeData(ReorganizeData),
    #[prost(message, tag = "350")]
    Slice(Slice),
    #[prost(message, boxed, tag = "400")]
    SimpleRecurrent(Box<SimpleRecurrent>),
    #[prost(message, boxed, tag = "410")]
    Gru(Box<Gru>),
    #[prost(message, boxed, tag = "420")]
    UniDirectionalLstm(Box<UniDirectionalLstm>),
    #[prost(message, boxed, tag = "430")]
    BiDirectionalLstm(Box<BiDirectionalLstm>),
    #[prost(message, boxed, tag = "500")]
    Custom(Box<CustomLayer>),
    /// Copies the input to another name; carries loop variables.
    #[prost(message, tag = "600")]
    Copy(Empty),
    #[prost(message, tag = "605")]
    Branch(Branch),
    #[prost(message, tag = "615")]
    Loop(Loop),
    /// Leaves the innermost loop.
    #[prost(message, tag = "620")]
    LoopBreak(Empty),
    /// Starts the next iteration of the innermost loop.
    #[prost(message, tag = "625")]
    LoopContinue(Empty),
    #[prost(message, tag = "635")]
    RangeStatic(RangeStatic),
    #[prost(message, tag = "640")]
    RangeDynamic(RangeDynamic),
    #[prost(message, tag = "660")]
    Clip(Clip),
    /// ⌈x⌉.
    #[prost(message, tag = "665")]
    Ceil(Empty),
    /// ⌊x⌋.
    #[prost(message, tag = "670")]
    Floor(Empty),
    /// −1, 0 or 1.
    #[prost(message, tag = "680")]
    Sign(Empty),
    /// The nearest integer.
    #[prost(message, tag = "685")]
    Round(Empty),
    /// 2ˣ.
    #[prost(message, tag = "700")]
    Exp2(Empty),
    #[prost(message, tag = "710")]
    Sin(Empty),
    #[prost(message, tag = "715")]
    Cos(Empty),
    #[prost(message, tag = "720")]
    Tan(Empty),
    #[prost(message, tag = "730")]
    Asin(Empty),
    #[prost(message, tag = "735")]
    Acos(Empty),
    #[prost(message, tag = "740")]
    Atan(Empty),
    #[prost(message, tag = "750")]
    Sinh(Empty),
    #[prost(message, tag = "755")]
    Cosh(Empty),
    #[prost(message, tag = "760")]
    Tanh(Empty),
    #[prost(message, tag = "770")]
    Asinh(Empty),
    #[prost(message, tag = "775")]
    Acosh(Empty),
    #[prost(message, tag = "780")]
    Atanh(Empty),
    /// The error function.
    #[prost(message, tag = "790")]
    Erf(Empty),
    #[prost(message, tag = "795")]
    Gelu(Gelu),
    /// x = y, as 1 or 0.
    #[prost(message, tag = "815")]
    Equal(Equality),
    /// x ≠ y, as 1 or 0.
    #[prost(message, tag = "820")]
    NotEqual(Equality),
    /// x < y, as 1 or 0.
    #[prost(message, tag = "825")]
    LessThan(Order),
    /// x ≤ y, as 1 or 0.
    #[prost(message, tag = "827")]
    LessEqual(Order),
    /// x > y, as 1 or 0.
    #[prost(message, tag = "830")]
    GreaterThan(Order),
    /// x ≥ y, as 1 or 0.
    #[prost(message, tag = "832")]
    GreaterEqual(Order),
    /// Treats x ≠ 0 as true; returns 1 or 0.
    #[prost(message, tag = "840")]
    LogicalOr(Empty),
    /// Treats x ≠ 0 as true; returns 1 or 0.
    #[prost(message, tag = "845")]
    LogicalXor(Empty),
    /// Treats x ≠ 0 as true; returns 1 or 0.
    #[prost(message, tag = "850")]
    LogicalNot(Empty),
    /// Treats x ≠ 0 as true; returns 1 or 0.
    #[prost(message, tag = "855")]
    LogicalAnd(Empty),
    /// Remainder with the sign of the divisor.
    #[prost(message, tag = "865")]
    ModBroadcastable(Empty),
    #[prost(message, tag = "870")]
    MinBroadcastable(Empty),
    #[prost(message, tag = "875")]
    MaxBroadcastable(Empty),
    #[prost(message, tag = "880")]
    AddBroadcastable(Empty),
    /// xʸ.
    #[prost(message, tag = "885")]
    PowBroadcastable(Empty),
    #[prost(message, tag = "890")]
    DivideBroadcastable(Empty),
    /// ⌊x / y⌋.
    #[prost(message, tag = "895")]
    FloorDivBroadcastable(Empty),
    #[prost(message, tag = "900")]
    MultiplyBroadcastable(Empty),
    #[prost(message, tag = "905")]
    SubtractBroadcastable(Empty),
    #[prost(message, tag = "920")]
    Tile(Tile),
    #[prost(message, tag = "925")]
    Stack(Stack),
    #[prost(message, tag = "930")]
    Gather(Gather),
    #[prost(message, tag = "935")]
    Scatter(Scatter),
    /// Gathers elements at multi-indices, which are the last axis of the second input.
    #[prost(message, tag = "940")]
    GatherNd(Empty),
    #[prost(message, tag = "945")]
    ScatterNd(ScatterNd),
    #[prost(message, tag = "950")]
    SoftmaxNd(SoftmaxNd),
    #[prost(message, tag = "952")]
    GatherAlongAxis(GatherAlongAxis),
    #[prost(message, tag = "954")]
    ScatterAlongAxis(ScatterAlongAxis),
    #[prost(message, tag = "960")]
    Reverse(Reverse),
    #[prost(message, tag = "965")]
    ReverseSeq(ReverseSeq),
    #[prost(message, tag = "975")]
    SplitNd(SplitNd),
    #[prost(message, tag = "980")]
    ConcatNd(ConcatNd),
    #[prost(message, tag = "985")]
    Transpose(Transpose),
    #[prost(message, boxed, tag = "995")]
    SliceStatic(Box<SliceStatic>),
    #[prost(message, boxed, tag = "1000")]
    SliceDynamic(Box<SliceDynamic>),
    #[prost(message, tag = "1005")]
    SlidingWindows(SlidingWindows),
    #[prost(message, tag = "1015")]
    TopK(TopK),
    /// Position of the minimum along an axis, as a float.
    #[prost(message, tag = "1020")]
    ArgMin(ArgReduce),
    /// Position of the maximum along an axis, as a float.
    #[prost(message, tag = "1025")]
    ArgMax(ArgReduce),
    #[prost(message, tag = "1040")]
    EmbeddingNd(EmbeddingNd),
    #[prost(message, tag = "1045")]
    BatchedMatmul(BatchedMatMul),
    /// The shape of the input, as a blob of rank 1.
    #[prost(message, tag = "1065")]
    GetShape(Empty),
    #[prost(message, tag = "1070")]
    LoadConstantNd(LoadConstant),
    /// Same shape as the input.
    #[prost(message, tag = "1080")]
    FillLike(Fill),
    #[prost(message, tag = "1085")]
    FillStatic(FillStatic),
    /// Shape given by the input.
    #[prost(message, tag = "1090")]
    FillDynamic(Fill),
    /// Broadcasts the first input to the shape of the second.
    #[prost(message, tag = "1100")]
    BroadcastToLike(Empty),
    #[prost(message, tag = "1105")]
    BroadcastToStatic(BroadcastToStatic),
    /// Broadcasts the first input to the shape given by the second.
    #[prost(message, tag = "1110")]
    BroadcastToDynamic(Empty),
    #[prost(message, tag = "1120")]
    Squeeze(Squeeze),
    #[prost(message, tag = "1125")]
    ExpandDims(ExpandDims),
    #[prost(message, tag = "1130")]
    FlattenTo2d(FlattenTo2d),
    /// Reshapes the first input to the shape of the second.
    #[prost(message, tag = "1135")]
    ReshapeLike(Empty),
    #[prost(message, tag = "1140")]
    ReshapeStatic(ReshapeStatic),
    /// Reshapes the first input to the shape given by the second.
    #[prost(message, tag = "1145")]
    ReshapeDynamic(Empty),
    #[prost(message, tag = "1150")]
    RankPreservingReshape(RankPreservingReshape),
    #[prost(message, tag = "1155")]
    ConstantPad(ConstantPadding),
    /// Same shape as the input.
    #[prost(message, tag = "1170")]
    RandomNormalLike(RandomNormal),
    #[prost(message, tag = "1175")]
    RandomNormalStatic(RandomNormalStatic),
    /// Shape given by the input.
    #[prost(message, tag = "1180")]
    RandomNormalDynamic(RandomNormal),
    /// Same shape as the input.
    #[prost(message, tag = "1190")]
    RandomUniformLike(RandomUniform),
    #[prost(message, tag = "1195")]
    RandomUniformStatic(RandomUniformStatic),
    /// Shape given by the input.
    #[prost(message, tag = "1200")]
    RandomUniformDynamic(RandomUniform),
    /// Same shape as the input.
    #[prost(message, tag = "1210")]
    RandomBernoulliLike(RandomBernoulli),
    #[prost(message, tag = "1215")]
    RandomBernoulliStatic(RandomBernoulliStatic),
    /// Shape given by the input.
    #[prost(message, tag = "1220")]
    RandomBernoulliDynamic(RandomBernoulli),
    #[prost(message, tag = "1230")]
    CategoricalDistribution(CategoricalDistribution),
    /// Σ |x|.
    #[prost(message, tag = "1250")]
    ReduceL1(ReduceAxes),
    /// √Σ x².
    #[prost(message, tag = "1255")]
    ReduceL2(ReduceAxes),
    #[prost(message, tag = "1260")]
    ReduceMax(ReduceAxes),
    #[prost(message, tag = "1265")]
    ReduceMin(ReduceAxes),
    #[prost(message, tag = "1270")]
    ReduceSum(ReduceAxes),
    #[prost(message, tag = "1275")]
    ReduceProd(ReduceAxes),
    #[prost(message, tag = "1280")]
    ReduceMean(ReduceAxes),
    /// ln Σ x.
    #[prost(message, tag = "1285")]
    ReduceLogSum(ReduceAxes),
    /// Σ x².
    #[prost(message, tag = "1290")]
    ReduceSumSquare(ReduceAxes),
    /// ln Σ eˣ.
    #[prost(message, tag = "1295")]
    ReduceLogSumExp(ReduceAxes),
    /// Indices of nonzero elements, `[count, rank]`, in row-major order.
    #[prost(message, tag = "1313")]
    WhereNonZero(Empty),
    #[prost(message, tag = "1315")]
    MatrixBandPart(MatrixBandPart),
    /// Keeps elements with column − row ≤ k.
    #[prost(message, tag = "1320")]
    LowerTriangular(Triangular),
    /// Keeps elements with column − row ≥ k.
    #[prost(message, tag = "1325")]
    UpperTriangular(Triangular),
    /// The second input where the first is nonzero, else the third.
    #[prost(message, tag = "1330")]
    WhereBroadcastable(Empty),
    #[prost(message, tag = "1350")]
    LayerNormalization(LayerNormalization),
    #[prost(message, tag = "1400")]
    NonMaximumSuppression(BoxSuppression),
    #[prost(message, tag = "1450")]
    OneHot(OneHot),
    #[prost(message, tag = "1455")]
    CumSum(CumSum),
    #[prost(message, tag = "1460")]
    ClampedRelu(ClampedRelu),
    #[prost(message, tag = "1461")]
    ArgSort(ArgSort),
    #[prost(message, tag = "1465")]
    Pooling3d(Pooling3d),
    #[prost(message, tag = "1466")]
    GlobalPooling3d(GlobalPooling3d),
    #[prost(message, tag = "1470")]
    SliceBySize(SliceBySize),
    #[prost(message, boxed, tag = "1471")]
    Convolution3d(Box<Convolution3d>),
}
