//! SIP as plain text, read and written here without a line of the program's own reader or writer.

use std::fmt::Write;

/// One message, split at its line ends and colons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sip {
    pub start: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Sip {
    pub fn request(method: &str, uri: &str) -> Self {
        Self { start: format!("{method} {uri} SIP/2.0"), headers: Vec::new(), body: String::new() }
    }

    /// A response: Via, From, To, Call-ID, CSeq and Record-Route are the request's.
    pub fn response(request: &Self, status: u16, to_tag: &str) -> Self {
        let copied = ["Via", "From", "To", "Call-ID", "CSeq", "Record-Route"];
        let mut headers: Vec<_> =
            request.headers.iter().filter(|(name, _)| copied.contains(&name.as_str())).cloned().collect();
        if request.tag("To").is_empty() && status > 100 {
            headers.iter_mut().filter(|(name, _)| name == "To").for_each(|(_, to)| *to += &format!(";tag={to_tag}"));
        }
        Self { start: format!("SIP/2.0 {status} Whatever"), headers, body: String::new() }
    }

    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    #[must_use]
    pub fn with_sdp(mut self, sdp: impl Into<String>) -> Self {
        self.body = sdp.into();
        if self.body.is_empty() { self } else { self.with("Content-Type", "application/sdp") }
    }

    pub fn octets(&self) -> Vec<u8> {
        let mut text = format!("{}\r\n", self.start);
        for (name, value) in &self.headers {
            let _ = write!(text, "{name}: {value}\r\n");
        }
        let _ = write!(text, "Content-Length: {}\r\n\r\n{}", self.body.len(), self.body);
        text.into_bytes()
    }

    pub fn read(octets: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(octets).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        let mut lines = head.split("\r\n");
        let start = lines.next().filter(|start| start.contains("SIP/2.0"))?.to_owned();
        let pair = |line: &str| line.split_once(':').map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
        let headers = lines.map(pair).collect::<Option<Vec<_>>>()?;
        Some(Self { start, headers, body: body.to_owned() })
    }

    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str()).collect()
    }

    pub fn has(&self, name: &str) -> bool {
        !self.all(name).is_empty()
    }

    /// The first line of this name; the empty string where there is none.
    pub fn header(&self, name: &str) -> &str {
        self.all(name).first().copied().unwrap_or("")
    }

    pub fn status(&self) -> Option<u16> {
        self.start.strip_prefix("SIP/2.0 ")?.get(..3)?.parse().ok()
    }

    /// The method of a request, or of the request that a response answers.
    pub fn method(&self) -> &str {
        self.header("CSeq").split(' ').nth(1).unwrap_or("")
    }

    pub fn is(&self, method: &str) -> bool {
        self.status().is_none() && self.start.split(' ').next() == Some(method)
    }

    pub fn uri(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or("")
    }

    pub fn cseq(&self) -> u32 {
        self.header("CSeq").split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0)
    }

    pub fn call_id(&self) -> &str {
        self.header("Call-ID")
    }

    pub fn branch(&self) -> &str {
        param(self.header("Via"), "branch")
    }

    /// The tag of From or To; the empty string where there is none.
    pub fn tag(&self, name: &str) -> &str {
        param(self.header(name), "tag")
    }

    /// The URI between the angle brackets of Contact.
    pub fn contact(&self) -> &str {
        self.header("Contact").trim_start_matches('<').split('>').next().unwrap_or("")
    }

    /// The port of the audio line.
    pub fn audio_port(&self) -> Option<u16> {
        self.body.split("m=audio ").nth(1)?.split(' ').next()?.parse().ok()
    }

    /// The message in a word or two: `INVITE`, `180`, `200 BYE`.
    pub fn word(&self) -> String {
        match self.status() {
            Some(status) if self.method() == "INVITE" => status.to_string(),
            Some(status) => format!("{status} {}", self.method()),
            None => self.start.split(' ').next().unwrap_or("").to_owned(),
        }
    }
}

fn param<'a>(value: &'a str, name: &str) -> &'a str {
    let params = value.split(';').skip(1);
    params.filter_map(|param| param.split_once('=')).find(|(n, _)| *n == name).map_or("", |(_, v)| v.trim())
}

/// A session description with one audio line, as most of the world writes it.
pub fn sdp(address: &str, port: u16) -> String {
    audio(address, port, "0 8 101", "sendrecv")
}

pub fn audio(address: &str, port: u16, formats: &str, direction: &str) -> String {
    let family = if address.contains(':') { "IP6" } else { "IP4" };
    format!(
        "v=0\r\no=- 1 {port} IN {family} {address}\r\ns=-\r\nc=IN {family} {address}\r\nt=0 0\r\nm=audio {port} RTP/AVP {formats}\r\n\
         a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\na=ptime:20\r\na={direction}\r\n"
    )
}
