//! A delta: the object as it is, and made of frames whose checksums fit.
#![no_main]

use anabranch_format::{DeltaError, DeltaReader, Kind, Metadata, PageSource};
use anabranch_fuzz::{Recipe, pack, wal};
use libfuzzer_sys::fuzz_target;

fn read(body: &[u8], metadata: &Metadata) -> Result<(), DeltaError> {
    let mut reader = DeltaReader::new(body, metadata)?;
    let mut page = vec![0; metadata.page_size.bytes()];
    let lock = metadata.page_size.lock_page();
    let (mut count, mut previous, mut growth) = (0, 0, 0);
    while let Some(number) = reader.next_page(&mut page)? {
        assert!(number.get() > previous && number != lock && number.get() <= metadata.pages.1);
        (count, previous) = (count + 1, number.get());
        growth += u32::from(number.get() > metadata.pages.0);
    }
    assert_eq!(count, metadata.frame_count());
    let content = |size| metadata.page_size.content_pages(size);
    let grown = content(metadata.pages.1).saturating_sub(content(metadata.pages.0));
    assert_eq!(growth, grown, "the growth is complete");
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
    let metadata = recipe.metadata(Kind::Delta, page_size, frames.len() as u64);
    let mut bytes = wal(page_size, &frames);
    bytes.truncate(bytes.len().saturating_sub(usize::from(recipe.byte() / 200)));
    let _ = read(&pack(&bytes), &metadata);
});
