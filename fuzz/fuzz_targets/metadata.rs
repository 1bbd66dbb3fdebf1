//! Metadata: the bytes as they are, and as JSON whose checksum fits.
#![no_main]

use anabranch_format::{Metadata, SKIPPABLE_MAGIC};
use libfuzzer_sys::fuzz_target;
use xxhash_rust::xxh3::xxh3_64;

fn decode(bytes: &[u8]) {
    let Ok(metadata) = Metadata::decode(&mut &bytes[..]) else { return };
    let again = metadata.encode().expect("what was read can be written");
    assert_eq!(Metadata::decode(&mut &again[..]).expect("and read"), metadata);
    assert!(metadata.frame_count() >= 1 && metadata.lsn_count() >= 1);
    assert!(metadata.from() < metadata.lsn.1);
}

fuzz_target!(|data: &[u8]| {
    decode(data);
    let json = data.strip_suffix(b"}").unwrap_or(data);
    let mut json = json.to_vec();
    let check = xxh3_64(&json) & 0xffff_ffff;
    json.extend_from_slice(format!(",\"check\":\"{check:08x}\"}}").as_bytes());
    let len = u32::try_from(json.len()).expect("inputs are short");
    decode(&[&SKIPPABLE_MAGIC.to_le_bytes()[..], &len.to_le_bytes(), &json].concat());
});
