//! Building messages. Whatever a value holds, one header line stays one header line.

use std::fmt::Write as _;

use bytes::Bytes;

use super::message::{HeaderName, Message, Method};

/// Writes one message from the top: start line, headers, body.
#[derive(Debug)]
pub struct Writer {
    text: String,
}

impl Writer {
    /// Begins a request.
    pub fn request(method: &Method, uri: &str) -> Self {
        let mut writer = Self { text: String::with_capacity(1024) };
        writer.text.push_str(method.as_str());
        writer.text.push(' ');
        writer.push_clean(uri);
        writer.text.push_str(" SIP/2.0\r\n");
        writer
    }

    /// Begins the response to a request: Via, From, To (with `to_tag` where the request had none), Call-ID and CSeq
    /// are the request's (RFC 3261 section 8.2.6.2). What the request lacks is left out.
    pub fn response(request: &Message, status: u16, to_tag: Option<&str>) -> Self {
        let mut writer = Self { text: String::with_capacity(768) };
        let _ = write!(writer.text, "SIP/2.0 {status} {}\r\n", reason_phrase(status));
        for via in request.headers(HeaderName::Via) {
            writer.header(HeaderName::Via, via);
        }
        if let Some(from) = request.header(HeaderName::From) {
            writer.header(HeaderName::From, from);
        }
        if let Some(to) = request.header(HeaderName::To) {
            match to_tag.filter(|_| request.to_tag().is_none()) {
                Some(tag) => writer.header(HeaderName::To, &format!("{to};tag={tag}")),
                None => writer.header(HeaderName::To, to),
            };
        }
        for name in [HeaderName::CallId, HeaderName::CSeq] {
            if let Some(value) = request.header(name) {
                writer.header(name, value);
            }
        }
        writer
    }

    /// Adds a header line.
    pub fn header(&mut self, name: HeaderName, value: &str) -> &mut Self {
        self.header_named(name.as_str(), value)
    }

    /// Adds a header line whose name is configured. A name that is not a token is left out whole.
    pub fn header_named(&mut self, name: &str, value: &str) -> &mut Self {
        if name.is_empty() || !name.bytes().all(super::wire::is_token) {
            return self;
        }
        self.text.push_str(name);
        self.text.push_str(": ");
        self.push_clean(value);
        self.text.push_str("\r\n");
        self
    }

    /// Control characters become blanks: the last line of defence against a second header (flow S5).
    fn push_clean(&mut self, value: &str) {
        if value.bytes().any(|b| b.is_ascii_control()) {
            self.text.extend(value.chars().map(|c| if c.is_ascii_control() { ' ' } else { c }));
        } else {
            self.text.push_str(value);
        }
    }

    /// Ends the message without a body.
    pub fn finish(&mut self) -> Bytes {
        self.text.push_str("Content-Length: 0\r\n\r\n");
        Bytes::from(std::mem::take(&mut self.text))
    }

    /// Ends the message with a body.
    pub fn finish_with(&mut self, content_type: &str, body: &[u8]) -> Bytes {
        self.header(HeaderName::ContentType, content_type);
        let _ = write!(self.text, "Content-Length: {}\r\n\r\n", body.len());
        let mut octets = std::mem::take(&mut self.text).into_bytes();
        octets.extend_from_slice(body);
        Bytes::from(octets)
    }
}

/// The message with the first `from` in it, the sent-by of its top Via, turned into `to`.
pub fn replaced(message: &Bytes, from: &str, to: &str) -> Option<Bytes> {
    let at = message.windows(from.len()).position(|window| window == from.as_bytes())?;
    Some(Bytes::from([&message[..at], to.as_bytes(), &message[at + from.len()..]].concat()))
}

/// The reason phrase of a status (RFC 3261 section 21 and extensions).
pub fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Trying",
        180 => "Ringing",
        183 => "Session Progress",
        200 => "OK",
        202 => "Accepted",
        302 => "Moved Temporarily",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        415 => "Unsupported Media Type",
        416 => "Unsupported URI Scheme",
        401 => "Unauthorized",
        407 => "Proxy Authentication Required",
        420 => "Bad Extension",
        422 => "Session Interval Too Small",
        480 => "Temporarily Unavailable",
        481 => "Call/Transaction Does Not Exist",
        482 => "Loop Detected",
        483 => "Too Many Hops",
        486 => "Busy Here",
        487 => "Request Terminated",
        488 => "Not Acceptable Here",
        489 => "Bad Event",
        491 => "Request Pending",
        500 => "Server Internal Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        504 => "Server Time-out",
        505 => "Version Not Supported",
        603 => "Decline",
        _ => match status / 100 {
            1 => "Progress",
            2 => "OK",
            3 => "Redirection",
            4 => "Request Failure",
            5 => "Server Failure",
            _ => "Global Failure",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_value_starts_a_second_header() {
        let bytes = Writer::request(&Method::Options, "sip:a\r\nX: y")
            .header_named("X-GA-tv-a", "1\r\nEvil: 2\0")
            .header_named("Bad\r\nName", "x")
            .finish();
        let message = Message::read(bytes).unwrap_err();
        let super::super::message::Unreadable::StartLine(message) = message else { panic!("{message:?}") };
        assert_eq!(message.lines().collect::<Vec<_>>(), [("X-GA-tv-a", "1  Evil: 2"), ("Content-Length", "0")]);
    }

    #[test]
    fn a_response_mirrors_its_request() {
        let request = Message::read(Bytes::from_static(
            b"INVITE sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP x, SIP/2.0/UDP y\r\nv: SIP/2.0/UDP z\r\nf: <sip:c@d>;tag=1\r\n\
              t: <sip:a@b>\r\ni: q\r\nCSeq: 1 INVITE\r\n\r\n",
        ))
        .unwrap();
        let response = Message::read(Writer::response(&request, 180, Some("tt")).finish()).unwrap();
        assert_eq!(response.list(HeaderName::Via).collect::<Vec<_>>().len(), 3);
        assert_eq!((response.to_tag(), response.from_tag(), response.call_id()), (Some("tt"), "1", Some("q")));
        assert_eq!((response.status(), response.reason_phrase()), (Some(180), "Ringing"));
    }
}
