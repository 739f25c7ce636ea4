//! Digest authentication as a server (RFC 3261 section 22.1, RFC 7616, RFC 8760): who may pass, and what is asked of
//! everybody else. [`super::digest`] is the other side.
//!
//! A nonce is good by its seal: when it was given out, a chance number, and an HMAC over both and over the address it
//! was given to. Nothing is remembered of those who are asked; only of those who have answered, so that no answer is
//! good twice.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use digest_auth::{Algorithm, AlgorithmType, AuthContext, AuthorizationHeader, HttpMethod, Qop};

use super::digest::{algorithm, parameters};
use super::ids::Ids;
use super::message::{HeaderName, Message};

/// How long a nonce is good.
const LIFE: Duration = Duration::from_secs(300);
/// Nonces in use that are remembered; of more, the oldest are given up as stale.
const MAX_NONCES: usize = 10_000;
/// The algorithms asked for, best first (RFC 8760 section 2.3).
const ALGORITHMS: [AlgorithmType; 2] = [AlgorithmType::SHA2_256, AlgorithmType::MD5];
const SHA_256: Algorithm = Algorithm { algo: AlgorithmType::SHA2_256, sess: false };

/// Somebody who may pass.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    /// User name.
    pub name: String,
    /// Password.
    pub password: String,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What a request has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// Who it is.
    Valid,
    /// Who it is, but with a nonce that is too old or a count that was used: asked again, `stale=true`.
    Stale,
    /// Nothing that counts.
    Nothing,
}

/// The keeper of one realm.
#[derive(Debug)]
pub struct Gate {
    realm: String,
    users: Vec<User>,
    start: Instant,
    secret: [u8; 32],
    /// Counts seen, by nonce.
    used: BTreeMap<Stamp, Counts>,
    /// Nonces up to this one are not remembered any more, and stale.
    forgotten: Stamp,
}

/// When a nonce was given out, in milliseconds since the start, and a chance number.
type Stamp = (u64, u64);

/// The highest `nc` of a nonce, and which of the 64 up to it were used.
#[derive(Debug, Default)]
struct Counts {
    highest: u32,
    seen: u64,
}

impl Counts {
    /// Takes a count; false where it was used, or is too far behind to know.
    fn take(&mut self, count: u32) -> bool {
        if count > self.highest {
            self.seen = self.seen.checked_shl(count - self.highest).unwrap_or(0) | 1;
            self.highest = count;
            return true;
        }
        let bit = 1u64.checked_shl(self.highest - count).unwrap_or(0);
        let fresh = bit != 0 && count > 0 && self.seen & bit == 0;
        self.seen |= bit;
        fresh
    }
}

impl Gate {
    /// A gate for these users. Its secret comes from `ids`.
    pub fn new(realm: &str, users: &[User], start: Instant, ids: &mut Ids) -> Self {
        let mut secret = [0; 32];
        secret[..16].copy_from_slice(&ids.number().to_be_bytes());
        secret[16..].copy_from_slice(&ids.number().to_be_bytes());
        let (realm, users) = (realm.to_owned(), users.to_vec());
        Self { realm, users, start, secret, used: BTreeMap::new(), forgotten: (0, 0) }
    }

    /// Judges the credentials of a request from this address.
    pub fn judge(&mut self, now: Instant, request: &Message, source: IpAddr) -> Shown {
        let shown = request.headers(HeaderName::Authorization).filter_map(answer).find(|it| it.realm == self.realm);
        let Some(shown) = shown else { return Shown::Nothing };
        let Some(stamp) = self.opened(&shown.nonce, source) else { return Shown::Nothing };
        let method = request.method().map_or("", |method| method.as_str());
        if !self.knows(&shown, method) {
            return Shown::Nothing;
        }
        let age = self.clock(now).saturating_sub(stamp.0);
        if u128::from(age) > LIFE.as_millis() || stamp <= self.forgotten {
            return Shown::Stale;
        }
        match self.used.entry(stamp).or_default().take(shown.nc) {
            true => self.forget(now),
            false => return Shown::Stale,
        }
        Shown::Valid
    }

    /// The values of WWW-Authenticate for somebody at this address, best first.
    pub fn challenges(&self, now: Instant, source: IpAddr, stale: bool, ids: &mut Ids) -> Vec<String> {
        let stamp = (self.clock(now), ids.number() as u64);
        let nonce = self.sealed(stamp, source);
        let stale = if stale { ", stale=true" } else { "" };
        let realm = self.realm.replace('\\', "\\\\").replace('"', "\\\"");
        let challenge = |algo| {
            let algorithm = Algorithm::new(algo, false);
            format!("Digest realm=\"{realm}\", nonce=\"{nonce}\", algorithm={algorithm}, qop=\"auth\"{stale}")
        };
        ALGORITHMS.map(challenge).into()
    }

    /// A To tag for the refusal of this request, the same for each of its repeats (RFC 3261 section 8.2.7).
    pub fn tag(&self, request: &Message) -> String {
        let branch = request.header(HeaderName::Via).unwrap_or("");
        let text = format!("tag|{}|{}|{branch}", request.call_id().unwrap_or(""), request.from_tag());
        hmac(&self.secret, text.as_bytes())[..24].to_owned()
    }

    fn clock(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.start).as_millis()).unwrap_or(u64::MAX)
    }

    fn sealed(&self, (time, chance): Stamp, source: IpAddr) -> String {
        let stamp = format!("{time:016x}{chance:016x}");
        let seal = hmac(&self.secret, format!("nonce|{stamp}|{source}").as_bytes());
        format!("{stamp}{}", &seal[..32])
    }

    /// The stamp of a nonce that we gave to this address.
    fn opened(&self, nonce: &str, source: IpAddr) -> Option<Stamp> {
        let part = |range| u64::from_str_radix(nonce.get(range)?, 16).ok();
        let stamp = (part(0..16)?, part(16..32)?);
        same(self.sealed(stamp, source).as_bytes(), nonce.as_bytes()).then_some(stamp)
    }

    /// Whether the response is that of a user. An unknown one costs the same time.
    fn knows(&self, shown: &AuthorizationHeader, method: &str) -> bool {
        let user = self.users.iter().find(|user| user.name == shown.username);
        let password = user.map_or("", |user| user.password.as_str());
        let method = HttpMethod::from(method);
        let context = AuthContext::new_with_method(&shown.username, password, &shown.uri, None::<&[u8]>, method);
        let mut expected = shown.clone();
        expected.digest(&context);
        let right = same(expected.response.as_bytes(), shown.response.to_ascii_lowercase().as_bytes());
        right && user.is_some()
    }

    fn forget(&mut self, now: Instant) {
        let dead = self.clock(now).saturating_sub(LIFE.as_millis() as u64);
        while let Some(oldest) = self.used.first_entry() {
            let stamp = *oldest.key();
            if stamp.0 >= dead && self.used.len() <= MAX_NONCES {
                return;
            }
            self.used.remove(&stamp);
            self.forgotten = self.forgotten.max(stamp);
        }
    }
}

/// An answer to a challenge of ours: an algorithm that we asked for, `qop=auth` and a count.
fn answer(value: &str) -> Option<AuthorizationHeader> {
    let mut params = parameters(value)?;
    let algorithm = algorithm(params.get("algorithm"))?;
    let asked = ALGORITHMS.contains(&algorithm.algo) && !algorithm.sess;
    let qop = params.get("qop").is_some_and(|qop| qop.eq_ignore_ascii_case("auth"));
    if !asked || !qop {
        return None;
    }
    Some(AuthorizationHeader {
        realm: params.remove("realm")?,
        nonce: params.remove("nonce")?,
        opaque: None,
        userhash: false,
        algorithm,
        response: params.remove("response")?,
        username: params.remove("username")?,
        uri: params.remove("uri")?,
        qop: Some(Qop::AUTH),
        cnonce: Some(params.remove("cnonce")?),
        nc: u32::from_str_radix(params.get("nc")?, 16).ok()?,
    })
}

/// Whether two texts are the same, in a time that tells nothing about where they differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differ, (a, b)| std::hint::black_box(differ | (a ^ b))) == 0
}

/// HMAC-SHA-256 (RFC 2104), in hex.
fn hmac(secret: &[u8; 32], text: &[u8]) -> String {
    let padded = |pad: u8| -> Vec<u8> {
        let mut block = vec![pad; 64];
        block.iter_mut().zip(secret).for_each(|(octet, secret)| *octet ^= secret);
        block
    };
    let inner = SHA_256.hash(&[&padded(0x36), text].concat());
    let octets = (0..32).filter_map(|n| u8::from_str_radix(&inner[2 * n..2 * n + 2], 16).ok());
    SHA_256.hash(&padded(0x5c).into_iter().chain(octets).collect::<Vec<u8>>())
}

#[cfg(test)]
mod tests {
    use super::super::digest::{Answered, Credentials, Keyring};
    use super::*;
    use bytes::Bytes;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    struct Door {
        gate: Gate,
        now: Instant,
        ids: Ids,
        ivr: Keyring,
    }

    impl Door {
        fn new(password: &str) -> Self {
            let mut ids = Ids::from_seed([7; 32]);
            let now = crate::clock::now();
            let users = [User { name: "ivr".into(), password: "open sesame".into() }];
            let gate = Gate::new("switchback", &users, now, &mut ids);
            let credentials = Credentials { username: "ivr".into(), password: password.into(), realm: None };
            Self { gate, now, ids, ivr: Keyring::new(credentials, HERE) }
        }

        /// Asks, and lets the IVR hear it.
        fn ask(&mut self, algorithm: &str) {
            let challenges = self.gate.challenges(self.now, HERE, false, &mut self.ids);
            assert!(challenges[0].contains("algorithm=SHA-256") && challenges[1].contains("algorithm=MD5"));
            let lines = challenges.iter().filter(|it| it.contains(algorithm));
            let lines: String = lines.map(|it| format!("WWW-Authenticate: {it}\r\n")).collect();
            let asked = Message::read(Bytes::from(format!("SIP/2.0 401 x\r\n{lines}\r\n"))).unwrap();
            assert!(self.ivr.challenged(&asked, HERE, &mut Answered::default(), &mut self.ids));
        }

        fn invite(&mut self) -> Message {
            let shown = self.ivr.shown("INVITE", "sip:7000@b", b"", HERE);
            request("INVITE", &shown.iter().map(|(_, it)| format!("Authorization: {it}\r\n")).collect::<String>())
        }

        fn judge(&mut self, request: &Message) -> Shown {
            self.gate.judge(self.now, request, HERE)
        }
    }

    fn request(method: &str, lines: &str) -> Message {
        Message::read(Bytes::from(format!("{method} sip:7000@b SIP/2.0\r\n{lines}\r\n"))).unwrap()
    }

    #[test]
    fn the_seal_is_hmac_sha_256() {
        // Computed with Python's hmac.
        let mut secret = [0; 32];
        secret[..20].fill(0x0b); // Zeroes behind a key change nothing: this is RFC 4231 section 4.2.
        assert_eq!(hmac(&secret, b"Hi There"), "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
    }

    #[test]
    fn who_answers_passes_with_both_algorithms_and_only_once_a_count() {
        for algorithm in ["SHA-256", "MD5"] {
            let mut door = Door::new("open sesame");
            assert_eq!(door.judge(&request("INVITE", "")), Shown::Nothing);
            door.ask(algorithm);
            let (first, second) = (door.invite(), door.invite());
            assert_eq!(door.judge(&second), Shown::Valid);
            assert_eq!(door.judge(&first), Shown::Valid, "overtaken on the way");
            assert_eq!([door.judge(&first), door.judge(&second)], [Shown::Stale; 2], "replayed");
        }
    }

    #[test]
    fn a_wrong_word_another_method_and_another_place_do_not_pass() {
        let mut door = Door::new("open barley");
        door.ask("MD5");
        let wrong = door.invite();
        assert_eq!(door.judge(&wrong), Shown::Nothing);
        let mut door = Door::new("open sesame");
        door.ask("MD5");
        let right = door.invite();
        let line = format!("Authorization: {}\r\n", right.header(HeaderName::Authorization).unwrap());
        assert_eq!(door.judge(&request("REFER", &line)), Shown::Nothing);
        let changed = |from: &str, to: &str| request("INVITE", &line.replace(from, to));
        for (from, to) in
            [("ivr", "ivr2"), ("nc=00000001", "nc=00000002"), ("switchback", "elsewhere"), ("qop=auth, ", "")]
        {
            assert_eq!(door.judge(&changed(from, to)), Shown::Nothing, "{from} {to}");
        }
        assert_eq!(door.gate.judge(door.now, &right, IpAddr::from([127, 0, 0, 2])), Shown::Nothing, "stolen");
        assert_eq!(door.judge(&right), Shown::Valid);
    }

    #[test]
    fn an_old_nonce_with_the_right_word_is_stale() {
        let mut door = Door::new("open sesame");
        door.ask("SHA-256");
        let early = door.invite();
        assert_eq!(door.judge(&early), Shown::Valid);
        door.now += LIFE + Duration::from_millis(1);
        let late = door.invite();
        assert_eq!(door.judge(&late), Shown::Stale);
        door.ask("SHA-256");
        let fresh = door.invite();
        assert_eq!(door.judge(&fresh), Shown::Valid);
        assert_eq!(door.gate.used.len(), 1, "what is dead is forgotten");
        assert_eq!(door.judge(&early), Shown::Stale);
    }

    #[test]
    fn a_nonce_of_somebody_elses_making_is_none() {
        let mut door = Door::new("open sesame");
        for nonce in ["", "é", "0", &"0".repeat(64), &format!("{}é", "0".repeat(63)), &"f".repeat(4096)] {
            let line = format!(
                "Authorization: Digest username=\"ivr\", realm=\"switchback\", nonce=\"{nonce}\", uri=\"sip:7000@b\", \
                 qop=auth, nc=00000001, cnonce=\"c\", response=\"{}\"\r\n",
                "0".repeat(32)
            );
            assert_eq!(door.judge(&request("INVITE", &line)), Shown::Nothing, "{nonce}");
        }
    }

    #[test]
    fn what_is_remembered_has_a_limit() {
        let mut door = Door::new("open sesame");
        door.ask("MD5");
        let first = door.invite();
        assert_eq!(door.judge(&first), Shown::Valid);
        for _ in 0..MAX_NONCES {
            door.now += Duration::from_millis(1);
            door.ask("MD5");
            let invite = door.invite();
            assert_eq!(door.judge(&invite), Shown::Valid);
        }
        assert_eq!(door.gate.used.len(), MAX_NONCES);
        assert_eq!(door.judge(&first), Shown::Stale, "forgotten is not forgiven");
    }

    #[test]
    fn counts_may_overtake_each_other_within_64() {
        let mut counts = Counts::default();
        let taken: Vec<bool> = [1, 3, 2, 2, 1, 0, 100, 37, 36, 37, u32::MAX].map(|count| counts.take(count)).to_vec();
        assert_eq!(taken, [true, true, true, false, false, false, true, true, false, false, true]);
    }
}
