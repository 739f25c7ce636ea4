//! Digest authentication as a client (RFC 3261 section 22, RFC 8760): which challenge to answer, and the answer.

use digest_auth::{AuthContext, HttpMethod, Qop, WwwAuthenticateHeader};

use super::message::{HeaderName, Message};

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

/// The header that answers the first challenge we can (RFC 8760 section 2.4: the peer lists them by preference).
/// `None` where nothing fits, or where an answer was refused before: only one stale nonce is forgiven (flow O4).
pub fn answer(
    challenged: &Message,
    method: &str,
    uri: &str,
    credentials: &Credentials,
    cnonce: &str,
    answered: u8,
) -> Option<(HeaderName, String)> {
    let (challenge, response) = match challenged.status()? {
        401 => (HeaderName::WwwAuthenticate, HeaderName::Authorization),
        407 => (HeaderName::ProxyAuthenticate, HeaderName::ProxyAuthorization),
        _ => return None,
    };
    challenged.headers(challenge).find_map(|value| {
        let mut read = WwwAuthenticateHeader::parse(value).ok()?;
        let ours = credentials.realm.as_ref().is_none_or(|realm| *realm == read.realm);
        if !ours || answered > u8::from(read.stale) {
            return None;
        }
        // auth-int breaks on many peers and is only used where nothing else is offered.
        if let Some(offered) = &mut read.qop
            && offered.contains(&Qop::AUTH)
        {
            *offered = vec![Qop::AUTH];
        }
        let mut context: AuthContext<'_> = AuthContext::new_with_method(
            &credentials.username,
            &credentials.password,
            uri,
            None::<&[u8]>,
            HttpMethod::from(method),
        );
        context.set_custom_cnonce(cnonce);
        Some((response, read.respond(&context).ok()?.to_header_string()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn challenged(lines: &str) -> Message {
        Message::read(Bytes::from(format!("SIP/2.0 407 x\r\n{lines}\r\n"))).unwrap()
    }

    fn credentials(realm: Option<&str>) -> Credentials {
        Credentials { username: "bob".into(), password: "zanzibar".into(), realm: realm.map(str::to_owned) }
    }

    #[test]
    fn the_answer_of_rfc_2617_for_the_challenge_of_rfc_2617() {
        let challenge = "Proxy-Authenticate: Digest realm=\"testrealm@host.com\", qop=\"auth,auth-int\", \
            nonce=\"dcd98b7102dd2f0e8b11d0f600bfb0c093\", opaque=\"5ccc069c403ebaf9f0171e9517f40e41\"\r\n";
        let mufasa = Credentials { username: "Mufasa".into(), password: "Circle Of Life".into(), realm: None };
        let (name, value) = answer(&challenged(challenge), "GET", "/dir/index.html", &mufasa, "0a4f113b", 0).unwrap();
        assert_eq!(name, HeaderName::ProxyAuthorization);
        assert!(value.contains("response=\"6629fae49393a05397450978507c4ef1\""), "{value}");
        assert!(value.contains("qop=auth,") && value.contains("nc=00000001"), "{value}");
    }

    #[test]
    fn the_first_challenge_that_can_be_answered_is() {
        let two = challenged(
            "Proxy-Authenticate: Digest realm=\"r\", nonce=\"1\", algorithm=TURNIP-7\r\n\
             Proxy-Authenticate: Digest realm=\"r\", nonce=\"2\", algorithm=SHA-256, qop=\"auth\"\r\n\
             Proxy-Authenticate: Digest realm=\"r\", nonce=\"3\", algorithm=MD5\r\n",
        );
        let (_, value) = answer(&two, "INVITE", "sip:a@b", &credentials(None), "c", 0).unwrap();
        assert!(value.contains("algorithm=SHA-256") && value.contains("nonce=\"2\""), "{value}");
    }

    #[test]
    fn another_realm_and_a_second_refusal_get_nothing() {
        let plain = challenged("Proxy-Authenticate: Digest realm=\"r\", nonce=\"1\"\r\n");
        let stale = challenged("Proxy-Authenticate: Digest realm=\"r\", nonce=\"1\", stale=TRUE\r\n");
        let try_it = |m, realm, answered| answer(m, "INVITE", "sip:a@b", &credentials(realm), "c", answered).is_some();
        assert!(try_it(&plain, Some("r"), 0) && try_it(&stale, None, 1));
        assert!(!try_it(&plain, Some("other"), 0) && !try_it(&plain, None, 1) && !try_it(&stale, None, 2));
    }
}
