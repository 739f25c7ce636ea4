//! Tags, branches and Call-IDs, 96 random bits each, from a seed: the same seed gives the same ids.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// The source of everything random in the core. Seeded once, from the operating system in production and from a
/// number in tests.
#[derive(Debug)]
pub struct Ids {
    random: StdRng,
}

/// What every branch of ours begins with (RFC 3261 section 8.1.1.7).
pub const MAGIC_COOKIE: &str = "z9hG4bK";

impl Ids {
    /// Ids from a seed.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self { random: StdRng::from_seed(seed) }
    }

    /// 128 random bits.
    pub fn number(&mut self) -> u128 {
        (u128::from(self.random.next_u64()) << 64) | u128::from(self.random.next_u64())
    }

    /// A number below `limit` (0 for a limit of 0).
    pub fn below(&mut self, limit: usize) -> usize {
        if limit == 0 { 0 } else { (self.random.next_u64() % limit as u64) as usize }
    }

    /// A dialog tag.
    pub fn tag(&mut self) -> String {
        self.token("")
    }

    /// A Via branch.
    pub fn branch(&mut self) -> String {
        self.token(MAGIC_COOKIE)
    }

    /// A Call-ID.
    pub fn call_id(&mut self) -> String {
        self.token("sb-")
    }

    fn token(&mut self, prefix: &str) -> String {
        format!("{prefix}{:016x}{:08x}", self.random.next_u64(), self.random.next_u32())
    }
}
