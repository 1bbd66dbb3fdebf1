//! Batons: tickets that name a stream in the next request of its client.
//!
//! A baton tells, under a MAC, the stream, which request of it this is, and what would be lost with
//! it: so one whose stream is gone still says whether a new stream can take its place. The key is in
//! the store. So batons outlive the server that made them, and other servers on the store know them.
//! The database is under the MAC as well: a baton is good for the database that gave it.
//!
//! 33 bytes in base64: flags (1), stream (8), turn (8), MAC (16).

use std::fmt;

use anabranch_format::DatabaseId;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

const MAC_BYTES: usize = 16;
const TICKET_BYTES: usize = 17;
const BATON_BYTES: usize = TICKET_BYTES + MAC_BYTES;
/// What the MAC is of, so that the key can never mean anything else.
const PURPOSE: &[u8] = b"anabranch baton 1\0";

const IN_TRANSACTION: u8 = 1;
const HAS_TEXTS: u8 = 2;

/// What a baton says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket {
    /// The stream.
    pub(super) stream: u64,
    /// Which of its requests this is for.
    pub(super) turn: u64,
    /// A transaction was open on it.
    pub(super) in_transaction: bool,
    /// It had stored SQL.
    pub(super) has_texts: bool,
}

/// The key of all batons.
#[derive(Clone)]
pub(super) struct Key(Hmac<Sha256>);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

impl Key {
    pub(super) fn new(secret: &[u8; anabranch_store::SECRET_BYTES]) -> Self {
        // A shorter key is the same as one that ends in zeros.
        let mut block = [0; 64];
        block[..secret.len()].copy_from_slice(secret);
        Key(Hmac::new(&block.into()))
    }

    fn mac(&self, database: &DatabaseId, ticket: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        mac.update(PURPOSE);
        mac.update(ticket);
        mac.update(database.as_str().as_bytes());
        mac
    }

    /// The baton that says `ticket`, for streams of `database`.
    pub(super) fn seal(&self, database: &DatabaseId, ticket: &Ticket) -> String {
        let mut bytes = [0; BATON_BYTES];
        bytes[0] = if ticket.in_transaction { IN_TRANSACTION } else { 0 };
        bytes[0] |= if ticket.has_texts { HAS_TEXTS } else { 0 };
        bytes[1..9].copy_from_slice(&ticket.stream.to_be_bytes());
        bytes[9..TICKET_BYTES].copy_from_slice(&ticket.turn.to_be_bytes());
        let mac = self.mac(database, &bytes[..TICKET_BYTES]).finalize().into_bytes();
        bytes[TICKET_BYTES..].copy_from_slice(&mac[..MAC_BYTES]);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// What `baton` says; `None` if no server of this store gave it for `database`.
    pub(super) fn open(&self, database: &DatabaseId, baton: &str) -> Option<Ticket> {
        if baton.len() != BATON_BYTES.div_ceil(3) * 4 {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(baton).ok()?;
        let (ticket, mac) = bytes.split_at_checked(TICKET_BYTES)?;
        self.mac(database, ticket).verify_truncated_left(mac).ok()?;
        let number = |bytes: &[u8]| bytes.try_into().map(u64::from_be_bytes).ok();
        Some(Ticket {
            stream: number(&ticket[1..9])?,
            turn: number(&ticket[9..])?,
            in_transaction: ticket[0] & IN_TRANSACTION != 0,
            has_texts: ticket[0] & HAS_TEXTS != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(text: &str) -> DatabaseId {
        text.parse().unwrap()
    }

    #[test]
    fn a_baton_is_for_one_database_and_from_one_store() {
        let ticket = Ticket { stream: 1, turn: 2, in_transaction: true, has_texts: false };
        let (key, mine) = (Key::new(&[1; 32]), id("00000000000000000001"));
        let baton = key.seal(&mine, &ticket);
        assert_eq!(key.open(&mine, &baton), Some(ticket));
        assert_eq!(key.open(&id("00000000000000000002"), &baton), None);
        assert_eq!(Key::new(&[2; 32]).open(&mine, &baton), None);
        for odd in ["", "x", &baton[1..], &format!("{baton}A")] {
            assert_eq!(key.open(&mine, odd), None, "{odd}");
        }
    }

    proptest! {
        #[test]
        fn what_is_sealed_is_read_and_what_is_changed_is_not(
            stream: u64, turn: u64, in_transaction: bool, has_texts: bool,
            at in 0..BATON_BYTES, bit in 0..8u8,
        ) {
            let (key, mine) = (Key::new(&[7; 32]), id("00000000000000000001"));
            let ticket = Ticket { stream, turn, in_transaction, has_texts };
            let baton = key.seal(&mine, &ticket);
            prop_assert_eq!(key.open(&mine, &baton), Some(ticket));
            let mut bytes = URL_SAFE_NO_PAD.decode(&baton).unwrap();
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(key.open(&mine, &URL_SAFE_NO_PAD.encode(bytes)), None);
        }
    }
}
