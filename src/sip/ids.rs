//! Tags, branches and Call-IDs, 96 random bits each, from a seed: the same seed gives the same ids. A branch carries a mark
//! besides, by which whoever has the seed knows it again.

use std::hash::{Hash, Hasher as _};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::message::{HeaderName, Message};

/// The source of everything random in the core. Seeded once, from the operating system in production and from a
/// number in tests.
#[derive(Debug)]
pub struct Ids {
    random: StdRng,
    keyed: Keyed,
}

/// A keyed hash: the same input gives the same 64 bits to whoever has the key, and to nobody else.
#[derive(Debug, Clone, Copy)]
pub struct Keyed {
    key: (u64, u64),
}

impl Keyed {
    /// A hash whose key comes from a seed.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let word = |at: usize| seed[at..at + 8].iter().fold(0, |word, &octet| word << 8 | u64::from(octet));
        Self { key: (word(0) ^ word(16), word(8) ^ word(24)) }
    }

    /// 64 bits of this input.
    #[expect(deprecated, reason = "SipHash-2-4 by name and with a key; DefaultHasher promises neither")]
    pub fn hash(&self, input: &impl Hash) -> u64 {
        let mut hasher = std::hash::SipHasher::new_with_keys(self.key.0, self.key.1);
        input.hash(&mut hasher);
        hasher.finish()
    }

    /// The To tag of an answer that nobody remembers: a repeat of the request gets the same one (RFC 3261 section
    /// 8.2.7).
    pub fn stateless_tag(&self, request: &Message) -> String {
        let branch = request.via().and_then(|via| via.branch());
        let cseq = request.header(HeaderName::CSeq);
        format!("{:016x}", self.hash(&(branch, request.call_id(), request.from_tag(), cseq)))
    }

    /// Whether [`Ids`] of the same seed made this branch. The branch itself tells: none of those that were sent is
    /// remembered for it.
    pub fn made(&self, branch: &str) -> bool {
        let parts = branch.strip_prefix(MAGIC_COOKIE).and_then(|rest| rest.split_at_checked(ID_LENGTH));
        parts.is_some_and(|(id, mark)| mark == self.mark(id))
    }

    /// The word in front keeps it apart from what else is hashed with this key.
    fn mark(&self, id: &str) -> String {
        format!("{:016x}", self.hash(&("branch", id)))
    }
}

/// What every branch of ours begins with (RFC 3261 section 8.1.1.7).
pub const MAGIC_COOKIE: &str = "z9hG4bK";
/// Digits of an id's 96 bits.
const ID_LENGTH: usize = 24;

impl Ids {
    /// Ids from a seed.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self { random: StdRng::from_seed(seed), keyed: Keyed::from_seed(&seed) }
    }

    /// 128 random bits.
    pub fn number(&mut self) -> u128 {
        (u128::from(self.random.next_u64()) << 64) | u128::from(self.random.next_u64())
    }

    /// A number below `limit` (0 for a limit of 0).
    pub fn below(&mut self, limit: usize) -> usize {
        if limit == 0 { 0 } else { (self.random.next_u64() % limit as u64) as usize }
    }

    /// So many octets that nobody can guess: the generator is cryptographically secure, and so is its seed in production.
    pub fn secret(&mut self, length: usize) -> Vec<u8> {
        let mut octets = vec![0; length];
        self.random.fill_bytes(&mut octets);
        octets
    }

    /// A dialog tag.
    pub fn tag(&mut self) -> String {
        self.token("")
    }

    /// A Via branch that [`Keyed::made`] knows again.
    pub fn branch(&mut self) -> String {
        let id = self.token("");
        let mark = self.keyed.mark(&id);
        format!("{MAGIC_COOKIE}{id}{mark}")
    }

    /// A Call-ID.
    pub fn call_id(&mut self) -> String {
        self.token("sb-")
    }

    fn token(&mut self, prefix: &str) -> String {
        format!("{prefix}{:016x}{:08x}", self.random.next_u64(), self.random.next_u32())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(number: u8) -> [u8; 32] {
        let mut seed = [0; 32];
        seed[0] = number;
        seed
    }

    #[test]
    fn a_branch_is_known_by_its_seed_and_by_no_other() {
        let (ours, theirs) = (numbered(1), numbered(2));
        let (mut ids, keyed) = (Ids::from_seed(ours), Keyed::from_seed(&ours));
        for _ in 0..100 {
            let branch = ids.branch();
            assert!(branch.starts_with(MAGIC_COOKIE) && keyed.made(&branch), "{branch}");
            assert!(!Keyed::from_seed(&theirs).made(&branch), "{branch}");
            let (cut, longer, moved) = (&branch[..branch.len() - 1], format!("{branch}.1"), branch.replace('0', "1"));
            assert!(!keyed.made(cut) && !keyed.made(&longer) && (moved == branch || !keyed.made(&moved)), "{branch}");
        }
    }

    #[test]
    fn what_is_no_branch_of_ours_is_none() {
        let keyed = Keyed::from_seed(&[7; 32]);
        let stateless = format!("{MAGIC_COOKIE}{:024x}{:016x}", 5, keyed.hash(&format!("{:024x}", 5)));
        for text in ["", MAGIC_COOKIE, "z9hG4bK-ivr-1", "z9hG4bKü23456789012345678901234", &stateless] {
            assert!(!keyed.made(text), "{text}");
        }
    }
}
