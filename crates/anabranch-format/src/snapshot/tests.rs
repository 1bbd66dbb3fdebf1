#![expect(clippy::cast_possible_truncation, reason = "test data is small")]

use proptest::prelude::*;

use super::*;
use crate::checksum::DbChecksum;
use crate::lsn::Lsn;
use crate::metadata::{FORMAT_VERSION, Kind, Micros};

fn pgno(n: u32) -> Pgno {
    Pgno::new(n).unwrap()
}

fn metadata(page_size: PageSize, db_size: u32, chunk: u32) -> Metadata {
    Metadata {
        version: FORMAT_VERSION,
        kind: Kind::Snapshot,
        database: "0123456789abcdef".parse().unwrap(),
        lsn: (Lsn::new(5), Lsn::new(5)),
        generation: (1, Lsn::new(1)),
        next_generation: None,
        push: None,
        writer: "a1b2c3d4".parse().unwrap(),
        time: Micros(1),
        clock: None,
        page_size,
        pages: (db_size, db_size),
        sum: (DbChecksum(1), DbChecksum(1)),
        frames: None,
        transactions: None,
        healed: None,
        chunk: Some(chunk),
        body: None,
    }
}

fn page_of(page_size: PageSize, number: u32) -> Vec<u8> {
    let mut state = number;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8 & 0x3f
    };
    std::iter::repeat_with(next).take(page_size.bytes()).collect()
}

/// Writes a snapshot whose lock page is `lock_page`.
fn write(metadata: &Metadata, lock_page: Pgno) -> Vec<u8> {
    let mut writer = SnapshotWriter::new(Vec::new(), metadata).unwrap();
    writer.layout.lock_page = lock_page;
    for number in (1..=metadata.pages.1).filter(|&n| n != lock_page.get()) {
        writer.page(pgno(number), &page_of(metadata.page_size, number)).unwrap();
    }
    writer.finish().unwrap()
}

fn write_all(metadata: &Metadata) -> Vec<u8> {
    write(metadata, metadata.page_size.lock_page())
}

/// Reads page numbers and content from the first page to the last.
fn read_with(object: &[u8], lock_page: Option<Pgno>) -> Result<Vec<(u32, Vec<u8>)>, SnapshotError> {
    let mut source = object;
    let metadata = Metadata::decode(&mut source)?;
    let mut reader = SnapshotReader::new(source, &metadata)?;
    reader.layout.lock_page = lock_page.unwrap_or(reader.layout.lock_page);
    let mut page = vec![0; metadata.page_size.bytes()];
    let mut all = Vec::new();
    loop {
        match reader.next_page(&mut page) {
            Ok(Some(number)) => all.push((number.get(), page.clone())),
            Ok(None) => return Ok(all),
            Err(DeltaError::Io(e)) => return Err(SnapshotError::Io(e)),
            Err(e) => panic!("{e}"),
        }
    }
}

fn read(object: &[u8]) -> Result<Vec<(u32, Vec<u8>)>, SnapshotError> {
    read_with(object, None)
}

/// Reads the database by its chunks, as a reader with range requests does.
fn read_by_chunks(object: &[u8]) -> Result<Vec<u8>, SnapshotError> {
    let layout = Layout::of(&Metadata::decode(&mut &object[..])?)?;
    let table_at = (object.len() as u64)
        .checked_sub(layout.seek_table_bytes())
        .ok_or(SnapshotError::SeekTable("shorter than its table"))?;
    let tail = &object[usize::try_from(table_at).unwrap()..];
    let table = SeekTable::decode(&layout, tail, object.len() as u64)?;
    let (mut all, mut again) = (Vec::new(), Vec::new());
    let mut unpacker = ChunkUnpacker::new(layout)?;
    for chunk in 0..layout.chunks() {
        let range = table.chunk_range(chunk).unwrap();
        let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        let content = decode_chunk(&layout, chunk, &object[range.clone()])?;
        unpacker.unpack(chunk, &object[range], &mut again)?;
        assert!(again == content, "chunk {chunk}");
        all.extend(content);
    }
    assert_eq!(table.chunk_range(layout.chunks()), None);
    assert_eq!(table.chunk_range(u64::MAX), None);
    Ok(all)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_snapshot_reads_back_from_end_to_end_and_by_chunks(
        shift in 9u32..=16,
        chunk_pages in 0u32..4,
        db_size in 1u32..40,
        lock_page in prop::option::of(2u32..40),
    ) {
        let page_size = PageSize::new(1 << shift).unwrap();
        let metadata = metadata(page_size, db_size, page_size.get() << chunk_pages);
        let lock_page = lock_page.map_or(page_size.lock_page(), pgno);
        let object = write(&metadata, lock_page);

        let pages = read_with(&object, Some(lock_page)).unwrap();
        let expected: Vec<_> = (1..=db_size)
            .filter(|&n| n != lock_page.get())
            .map(|n| (n, page_of(page_size, n)))
            .collect();
        prop_assert_eq!(pages, expected);

        let file = read_by_chunks(&object).unwrap();
        let layout = Layout::of(&metadata).unwrap();
        prop_assert_eq!(file.len() as u64, layout.total_bytes());
        for number in 1..=db_size {
            let page = match number == lock_page.get() {
                true => vec![0; page_size.bytes()],
                false => page_of(page_size, number),
            };
            let (chunk, within) = layout.locate(pgno(number)).unwrap();
            let at = usize::try_from(chunk).unwrap() * metadata.chunk.unwrap() as usize;
            prop_assert_eq!(&file[at + within.start..at + within.end], &page[..]);
            prop_assert!(within.end <= layout.chunk_len(chunk));
        }
        prop_assert_eq!(layout.locate(pgno(db_size + 1)), None);
    }

    #[test]
    fn any_layout_is_bounded(shift in 9u32..=16, db_size in 1u32..u32::MAX, chunk: u32) {
        let page_size = PageSize::new(1 << shift).unwrap();
        for chunk in [chunk, 1 << (chunk % 32), chunk_bytes(page_size, db_size)] {
            let Ok(layout) = Layout::of(&metadata(page_size, db_size, chunk)) else { continue };
            prop_assert!(layout.chunks() <= CHUNKS_MAX);
            prop_assert!(layout.seek_table_bytes() <= 8 * CHUNKS_MAX + 25);
            prop_assert!(layout.chunk_len(0) <= CHUNK_BYTES_MAX as usize);
            prop_assert!(layout.chunk_len(layout.chunks() - 1) > 0);
            prop_assert_eq!(layout.chunk_len(layout.chunks()), 0);
            prop_assert_eq!(layout.chunk_len(u64::MAX), 0);
        }
    }

    #[test]
    fn any_seek_table_is_refused_without_a_panic(
        db_size in 1u32..5000,
        noise in prop::collection::vec(any::<u8>(), 0..200),
        object_bytes: u64,
    ) {
        let layout = Layout::of(&metadata(PageSize::MIN, db_size, 1024)).unwrap();
        prop_assert!(SeekTable::decode(&layout, &noise, object_bytes).is_err());
        let mut tail = vec![0; usize::try_from(layout.seek_table_bytes()).unwrap()];
        let len = noise.len().min(tail.len());
        tail[..len].copy_from_slice(&noise[..len]);
        prop_assert!(SeekTable::decode(&layout, &tail, object_bytes).is_err());
    }
}

#[test]
fn the_chunk_size_keeps_the_number_of_chunks_in_bounds() {
    assert_eq!(chunk_bytes(PageSize::DEFAULT, 1), CHUNK_BYTES_MIN);
    assert_eq!(chunk_bytes(PageSize::DEFAULT, 1 << 24), CHUNK_BYTES_MIN, "64 GiB");
    assert_eq!(chunk_bytes(PageSize::DEFAULT, (1 << 24) + 1), 2 * CHUNK_BYTES_MIN);
    assert_eq!(chunk_bytes(PageSize::MAX, 1 << 28), CHUNK_BYTES_MAX, "16 TiB");
    let largest = metadata(PageSize::MAX, 1 << 28, CHUNK_BYTES_MAX);
    assert_eq!(Layout::of(&largest).unwrap().chunks(), CHUNKS_MAX);
}

#[test]
fn what_a_snapshot_cannot_hold_is_refused_before_anything_is_written() {
    for (db_size, chunk) in [
        ((1 << 28) + 1, chunk_bytes(PageSize::MAX, (1 << 28) + 1)),
        ((1 << 28) + 1, CHUNK_BYTES_MAX),
        (1, 1 << 30),
        (u32::MAX - 1, 1 << 16),
    ] {
        let mut sink = Vec::new();
        let error = SnapshotWriter::new(&mut sink, &metadata(PageSize::MAX, db_size, chunk)).err();
        assert!(matches!(error, Some(SnapshotError::TooLarge { .. })), "{error:?}");
        assert!(sink.is_empty());
    }
    let mut odd = metadata(PageSize::DEFAULT, 1, 4095);
    assert!(Layout::of(&odd).is_err());
    odd.chunk = None;
    assert!(Layout::of(&odd).is_err());
}

#[test]
fn the_lock_page_of_a_real_gigabyte_is_zeros_and_is_not_read() {
    // A sparse database: all zeros pack and unpack in about a second.
    let page_size = PageSize::MAX;
    let lock = page_size.lock_page();
    let db_size = lock.get() + 1;
    let metadata = metadata(page_size, db_size, 16 << 20);
    let mut writer = SnapshotWriter::new(Vec::new(), &metadata).unwrap();
    let zeros = vec![0; page_size.bytes()];
    for number in (1..db_size).filter(|&n| n != lock.get()) {
        writer.page(pgno(number), &zeros).unwrap();
    }
    writer.page(pgno(db_size), &vec![7; page_size.bytes()]).unwrap();
    let object = writer.finish().unwrap();

    let layout = Layout::of(&metadata).unwrap();
    assert_eq!(layout.total_bytes(), (1 << 30) + 2 * 65536);
    let mut source = &object[..];
    Metadata::decode(&mut source).unwrap();
    let mut reader = SnapshotReader::new(source, &metadata).unwrap();
    let mut page = vec![0; page_size.bytes()];
    let (mut count, mut last) = (0, None);
    while let Some(number) = reader.next_page(&mut page).unwrap() {
        assert_ne!(number, lock);
        (count, last) = (count + 1, Some((number.get(), page[0])));
    }
    assert_eq!((count, last), (db_size - 1, Some((db_size, 7))));
}

#[test]
fn a_database_that_ends_at_the_lock_page_is_whole() {
    let metadata = metadata(PageSize::MIN, 4, 1024);
    let object = write(&metadata, pgno(4));
    assert_eq!(read_with(&object, Some(pgno(4))).unwrap().len(), 3);
    assert_eq!(read_by_chunks(&object).unwrap()[3 * 512..], [0; 512]);
}

#[test]
fn a_snapshot_with_pages_missing_is_not_finished() {
    let mut writer = SnapshotWriter::new(Vec::new(), &metadata(PageSize::MIN, 3, 512)).unwrap();
    writer.page(pgno(1), &[0; 512]).unwrap();
    assert!(matches!(writer.finish(), Err(SnapshotError::Truncated(2))));
}

#[test]
#[should_panic(expected = "every page of a snapshot, in order")]
fn pages_of_a_snapshot_come_in_order() {
    let mut writer = SnapshotWriter::new(Vec::new(), &metadata(PageSize::MIN, 3, 512)).unwrap();
    let _ = writer.page(pgno(2), &[0; 512]);
}

/// Three chunks, the last one shorter.
fn small() -> Vec<u8> {
    write_all(&metadata(PageSize::MIN, 5, 1024))
}

#[test]
fn a_truncated_snapshot_is_an_error_or_has_all_pages() {
    let object = small();
    let whole = read(&object).unwrap();
    let table = Layout::of(&metadata(PageSize::MIN, 5, 1024)).unwrap().seek_table_bytes() as usize;
    for len in 0..object.len() {
        match read(&object[..len]) {
            Ok(pages) => {
                assert_eq!(len, object.len() - table, "cut exactly before the seek table");
                assert_eq!(pages, whole);
            }
            Err(e) => assert!(e.is_damage(), "{len}: {e}"),
        }
        assert!(read_by_chunks(&object[..len]).is_err(), "{len}");
    }
}

#[test]
fn a_flipped_bit_is_an_error_or_changes_nothing() {
    let object = small();
    let (whole, file) = (read(&object).unwrap(), read_by_chunks(&object).unwrap());
    let body = Metadata::decode(&mut &object[..]).map(|m| m.encode().unwrap().len()).unwrap();
    let table = object.len()
        - Layout::of(&metadata(PageSize::MIN, 5, 1024)).unwrap().seek_table_bytes() as usize;
    let (mut harmless, mut harmless_by_chunks) = (0, 0);
    for bit in 0..object.len() * 8 {
        let mut flipped = object.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        if let Ok(pages) = read(&flipped) {
            assert!(pages == whole && bit / 8 >= body, "bit {bit} changes the content");
            harmless += u32::from(bit / 8 < table);
        }
        if let Ok(found) = read_by_chunks(&flipped) {
            assert!(found == file && bit / 8 >= body, "bit {bit} changes the content");
            harmless_by_chunks += 1;
        }
    }
    // Bits of a frame header that no decoder looks at, or a window that is larger than needed.
    assert!(harmless <= 3 * 8, "{harmless} flips were not seen");
    assert!(harmless_by_chunks <= 3 * 8, "{harmless_by_chunks} flips were not seen");
}

#[test]
fn a_chunk_that_unpacks_to_a_gigabyte_is_cut_at_its_length() {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    io::copy(&mut io::repeat(0).take(1 << 30), &mut encoder).unwrap();
    let bomb = encoder.finish().unwrap();
    let layout = Layout::of(&metadata(PageSize::MIN, 5, 1024)).unwrap();
    let error = decode_chunk(&layout, 0, &bomb).unwrap_err();
    assert!(matches!(error, SnapshotError::Io(_)) && error.is_damage());
    let mut out = vec![1; 2048];
    let error = ChunkUnpacker::new(layout).unwrap().unpack(0, &bomb, &mut out).unwrap_err();
    assert!(matches!(error, SnapshotError::Io(_)) && error.is_damage() && out.capacity() < 4096);
    // And one page by page.
    let mut object = metadata(PageSize::MIN, 5, 1024).encode().unwrap();
    object.extend_from_slice(&bomb);
    assert!(read(&object).unwrap_err().is_damage());
}

#[test]
fn a_short_chunk_does_not_claim_the_stated_length() {
    let layout = Layout::of(&metadata(PageSize::MAX, 1 << 28, CHUNK_BYTES_MAX)).unwrap();
    let packed = zstd::bulk::compress(b"short", 1).unwrap();
    let error = decode_chunk(&layout, 0, &packed).unwrap_err();
    assert!(matches!(error, SnapshotError::ChunkLength { found: 5, .. }), "{error}");
    let mut out = Vec::new();
    let error = ChunkUnpacker::new(layout).unwrap().unpack(0, &packed, &mut out).unwrap_err();
    assert!(matches!(error, SnapshotError::ChunkLength { found: 5, .. }), "{error}");
    let beyond = decode_chunk(&layout, u64::MAX, &packed).unwrap_err();
    assert!(beyond.is_damage(), "{beyond}");
}
