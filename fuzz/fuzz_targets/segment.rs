//! A segment of several transactions: the object as it is, and made of frames whose checksums fit.
#![no_main]

use anabranch_format::{DeltaError, Kind, Metadata, SegmentReader};
use anabranch_fuzz::{Recipe, pack, wal};
use libfuzzer_sys::fuzz_target;

fn read(body: &[u8], metadata: &Metadata) -> Result<(), DeltaError> {
    let mut reader = SegmentReader::new(body, metadata)?;
    let mut page = vec![0; metadata.page_size.bytes()];
    let (mut frames, mut transactions, mut size) = (0, 0, 0);
    while let Some(frame) = reader.next_frame(&mut page)? {
        frames += 1;
        transactions += u64::from(frame.is_commit());
        size = frame.commit_size;
    }
    assert_eq!(frames, metadata.frame_count());
    assert_eq!(transactions, metadata.transactions.unwrap_or(1));
    assert_eq!(size, metadata.pages.1, "the last frame commits");
    Ok(())
}

fuzz_target!(|data: &[u8]| {
    let mut object = data;
    if let Ok(metadata) = Metadata::decode(&mut object) {
        let _ = read(object, &metadata);
    }
    let mut recipe = Recipe(data);
    let page_size = recipe.page_size();
    let frames = recipe.frames();
    let mut metadata = recipe.metadata(Kind::Segment, page_size, frames.len() as u64);
    metadata.transactions = (recipe.byte() > 40).then(|| u64::from(recipe.byte() % 8));
    if let Some(last) = frames.last()
        && recipe.byte() > 100
    {
        metadata.pages.1 = last.1;
    }
    // Contradictions never get as far as a reader.
    if metadata.encode().is_err() {
        return;
    }
    let _ = read(&pack(&wal(page_size, &frames)), &metadata);
});
