//! Push ids that are made of what is pushed.
//!
//! A remote that keeps no names of pushes can still be asked what stands at a place. Hashing that
//! tells whose it is: ours, if it is what we sent. An equal transaction of somebody else is therefore
//! taken for ours; it leads to the same state.

use anabranch_format::{PageChecksum, Pgno, PushId, content_hash};

/// Where a push gets its id from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PushIds {
    /// Drawn: the remote keeps it.
    Drawn,
    /// A [`TransactionHash`].
    OfContent,
}

/// Hashes the frames of one transaction, in their order.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct TransactionHash {
    all: u64,
    last: u64,
}

fn mix(a: u64, b: u64) -> u64 {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&a.to_le_bytes());
    bytes[8..].copy_from_slice(&b.to_le_bytes());
    content_hash(&bytes)
}

impl TransactionHash {
    /// The next frame holds `page` as page `pgno`. The fields of page 1 that are each copy's own do
    /// not count.
    pub(crate) fn frame(&mut self, pgno: Pgno, page: &[u8]) {
        self.last = mix(u64::from(pgno.get()), PageChecksum::of(pgno, page).0);
        self.all = mix(self.all, self.last);
    }

    /// The id of the transaction that leaves a database of `size` pages: a hash of all frames, and
    /// one of the last.
    pub(crate) fn finish(self, size: u32) -> PushId {
        let [all, last] = [self.all, self.last].map(|hash| mix(hash, u64::from(size)));
        format!("{all:016x}-{last:016x}").parse().expect("hex digits and a dash are an id")
    }

    /// Whether a transaction with the id `id` can end with the one frame that was hashed here;
    /// `None` if the id is of another kind.
    pub(crate) fn ends(self, id: &PushId, size: u32) -> Option<bool> {
        let (_, last) = id.as_str().split_once('-')?;
        let last = u64::from_str_radix(last, 16).ok()?;
        Some(last == mix(self.last, u64::from(size)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_depends_on_pages_numbers_order_and_size_and_is_known_by_its_last_frame() {
        let p = |n| Pgno::new(n).unwrap();
        let of = |frames: &[(u32, u8)], size| {
            let mut hash = TransactionHash::default();
            for &(n, byte) in frames {
                hash.frame(p(n), &[byte; 4096]);
            }
            hash.finish(size)
        };
        let id = of(&[(2, 1), (3, 1)], 3);
        assert_eq!(of(&[(2, 1), (3, 1)], 3), id);
        for other in [
            of(&[(2, 1), (3, 2)], 3),
            of(&[(2, 1), (4, 1)], 4),
            of(&[(3, 1), (2, 1)], 3),
            of(&[(2, 1), (3, 1)], 4),
            of(&[(3, 1)], 3),
        ] {
            assert_ne!(other, id);
        }
        let mut last = TransactionHash::default();
        last.frame(p(3), &[1; 4096]);
        assert_eq!(last.ends(&id, 3), Some(true));
        assert_eq!(last.ends(&id, 4), Some(false));
        assert_eq!(last.ends(&"00ab".parse().unwrap(), 3), None);
    }
}
