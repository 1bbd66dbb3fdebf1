//! Waiting for news: `log/watch`.

use anabranch_format::Lsn;
use anabranch_store::StoreError;

use super::{Ours, answer};
use crate::remote::http;

impl Ours {
    /// Waits until the server tells of an end of the log beyond `after`; `false` if it ends the
    /// stream before that.
    pub(super) async fn watch(&self, after: Lsn) -> Result<bool, StoreError> {
        let ask = self.get("log/watch").with("after", after);
        let asked = self.connection.ask(&ask).await.map_err(|fault| self.failed(fault.error))?;
        let accepted = answer::accepted(asked).await;
        let mut response = accepted.map_err(|e| e.store_error(&self.connection))?;
        let mut events = Events::default();
        loop {
            // While nothing happens comments come, so that silence means that nobody is there.
            match http::next_part(&mut response).await.map_err(|e| self.failed(e))? {
                Some(part) if events.take(&part) => return Ok(true),
                Some(_) => {}
                None => return Ok(false),
            }
        }
    }
}

/// Server-sent events, as far as it matters that there is one.
#[derive(Debug, Default)]
struct Events {
    /// How much of the word that begins a line with data was seen; `None` elsewhere in a line.
    matched: Option<usize>,
    begun: bool,
}

impl Events {
    /// Whether an event comes within the next bytes.
    fn take(&mut self, bytes: &[u8]) -> bool {
        const DATA: &[u8] = b"data:";
        if !std::mem::replace(&mut self.begun, true) {
            self.matched = Some(0);
        }
        for &byte in bytes {
            self.matched = match self.matched {
                _ if matches!(byte, b'\n' | b'\r') => Some(0),
                Some(at) if DATA[at] == byte => Some(at + 1),
                _ => None,
            };
            if self.matched == Some(DATA.len()) {
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_told_from_comments_however_it_is_cut() {
        let stream = b": data: no\nevent: head\nid: 5\ndata: {}\n\n";
        for size in 1..stream.len() {
            let mut events = Events::default();
            let mut seen = 0;
            for part in stream.chunks(size) {
                seen += part.len();
                if events.take(part) {
                    break;
                }
            }
            assert!(seen >= stream.len() - 5, "the comment is none");
            assert!(Events::default().take(b"data:x"));
            assert!(!Events::default().take(b"x data: y\nid: 1\n"));
        }
    }
}
