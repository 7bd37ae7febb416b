//! Layers that change the shape or the order of elements.

/// Reshapes a blob of rank 5.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Reshape {
    /// `[C, H, W]`, or `[sequence, C, H, W]`.
    #[prost(int64, repeated, tag = "1")]
    pub target_shape: Vec<i64>,
    /// A value of [`ReshapeOrder`].
    #[prost(int32, tag = "2")]
    pub mode: i32,
}

/// Element order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum ReshapeOrder {
    ChannelFirst = 0,
    /// Channels vary fastest, in input and output.
    ChannelLast = 1,
}

/// Flattens the last three axes.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Flatten {
    /// A value of [`FlattenOrder`].
    #[prost(int32, tag = "1")]
    pub mode: i32,
}

/// Element order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum FlattenOrder {
    ChannelFirst = 0,
    /// Channels vary fastest.
    ChannelLast = 1,
}

/// Permutes the axes sequence, C, H and W.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Permute {
    #[prost(uint64, repeated, tag = "1")]
    pub axis: Vec<u64>,
}

/// Permutes the axes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Transpose {
    #[prost(uint64, repeated, tag = "1")]
    pub axes: Vec<u64>,
}

/// Rearranges spatial blocks into channels, or back.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct ReorganizeData {
    /// A value of [`ReorganizationType`].
    #[prost(int32, tag = "1")]
    pub mode: i32,
    #[prost(uint64, tag = "2")]
    pub block_size: u64,
}

/// Direction and order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum ReorganizationType {
    SpaceToDepth = 0,
    /// The position in the block varies slowest among the channels.
    DepthToSpace = 1,
    /// The position in the block varies fastest among the channels.
    PixelShuffle = 2,
}

/// Removes axes of extent 1.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Squeeze {
    #[prost(int64, repeated, tag = "1")]
    pub axes: Vec<i64>,
    /// Removes all of them.
    #[prost(bool, tag = "2")]
    pub squeeze_all: bool,
}

/// Inserts axes of extent 1.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ExpandDims {
    /// Positions in the result.
    #[prost(int64, repeated, tag = "1")]
    pub axes: Vec<i64>,
}

/// Flattens the axes before `axis` into one, and those from `axis` on into another.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct FlattenTo2d {
    #[prost(int64, tag = "1")]
    pub axis: i64,
}

/// Reshapes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReshapeStatic {
    /// One extent may be −1.
    #[prost(int64, repeated, tag = "1")]
    pub target_shape: Vec<i64>,
}

/// Reshapes, keeping the rank.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RankPreservingReshape {
    /// 0 keeps an extent; one extent may be −1.
    #[prost(int64, repeated, tag = "1")]
    pub target_shape: Vec<i64>,
}

/// Broadcasts to a fixed shape.
#[derive(Clone, PartialEq, prost::Message)]
pub struct BroadcastToStatic {
    #[prost(uint64, repeated, tag = "1")]
    pub target_shape: Vec<u64>,
}

/// Tiles along the sequence axis.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct SequenceRepeat {
    #[prost(uint64, tag = "1")]
    pub n_repetitions: u64,
}

/// Tiles along each axis.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Tile {
    /// Overridden by a second input.
    #[prost(uint64, repeated, tag = "1")]
    pub reps: Vec<u64>,
}

/// Flips axes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Reverse {
    /// One flag per axis.
    #[prost(bool, repeated, tag = "1")]
    pub reverse_dim: Vec<bool>,
}

/// Reverses the start of each sequence; the second input contains the lengths.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct ReverseSeq {
    #[prost(int64, tag = "1")]
    pub batch_axis: i64,
    #[prost(int64, tag = "2")]
    pub sequence_axis: i64,
}

/// Keeps a band around the diagonal.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct MatrixBandPart {
    /// Diagonals below; negative keeps all.
    #[prost(int64, tag = "1")]
    pub num_lower: i64,
    /// Diagonals above; negative keeps all.
    #[prost(int64, tag = "2")]
    pub num_upper: i64,
}

/// Keeps a triangle of each matrix.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Triangular {
    /// Last diagonal kept; 0 is the main diagonal.
    #[prost(int64, tag = "1")]
    pub k: i64,
}
