//! `FILE-info` of an official libSQL client: the text as it is, and numbers with a fitting checksum.
#![no_main]

use anabranch::fuzzing::info_file;
use anabranch_fuzz::Recipe;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some((generation, _)) = info_file(data) {
        assert!(generation > 0);
    }
    let mut recipe = Recipe(data);
    let words = [recipe.number() % 3, recipe.number(), recipe.number()];
    let hash = crc32fast::hash(&words.map(u32::to_le_bytes).concat());
    let [version, frame, generation] = words;
    let text = format!(
        r#"{{"hash":{hash},"version":{version},"durable_frame_num":{frame},"generation":{generation}}}"#
    );
    let expected = (version == 0 && generation > 0).then_some((generation, frame));
    assert_eq!(info_file(text.as_bytes()), expected);
});
