//! Which answer a bad request deserves (RFC 3261 section 8.2, RFC 4475 section 3.1.2).

use super::message::{HeaderName, Message, Method};
use super::refer::Replaces;
use super::value::{NameAddr, Uri, Via, number};

/// A refusal of a request, before anybody acts on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// The status to answer with.
    pub status: u16,
    /// What was wrong, for the log and the Warning.
    pub why: &'static str,
    /// Option tags for `Unsupported` (420).
    pub unsupported: Vec<String>,
}

impl Rejection {
    fn new(status: u16, why: &'static str) -> Self {
        Self { status, why, unsupported: Vec::new() }
    }
}

/// Headers that may stand only once.
const SINGLE: [HeaderName; 8] = [
    HeaderName::From,
    HeaderName::To,
    HeaderName::CallId,
    HeaderName::CSeq,
    HeaderName::MaxForwards,
    HeaderName::ContentLength,
    HeaderName::ContentType,
    HeaderName::Expires,
];

/// Checks a request. `extensions` are the option tags this endpoint understands in Require.
pub fn request(message: &Message, extensions: &[&str]) -> Result<(), Rejection> {
    core(message)?;
    uris(message)?;
    replaces(message)?;
    required_extensions(message, extensions)
}

/// Whether a response is whole enough to be matched; others are dropped.
pub fn response(message: &Message) -> Result<(), Rejection> {
    core(message)
}

fn core(message: &Message) -> Result<(), Rejection> {
    let bad = |why| Err(Rejection::new(400, why));
    if message.fault().is_some() {
        return bad("malformed header line");
    }
    if SINGLE.iter().any(|&name| message.headers(name).nth(1).is_some()) {
        return bad("a header that may stand once stands twice");
    }
    if !message.list(HeaderName::Via).all(|via| Via::read(via).is_some()) || message.via().is_none() {
        return bad("Via");
    }
    if message.from().is_none() || message.to().is_none() {
        return bad("From or To");
    }
    if message.call_id().is_none() {
        return bad("Call-ID");
    }
    let Some(cseq) = message.cseq() else { return bad("CSeq") };
    match message.method() {
        // For a method that nobody knows this is the lesser fault (mismatch02, RFC 4475 section 3.1.2.18).
        Some(method @ Method::Other(_)) if *method != cseq.method => return Err(Rejection::new(501, "method")),
        Some(method) if *method != cseq.method => return bad("CSeq names another method"),
        _ => {}
    }
    lengths(message)
}

fn lengths(message: &Message) -> Result<(), Rejection> {
    let bad = |why| Err(Rejection::new(400, why));
    if let Some(text) = message.header(HeaderName::ContentLength) {
        match number::<u32>(text) {
            Some(length) if length as usize <= message.octets_after_head() => {}
            Some(_) => return bad("Content-Length is longer than the message"),
            None => return bad("Content-Length"),
        }
    }
    if message.header(HeaderName::MaxForwards).is_some_and(|text| number::<u8>(text).is_none()) {
        return bad("Max-Forwards");
    }
    if message.header(HeaderName::Expires).is_some_and(|text| number::<u32>(text).is_none()) {
        return bad("Expires");
    }
    Ok(())
}

fn uris(message: &Message) -> Result<(), Rejection> {
    let bad = |why| Err(Rejection::new(400, why));
    let Some(target) = message.target() else { return bad("Request-URI") };
    if !target.is_sip() && !target.scheme.eq_ignore_ascii_case("tel") {
        return Err(Rejection::new(416, "scheme of the Request-URI"));
    }
    if target.headers.is_some() {
        return bad("header parameters in the Request-URI");
    }
    let contacts_ok = message.list(HeaderName::Contact).all(|value| value == "*" || NameAddr::read(value).is_some());
    if !contacts_ok {
        return bad("Contact");
    }
    // A caller without a From tag speaks RFC 2543, where a Contact was optional (inv2543, RFC 4475 section 3.4.1).
    let contact_due = message.is(&Method::Invite) && !message.from_tag().is_empty();
    if contact_due && message.contact().is_none() {
        return bad("INVITE without Contact");
    }
    for name in [HeaderName::Route, HeaderName::RecordRoute] {
        let routes_ok = message.list(name).all(|v| NameAddr::read(v).is_some_and(|route| Uri::is_sip(&route.uri)));
        if !routes_ok {
            return bad("Route or Record-Route");
        }
    }
    Ok(())
}

/// One dialog at most is asked for, by an INVITE (RFC 3891 section 3).
fn replaces(message: &Message) -> Result<(), Rejection> {
    let asked: Vec<_> = message.headers(HeaderName::Replaces).collect();
    match asked.as_slice() {
        [] => Ok(()),
        [one] if message.is(&Method::Invite) && !one.contains(',') && Replaces::read(one).is_some() => Ok(()),
        _ => Err(Rejection::new(400, "Replaces")),
    }
}

fn required_extensions(message: &Message, known: &[&str]) -> Result<(), Rejection> {
    // ACK and CANCEL are never refused for an extension (RFC 3261 section 8.2.2.3).
    if message.is(&Method::Ack) || message.is(&Method::Cancel) {
        return Ok(());
    }
    // Proxy-Require speaks to proxies only (RFC 3261 section 20.29).
    let unknown = |tag: &&str| !known.iter().any(|k| k.eq_ignore_ascii_case(tag));
    let unsupported: Vec<String> = message.list(HeaderName::Require).filter(unknown).map(str::to_owned).collect();
    if unsupported.is_empty() {
        return Ok(());
    }
    Err(Rejection { unsupported, ..Rejection::new(420, "Require") })
}
