//! The messages of `tensor_bundle.proto`, `tensor_slice.proto` and `trackable_object_graph.proto` that are needed, with the
//! field numbers of TensorFlow.

/// `DT_STRING`.
pub(super) const STRING: i32 = 7;
/// `BundleHeaderProto.Endianness.BIG`.
pub(super) const BIG: i32 = 1;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct BundleHeader {
    #[prost(int32, tag = "1")]
    pub num_shards: i32,
    #[prost(int32, tag = "2")]
    pub endianness: i32,
    #[prost(message, optional, tag = "3")]
    pub version: Option<Version>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Version {
    #[prost(int32, tag = "1")]
    pub producer: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct BundleEntry {
    #[prost(int32, tag = "1")]
    pub dtype: i32,
    #[prost(message, optional, tag = "2")]
    pub shape: Option<Shape>,
    #[prost(int32, tag = "3")]
    pub shard_id: i32,
    #[prost(int64, tag = "4")]
    pub offset: i64,
    #[prost(int64, tag = "5")]
    pub size: i64,
    #[prost(fixed32, tag = "6")]
    pub crc32c: u32,
    #[prost(message, repeated, tag = "7")]
    pub slices: Vec<Slice>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Shape {
    #[prost(message, repeated, tag = "2")]
    pub dim: Vec<ShapeDim>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ShapeDim {
    #[prost(int64, tag = "1")]
    pub size: i64,
}

/// A part of a tensor: in each dimension a start and a length, or all of it.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Slice {
    #[prost(message, repeated, tag = "1")]
    pub extent: Vec<SliceExtent>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SliceExtent {
    #[prost(int64, tag = "1")]
    pub start: i64,
    /// Absent: the whole dimension.
    #[prost(int64, optional, tag = "2")]
    pub length: Option<i64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ObjectGraph {
    #[prost(message, repeated, tag = "1")]
    pub nodes: Vec<Object>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Object {
    #[prost(message, repeated, tag = "2")]
    pub attributes: Vec<Attribute>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Attribute {
    #[prost(string, tag = "1")]
    pub name: String,
    /// The variable's own name.
    #[prost(string, tag = "2")]
    pub full_name: String,
    /// Its key in the table.
    #[prost(string, tag = "3")]
    pub checkpoint_key: String,
}
