//! What is private otherwise, for the fuzz targets.

/// Reads `FILE-info` of an official libSQL client: generation and frame, if it is sound.
#[must_use]
pub fn info_file(text: &[u8]) -> Option<(u32, u32)> {
    crate::adopt::fuzz_info_file(text)
}
