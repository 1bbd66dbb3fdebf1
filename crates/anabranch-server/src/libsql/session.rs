//! Push sessions: frames of a transaction whose end has not come yet.
//!
//! A transaction may take many requests. What came of it so far belongs to nobody but the client: it
//! is kept aside, in memory and then in a scratch file, and put into the log with the rest of it or
//! never. A session holds no lock. It ends when the transaction does, when it was idle for a while,
//! or, where nothing is healed, when somebody else has appended: then its frames have no place any
//! more, and the client is told to go back to the last whole transaction.
//!
//! The client continues with the *baton* it was given, or, after a lost answer, without: then it is
//! recognised by generation, salts and the number of the next frame.
//!
//! Bounded: [`SESSIONS_MAX`] at a time for each database, of [`KEPT_BYTES_MAX`] together.

use std::time::{Duration, Instant};

use anabranch_format::{ChecksumOrder, Salts, Transaction, WalChecksum};

use super::frame::Kept;
use super::heal::Origin;

/// Sessions of one database at a time; one more ends the one that was idle longest.
const SESSIONS_MAX: usize = 64;

/// Bytes kept aside for one database, on disk: the longest transaction that a libSQL client can push.
pub(crate) const KEPT_BYTES_MAX: u64 = 4 << 30;

/// One session.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: String,
    /// What its frames come after: the end of the log, once, or of a lineage.
    pub(crate) origin: Origin,
    pub(crate) salts: Salts,
    pub(crate) order: ChecksumOrder,
    /// Number of the first frame kept.
    pub(crate) start: u32,
    pub(crate) kept: Kept,
    /// The pages of the transaction so far.
    pub(crate) rules: Transaction,
    /// Checksum of the last frame kept.
    pub(crate) checksum: WalChecksum,
    pub(crate) used: Instant,
    /// The store knows where the WAL left the log.
    pub(crate) noted: bool,
}

impl Session {
    /// Number of the frame that comes next.
    pub(crate) fn next(&self) -> u32 {
        self.start + self.kept.frames()
    }

    /// Whether its frames come right after frame `last` of the current `generation`.
    fn is_at(&self, generation: u32, last: u32) -> bool {
        matches!(&self.origin, Origin::Fork(fork)
            if fork.generation == generation && fork.frame == last)
    }
}

/// The sessions of one database.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    open: Vec<Session>,
}

impl Sessions {
    /// Ends those whose frames do not come right after frame `last` of the current `generation`.
    pub(crate) fn expire_displaced(&mut self, generation: u32, last: u32) {
        self.open.retain(|session| session.is_at(generation, last));
    }

    /// Takes out the session that a request of frames from `start` on with these salts continues or
    /// repeats, unless its frames come right after frame `last` of the current `generation`.
    pub(crate) fn take_displaced(
        &mut self,
        baton: Option<&str>,
        salts: Salts,
        start: u32,
        (generation, last): (u32, u32),
    ) -> Option<Session> {
        let session = self.take(baton, salts, start)?;
        if session.is_at(generation, last) || start < session.start {
            self.put(session);
            return None;
        }
        Some(session)
    }

    /// Takes out the session of the WAL with these salts whose first frame is `start`.
    pub(crate) fn take_at(&mut self, salts: Salts, start: u32) -> Option<Session> {
        let index = self.open.iter().position(|s| s.start == start && s.salts == salts)?;
        Some(self.open.swap_remove(index))
    }

    /// Whether somebody has sent a part of a transaction for the current `generation` since `active`
    /// ago.
    pub(crate) fn is_pushed_to(&self, generation: u32, now: Instant, active: Duration) -> bool {
        self.open.iter().any(|session| {
            let recent = now.saturating_duration_since(session.used) < active;
            recent && matches!(&session.origin, Origin::Fork(fork) if fork.generation == generation)
        })
    }

    /// Ends those that were idle for `idle`; whether none is left.
    pub(crate) fn expire_idle(&mut self, now: Instant, idle: Duration) -> bool {
        self.open.retain(|session| now.saturating_duration_since(session.used) < idle);
        self.open.is_empty()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Takes out the session that a request of frames from `start` on with these salts continues or
    /// repeats.
    pub(crate) fn take(
        &mut self,
        baton: Option<&str>,
        salts: Salts,
        start: u32,
    ) -> Option<Session> {
        let by_baton = self.open.iter().position(|s| Some(s.id.as_str()) == baton);
        let by_place = || {
            self.open.iter().position(|s| s.start <= start && start <= s.next() && s.salts == salts)
        };
        let index = by_baton.filter(|i| self.open[*i].salts == salts).or_else(by_place)?;
        Some(self.open.swap_remove(index))
    }

    /// Puts a session back, or a new one in.
    pub(crate) fn put(&mut self, session: Session) {
        if self.open.len() >= SESSIONS_MAX
            && let Some((oldest, _)) = self.open.iter().enumerate().min_by_key(|(_, s)| s.used)
        {
            self.open.swap_remove(oldest);
        }
        self.open.push(session);
    }

    /// Bytes kept by all.
    pub(crate) fn bytes(&self) -> u64 {
        self.open.iter().map(|session| session.kept.bytes()).sum()
    }
}

/// What a baton says: the server that has the session, the session, up to which frame the client's
/// WAL was proven, and where that server is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Baton<'a> {
    pub(crate) server: &'a str,
    pub(crate) session: &'a str,
    /// Salts of the WAL, and the frame before the session's first.
    pub(crate) proven: (Salts, u32),
    pub(crate) url: Option<String>,
}

impl<'a> Baton<'a> {
    /// A baton as it stands in a path: parts of letters and digits, the last in hex.
    pub(crate) fn encode(server: &str, session: &Session, url: Option<&str>) -> String {
        use std::fmt::Write;
        let (Salts(a, b), before) = (session.salts, session.start - 1);
        let mut text = format!("{server}-{}-{a:08x}{b:08x}{before:08x}", session.id);
        if let Some(url) = url {
            text.push('-');
            for byte in url.bytes() {
                // Writing to a string does not fail.
                let _ = write!(text, "{byte:02x}");
            }
        }
        text
    }

    /// Reads a baton; `None` if no server of this kind made it.
    pub(crate) fn decode(text: &'a str) -> Option<Self> {
        let mut parts = text.split('-');
        let (server, session, proven) = (parts.next()?, parts.next()?, parts.next()?);
        let number = |from: usize| u32::from_str_radix(proven.get(from..from + 8)?, 16).ok();
        let proven = (Salts(number(0)?, number(8)?), number(16)?);
        let url = match parts.next() {
            Some(hex) => Some(unhex(hex)?),
            None => None,
        };
        (parts.next().is_none() && !server.is_empty() && !session.is_empty()).then_some(Baton {
            server,
            session,
            proven,
            url,
        })
    }
}

fn unhex(hex: &str) -> Option<String> {
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?));
    String::from_utf8(bytes.collect::<Option<Vec<u8>>>()?).ok()
}

#[cfg(test)]
mod tests {
    use anabranch_format::{Lsn, PageSize};

    use super::*;
    use crate::libsql::heal::Fork;

    fn session(id: &str, salts: u32, start: u32, used: Instant) -> Session {
        Session {
            id: id.to_owned(),
            origin: Origin::Fork(Fork {
                generation: 1,
                frame: start - 1,
                lsn: Lsn::ZERO,
                pages: 0,
            }),
            salts: Salts(salts, 0),
            order: ChecksumOrder::Little,
            start,
            kept: Kept::new(),
            rules: Transaction::new(PageSize::DEFAULT, 0),
            checksum: WalChecksum::default(),
            used,
            noted: false,
        }
    }

    #[test]
    fn batons_read_back_and_strange_ones_mean_nothing() {
        for url in [None, Some("http://10.0.0.1:8080/x?y=ü")] {
            let session = session("a7", 5, 12, Instant::now());
            let text = Baton::encode("s1", &session, url);
            assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'));
            let url = url.map(ToOwned::to_owned);
            assert_eq!(
                Baton::decode(&text),
                Some(Baton { server: "s1", session: "a7", proven: (Salts(5, 0), 11), url })
            );
        }
        for bad in [
            "",
            "-",
            "a",
            "a-",
            "a-b",
            "a-b-0",
            "a-b-000000000000000000000000-zz",
            "a-b-000000000000000000000000-00-11",
        ] {
            assert_eq!(Baton::decode(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_session_is_found_by_baton_or_by_its_place_and_ends_when_idle_or_overtaken() {
        let now = Instant::now();
        let mut sessions = Sessions::default();
        sessions.put(session("a", 1, 11, now));
        assert!(sessions.take(Some("a"), Salts(2, 0), 11).is_none(), "other salts");
        assert!(sessions.take(Some("b"), Salts(1, 0), 12).is_none(), "another place");
        let found = sessions.take(Some("a"), Salts(1, 0), 99).unwrap();
        sessions.put(found);
        let found = sessions.take(None, Salts(1, 0), 11).unwrap();
        sessions.put(found);
        let idle = Duration::from_secs(30);
        assert!(sessions.take_displaced(None, Salts(1, 0), 11, (1, 10)).is_none(), "in its place");
        let displaced = sessions.take_displaced(None, Salts(1, 0), 11, (1, 11)).unwrap();
        assert!(!sessions.is_pushed_to(1, now, idle));
        sessions.put(displaced);
        assert!(sessions.is_pushed_to(1, now, idle) && !sessions.is_pushed_to(2, now, idle));
        sessions.expire_displaced(1, 10);
        assert!(!sessions.expire_idle(now + idle / 2, idle));
        sessions.expire_displaced(1, 11);
        assert!(sessions.is_empty(), "somebody has appended");
        sessions.put(session("a", 1, 11, now));
        assert!(sessions.expire_idle(now + idle, idle));
        for n in 0..100 {
            sessions.put(session("x", n, 11, now + Duration::from_secs(n.into())));
        }
        assert_eq!(sessions.open.len(), SESSIONS_MAX);
        assert!(sessions.take(None, Salts(0, 0), 11).is_none(), "the oldest went");
    }
}
