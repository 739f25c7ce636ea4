//! Digest authentication as a client (RFC 3261 section 22, RFC 7616, RFC 8760): which challenges to answer, and the
//! answers. [`super::gate`] is the other side.

use std::collections::HashMap;
use std::net::IpAddr;
use std::str::FromStr;

use digest_auth::{Algorithm, AuthContext, Charset, HttpMethod, Qop, WwwAuthenticateHeader};

use super::ids::Ids;
use super::message::{HeaderName, Message};
use super::value::split_commas;

/// Credentials for one realm of one peer.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
    /// The realm they are for; `None` takes the peer's word.
    pub realm: Option<String>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// Realms that one response may ask for, and that are remembered: proxies in a row.
const MAX_REALMS: usize = 4;
/// Answers that one request may give.
const MAX_ANSWERS: usize = 2 * MAX_REALMS;

/// Octets of a challenge that is answered: every further request to the peer carries most of it.
const LONGEST_CHALLENGE: usize = 1024;

/// What one peer, and nobody else, may be shown (flow S3), and the challenges that it has put.
///
/// A challenge that was answered is answered again with every further request to the peer, its `nc` counted up, until
/// the peer puts another one for the realm. `nextnonce` is not read: a server that is done with a nonce says `stale`.
#[derive(Debug, Clone)]
pub struct Keyring {
    credentials: Credentials,
    peer: IpAddr,
    challenges: Vec<Challenge>,
}

/// The realms that one request has shown credentials for because it was asked, in order.
#[derive(Debug, Clone, Default)]
pub struct Answered(Vec<String>);

#[derive(Debug, Clone)]
struct Challenge {
    /// The header of the answer.
    header: HeaderName,
    read: WwwAuthenticateHeader,
    cnonce: String,
}

impl Keyring {
    /// Credentials for this peer.
    pub fn new(credentials: Credentials, peer: IpAddr) -> Self {
        Self { credentials, peer, challenges: Vec::new() }
    }

    /// Takes the challenges of a 401 or 407: one of each realm, the first that can be answered (RFC 8760 section 2.4:
    /// the peer lists them by preference). True where the request should be said again with [`Self::shown`]; false
    /// where nothing fits, or where an answer was refused: one stale nonce a realm is forgiven (flow O4).
    pub fn challenged(&mut self, response: &Message, source: IpAddr, answered: &mut Answered, ids: &mut Ids) -> bool {
        let (challenge, header) = match response.status() {
            Some(401) => (HeaderName::WwwAuthenticate, HeaderName::Authorization),
            Some(407) => (HeaderName::ProxyAuthenticate, HeaderName::ProxyAuthorization),
            _ => return false,
        };
        let mut fresh: Vec<Challenge> = Vec::new();
        let bearable = response.headers(challenge).filter(|value| value.len() <= LONGEST_CHALLENGE);
        for read in bearable.filter_map(read) {
            let ours = self.credentials.realm.as_ref().is_none_or(|realm| *realm == read.realm);
            let first = fresh.iter().all(|other| other.read.realm != read.realm);
            if ours && first && fresh.len() < MAX_REALMS {
                fresh.push(Challenge { header, read, cnonce: ids.tag() });
            }
        }
        let refused = |it: &Challenge| answered.times(&it.read.realm) > usize::from(it.read.stale);
        let too_many = answered.0.len() + fresh.len() > MAX_ANSWERS;
        if !self.is_for(source) || fresh.is_empty() || too_many || fresh.iter().any(refused) {
            return false;
        }
        for challenge in fresh {
            answered.0.push(challenge.read.realm.clone());
            self.keep(challenge);
        }
        true
    }

    fn keep(&mut self, fresh: Challenge) {
        self.challenges.retain(|old| old.header != fresh.header || old.read.realm != fresh.read.realm);
        if self.challenges.len() == MAX_REALMS {
            self.challenges.remove(0);
        }
        self.challenges.push(fresh);
    }

    /// Whether this is the peer.
    pub fn is_for(&self, peer: IpAddr) -> bool {
        self.peer == peer
    }

    /// The header lines that answer every challenge so far, for a request that goes to `to`.
    pub fn shown(&mut self, method: &str, uri: &str, body: &[u8], to: IpAddr) -> Vec<(HeaderName, String)> {
        if !self.is_for(to) {
            return Vec::new();
        }
        let Credentials { username, password, .. } = &self.credentials;
        let answers = self.challenges.iter_mut().filter_map(|Challenge { header, read, cnonce }| {
            let method = HttpMethod::from(method);
            let mut context = AuthContext::new_with_method(username, password, uri, Some(body), method);
            context.set_custom_cnonce(cnonce.as_str());
            Some((*header, read.respond(&context).ok()?.to_header_string()))
        });
        answers.collect()
    }
}

impl Answered {
    fn times(&self, realm: &str) -> usize {
        self.0.iter().filter(|answered| *answered == realm).count()
    }
}

/// A challenge, if it is one that can be answered. Read here: the crate's own reader takes no letters beyond ASCII and
/// no lower case.
fn read(value: &str) -> Option<WwwAuthenticateHeader> {
    let mut params = parameters(value)?;
    let words = params.get("qop").filter(|words| !words.trim().is_empty());
    let offered = words.map(|words| {
        let known = words.split(',').filter_map(|word| Qop::from_str(&word.trim().to_ascii_lowercase()).ok());
        known.collect::<Vec<Qop>>()
    });
    // auth-int breaks on many peers and is only used where nothing else is offered.
    let qop = offered.map(|offered| if offered.contains(&Qop::AUTH) { vec![Qop::AUTH] } else { offered });
    if qop.as_ref().is_some_and(Vec::is_empty) {
        return None;
    }
    Some(WwwAuthenticateHeader {
        domain: None,
        realm: params.remove("realm")?,
        nonce: params.remove("nonce")?,
        opaque: params.remove("opaque"),
        stale: params.get("stale").is_some_and(|stale| stale.eq_ignore_ascii_case("true")),
        algorithm: algorithm(params.get("algorithm"))?,
        qop,
        userhash: params.get("userhash").is_some_and(|userhash| userhash.eq_ignore_ascii_case("true")),
        charset: Charset::UTF8,
        nc: 0,
    })
}

/// The algorithm of this name; without a name MD5.
pub(super) fn algorithm(name: Option<&String>) -> Option<Algorithm> {
    let Some(name) = name else { return Some(Algorithm::default()) };
    Algorithm::from_str(&name.to_ascii_uppercase().replace("-SESS", "-sess")).ok()
}

/// The parameters of a Digest challenge or answer, names in lower case, values without quotes.
pub(super) fn parameters(value: &str) -> Option<HashMap<String, String>> {
    let (scheme, rest) = value.trim().split_once([' ', '\t'])?;
    if !scheme.eq_ignore_ascii_case("Digest") {
        return None;
    }
    let pairs = split_commas(rest).filter_map(|pair| pair.split_once('='));
    Some(pairs.map(|(name, value)| (name.trim().to_ascii_lowercase(), unquoted(value.trim()))).collect())
}

fn unquoted(value: &str) -> String {
    let Some(inner) = value.strip_prefix('"') else { return value.to_owned() };
    let (mut out, mut chars) = (String::with_capacity(inner.len()), inner.chars());
    while let Some(c) = chars.next().filter(|c| *c != '"') {
        out.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn challenged(lines: &str) -> Message {
        Message::read(Bytes::from(format!("SIP/2.0 407 x\r\n{lines}\r\n"))).unwrap()
    }

    fn keyring(username: &str, password: &str, realm: Option<&str>) -> Keyring {
        let realm = realm.map(str::to_owned);
        Keyring::new(Credentials { username: username.into(), password: password.into(), realm }, PEER)
    }

    /// What `bob` shows after these challenges.
    fn shown(lines: &str) -> Vec<String> {
        let mut bob = keyring("bob", "zanzibar", None);
        bob.challenged(&challenged(lines), PEER, &mut Answered::default(), &mut Ids::from_seed([0; 32]));
        let shown = bob.shown("INVITE", "sip:bob@biloxi.com", b"", PEER);
        shown.into_iter().map(|(_, value)| value).collect()
    }

    #[test]
    fn the_answer_of_rfc_2617_for_the_challenge_of_rfc_2617() {
        let challenge = "Proxy-Authenticate: Digest realm=\"testrealm@host.com\", qop=\"auth,auth-int\", \
            nonce=\"dcd98b7102dd2f0e8b11d0f600bfb0c093\", opaque=\"5ccc069c403ebaf9f0171e9517f40e41\"\r\n";
        let mut mufasa = keyring("Mufasa", "Circle Of Life", None);
        mufasa.challenged(&challenged(challenge), PEER, &mut Answered::default(), &mut Ids::from_seed([0; 32]));
        mufasa.challenges[0].cnonce = "0a4f113b".to_owned();
        let (name, value) = mufasa.shown("GET", "/dir/index.html", b"", PEER).remove(0);
        assert_eq!(name, HeaderName::ProxyAuthorization);
        assert!(value.contains("response=\"6629fae49393a05397450978507c4ef1\""), "{value}");
        assert!(value.contains("qop=auth,") && value.contains("nc=00000001"), "{value}");
    }

    /// Responses computed with Python's hashlib, which knows nothing of this crate.
    #[test]
    fn every_algorithm_with_and_without_a_session_and_the_second_use_of_a_nonce() {
        for (name, first, second) in [
            ("MD5", "89eb0059246c02b2f6ee02c7961d5ea3", "a2ad8a54015a6d71ceed909c3c0ef76f"),
            ("md5-sess", "e4e4ea61d186d07a92c9e1f6919902e9", "ac4f5f39993fa2fb17e6e7fdc82225c0"),
            (
                "SHA-256",
                "b3b5a6c69453abafaab9ae4dccdac90a076b6c80615d5f3498e7433b6e93bf4f",
                "8134ab779ccba35bd4673b8d2b96ce318d1139624dad279ebc8bf124c302a5d0",
            ),
            (
                "SHA-256-sess",
                "5da59c9ca40954be9d5063a15a174066c8251be2c10cf47c144c366dc7daf792",
                "a0d8fc0afb0a94d0fa9c62c8f7c5b923aa28f69fc8d18803e389b5776b9615be",
            ),
            (
                "SHA-512-256",
                "7f1a09de0f19af0a1eac2b28d33e3f2fb89cca1ad8fb01bba5e1883b288bac14",
                "d68756ef0d5447023c12252b4fb9c110dcc27d676bb2711d9bee869fe78673f0",
            ),
            (
                "SHA-512-256-sess",
                "077d9677be83f41f162d1a4453dc163389919f81e5927391d972f477da767633",
                "4d7945a818969d8cb73e51516135f0f6ef6257d20df5f619f56f86d718337ae1",
            ),
        ] {
            let challenge = format!(
                "Proxy-Authenticate: digest realm=\"biloxi.com\", qop=auth, algorithm={name}, \
                 nonce=\"dcd98b7102dd2f0e8b11d0f600bfb0c093\"\r\n"
            );
            let mut bob = keyring("bob", "zanzibar", Some("biloxi.com"));
            bob.challenged(&challenged(&challenge), PEER, &mut Answered::default(), &mut Ids::from_seed([0; 32]));
            bob.challenges[0].cnonce = "0a4f113b".to_owned();
            for (nc, response) in [("00000001", first), ("00000002", second)] {
                let (_, value) = bob.shown("INVITE", "sip:bob@biloxi.com", b"", PEER).remove(0);
                let expected = format!("response=\"{response}\"");
                assert!(value.contains(&expected) && value.contains(&format!("nc={nc}")), "{name}: {value}");
            }
        }
    }

    #[test]
    fn of_one_realm_the_first_challenge_that_can_be_answered_is() {
        let values = shown(
            "Proxy-Authenticate: Digest realm=\"r\", nonce=\"1\", algorithm=TURNIP-7\r\n\
             Proxy-Authenticate: Digest realm=\"r\", nonce=\"2\", algorithm=SHA-256, qop=\"auth\"\r\n\
             Proxy-Authenticate: Digest realm=\"r\", nonce=\"3\", algorithm=MD5\r\n",
        );
        assert_eq!(values.len(), 1, "{values:?}");
        assert!(values[0].contains("algorithm=SHA-256") && values[0].contains("nonce=\"2\""), "{values:?}");
    }

    #[test]
    fn every_realm_is_answered() {
        let values = shown(
            "Proxy-Authenticate: Digest realm=\"near\", nonce=\"1\", qop=\"auth\"\r\n\
             Proxy-Authenticate: Digest realm=\"far\", nonce=\"2\", qop=\"auth\"\r\n",
        );
        assert!(values.len() == 2 && values[0].contains("near") && values[1].contains("far"), "{values:?}");
        let many: String =
            (0..20).map(|n| format!("Proxy-Authenticate: Digest realm=\"{n}\", nonce=\"1\"\r\n")).collect();
        assert_eq!(shown(&many).len(), MAX_REALMS, "a limit on everything");
    }

    #[test]
    fn a_challenge_too_long_to_be_carried_is_not_answered() {
        let long = format!("Proxy-Authenticate: Digest realm=\"r\", nonce=\"{}\"\r\n", "1".repeat(LONGEST_CHALLENGE));
        assert!(shown(&long).is_empty());
        assert_eq!(shown(&format!("{long}Proxy-Authenticate: Digest realm=\"r\", nonce=\"2\"\r\n")).len(), 1);
    }

    #[test]
    fn odd_challenges_are_answered_or_left_and_never_a_panic() {
        for (rest, answers) in [
            ("realm=\"münchen\", nonce=\"é\"", 1),
            ("é=1, realm=\"r\", nonce=\"1\"", 1),
            ("realm=r,nonce=1", 1),
            ("REALM=\"a \\\"b\\\\\", Nonce=\"1\", qop=\"\", algorithm=\"MD5\"", 1),
            ("realm=\"r\", nonce=\"1\", qop=\"auth-conf\"", 0),
            ("realm=\"r\", nonce=\"1\", qop=\"auth-conf, AUTH\"", 1),
            ("realm=\"r\", nonce=\"1\", charset=latin1", 1),
            ("realm=\"r\", nonce=\"1\\", 1),
            ("realm=\"r", 0),
            ("nonce=\"1\"", 0),
            (",,=,=\",", 0),
        ] {
            let values = shown(&format!("Proxy-Authenticate: Digest {rest}\r\n"));
            assert_eq!(values.len(), answers, "{rest}: {values:?}");
        }
        assert!(
            shown("Proxy-Authenticate: Basic realm=\"r\", nonce=\"1\"\r\nProxy-Authenticate: Digest\r\n").is_empty()
        );
    }

    #[test]
    fn auth_int_is_answered_where_nothing_else_is_offered() {
        let values = shown("Proxy-Authenticate: Digest realm=\"r\", nonce=\"1\", qop=\"auth-int\"\r\n");
        assert!(values[0].contains("qop=auth-int"), "{values:?}");
    }

    #[test]
    fn another_realm_another_peer_and_a_second_refusal_get_nothing() {
        let plain = challenged("Proxy-Authenticate: Digest realm=\"r\", nonce=\"1\"\r\n");
        let stale = challenged("Proxy-Authenticate: Digest realm=\"r\", nonce=\"1\", stale=TRUE\r\n");
        let other = challenged("Proxy-Authenticate: Digest realm=\"other\", nonce=\"1\"\r\n");
        let ids = &mut Ids::from_seed([0; 32]);
        let mut bob = keyring("bob", "zanzibar", None);
        let mut answered = Answered::default();
        let told: Vec<bool> = [&plain, &stale, &other, &stale, &plain]
            .map(|response| bob.challenged(response, PEER, &mut answered, ids))
            .to_vec();
        assert_eq!(told, [true, true, true, false, false], "one stale nonce is forgiven");
        assert!(bob.challenged(&plain, PEER, &mut Answered::default(), ids), "another request");
        let stranger = IpAddr::from([127, 0, 0, 2]);
        assert!(!bob.challenged(&plain, stranger, &mut Answered::default(), ids));
        assert!(bob.shown("INVITE", "sip:a@b", b"", stranger).is_empty());
        let mut picky = keyring("bob", "zanzibar", Some("other"));
        assert!(!picky.challenged(&plain, PEER, &mut Answered::default(), ids));
        assert!(picky.challenged(&other, PEER, &mut Answered::default(), ids));
    }
}
