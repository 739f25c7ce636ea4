//! The SRTP keys of one leg: what was offered, what was agreed (RFC 4568 section 7).
//!
//! Each direction has a key of its own, made by whoever sends with it. Ours come from [`Ids`], a cryptographically
//! secure generator seeded with 256 bits by the operating system: what we show of it elsewhere tells nothing of the
//! keys. A key of theirs that stays keeps ours, and with it what the relay counts by it; a new one of theirs gets a new
//! one of ours.

use crate::sdp::crypto::{Crypto, Key, Srtp, Suite};
use crate::sdp::{Session, Unusable};
use crate::sip::ids::Ids;

/// What both directions are protected with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    /// We send with it.
    pub ours: Key,
    /// The far side sends with it.
    pub theirs: Key,
}

/// The keys of one leg.
#[derive(Debug, Clone)]
pub struct KeyExchange {
    policy: Srtp,
    /// The lines of our last description.
    said: Vec<Crypto>,
    agreed: Option<Keys>,
}

impl KeyExchange {
    /// An exchange in which nothing has been said.
    pub fn new(policy: Srtp) -> Self {
        Self { policy, said: Vec::new(), agreed: None }
    }

    /// What is agreed; `None` for plain RTP, or nothing yet.
    pub fn agreed(&self) -> Option<&Keys> {
        self.agreed.as_ref()
    }

    /// What our last description said of keys.
    pub fn said(&self) -> &[Crypto] {
        &self.said
    }

    /// Reads an offer of the far side.
    pub fn read_offer(&self, body: &[u8]) -> Result<Session, Unusable> {
        Session::read_under(body, self.policy)
    }

    /// Reads the far side's answer to what we said: of a description with keys one with keys, of a plain one a plain
    /// one.
    pub fn read_answer(&self, body: &[u8]) -> Result<Session, Unusable> {
        Session::read_under(body, if self.said.is_empty() { Srtp::Off } else { Srtp::Require })
    }

    /// Takes the first line of an offer, and answers with a key of our own.
    pub fn answer(&mut self, offer: &Session, ids: &mut Ids) {
        let Some(chosen) = offer.crypto.first() else {
            return *self = Self::new(self.policy);
        };
        let kept = self.agreed.take().filter(|keys| keys.theirs == chosen.key).map(|keys| keys.ours);
        let ours = kept.unwrap_or_else(|| fresh(chosen.key.suite(), ids));
        self.said = vec![Crypto { tag: chosen.tag, key: ours.clone() }];
        self.agreed = Some(Keys { ours, theirs: chosen.key.clone() });
    }

    /// The lines of an offer of ours: what is agreed or said already, else every suite where SRTP is required.
    pub fn offer(&mut self, ids: &mut Ids) -> &[Crypto] {
        if self.said.is_empty() && self.policy == Srtp::Require {
            let suites = (1..).zip(Suite::ALL);
            self.said = suites.map(|(tag, suite)| Crypto { tag, key: fresh(suite, ids) }).collect();
        }
        &self.said
    }

    /// Takes the far side's answer. False when it names no line of ours.
    pub fn accept(&mut self, answer: &Session) -> bool {
        if self.said.is_empty() {
            return true;
        }
        let pairs = answer.crypto.iter().flat_map(|theirs| self.said.iter().map(move |ours| (ours, theirs)));
        let mut same = pairs.filter(|(ours, theirs)| ours.tag == theirs.tag && ours.key.suite() == theirs.key.suite());
        let agreed = same.next().map(|(ours, theirs)| Keys { ours: ours.key.clone(), theirs: theirs.key.clone() });
        let accepted = agreed.is_some();
        self.agreed = agreed.or(self.agreed.take());
        accepted
    }
}

fn fresh(suite: Suite, ids: &mut Ids) -> Key {
    Key::new(suite, ids.secret(suite.length())).expect("as many octets as the suite wants")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids() -> Ids {
        Ids::from_seed([7; 32])
    }

    fn session(crypto: &[Crypto]) -> Session {
        let mut session = Session::own_offer();
        session.crypto = crypto.to_vec();
        session
    }

    fn line(tag: u32, suite: Suite, octet: u8) -> Crypto {
        Crypto { tag, key: Key::new(suite, vec![octet; suite.length()]).unwrap() }
    }

    #[test]
    fn an_answer_takes_the_first_line_under_its_tag() {
        let (mut keys, mut ids) = (KeyExchange::new(Srtp::Allow), ids());
        let offered = [line(3, Suite::AesCm128HmacSha1_32, 1), line(1, Suite::AeadAes256Gcm, 2)];
        keys.answer(&session(&offered), &mut ids);
        assert_eq!((keys.said()[0].tag, keys.said()[0].key.suite()), (3, Suite::AesCm128HmacSha1_32));
        assert_eq!(keys.agreed().unwrap().theirs, offered[0].key);
        assert_ne!(keys.agreed().unwrap().ours, offered[0].key);
    }

    #[test]
    fn our_key_stays_with_theirs_and_changes_with_theirs() {
        let (mut keys, mut ids) = (KeyExchange::new(Srtp::Allow), ids());
        let suite = Suite::AeadAes128Gcm;
        keys.answer(&session(&[line(1, suite, 1)]), &mut ids);
        let first = keys.agreed().cloned().unwrap();
        keys.answer(&session(&[line(2, suite, 1)]), &mut ids);
        assert_eq!((keys.agreed(), keys.said()[0].tag), (Some(&first), 2), "another tag, the same key");
        keys.answer(&session(&[line(1, suite, 9)]), &mut ids);
        assert_ne!(keys.agreed().unwrap().ours, first.ours);
        keys.answer(&session(&[]), &mut ids);
        assert_eq!((keys.agreed(), keys.said().len()), (None, 0), "plain RTP from now on");
    }

    #[test]
    fn an_offer_of_ours_has_a_key_for_each_suite_and_says_them_again() {
        let (mut keys, mut ids) = (KeyExchange::new(Srtp::Require), ids());
        let offered = keys.offer(&mut ids).to_vec();
        assert_eq!(offered.iter().map(|crypto| crypto.tag).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!(keys.offer(&mut ids), offered);
        assert!(!keys.accept(&session(&[line(1, Suite::AesCm128HmacSha1_80, 5)])), "our line 1 is of another suite");
        assert!(keys.accept(&session(&[line(3, Suite::AesCm128HmacSha1_80, 5)])));
        assert_eq!(keys.agreed().unwrap().ours, offered[2].key);
    }

    #[test]
    fn where_srtp_is_not_required_we_offer_none() {
        for policy in [Srtp::Off, Srtp::Allow] {
            assert!(KeyExchange::new(policy).offer(&mut ids()).is_empty());
        }
    }
}
