//! Frames that were pulled: taken apart, checked, and reduced to the newest image of each page.
//!
//! Only whole transactions count: pages of the one under way lie apart until its commit frame comes,
//! and are dropped if it never does. Slots of images that were replaced are used again, so that the
//! file grows with the number of pages, not with the number of frames.
//!
//! Checked of every frame: its page number; of every commit frame: that the size can be, that every
//! page of a growth came with it, that page 1 is one. Salts and checksums mean nothing in this
//! dialect. What cannot be seen here (the size before the first transaction of a change) is seen by
//! who applies it. Memory: 12 bytes for each page.

use std::collections::BTreeMap;
use std::path::Path;

use anabranch_format::{FRAME_HEADER_BYTES, FrameHeader, PageOne, Pgno, PushId};

use super::error::{FrameFault, LibsqlError};
use super::scratch::Scratch;
use super::spot::Spot;
use super::{FRAME_BYTES, PAGE_BYTES, PAGE_SIZE};
use crate::transaction_hash::TransactionHash;

/// The last whole transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Newest {
    /// Its first and last frame.
    pub(super) first: Spot,
    pub(super) last: Spot,
    pub(super) id: PushId,
}

/// The transaction under way.
#[derive(Debug, Default)]
struct Open {
    first: Option<Spot>,
    pages: BTreeMap<u32, u32>,
    frames: u64,
    hash: TransactionHash,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Inbox {
    images: Scratch,
    /// Slots that hold nothing of use.
    free: Vec<u32>,
    slots: u32,
    /// Page number to slot.
    pages: BTreeMap<u32, u32>,
    open: Open,
    /// Size in pages after the last whole transaction, as far as it is known.
    size: Option<u32>,
    newest: Option<Newest>,
    /// Frames of whole transactions.
    frames: u64,
}

impl Inbox {
    /// For frames that follow a state of `size` pages, if that is known; images overflow into
    /// `folder`.
    pub(super) fn new(folder: &Path, size: Option<u32>) -> Self {
        Inbox {
            images: Scratch::new(folder),
            free: Vec::new(),
            slots: 0,
            pages: BTreeMap::new(),
            open: Open::default(),
            size,
            newest: None,
            frames: 0,
        }
    }

    /// Takes whole frames, the first of which is `first`.
    pub(super) fn take(&mut self, first: Spot, bytes: &[u8]) -> Result<(), LibsqlError> {
        for (index, frame) in (0u32..).zip(bytes.chunks_exact(FRAME_BYTES)) {
            let at = first.after(index).ok_or(LibsqlError::Exhausted(first))?;
            let (header, page) = split(frame, at)?;
            self.frame(at, &header, page)?;
        }
        Ok(())
    }

    fn frame(&mut self, at: Spot, header: &FrameHeader, page: &[u8]) -> Result<(), LibsqlError> {
        let pgno = header.pgno;
        if pgno == Pgno::ONE {
            check_page_one(page).map_err(|what| LibsqlError::Frames { at, what })?;
        }
        let slot = match self.open.pages.get(&pgno.get()) {
            // The image that is written last counts.
            Some(slot) => *slot,
            None => self.free_slot(at)?,
        };
        self.images
            .write_at(u64::from(slot) * PAGE_BYTES as u64, page)
            .map_err(|e| self.images.failed(e))?;
        self.open.pages.insert(pgno.get(), slot);
        self.open.first.get_or_insert(at);
        self.open.frames += 1;
        self.open.hash.frame(pgno, page);
        if header.is_commit() { self.commit(at, header.commit_size) } else { Ok(()) }
    }

    fn free_slot(&mut self, at: Spot) -> Result<u32, LibsqlError> {
        if let Some(slot) = self.free.pop() {
            return Ok(slot);
        }
        let slot = self.slots;
        self.slots = slot.checked_add(1).ok_or(LibsqlError::Exhausted(at))?;
        Ok(slot)
    }

    fn commit(&mut self, at: Spot, size: u32) -> Result<(), LibsqlError> {
        let open = std::mem::take(&mut self.open);
        self.check_size(&open, size).map_err(|what| LibsqlError::Frames { at, what })?;
        self.frames += open.frames;
        for (pgno, slot) in open.pages {
            self.free.extend(self.pages.insert(pgno, slot));
        }
        if let Some(above) = size.checked_add(1) {
            self.free.extend(self.pages.split_off(&above).into_values());
        }
        let first = open.first.unwrap_or(at);
        self.newest = Some(Newest { first, last: at, id: open.hash.finish(size) });
        self.size = Some(size);
        Ok(())
    }

    fn check_size(&self, open: &Open, size: u32) -> Result<(), FrameFault> {
        let lock_page = PAGE_SIZE.lock_page().get();
        if size == lock_page {
            return Err(FrameFault::Size(size));
        }
        let Some(from) = self.size.filter(|from| *from < size) else { return Ok(()) };
        let grown = u64::from(size - from) - u64::from(from < lock_page && lock_page <= size);
        let came = open.pages.range(from + 1..=size).count() as u64;
        if came == grown { Ok(()) } else { Err(FrameFault::Growth { from, to: size }) }
    }

    /// Frames of a transaction that is not whole.
    pub(super) fn open_frames(&self) -> u64 {
        self.open.frames
    }

    /// Frames of whole transactions.
    pub(super) fn frames(&self) -> u64 {
        self.frames
    }

    /// The last whole transaction.
    pub(super) fn newest(&self) -> Option<&Newest> {
        self.newest.as_ref()
    }

    /// Size in pages after the last whole transaction.
    pub(super) fn size(&self) -> Option<u32> {
        self.size
    }

    /// How many pages there are.
    pub(super) fn pages(&self) -> u64 {
        self.pages.len() as u64
    }

    /// The newest image of a page; `None` if it did not come.
    pub(super) fn page(&mut self, pgno: u32, page: &mut [u8]) -> std::io::Result<Option<()>> {
        let Some(slot) = self.pages.get(&pgno) else { return Ok(None) };
        self.images.read_at(u64::from(*slot) * PAGE_BYTES as u64, page).map(Some)
    }

    /// The number of the first page from `pgno` on that came.
    pub(super) fn next_from(&self, pgno: u32) -> Option<u32> {
        self.pages.range(pgno..).next().map(|(pgno, _)| *pgno)
    }
}

/// Header and page of a frame, the `at`th.
pub(super) fn split(frame: &[u8], at: Spot) -> Result<(FrameHeader, &[u8]), LibsqlError> {
    let fault = |what| LibsqlError::Frames { at, what };
    let (header, page) = frame
        .split_first_chunk::<FRAME_HEADER_BYTES>()
        .ok_or_else(|| fault(FrameFault::Length(frame.len())))?;
    let header = FrameHeader::decode(header).ok_or_else(|| fault(FrameFault::Page(0)))?;
    if header.pgno == PAGE_SIZE.lock_page() {
        return Err(fault(FrameFault::Page(header.pgno.get())));
    }
    Ok((header, page))
}

fn check_page_one(page: &[u8]) -> Result<(), FrameFault> {
    match PageOne::read(page) {
        Ok(one) if one.page_size == PAGE_SIZE => Ok(()),
        Ok(one) => Err(FrameFault::PageOne(format!("it states pages of {}", one.page_size))),
        Err(e) => Err(FrameFault::PageOne(e.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use anabranch_format::{Salts, WalChecksum};

    fn frame(pgno: u32, commit_size: u32, byte: u8) -> Vec<u8> {
        let mut page = vec![byte; PAGE_BYTES];
        if pgno == 1 {
            page[..16].copy_from_slice(anabranch_format::SQLITE_MAGIC);
            page[16..18].copy_from_slice(&[16, 0]);
        }
        let header = FrameHeader {
            pgno: Pgno::new(pgno.max(1)).unwrap(),
            commit_size,
            salts: Salts(1, 2),
            checksum: WalChecksum(3, 4),
        };
        let mut bytes = header.encode().to_vec();
        bytes[..4].copy_from_slice(&pgno.to_be_bytes());
        bytes.extend(page);
        bytes
    }

    fn inbox(size: Option<u32>) -> (tempfile::TempDir, Inbox) {
        let folder = tempfile::tempdir().unwrap();
        let inbox = Inbox::new(folder.path(), size);
        (folder, inbox)
    }

    fn byte_of(inbox: &mut Inbox, pgno: u32) -> Option<u8> {
        let mut page = vec![0; PAGE_BYTES];
        inbox.page(pgno, &mut page).unwrap().map(|()| page[4000])
    }

    fn fault(frames: &[(u32, u32)], size: Option<u32>) -> FrameFault {
        let (_folder, mut inbox) = inbox(size);
        let bytes: Vec<u8> = frames.iter().flat_map(|(n, c)| frame(*n, *c, 7)).collect();
        match inbox.take(Spot { generation: 1, frame: 1 }, &bytes) {
            Err(LibsqlError::Frames { what, .. }) => what,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_whole_transactions_count_and_the_last_image_of_a_page_wins() {
        let (_folder, mut inbox) = inbox(Some(2));
        let at = |frame| Spot { generation: 1, frame };
        let mut bytes = frame(2, 0, 1);
        bytes.extend(frame(3, 0, 2));
        bytes.extend(frame(2, 3, 3));
        bytes.extend(frame(2, 0, 4));
        inbox.take(at(5), &bytes).unwrap();
        assert_eq!((byte_of(&mut inbox, 2), byte_of(&mut inbox, 3)), (Some(3), Some(2)));
        assert_eq!((inbox.frames(), inbox.open_frames(), inbox.size()), (3, 1, Some(3)));
        let newest = inbox.newest().unwrap();
        assert_eq!((newest.first, newest.last), (at(5), at(7)));
        inbox.take(at(9), &frame(1, 2, 9)).unwrap();
        assert_eq!(byte_of(&mut inbox, 3), None, "cut off");
        assert_eq!(byte_of(&mut inbox, 2), Some(4));
        assert_eq!((inbox.pages(), inbox.slots), (2, 4));
    }

    #[test]
    fn what_leads_to_no_database_is_named() {
        assert_eq!(fault(&[(0, 0)], None), FrameFault::Page(0));
        assert_eq!(fault(&[(262_145, 0)], None), FrameFault::Page(262_145));
        assert_eq!(fault(&[(2, 262_145)], None), FrameFault::Size(262_145));
        assert_eq!(fault(&[(3, 4)], Some(2)), FrameFault::Growth { from: 2, to: 4 });
        assert_eq!(fault(&[(2, 2), (4, 4)], None), FrameFault::Growth { from: 2, to: 4 });
        let (_folder, mut inbox) = inbox(None);
        let mut bytes = frame(1, 1, 0);
        bytes[FRAME_HEADER_BYTES] = b'X';
        let refused = inbox.take(Spot::base(1), &bytes);
        assert!(matches!(refused, Err(LibsqlError::Frames { what: FrameFault::PageOne(_), .. })));
    }

    proptest! {
        /// Against a model: a map of the pages after each commit.
        #[test]
        fn images_are_those_of_the_last_commit(
            frames in proptest::collection::vec((2u32..12, 0u32..3, any::<u8>()), 1..200)
        ) {
            let (_folder, mut inbox) = inbox(None);
            let (mut whole, mut open) = (BTreeMap::new(), BTreeMap::new());
            for (at, (pgno, commit, byte)) in (1..).zip(frames) {
                // A database of 11 pages throughout.
                let size = if commit == 0 { 11 } else { 0 };
                inbox.take(Spot { generation: 1, frame: at }, &frame(pgno, size, byte)).unwrap();
                open.insert(pgno, byte);
                if size > 0 {
                    whole.append(&mut open);
                }
            }
            for pgno in 2..12 {
                prop_assert_eq!(byte_of(&mut inbox, pgno), whole.get(&pgno).copied());
            }
            prop_assert!(inbox.slots <= 20);
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..20_000)) {
            let (_folder, mut inbox) = inbox(Some(3));
            let _ = inbox.take(Spot::base(1), &bytes);
        }
    }
}
