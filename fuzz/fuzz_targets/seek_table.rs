//! The seek table of a snapshot: the bytes as they are, and with magic and lengths put right.
#![no_main]

use anabranch_format::{Kind, Layout, SeekTable};
use anabranch_fuzz::Recipe;
use libfuzzer_sys::fuzz_target;

fn decode(layout: &Layout, tail: &[u8], object_bytes: u64) {
    let Ok(table) = SeekTable::decode(layout, tail, object_bytes) else { return };
    let mut end = 0;
    for chunk in 0..layout.chunks() {
        let range = table.chunk_range(chunk).expect("the table has every chunk");
        assert!(chunk == 0 || range.start == end, "chunks follow one another");
        assert!(range.end >= range.start && range.end <= object_bytes);
        end = range.end;
    }
    assert_eq!(table.chunk_range(layout.chunks()), None);
}

fuzz_target!(|data: &[u8]| {
    let mut recipe = Recipe(data);
    let page_size = recipe.page_size();
    let mut metadata = recipe.metadata(Kind::Snapshot, page_size, 1);
    metadata.pages.1 %= 1 << 12;
    let Ok(layout) = Layout::of(&metadata) else { return };
    let len = layout.seek_table_bytes() as usize;
    decode(&layout, recipe.0, recipe.0.len() as u64);

    let mut tail = recipe.0.to_vec();
    tail.resize(len, 0);
    tail[..4].copy_from_slice(&0x184D_2A5Eu32.to_le_bytes());
    tail[4..8].copy_from_slice(&(len as u32 - 8).to_le_bytes());
    tail[len - 9..len - 5].copy_from_slice(&(layout.chunks() as u32 + 1).to_le_bytes());
    tail[len - 5] = 0;
    tail[len - 4..].copy_from_slice(&0x8F92_EAB1u32.to_le_bytes());
    let mut object_bytes = len as u64;
    for (index, entry) in tail[8..len - 9].chunks_exact_mut(8).enumerate() {
        let plain = if index == 0 { 0 } else { layout.chunk_len(index as u64 - 1) as u32 };
        entry[4..].copy_from_slice(&plain.to_le_bytes());
        object_bytes += u64::from(u32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]));
    }
    decode(&layout, &tail, object_bytes);
});
