//! Random numbers from a seed that is printed when something fails.

/// A small generator (SplitMix64): the same seed gives the same run.
#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    /// Starts from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Chance(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not zero.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.bits() % end as u64).expect("less than a usize")
    }

    /// True in `percent` of a hundred cases.
    pub fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// Words of about `bytes` bytes, as compressible as ordinary text.
    pub fn words(&mut self, bytes: usize) -> String {
        const SYLLABLES: [&str; 32] = [
            "an", "ra", "bran", "ch", "ri", "ver", "de", "lo", "mi", "sta", "ke", "tu", "ne",
            "pol", "si", "gor", "fa", "lim", "ho", "ben", "que", "ux", "wa", "yel", "zi", "co",
            "dro", "el", "is", "mar", "nto", "vi",
        ];
        let mut text = String::with_capacity(bytes + 8);
        while text.len() < bytes {
            for _ in 0..=self.below(3) {
                text.push_str(SYLLABLES[self.below(SYLLABLES.len())]);
            }
            text.push(' ');
        }
        text.truncate(bytes);
        text
    }
}
