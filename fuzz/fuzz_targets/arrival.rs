//! A bundle from a server: the bytes as they are, and objects behind a manifest that fits them. Either
//! in portions of any length.
#![no_main]

use anabranch_format::{Kind, Lsn, Metadata};
use anabranch_fuzz::{Recipe, pack, runtime, scratch, wal};
use anabranch_store::{Arrival, MANIFEST_MAGIC, Position, StoreError};
use libfuzzer_sys::fuzz_target;

/// Takes `bytes` for what leads from `from` to `to`, in portions of `size`.
fn receive(bytes: &[u8], size: usize, from: Lsn, to: &Metadata) {
    let metadata = Some(to.clone());
    let position = Position { lsn: to.lsn.1, metadata, modified: None, clock_gap: None };
    let mut arrival = Arrival::new("a server", &to.database, scratch(), from, &position);
    for part in bytes.chunks(size) {
        if arrival.write(part).is_err() {
            return;
        }
        assert!(arrival.total().is_none_or(|total| arrival.received() <= total));
    }
    assert_eq!(arrival.received(), bytes.len() as u64);
    // What is not complete would wait for more.
    if !arrival.is_complete() {
        return;
    }
    let Ok(readable) = arrival.hand_out() else { return };
    let Ok(fetched) = runtime().block_on(readable.fetched()) else { return };
    let mut previous = 0;
    let _ = fetched.for_each(|page, _| {
        assert!(page.get() > previous && page.get() <= to.pages.1);
        previous = page.get();
        Ok::<_, StoreError>(())
    });
}

fn manifest(json: &str) -> Vec<u8> {
    let len = u32::try_from(json.len()).expect("inputs are short");
    [&MANIFEST_MAGIC.to_le_bytes()[..], &len.to_le_bytes(), json.as_bytes()].concat()
}

fuzz_target!(|data: &[u8]| {
    let mut recipe = Recipe(data);
    let size = 1 + usize::from(recipe.byte());
    let page_size = recipe.page_size();
    // Some changes, each of which begins where the one before ends.
    let (mut objects, mut last) = (Vec::new(), None::<Metadata>);
    for _ in 0..1 + recipe.byte() % 3 {
        let kind = if recipe.byte() < 40 { Kind::Delta } else { Kind::Segment };
        let frames = recipe.frames();
        let mut metadata = recipe.metadata(kind, page_size, frames.len() as u64);
        let before = last.as_ref().map_or(1, |last| last.lsn.1.get() + 1);
        let after = before + (frames.len() as u64).max(1) - 1;
        metadata.lsn = (Lsn::new(before), Lsn::new(after));
        metadata.pages.0 = last.as_ref().map_or(0, |last| last.pages.1);
        metadata.frames = None;
        let Ok(head) = metadata.encode() else { return };
        objects.push([head, pack(&wal(page_size, &frames))].concat());
        last = Some(metadata);
    }
    let Some(last) = last else { return };
    receive(data, size, Lsn::ZERO, &last);

    let lengths: Vec<usize> = objects.iter().map(Vec::len).collect();
    let tail = usize::from(recipe.byte()) % (objects.len() + 1);
    let (db, to) = (&last.database, last.lsn.1.get());
    let from = if recipe.byte() < 128 { "" } else { r#""from":0,"# };
    let json = format!(
        r#"{{"anabranch":1,"db":"{db}",{from}"to":{to},"pieces":{lengths:?},"tail":{tail}}}"#
    );
    let mut bytes = manifest(&json);
    let longest_last = |index: &usize| *index == tail;
    let mut order: Vec<usize> = (0..objects.len()).collect();
    order.sort_by_key(longest_last);
    for index in order {
        bytes.extend_from_slice(&objects[index]);
    }
    receive(&bytes, size, Lsn::ZERO, &last);
    // The manifest itself, as an attacker writes it.
    if let Ok(json) = std::str::from_utf8(data) {
        receive(&manifest(json), size, Lsn::ZERO, &last);
    }
});
