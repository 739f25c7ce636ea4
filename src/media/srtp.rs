//! SRTP and SRTCP of one port pair (RFC 3711, RFC 7714): the only door to `webrtc-srtp`.
//!
//! The crate encrypts, authenticates and watches for replays. What it leaves to its user is done here:
//!
//! - A source gets a context once its first packet has authenticated. Whoever has no key takes no memory, and moves no
//!   source's replay window.
//! - SRTCP that says it is not encrypted is refused: the crate would hand it out with its tag unread.
//! - The RTP header is measured here: the crate's own reader trusts the lengths in a header extension.
//! - A new key goes on with the roll-over counter of the old one (RFC 3711 section 3.3.1), unless the far side has moved and
//!   everything begins anew (RFC 4568 section 7.1.4). Not everybody keeps it: what is received may do either.
//! - A far side takes the roll-over counter of the first packet that it hears for zero (RFC 3711 section 3.3.1), and what it
//!   hears first is not ours to know: our streams begin in the lower half of the numbers, so that the first turn is minutes
//!   away. Theirs may have turned before we heard them.
//! - No index is used twice to send, whatever numbers the packets to be sent have: two packets under one index would
//!   give away their difference, and with GCM the key of the tags (RFC 7714 section 8.4).

use bytes::Bytes;
use webrtc_rtp::header::Header;
use webrtc_srtp::context::Context;
use webrtc_srtp::option::{srtcp_replay_protection, srtp_replay_protection};
use webrtc_srtp::protection_profile::ProtectionProfile;

use super::stream::{HEADER, Position, is_rtcp};
use crate::b2bua::io::{Key, Keys, Suite};

/// Packets that may come late; RFC 3711 section 3.3.2 wants 64 at least.
const WINDOW: usize = 128;
/// Sources under one key and in one direction, RTP and RTCP apart.
const SOURCES: usize = 16;
/// Turns that a new key can go on behind: a day of speech. Behind more it begins anew, for each costs us.
const MOST_TURNS: i64 = 64;
/// Packets until the sequence numbers begin again.
const TURN: i64 = 1 << 16;
/// A stream that is heard first at a number below this may have turned while nobody heard it: some three minutes of it.
const EARLY: u16 = 10_000;
/// Octets of an RTCP header with its SSRC, which are not encrypted.
const RTCP_HEADER: usize = 8;
/// Octets of the SRTCP index, whose first bit says that the packet is encrypted.
const RTCP_INDEX: usize = 4;

/// What protects the packets of one port pair.
pub struct Protection {
    theirs: Turn<Vec<Incoming>>,
    ours: Turn<Vec<Leaving>>,
}

/// A packet on its way out.
#[derive(Debug)]
pub enum Sealed {
    /// Protected.
    Packet(Bytes),
    /// Not sent: it was sent before, or cannot be protected.
    Refused,
    /// Not sent: its number lies far behind what was sent already. The stream has to be numbered on.
    Behind,
}

/// What belongs to the present key, and to the one before it.
struct Turn<T> {
    present: (Key, T),
    before: Option<(Key, T)>,
}

impl<T: Default> Turn<T> {
    fn new(key: Key) -> Self {
        Self { present: (key, T::default()), before: None }
    }

    fn to(&mut self, key: &Key) {
        if self.present.0 != *key {
            let known = self.before.take().filter(|(before, _)| before == key);
            let next = known.unwrap_or_else(|| (key.clone(), T::default()));
            self.before = Some(std::mem::replace(&mut self.present, next));
        }
    }
}

impl Protection {
    /// With these keys, from the start.
    pub fn new(keys: &Keys) -> Self {
        Self { theirs: Turn::new(keys.theirs.clone()), ours: Turn::new(keys.ours.clone()) }
    }

    /// With these keys from now on. What a key counts goes on while it stays.
    pub fn turn_to(&mut self, keys: &Keys) {
        self.theirs.to(&keys.theirs);
        self.ours.to(&keys.ours);
    }

    /// The far side is somewhere else: a new key counts from nothing there.
    pub fn moved(&mut self) {
        self.ours.before = None;
    }

    /// Authenticates and decrypts in place; the octets that are left. `None`: nobody with the key sent this, or it came
    /// before. The key before the present one counts until the present one has been heard.
    pub fn open(&mut self, packet: &mut [u8]) -> Option<usize> {
        let Turn { present, before } = &mut self.theirs;
        let opened = match opened(present, before.as_ref().map_or(&[], |(_, sources)| sources), packet) {
            Some(opened) => {
                *before = None;
                opened
            }
            None => self::opened(before.as_mut()?, &[], packet)?,
        };
        packet[..opened.len()].copy_from_slice(&opened);
        Some(opened.len())
    }

    /// Encrypts, and adds the tag.
    pub fn seal(&mut self, packet: &[u8]) -> Sealed {
        let Turn { present: (key, sources), before } = &mut self.ours;
        let Some(name) = Name::of(packet) else { return Sealed::Refused };
        let at = sources.iter().position(|source| source.name == name).or_else(|| {
            let earlier = before.iter().flat_map(|(_, sources)| sources).find(|source| source.name == name);
            let source = Leaving::after(earlier, name, key, packet)?;
            (sources.len() < SOURCES).then(|| sources.push(source))?;
            Some(sources.len() - 1)
        });
        match at {
            Some(at) => sources[at].seal(packet),
            None => Sealed::Refused,
        }
    }
}

/// Whose packets they are: RTP and RTCP of one source count apart.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Name {
    ssrc: u32,
    rtcp: bool,
}

impl Name {
    fn of(packet: &[u8]) -> Option<Self> {
        if is_rtcp(packet) {
            let ssrc = u32::from_be_bytes(packet[4..RTCP_HEADER].try_into().ok()?);
            return Some(Self { ssrc, rtcp: true });
        }
        (packet.len() >= HEADER).then(|| Self { ssrc: Position::read(packet).ssrc, rtcp: false })
    }
}

/// A source of theirs, as its packets authenticated.
struct Incoming {
    name: Name,
    context: Context,
    /// The newest packet's place in the stream, counted on over the turns of the sequence number.
    newest: i64,
}

/// Tries a packet under one key, after what was heard of its source under the key before. The source heard last stands
/// last; the first makes room.
fn opened((key, sources): &mut (Key, Vec<Incoming>), earlier: &[Incoming], packet: &[u8]) -> Option<Bytes> {
    let name = Name::of(packet)?;
    match sources.iter().position(|source| source.name == name) {
        Some(at) => {
            let opened = sources[at].open(packet, key.suite())?;
            sources[at..].rotate_left(1);
            Some(opened)
        }
        None => {
            let earlier = earlier.iter().find(|source| source.name == name);
            let (source, opened) = Incoming::begin(name, key, earlier, packet)?;
            if sources.len() == SOURCES {
                sources.remove(0);
            }
            sources.push(source);
            Some(opened)
        }
    }
}

impl Incoming {
    /// A source whose first packet under this key authenticates: counted from nothing, or on from what was heard before.
    fn begin(name: Name, key: &Key, earlier: Option<&Self>, packet: &[u8]) -> Option<(Self, Bytes)> {
        let begun = |place: i64| {
            let context = if place >> 16 == 0 { context(key, true)? } else { wound(key, name.ssrc, place, true)? };
            let mut source = Self { name, context, newest: place };
            let opened = source.open(packet, key.suite())?;
            Some((source, opened))
        };
        let sequence = if name.rtcp { 0 } else { Position::read(packet).sequence };
        let on =
            earlier.map(|earlier| after(earlier.newest, sequence)).filter(|on| (1..=MOST_TURNS).contains(&(on >> 16)));
        let turned = (!name.rtcp && sequence < EARLY).then_some(TURN + i64::from(sequence));
        begun(sequence.into()).or_else(|| begun(on?)).or_else(|| begun(turned?))
    }

    fn open(&mut self, packet: &[u8], suite: Suite) -> Option<Bytes> {
        if self.name.rtcp {
            let opened = is_encrypted(packet, suite).then(|| self.context.decrypt_rtcp(packet));
            return opened?.ok();
        }
        let header = header(packet)?;
        let opened = self.context.decrypt_rtp_with_header(packet, &header).ok()?;
        self.newest = self.newest.max(after(self.newest, header.sequence_number));
        Some(opened)
    }
}

/// The place of a sequence number in a stream, near the newest one.
fn after(newest: i64, sequence: u16) -> i64 {
    newest + i64::from(sequence.wrapping_sub(newest as u16) as i16)
}

/// A source as we send it.
struct Leaving {
    name: Name,
    context: Context,
    /// What was sent of its RTP.
    sent: Option<Sent>,
}

impl Leaving {
    /// A source of ours under a new key, whose count goes on where it was under the old one.
    fn after(earlier: Option<&Self>, name: Name, key: &Key, packet: &[u8]) -> Option<Self> {
        let sent = earlier.and_then(|earlier| earlier.sent.as_ref());
        let place = sent.map(|sent| after(sent.newest, Position::read(packet).sequence));
        let place = place.filter(|place| *place > 0 && place >> 16 <= MOST_TURNS);
        let context = match place {
            Some(place) if place >> 16 > 0 => wound(key, name.ssrc, place, false)?,
            _ => context(key, false)?,
        };
        // Nothing has been sent under this key yet: the packet before this one is not among what was sent.
        Some(Self { name, context, sent: place.map(|place| Sent { newest: place - 1, bits: 0 }) })
    }

    fn seal(&mut self, packet: &[u8]) -> Sealed {
        if self.name.rtcp {
            return self.context.encrypt_rtcp(packet).map_or(Sealed::Refused, Sealed::Packet);
        }
        let Some(header) = header(packet) else { return Sealed::Refused };
        match Sent::note(&mut self.sent, header.sequence_number) {
            Number::Fresh => {
                self.context.encrypt_rtp_with_header(packet, &header).map_or(Sealed::Refused, Sealed::Packet)
            }
            Number::Used => Sealed::Refused,
            Number::Behind => Sealed::Behind,
        }
    }
}

/// The newest packet's place in the stream, counted on over the turns of the sequence number, and which of the 64 up to
/// it were sent.
struct Sent {
    newest: i64,
    bits: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Number {
    Fresh,
    Used,
    Behind,
}

impl Sent {
    fn note(sent: &mut Option<Self>, sequence: u16) -> Number {
        let Some(sent) = sent else {
            *sent = Some(Self { newest: sequence.into(), bits: 1 });
            return Number::Fresh;
        };
        let ahead = after(sent.newest, sequence) - sent.newest;
        if ahead > 0 {
            sent.bits = sent.bits.checked_shl(ahead as u32).unwrap_or(0) | 1;
            sent.newest += ahead;
            return Number::Fresh;
        }
        let bit = 1_u64.checked_shl(-ahead as u32);
        match bit {
            None => Number::Behind,
            // Before the first packet there is no index.
            Some(bit) if sent.bits & bit != 0 || sent.newest + ahead < 0 => Number::Used,
            Some(bit) => {
                sent.bits |= bit;
                Number::Fresh
            }
        }
    }
}

/// What encrypts or, watching for replays, decrypts.
fn context(key: &Key, watches: bool) -> Option<Context> {
    let profile = match key.suite() {
        Suite::AesCm128HmacSha1_80 => ProtectionProfile::Aes128CmHmacSha1_80,
        Suite::AesCm128HmacSha1_32 => ProtectionProfile::Aes128CmHmacSha1_32,
        Suite::AeadAes128Gcm => ProtectionProfile::AeadAes128Gcm,
        Suite::AeadAes256Gcm => ProtectionProfile::AeadAes256Gcm,
    };
    let rtp = watches.then(|| srtp_replay_protection(WINDOW));
    let rtcp = watches.then(|| srtcp_replay_protection(WINDOW));
    Context::new(key.master(), key.salt(), profile, rtp, rtcp).ok()
}

/// A context whose count of one source stands just before this place. The crate lets nobody set it, and counts what it
/// encrypts: packets that nobody sees, three for each turn of the sequence number.
fn wound(key: &Key, ssrc: u32, place: i64, watches: bool) -> Option<Context> {
    const STEPS: [u16; 3] = [0x7fff, 0xfffe, 0];
    let mut context = context(key, watches)?;
    let half = (place as u16 > 0x7fff).then_some(0x7fff);
    let turns = usize::try_from(place >> 16).ok()?;
    let numbers = std::iter::once(0).chain(STEPS.into_iter().cycle().take(turns * STEPS.len())).chain(half);
    for sequence_number in numbers {
        let header = Header { ssrc, sequence_number, ..Header::default() };
        context.encrypt_rtp_with_header(&[0; HEADER], &header).ok()?;
    }
    Some(context)
}

/// What the crate wants to know of an RTP header: source, number, length. The length is said in words of CSRC.
fn header(packet: &[u8]) -> Option<Header> {
    let words = packet.get(..HEADER).map(|fixed| usize::from(fixed[0] & 0x0f))?;
    let extension = HEADER + 4 * words;
    let words = match packet[0] & 0x10 {
        0 => words,
        _ => words + 1 + usize::from(u16::from_be_bytes(packet.get(extension + 2..extension + 4)?.try_into().ok()?)),
    };
    let Position { ssrc, sequence, .. } = Position::read(packet);
    let fits = packet[0] >> 6 == 2 && HEADER + 4 * words <= packet.len();
    fits.then(|| Header { ssrc, sequence_number: sequence, csrc: vec![0; words], ..Header::default() })
}

/// Whether an SRTCP packet is whole and says that it is encrypted (RFC 3711 section 3.4, RFC 7714 section 9.2).
fn is_encrypted(packet: &[u8], suite: Suite) -> bool {
    let (tag, after_index) = match suite {
        Suite::AesCm128HmacSha1_80 | Suite::AesCm128HmacSha1_32 => (10, 10),
        Suite::AeadAes128Gcm | Suite::AeadAes256Gcm => (16, 0),
    };
    let index = packet.len().checked_sub(RTCP_INDEX + after_index);
    packet.len() >= RTCP_HEADER + RTCP_INDEX + tag && index.is_some_and(|index| packet[index] & 0x80 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(suite: Suite, octet: u8) -> Key {
        Key::new(suite, (0..suite.length() as u8).map(|at| at.wrapping_mul(7) ^ octet).collect()).unwrap()
    }

    /// We, and the far side, which has the same keys the other way round.
    fn both(suite: Suite) -> (Protection, Protection) {
        let (ours, theirs) = (key(suite, 1), key(suite, 2));
        (
            Protection::new(&Keys { ours: ours.clone(), theirs: theirs.clone() }),
            Protection::new(&Keys { ours: theirs, theirs: ours }),
        )
    }

    fn rtp(ssrc: u32, sequence: u16) -> Vec<u8> {
        let mut packet = vec![0x80, 0];
        packet.extend(sequence.to_be_bytes());
        packet.extend(u32::from(sequence).wrapping_mul(160).to_be_bytes());
        packet.extend(ssrc.to_be_bytes());
        packet.extend([sequence as u8; 160]);
        packet
    }

    fn report(ssrc: u32) -> Vec<u8> {
        let mut packet = vec![0x80, 200, 0, 6];
        packet.extend(ssrc.to_be_bytes());
        packet.extend([5; 20]);
        packet
    }

    fn sealed(by: &mut Protection, packet: &[u8]) -> Vec<u8> {
        match by.seal(packet) {
            Sealed::Packet(sealed) => sealed.to_vec(),
            other => panic!("{other:?}"),
        }
    }

    fn opened(by: &mut Protection, sealed: &[u8]) -> Option<Vec<u8>> {
        let mut packet = sealed.to_vec();
        by.open(&mut packet).map(|length| packet[..length].to_vec())
    }

    fn octets(hex: &str) -> Vec<u8> {
        let digits: Vec<char> = hex.chars().filter(|c| c.is_ascii_hexdigit()).collect();
        digits.chunks(2).map(|two| u8::from_str_radix(&two.iter().collect::<String>(), 16).unwrap()).collect()
    }

    #[test]
    fn both_kinds_of_packet_pass_under_every_suite() {
        for suite in Suite::ALL {
            let (mut here, mut there) = both(suite);
            for sequence in (65_500..=u16::MAX).chain(0..300) {
                let packet = rtp(9, sequence);
                let sent = sealed(&mut here, &packet);
                assert!(sent.len() > packet.len() && sent[HEADER..HEADER + 160] != packet[HEADER..]);
                assert_eq!(opened(&mut there, &sent), Some(packet));
            }
            let sent = sealed(&mut there, &report(9));
            assert_eq!(opened(&mut here, &sent), Some(report(9)));
        }
    }

    /// The master key and salt of RFC 3711 appendix B.3; the packet under them is one that other implementations agree on.
    #[test]
    fn a_packet_is_protected_as_others_protect_it() {
        let master = octets("E1F97A0D3E018BE0D64FA32C06DE4139 0EC675AD498AFEEBB6960B3AABE6");
        let key = Key::new(Suite::AesCm128HmacSha1_80, master).unwrap();
        let keys = Keys { ours: key.clone(), theirs: key };
        let [mut here, mut there] = [Protection::new(&keys), Protection::new(&keys)];
        let plain = octets("800f1234decafbadcafebabe abababababababababababababababab");
        let expected = octets("800f1234decafbadcafebabe 4e55dc4ce79978d88ca4d215949d2402 b78d6acc99ea179b8dbb");
        assert_eq!(sealed(&mut here, &plain), expected);
        assert_eq!(opened(&mut there, &expected), Some(plain));
    }

    #[test]
    fn a_replay_a_forgery_and_a_stranger_are_refused() {
        for suite in Suite::ALL {
            let (mut here, mut there) = both(suite);
            let sent: Vec<_> = (0..300).map(|sequence| sealed(&mut here, &rtp(9, sequence))).collect();
            for forged in [0, HEADER + 5, sent[0].len() - 1] {
                let mut packet = sent[0].clone();
                packet[forged] ^= 1;
                assert_eq!(opened(&mut there, &packet), None, "octet {forged}");
            }
            assert!(sent.iter().all(|packet| opened(&mut there, packet).is_some()));
            assert!(sent.iter().all(|packet| opened(&mut there, packet).is_none()), "all of them came before");
            assert_eq!(opened(&mut there, &rtp(9, 301)), None, "plain RTP");
            let report = sealed(&mut here, &report(9));
            assert!(opened(&mut there, &report).is_some() && opened(&mut there, &report).is_none());
        }
    }

    #[test]
    fn srtcp_that_claims_to_be_plain_is_refused() {
        for suite in Suite::ALL {
            let (_, mut there) = both(suite);
            let mut forged = report(9);
            forged.extend([0; 30]);
            assert_eq!(opened(&mut there, &forged), None, "RFC 3711 section 3.4: authentication is mandatory");
        }
    }

    #[test]
    fn strangers_take_no_memory_and_move_no_window() {
        let (mut here, mut there) = both(Suite::AesCm128HmacSha1_32);
        for ssrc in 0..1_000 {
            assert_eq!(opened(&mut there, &rtp(ssrc, 60_000)), None);
        }
        assert!(there.theirs.present.1.is_empty());
        let sent = sealed(&mut here, &rtp(9, 5));
        assert!(opened(&mut there, &sent).is_some(), "a forged number of the same source is forgotten");
        for ssrc in 0..100 {
            let Sealed::Packet(sent) = here.seal(&rtp(ssrc, 7)) else { break };
            assert!(opened(&mut there, &sent).is_some());
        }
        assert_eq!(there.theirs.present.1.len(), SOURCES);
    }

    #[test]
    fn a_new_key_takes_over_when_it_is_heard_and_an_old_one_goes_on_counting() {
        let suite = Suite::AesCm128HmacSha1_80;
        let (mut here, mut there) = both(suite);
        let early = sealed(&mut here, &rtp(9, 1));
        let late = sealed(&mut here, &rtp(9, 2));
        let later = sealed(&mut here, &rtp(9, 3));
        assert!(opened(&mut there, &early).is_some());
        there.turn_to(&Keys { ours: key(suite, 2), theirs: key(suite, 3) });
        here.turn_to(&Keys { ours: key(suite, 3), theirs: key(suite, 2) });
        assert!(opened(&mut there, &late).is_some(), "on its way when the keys changed");
        assert!(opened(&mut there, &early).is_none(), "still no replay");
        let fresh = sealed(&mut here, &rtp(9, 4));
        assert!(opened(&mut there, &fresh).is_some());
        assert!(opened(&mut there, &later).is_none(), "the old key has ended");
        there.turn_to(&Keys { ours: key(suite, 2), theirs: key(suite, 3) });
        assert!(opened(&mut there, &fresh).is_none(), "the same keys again change nothing");
    }

    /// RFC 3711 section 3.3.1 and those who do otherwise.
    #[test]
    fn h10_a_new_key_after_turns_of_the_sequence_number_is_understood_both_ways() {
        let speech = |turns: u32, from: u32| (from..turns * 65_536 + 40_000).map(|n| rtp(9, n as u16));
        for suite in [Suite::AesCm128HmacSha1_80, Suite::AeadAes128Gcm] {
            for (turns, from) in [(0, 100), (1, 60_000), (2, 60_000)] {
                let (mut here, mut there) = both(suite);
                for packet in speech(turns, from).step_by(500) {
                    let sent = sealed(&mut here, &packet);
                    assert!(opened(&mut there, &sent).is_some());
                }
                let keys = |ours, theirs| Keys { ours: key(suite, ours), theirs: key(suite, theirs) };
                here.turn_to(&keys(3, 2));
                there.turn_to(&keys(2, 3));
                for sequence in [40_001, 40_000, 40_003, 65_535, 1, 30_000, 60_000, 20_000] {
                    let sent = sealed(&mut here, &rtp(9, sequence));
                    assert_eq!(opened(&mut there, &sent), Some(rtp(9, sequence)), "{suite:?}, {turns} turns");
                }
                // One that begins to count anew under a new key, as after a move.
                here.turn_to(&keys(4, 2));
                here.moved();
                there.turn_to(&keys(2, 4));
                for sequence in [20_001, 20_002, 50_000, 5] {
                    let sent = sealed(&mut here, &rtp(9, sequence));
                    assert_eq!(opened(&mut there, &sent), Some(rtp(9, sequence)), "{suite:?}, {turns} turns, anew");
                }
            }
        }
    }

    #[test]
    fn h10_a_stream_whose_numbers_turned_before_it_was_heard_is_understood() {
        for suite in [Suite::AesCm128HmacSha1_80, Suite::AeadAes128Gcm] {
            let (mut here, mut there) = both(suite);
            (65_000..=65_535).for_each(|sequence| drop(sealed(&mut here, &rtp(9, sequence))));
            (0..300).for_each(|sequence| drop(sealed(&mut here, &rtp(9, sequence))));
            for sequence in 300..310 {
                let sent = sealed(&mut here, &rtp(9, sequence));
                assert_eq!(opened(&mut there, &sent), Some(rtp(9, sequence)), "{suite:?}");
                assert_eq!(opened(&mut there, &sent), None, "{suite:?}, once");
            }
        }
    }

    #[test]
    fn h10_turns_that_nobody_speaks_for_cost_nothing_and_a_new_key_begins_anew_behind_them() {
        let suite = Suite::AeadAes128Gcm;
        let (mut here, mut there) = both(suite);
        let mut sequence = 0_u16;
        for _ in 0..3 * (MOST_TURNS + 10) {
            sequence = sequence.wrapping_add(30_000);
            let sent = sealed(&mut here, &rtp(9, sequence));
            assert!(opened(&mut there, &sent).is_some());
        }
        here.turn_to(&Keys { ours: key(suite, 3), theirs: key(suite, 2) });
        there.turn_to(&Keys { ours: key(suite, 2), theirs: key(suite, 3) });
        let sent = sealed(&mut here, &rtp(9, sequence.wrapping_add(1)));
        assert_eq!(opened(&mut there, &sent), Some(rtp(9, sequence.wrapping_add(1))));
    }

    #[test]
    fn no_index_is_used_twice() {
        let (mut here, _) = both(Suite::AeadAes128Gcm);
        for sequence in [100, 101, 103, 102] {
            assert!(matches!(here.seal(&rtp(9, sequence)), Sealed::Packet(_)));
        }
        assert!(matches!(here.seal(&rtp(9, 102)), Sealed::Refused));
        assert!(matches!(here.seal(&rtp(9, 60_000)), Sealed::Behind), "it began again elsewhere");
        let mut first = None;
        assert_eq!(Sent::note(&mut first, 2), Number::Fresh);
        assert_eq!(Sent::note(&mut first, u16::MAX), Number::Used, "before the first packet there is no index");
        for sequence in (3..=u16::MAX).chain(0..200) {
            assert_eq!(Sent::note(&mut first, sequence), Number::Fresh);
        }
        assert_eq!(Sent::note(&mut first, u16::MAX), Number::Behind);
        assert_eq!(Sent::note(&mut first, 199), Number::Used);
    }

    #[test]
    fn the_header_is_measured_with_its_extension() {
        let (mut here, mut there) = both(Suite::AesCm128HmacSha1_80);
        // One source more, and an extension of two words that ends in padding (RFC 8285 section 4.2).
        let mut packet = octets("9100 0007 00000001 00000009 0000000a bede0002 10aa 0000 000000f0");
        packet.extend([7; 160]);
        let sent = sealed(&mut here, &packet);
        assert_eq!(sent[..28], packet[..28], "the header is not encrypted");
        assert_ne!(sent[28..44], packet[28..44]);
        assert_eq!(opened(&mut there, &sent), Some(packet));
    }

    proptest! {
        #[test]
        fn whatever_comes_never_panics(
            suite in prop::sample::select(Suite::ALL.to_vec()),
            mut packet in prop::collection::vec(any::<u8>(), 0..80),
            first in prop::sample::select(vec![0x80, 0x90, 0x9f, 0x8f, 0xb0]),
            kind in prop::sample::select(vec![0, 8, 200, 201]),
        ) {
            if packet.len() > 4 {
                (packet[0], packet[1], packet[2], packet[3]) = (first, kind, 0, 1);
            }
            let (mut here, mut there) = both(suite);
            prop_assert_eq!(opened(&mut there, &packet), None);
            if let Sealed::Packet(sealed) = here.seal(&packet) {
                prop_assert_eq!(opened(&mut there, &sealed), Some(packet));
            }
        }
    }
}
