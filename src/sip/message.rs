//! The message as the rest of the program holds it: octets with an index, read on demand.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;

pub use super::header::HeaderName;
use super::value::{self, CSeq, NameAddr, Uri, Via};
use super::wire::{self, Fault, Index, Span};

/// A request method (case-sensitive, RFC 3261 section 7.1).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Method {
    /// INVITE.
    Invite,
    /// ACK.
    Ack,
    /// BYE.
    Bye,
    /// CANCEL.
    Cancel,
    /// OPTIONS.
    Options,
    /// INFO (RFC 6086).
    Info,
    /// PRACK (RFC 3262).
    Prack,
    /// UPDATE (RFC 3311).
    Update,
    /// REFER (RFC 3515).
    Refer,
    /// NOTIFY (RFC 6665).
    Notify,
    /// SUBSCRIBE (RFC 6665).
    Subscribe,
    /// MESSAGE (RFC 3428).
    Message,
    /// REGISTER.
    Register,
    /// PUBLISH (RFC 3903).
    Publish,
    /// Any other token.
    Other(Box<str>),
}

impl Method {
    /// Reads a method; `None` when it is not a token.
    pub fn read(text: &str) -> Option<Self> {
        Some(match text {
            "INVITE" => Self::Invite,
            "ACK" => Self::Ack,
            "BYE" => Self::Bye,
            "CANCEL" => Self::Cancel,
            "OPTIONS" => Self::Options,
            "INFO" => Self::Info,
            "PRACK" => Self::Prack,
            "UPDATE" => Self::Update,
            "REFER" => Self::Refer,
            "NOTIFY" => Self::Notify,
            "SUBSCRIBE" => Self::Subscribe,
            "MESSAGE" => Self::Message,
            "REGISTER" => Self::Register,
            "PUBLISH" => Self::Publish,
            other if !other.is_empty() && other.bytes().all(wire::is_token) => Self::Other(other.into()),
            _ => return None,
        })
    }

    /// The method as it stands on the wire.
    pub fn as_str(&self) -> &str {
        self.known().unwrap_or(match self {
            Self::Other(token) => token,
            _ => "",
        })
    }

    /// The method, if it is one of the registered ones; for metrics, which must not grow with what strangers send.
    pub fn known(&self) -> Option<&'static str> {
        Some(match self {
            Self::Invite => "INVITE",
            Self::Ack => "ACK",
            Self::Bye => "BYE",
            Self::Cancel => "CANCEL",
            Self::Options => "OPTIONS",
            Self::Info => "INFO",
            Self::Prack => "PRACK",
            Self::Update => "UPDATE",
            Self::Refer => "REFER",
            Self::Notify => "NOTIFY",
            Self::Subscribe => "SUBSCRIBE",
            Self::Message => "MESSAGE",
            Self::Register => "REGISTER",
            Self::Publish => "PUBLISH",
            Self::Other(_) => return None,
        })
    }

    /// Whether a request of this method outside a dialog can create one that we serve.
    pub fn creates_dialog(&self) -> bool {
        matches!(self, Self::Invite | Self::Refer)
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Start {
    Request { method: Method, uri: Span },
    Response { status: u16, reason: Span },
}

/// A SIP message. Cheap to clone: its octets are shared.
#[derive(Debug, Clone)]
pub struct Message {
    index: Index,
    start: Start,
}

/// Why octets could not become a [`Message`].
#[derive(Debug, Clone)]
pub enum Unreadable {
    /// Nothing can be answered: drop it.
    Hopeless(Fault),
    /// The start line names another version of SIP: 505 (the message carries what can be answered with).
    Version(Box<Message>),
    /// The request line is malformed: 400.
    StartLine(Box<Message>),
}

impl Message {
    /// Reads one message from a datagram or a stream frame.
    pub fn read(bytes: Bytes) -> Result<Self, Unreadable> {
        let index = wire::index(bytes).map_err(Unreadable::Hopeless)?;
        let head = Arc::clone(&index.head);
        let line = wire::text(&head, &index.start);
        if let Some(rest) = line.strip_prefix("SIP/") {
            return Self::read_response(index, rest);
        }
        let base = index.start.start;
        let mut parts = line.splitn(3, ' ');
        let (method, uri, version) = (parts.next().unwrap_or(""), parts.next(), parts.next());
        let uri_start = base + method.len() as u32 + 1;
        let uri_span = uri_start..uri_start + uri.map_or(0, str::len) as u32;
        let known = Method::read(method);
        let readable = known.is_some();
        let start = Start::Request { method: known.unwrap_or(Method::Other("?".into())), uri: uri_span };
        let message = Self { index, start };
        match version {
            Some("SIP/2.0") if readable => Ok(message),
            Some(version) if readable && is_other_version(version) => Err(Unreadable::Version(Box::new(message))),
            _ => Err(Unreadable::StartLine(Box::new(message))),
        }
    }

    fn read_response(index: Index, rest: &str) -> Result<Self, Unreadable> {
        let hopeless = Unreadable::Hopeless(Fault::NotSip);
        let Some(rest) = rest.strip_prefix("2.0 ") else { return Err(hopeless) };
        let (code, reason) = rest.split_once(' ').unwrap_or((rest, ""));
        match code.parse::<u16>() {
            Ok(status) if code.len() == 3 && (100..700).contains(&status) => {
                let end = index.start.end;
                let start = Start::Response { status, reason: end - reason.len() as u32..end };
                Ok(Self { index, start })
            }
            _ => Err(hopeless),
        }
    }

    /// The method of a request.
    pub fn method(&self) -> Option<&Method> {
        match &self.start {
            Start::Request { method, .. } => Some(method),
            Start::Response { .. } => None,
        }
    }

    /// Whether this is a request of the given method.
    pub fn is(&self, wanted: &Method) -> bool {
        self.method() == Some(wanted)
    }

    /// The Request-URI as written; empty for a response.
    pub fn request_uri(&self) -> &str {
        match &self.start {
            Start::Request { uri, .. } => self.index.text(uri),
            Start::Response { .. } => "",
        }
    }

    /// The status of a response.
    pub fn status(&self) -> Option<u16> {
        match &self.start {
            Start::Response { status, .. } => Some(*status),
            Start::Request { .. } => None,
        }
    }

    /// The reason phrase of a response.
    pub fn reason_phrase(&self) -> &str {
        match &self.start {
            Start::Response { reason, .. } => self.index.text(reason),
            Start::Request { .. } => "",
        }
    }

    /// The first fault met behind the start line.
    pub fn fault(&self) -> Option<Fault> {
        self.index.fault
    }

    /// Header lines as written, in order: name and value.
    pub fn lines(&self) -> impl Iterator<Item = (&str, &str)> {
        self.index.headers.iter().map(|line| (self.index.text(&line.name), self.index.text(&line.value)))
    }

    /// Header lines whose names mean nothing to SIP as this program speaks it, in order: name and value.
    pub fn others(&self) -> impl Iterator<Item = (&str, &str)> {
        let others = self.index.headers.iter().filter(|line| line.known.is_none());
        others.map(|line| (self.index.text(&line.name), self.index.text(&line.value)))
    }

    /// Values of all lines of this name, long or compact form.
    pub fn headers(&self, name: HeaderName) -> impl Iterator<Item = &str> {
        let named = self.index.headers.iter().filter(move |line| line.known == Some(name));
        named.map(|line| self.index.text(&line.value))
    }

    /// The value of the first line of this name.
    pub fn header(&self, name: HeaderName) -> Option<&str> {
        self.headers(name).next()
    }

    /// The value of the first line with this text as its name, compared without case.
    pub fn header_named(&self, name: &str) -> Option<&str> {
        self.lines().find(|(text, _)| text.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Single values of a list header, over all its lines.
    pub fn list(&self, name: HeaderName) -> impl Iterator<Item = &str> {
        self.headers(name).flat_map(value::split_commas)
    }

    /// The topmost Via.
    pub fn via(&self) -> Option<Via<'_>> {
        Via::read(self.list(HeaderName::Via).next()?)
    }

    /// From.
    pub fn from(&self) -> Option<NameAddr<'_>> {
        NameAddr::read(self.header(HeaderName::From)?)
    }

    /// To.
    pub fn to(&self) -> Option<NameAddr<'_>> {
        NameAddr::read(self.header(HeaderName::To)?)
    }

    /// The first Contact.
    pub fn contact(&self) -> Option<NameAddr<'_>> {
        NameAddr::read(self.list(HeaderName::Contact).next()?)
    }

    /// Call-ID.
    pub fn call_id(&self) -> Option<&str> {
        self.header(HeaderName::CallId).filter(|id| !id.is_empty())
    }

    /// CSeq.
    pub fn cseq(&self) -> Option<CSeq> {
        CSeq::read(self.header(HeaderName::CSeq)?)
    }

    /// How many hops it may still take, where it says so.
    pub fn max_forwards(&self) -> Option<u8> {
        value::number(self.header(HeaderName::MaxForwards)?)
    }

    /// The tag of From, or the empty string (RFC 2543 had none).
    pub fn from_tag(&self) -> &str {
        self.from().and_then(|from| from.tag()).unwrap_or("")
    }

    /// The tag of To.
    pub fn to_tag(&self) -> Option<&str> {
        self.to()?.tag()
    }

    /// The Request-URI, read.
    pub fn target(&self) -> Option<Uri<'_>> {
        Uri::read(self.request_uri())
    }

    /// The body, cut to Content-Length where that is shorter (RFC 3261 section 18.3).
    pub fn body(&self) -> &[u8] {
        let body = &self.index.body;
        let declared = self.header(HeaderName::ContentLength).and_then(value::number);
        &body[..declared.unwrap_or(body.len()).min(body.len())]
    }

    /// The same request with what its top Via must say of where it came from (RFC 3261 section 18.2.1, RFC 3581).
    pub fn with_received(self, source: SocketAddr) -> Self {
        let Some(via) = self.via() else { return self };
        let wants_rport = via.params.get("rport") == Some("");
        let moved = value::literal_host(via.host) != Some(source.ip());
        if !wants_rport && !moved {
            return self;
        }
        let top = |line: &&wire::HeaderLine| {
            line.known == Some(HeaderName::Via) && value::split_commas(self.index.text(&line.value)).next().is_some()
        };
        let Some(line) = self.index.headers.iter().find(top) else { return self };
        let value = self.index.text(&line.value);
        let first = value::split_commas(value).next().unwrap_or("");
        let mut amended = match wants_rport {
            true => without_rport(first) + &format!(";rport={}", source.port()),
            false => first.to_owned(),
        };
        amended.push_str(&format!(";received={}", source.ip()));
        let start = line.value.start as usize;
        let first_at = start + value.find(first).unwrap_or(0);
        let (before, after) = (&self.index.head[..first_at], &self.index.head[first_at + first.len()..]);
        let octets = [before.as_bytes(), amended.as_bytes(), after.as_bytes(), &self.index.body].concat();
        Self::read(Bytes::from(octets)).unwrap_or(self)
    }

    /// Octets behind the empty line, whatever Content-Length says.
    pub fn octets_after_head(&self) -> usize {
        self.index.body.len()
    }

    /// The body's media type in lower case without parameters; the empty string where there is none.
    pub fn content_type(&self) -> String {
        let value = self.header(HeaderName::ContentType).unwrap_or("");
        value.split(';').next().unwrap_or("").trim().to_ascii_lowercase()
    }

    /// All octets, as they were read.
    pub fn octets(&self) -> Bytes {
        Bytes::from([self.index.head.as_bytes(), &self.index.body].concat())
    }
}

fn without_rport(via: &str) -> String {
    via.split(';').filter(|param| !param.trim().eq_ignore_ascii_case("rport")).collect::<Vec<_>>().join(";")
}

fn is_other_version(version: &str) -> bool {
    version.strip_prefix("SIP/").is_some_and(|v| v.bytes().all(|b| b.is_ascii_digit() || b == b'.'))
}

impl TryFrom<&Message> for rsip::SipMessage {
    type Error = rsip::Error;

    /// rsip as an independent second reader of our own octets. It reads less than we do (no IPv6, no unknown method).
    fn try_from(message: &Message) -> Result<Self, Self::Error> {
        Self::try_from(message.octets().as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Message {
        Message::read(Bytes::copy_from_slice(text.as_bytes())).unwrap()
    }

    #[test]
    fn a_request_in_compact_form() {
        let m = read(
            "INVITE sip:+1999@h;user=phone SIP/2.0\r\nv: SIP/2.0/UDP a;branch=z9hG4bK1, SIP/2.0/UDP b\r\nf: <sip:x@y>;tag=1\r\n\
             t: sip:z@y\r\ni: abc\r\nCSeq: 7 INVITE\r\nm: <sip:x@1.2.3.4>\r\nc: application/SDP;x=y\r\nl: 2\r\n\r\nabcd",
        );
        assert!(m.is(&Method::Invite));
        assert_eq!(m.request_uri(), "sip:+1999@h;user=phone");
        assert_eq!(m.list(HeaderName::Via).count(), 2);
        assert_eq!((m.from_tag(), m.to_tag(), m.call_id()), ("1", None, Some("abc")));
        assert_eq!((m.content_type().as_str(), m.body()), ("application/sdp", &b"ab"[..]));
    }

    #[test]
    fn responses_and_start_lines_that_are_none() {
        let m = read("SIP/2.0 200 = 2**3 * 5**2 \u{2202}\r\n\r\n");
        assert_eq!((m.status(), m.reason_phrase()), (Some(200), "= 2**3 * 5**2 \u{2202}"));
        assert_eq!(read("SIP/2.0 100 \r\n\r\n").reason_phrase(), "");
        let fails = |text: &str| Message::read(Bytes::copy_from_slice(text.as_bytes())).unwrap_err();
        assert!(matches!(fails("SIP/2.0 4294967301 big\r\n\r\n"), Unreadable::Hopeless(_)));
        assert!(matches!(fails("OPTIONS sip:a SIP/7.0\r\n\r\n"), Unreadable::Version(_)));
        assert!(matches!(fails("INVITE  sip:a  SIP/2.0\r\n\r\n"), Unreadable::StartLine(_)));
        assert!(matches!(fails("INVITE sip:a; lr SIP/2.0\r\n\r\n"), Unreadable::StartLine(_)));
    }

    #[test]
    fn methods_are_case_sensitive_tokens() {
        assert_eq!(Method::read("invite"), Some(Method::Other("invite".into())));
        assert_eq!(Method::read("NEW METHOD"), None);
    }
}
