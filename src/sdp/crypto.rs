//! SDP security descriptions (RFC 4568): the keys of SRTP in `a=crypto` lines.
//!
//! A line that asks for what we do not do is passed over: a master key identifier, several keys, a session parameter
//! that weakens or changes the protection, a key that lives too short for a call. Which line is taken is the leg's
//! choice ([`crate::leg::keys`]); how packets are protected is the relay's.

use std::fmt;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::{Deserialize, Serialize};

/// Some phones leave out the padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
/// We change keys when the far side does, and not by the packet: a key must last for 2^20 of them, nearly six hours.
const LEAST_LIFETIME: u32 = 20;

/// What a leg does about SRTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Srtp {
    /// Plain RTP; an offer of nothing else is refused.
    Off,
    /// SRTP where the far side offers it; our own offers are plain.
    Allow,
    /// SRTP and nothing else.
    Require,
}

/// How packets are encrypted and authenticated (RFC 4568 section 6.2, RFC 7714 section 14.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    /// AES in counter mode, tags of 80 bits.
    AesCm128HmacSha1_80,
    /// AES in counter mode, tags of 32 bits.
    AesCm128HmacSha1_32,
    /// AES-GCM with keys of 128 bits.
    AeadAes128Gcm,
    /// AES-GCM with keys of 256 bits.
    AeadAes256Gcm,
}

impl Suite {
    /// Every suite, in the order in which we offer them.
    pub const ALL: [Self; 4] =
        [Self::AeadAes256Gcm, Self::AeadAes128Gcm, Self::AesCm128HmacSha1_80, Self::AesCm128HmacSha1_32];

    /// Its name in SDP.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AesCm128HmacSha1_80 => "AES_CM_128_HMAC_SHA1_80",
            Self::AesCm128HmacSha1_32 => "AES_CM_128_HMAC_SHA1_32",
            Self::AeadAes128Gcm => "AEAD_AES_128_GCM",
            Self::AeadAes256Gcm => "AEAD_AES_256_GCM",
        }
    }

    /// Octets of the master key.
    pub fn key_length(self) -> usize {
        match self {
            Self::AesCm128HmacSha1_80 | Self::AesCm128HmacSha1_32 | Self::AeadAes128Gcm => 16,
            Self::AeadAes256Gcm => 32,
        }
    }

    /// Octets of the master key and the master salt.
    pub fn length(self) -> usize {
        let salt = match self {
            Self::AesCm128HmacSha1_80 | Self::AesCm128HmacSha1_32 => 14,
            Self::AeadAes128Gcm | Self::AeadAes256Gcm => 12,
        };
        self.key_length() + salt
    }
}

/// The master key and salt of one direction. Its `Debug` names the suite and shows no octet.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    suite: Suite,
    octets: Vec<u8>,
}

impl Key {
    /// A key of these octets, master key and salt; `None` when they are not as many as the suite wants.
    pub fn new(suite: Suite, octets: Vec<u8>) -> Option<Self> {
        (octets.len() == suite.length()).then_some(Self { suite, octets })
    }

    /// What it is for.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// The master key.
    pub fn master(&self) -> &[u8] {
        &self.octets[..self.suite.key_length()]
    }

    /// The master salt.
    pub fn salt(&self) -> &[u8] {
        &self.octets[self.suite.key_length()..]
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.suite.as_str())
    }
}

/// One `a=crypto` line: the key with which its writer will send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crypto {
    /// Names the line, so that an answer can say which one it took.
    pub tag: u32,
    /// The key.
    pub key: Key,
}

impl Crypto {
    /// Reads the value of an `a=crypto` attribute; `None` when it is malformed or asks for what we do not do.
    pub fn read(value: &str) -> Option<Self> {
        let mut words = value.split_ascii_whitespace();
        let (tag, suite, key) = (words.next()?, words.next()?, words.next()?);
        let is_tag = tag.len() <= 9 && tag.bytes().all(|b| b.is_ascii_digit());
        let suite = Suite::ALL.into_iter().find(|known| known.as_str().eq_ignore_ascii_case(suite))?;
        if !is_tag || !words.all(is_harmless) {
            return None;
        }
        let (method, info) = key.split_once(':')?;
        let mut info = info.split('|');
        let octets = BASE64.decode(info.next()?).ok()?;
        let lasts = info.next().is_none_or(lasts);
        if !method.eq_ignore_ascii_case("inline") || !lasts || info.next().is_some() {
            return None;
        }
        Some(Self { tag: tag.parse().ok()?, key: Key::new(suite, octets)? })
    }

    /// The value of the attribute.
    pub fn write(&self) -> String {
        format!("{} {} inline:{}", self.tag, self.key.suite.as_str(), BASE64.encode(&self.key.octets))
    }
}

/// Whether a session parameter (RFC 4568 section 6.3) may be ignored: those marked so, and the size of a replay window.
fn is_harmless(parameter: &str) -> bool {
    parameter.starts_with('-') || parameter.starts_with("WSH=")
}

/// Whether a lifetime (RFC 4568 section 6.1), `2^N` or a number of packets, is long enough. An MKI is none.
fn lasts(lifetime: &str) -> bool {
    let number = |text: &str| text.parse::<u64>().ok();
    match lifetime.strip_prefix("2^") {
        Some(power) => number(power).is_some_and(|power| (LEAST_LIFETIME.into()..=48).contains(&power)),
        None => number(lifetime).is_some_and(|packets| packets >= 1 << LEAST_LIFETIME),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 4568 section 9.2.
    const KEY: &str = "inline:WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz";

    #[test]
    fn a_line_of_each_suite_is_read_and_written() {
        for suite in Suite::ALL {
            let octets: Vec<u8> = (0..suite.length() as u8).collect();
            let crypto = Crypto { tag: 7, key: Key::new(suite, octets).unwrap() };
            assert_eq!(Crypto::read(&crypto.write()), Some(crypto.clone()));
            assert_eq!(crypto.key.master().len() + crypto.key.salt().len(), suite.length());
        }
        assert_eq!((Suite::AeadAes256Gcm.length(), Suite::AesCm128HmacSha1_32.length()), (44, 30));
    }

    #[test]
    fn what_may_stand_in_a_line() {
        for more in ["", "|2^20", "|2^48", "|1048576", " WSH=128", " -NEW=1", "|2^31 WSH=64 -A"] {
            let line = format!("1 AES_CM_128_HMAC_SHA1_80 {KEY}{more}");
            assert!(Crypto::read(&line).is_some(), "{line}");
        }
        let unpadded = "1 AEAD_AES_128_GCM inline:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        assert!(Crypto::read(unpadded).is_some(), "28 octets without the two signs at the end");
    }

    #[test]
    fn what_is_passed_over() {
        for more in [
            "|1:4",
            "|2^31|1:4",
            "|2^10",
            "|2^49",
            "|1000",
            "|",
            " KDR=0",
            " UNENCRYPTED_SRTP",
            " UNENCRYPTED_SRTCP",
            " UNAUTHENTICATED_SRTP",
            " FEC_ORDER=FEC_SRTP",
            " NEW=1",
            ";inline:WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz",
        ] {
            let line = format!("1 AES_CM_128_HMAC_SHA1_80 {KEY}{more}");
            assert_eq!(Crypto::read(&line), None, "{line}");
        }
        for line in [
            format!("1 F8_128_HMAC_SHA1_80 {KEY}"),
            format!("1 AEAD_AES_256_GCM {KEY}"),
            format!("x AES_CM_128_HMAC_SHA1_80 {KEY}"),
            format!("-1 AES_CM_128_HMAC_SHA1_80 {KEY}"),
            format!("1234567890 AES_CM_128_HMAC_SHA1_80 {KEY}"),
            "1 AES_CM_128_HMAC_SHA1_80 uri:https://x".to_owned(),
            "1 AES_CM_128_HMAC_SHA1_80".to_owned(),
        ] {
            assert_eq!(Crypto::read(&line), None, "{line}");
        }
    }

    #[test]
    fn no_octet_of_a_key_is_shown() {
        let crypto = Crypto::read(&format!("1 AES_CM_128_HMAC_SHA1_80 {KEY}")).unwrap();
        assert_eq!(format!("{crypto:?}"), "Crypto { tag: 1, key: Key(AES_CM_128_HMAC_SHA1_80) }");
    }

    proptest! {
        #[test]
        fn whatever_is_read_is_written_as_it_was_meant(line in ".{0,120}") {
            if let Some(crypto) = Crypto::read(&line) {
                prop_assert_eq!(Crypto::read(&crypto.write()), Some(crypto));
            }
        }

        #[test]
        fn a_line_in_pieces_never_panics(
            tag in "[0-9]{0,11}",
            suite in prop::sample::select(vec!["AES_CM_128_HMAC_SHA1_80", "AEAD_AES_256_GCM", "X"]),
            key in "[A-Za-z0-9+/=]{0,64}",
            rest in r"[|2^0-9: A-Z_=;-]{0,24}",
        ) {
            if let Some(crypto) = Crypto::read(&format!("{tag} {suite} inline:{key}{rest}")) {
                prop_assert_eq!(Crypto::read(&crypto.write()), Some(crypto));
            }
        }
    }
}
