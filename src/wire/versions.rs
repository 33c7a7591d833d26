//! Which APIs and versions are advertised and served. (contract stub)
/// One API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct ApiRange {
    pub key: i16,
    pub name: &'static str,
    /// Advertised minimum (Produce and JoinGroup advertise 0).
    pub min: i16,
    pub max: i16,
    /// Lowest version really decoded (Produce 3, Fetch 4).
    pub served_min: i16,
}
/// The table, ascending by key.
pub fn supported() -> &'static [ApiRange] {
    unimplemented!()
}
/// The row of a key.
pub fn range(_key: i16) -> Option<ApiRange> {
    unimplemented!()
}
/// Whether the request of this version has a flexible (tagged) body and header v2.
pub fn is_flexible(_key: i16, _version: i16) -> bool {
    unimplemented!()
}
