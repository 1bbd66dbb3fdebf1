//! Rows of JSON-like text, the same for the same seed.
//!
//! Real application data compresses to about a third under `zstd -3`. Text of words that are drawn
//! from a vocabulary of a few thousand does the same; bytes drawn at random would not compress at
//! all, and a repeated row would compress to nothing.

/// Words in the vocabulary; chosen so that pages of such rows shrink to about a third.
const VOCABULARY: u64 = 4096;

const ONSETS: [&str; 16] =
    ["b", "br", "c", "d", "f", "g", "h", "k", "l", "m", "n", "p", "r", "s", "st", "t"];
const VOWELS: [&str; 8] = ["a", "e", "i", "o", "u", "ai", "ea", "ou"];
const KEYS: [&str; 8] = ["name", "note", "title", "city", "tags", "state", "owner", "comment"];

/// A generator of text.
pub(crate) struct Words {
    state: u64,
}

impl Words {
    pub(crate) fn new(seed: u64) -> Self {
        Words { state: seed }
    }

    /// A random number (SplitMix64).
    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.state)
    }

    /// A random number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        // The bias is below 2^-32 for every range used here.
        self.next() % end.max(1)
    }

    /// A JSON object of exactly `bytes` bytes (at least 16), without quotes that SQL would mind.
    pub(crate) fn json(&mut self, bytes: usize) -> String {
        let mut text = format!("{{\"id\":{}", self.below(1_000_000));
        while text.len() + 2 < bytes {
            let key = KEYS[index(self.below(KEYS.len() as u64))];
            text.push_str(",\"");
            text.push_str(key);
            text.push_str("\":\"");
            for at in 0..=self.below(6) {
                if at > 0 {
                    text.push(' ');
                }
                word(self.below(VOCABULARY), &mut text);
            }
            text.push('"');
        }
        text.truncate(bytes.saturating_sub(2));
        text.push_str("\"}");
        text
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Word number `n` of the vocabulary: one to four syllables, always the same ones.
fn word(n: u64, out: &mut String) {
    let mut bits = mix(n.wrapping_add(0x5eed));
    let syllables = 1 + bits % 4;
    bits >>= 2;
    for _ in 0..syllables {
        out.push_str(ONSETS[index(bits % 16)]);
        out.push_str(VOWELS[index((bits >> 4) % 8)]);
        bits >>= 7;
    }
}

fn index(n: u64) -> usize {
    usize::try_from(n).expect("a small number fits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_its_length_and_depends_on_the_seed_alone() {
        let rows = |seed| {
            let mut words = Words::new(seed);
            (0..50).map(|_| words.json(110)).collect::<Vec<_>>()
        };
        assert!(rows(1).iter().all(|row| row.len() == 110 && !row.contains('\'')));
        assert_eq!(rows(1), rows(1));
        assert_ne!(rows(1), rows(2));
    }
}
