//! Text from databases and servers, so that a terminal only shows it.
//!
//! A control character could move the cursor, colour the screen or answer on the user's behalf; a
//! character that changes the direction of writing could show a text as another. Both are shown as
//! what they are: `^[`, `\u{202e}`. Newlines and tabs stay.

use std::borrow::Cow;
use std::io::{self, Write};

/// Bytes of a character that the next call completes: fewer than this.
const CHAR_BYTES_MAX: usize = 4;

fn is_unsafe(c: char) -> bool {
    (c.is_control() && !matches!(c, '\n' | '\t'))
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The text with nothing in it but what is shown, newlines and tabs.
pub(crate) fn clean(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut cleaned = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            c if !is_unsafe(c) => cleaned.push(c),
            '\0'..='\u{1f}' | '\u{7f}' => {
                cleaned.push('^');
                // Maps both ends: NUL to '@', DEL to '?'.
                cleaned.extend(char::from_u32(u32::from(c) ^ 0x40));
            }
            c => cleaned.extend(c.escape_unicode()),
        }
    }
    Cow::Owned(cleaned)
}

/// As [`clean`], on one line.
pub(crate) fn one_line(text: &str) -> String {
    clean(text).replace(['\n', '\t'], " ")
}

/// Cleans all that is written through it.
#[derive(Debug)]
pub(crate) struct Cleaned<W: Write> {
    out: W,
    /// The start of a character that was not written completely yet.
    begun: Vec<u8>,
}

impl<W: Write> Cleaned<W> {
    pub(crate) fn new(out: W) -> Self {
        Cleaned { out, begun: Vec::with_capacity(CHAR_BYTES_MAX) }
    }
}

impl<W: Write> Write for Cleaned<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut all = std::mem::take(&mut self.begun);
        all.extend_from_slice(bytes);
        let open = open_end(&all);
        for chunk in all[..all.len() - open].utf8_chunks() {
            self.out.write_all(clean(chunk.valid()).as_bytes())?;
            if !chunk.invalid().is_empty() {
                self.out.write_all("\u{fffd}".as_bytes())?;
            }
        }
        self.begun = all.split_off(all.len() - open);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// How many bytes at the end are the start of a character that is not complete.
fn open_end(bytes: &[u8]) -> usize {
    for back in 1..CHAR_BYTES_MAX.min(bytes.len() + 1) {
        let byte = bytes[bytes.len() - back];
        let length = match byte {
            0xc0..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf7 => 4,
            0x80..=0xbf => continue,
            _ => return 0,
        };
        return if back < length { back } else { 0 };
    }
    0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_shown_instead() {
        assert_eq!(clean("a\u{1b}[2Jb\0\u{7f}\r"), "a^[[2Jb^@^?^M");
        assert_eq!(clean("\u{9b}1m \u{202e}x"), "\\u{9b}1m \\u{202e}x");
        assert!(matches!(clean("plain\n\tüñî 漢"), Cow::Borrowed(_)));
        assert_eq!(one_line("a\nb\tc\u{7}"), "a b c^G");
    }

    proptest! {
        #[test]
        fn whatever_portions_are_written_nothing_unsafe_comes_out(
            text in any::<String>(),
            noise in prop::collection::vec(any::<u8>(), 0..4),
            size in 1usize..5,
        ) {
            let mut bytes = text.clone().into_bytes();
            let mut cleaned = Cleaned::new(Vec::new());
            for part in bytes.chunks(size) {
                cleaned.write_all(part).unwrap();
            }
            prop_assert_eq!(String::from_utf8(cleaned.out).unwrap(), clean(&text).into_owned());

            bytes.splice(0..0, noise);
            let mut cleaned = Cleaned::new(Vec::new());
            for part in bytes.chunks(size) {
                cleaned.write_all(part).unwrap();
            }
            let out = String::from_utf8(cleaned.out).unwrap();
            prop_assert!(!out.contains(is_unsafe));
        }
    }
}
