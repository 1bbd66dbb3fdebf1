//! A snapshot, from end to end and by its chunks: as it is, and made of chunks that unpack.
#![no_main]

use anabranch_format::{
    Kind, Layout, Metadata, PageSource, SeekTable, SnapshotReader, SnapshotWriter, decode_chunk,
};
use anabranch_fuzz::{Recipe, pack};
use libfuzzer_sys::fuzz_target;

fn read(object: &[u8]) {
    let mut body = object;
    let Ok(metadata) = Metadata::decode(&mut body) else { return };
    let Ok(layout) = Layout::of(&metadata) else { return };
    let mut streamed = 0u64;
    if let Ok(mut reader) = SnapshotReader::new(body, &metadata) {
        let mut page = vec![0; metadata.page_size.bytes()];
        let mut previous = 0;
        while let Ok(Some(number)) = reader.next_page(&mut page) {
            assert!(number.get() > previous && number.get() <= metadata.pages.1);
            previous = number.get();
            streamed += 1;
            // The rest of a gigantic one says nothing new.
            if streamed > 1 << 12 {
                break;
            }
        }
    }
    read_chunks(object, &layout);
}

fn read_chunks(object: &[u8], layout: &Layout) {
    let Some(at) = (object.len() as u64).checked_sub(layout.seek_table_bytes()) else { return };
    let tail = &object[usize::try_from(at).expect("within the object")..];
    let Ok(table) = SeekTable::decode(layout, tail, object.len() as u64) else { return };
    for chunk in 0..layout.chunks() {
        let range = table.chunk_range(chunk).expect("the table has every chunk");
        assert!(range.start <= range.end && range.end <= object.len() as u64);
        let range = range.start as usize..range.end as usize;
        if let Ok(bytes) = decode_chunk(layout, chunk, &object[range]) {
            assert_eq!(bytes.len(), layout.chunk_len(chunk));
        }
    }
}

fuzz_target!(|data: &[u8]| {
    read(data);
    let mut recipe = Recipe(data);
    let page_size = recipe.page_size();
    let mut metadata = recipe.metadata(Kind::Snapshot, page_size, 1);
    metadata.lsn.0 = metadata.lsn.1;
    metadata.frames = None;
    // Any chunks behind plausible metadata.
    let Ok(mut object) = metadata.encode() else { return };
    let pages = usize::from(recipe.byte() % 16);
    let spare = usize::from(recipe.byte() / 250);
    object.extend(pack(&vec![recipe.byte(); page_size.bytes() * pages + spare]));
    object.extend_from_slice(recipe.0);
    read(&object);
    // A sound one, with one byte damaged.
    metadata.pages.1 = metadata.pages.1 % 24 + 1;
    let Ok(mut writer) = SnapshotWriter::new(Vec::new(), &metadata) else { return };
    for number in 1..=metadata.pages.1 {
        let number = anabranch_format::Pgno::new(number).expect("from 1");
        writer.page(number, &vec![recipe.byte(); page_size.bytes()]).expect("memory takes it");
    }
    let mut object = writer.finish().expect("every page was written");
    read(&object);
    let at = recipe.number() as usize % object.len();
    object[at] ^= recipe.byte();
    read(&object);
});
