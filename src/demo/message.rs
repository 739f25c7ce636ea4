//! Reading and building SIP messages with rsip, and the dialog they belong to.
//!
//! What rsip 0.4 does that one has to know: a header it has no name for (Reason, X-GA-…) arrives as `Header::Other`;
//! the second value of a comma-joined Via is dropped by the typed reader, so Vias are copied as text; a URI parameter
//! `transport=udp` is printed back in capitals, so a Route is not echoed octet for octet; Content-Length is not compared
//! with the body, so we do; its own reason phrases print as `486 BusyHere`, so responses carry ours.

use std::net::{IpAddr, SocketAddr};

use rsip::common::uri::param::OtherParam;
use rsip::common::uri::{Param, Scheme, UriWithParams, UriWithParamsList};
use rsip::prelude::*;
use rsip::typed;
use rsip::{Header, Headers, Method, Request, Response, SipMessage, StatusCode, Transport, Uri, Version};

/// The reading of one message by rsip, with every field that routing needs read as a typed header.
#[derive(Debug, Clone)]
pub struct Heard {
    /// The whole message.
    pub message: SipMessage,
    /// Where it came from.
    pub source: SocketAddr,
    /// The branch of the top Via.
    pub branch: String,
    /// Call-ID.
    pub call_id: String,
    /// The tag of From.
    pub from_tag: String,
    /// The tag of To.
    pub to_tag: Option<String>,
    /// The number in CSeq.
    pub cseq: u32,
    /// The method in CSeq; in a request it is also the request's.
    pub method: Method,
}

impl Heard {
    /// Reads a datagram; the error says in one line what rsip, or we, could not accept.
    pub fn read(bytes: &[u8], source: SocketAddr) -> Result<Self, String> {
        let message = SipMessage::try_from(bytes).map_err(|error| complaint("the message", &error))?;
        let via = message.via_header().and_then(|via| via.typed()).map_err(|error| complaint("Via", &error))?;
        let branch = via.branch().map(ToString::to_string).ok_or("Via: no branch")?;
        let from = message.from_header().and_then(|from| from.tag()).map_err(|error| complaint("From", &error))?;
        let to = message.to_header().and_then(|to| to.tag()).map_err(|error| complaint("To", &error))?;
        let cseq = message.cseq_header().and_then(|cseq| cseq.typed()).map_err(|error| complaint("CSeq", &error))?;
        let call_id = message.call_id_header().map_err(|error| complaint("Call-ID", &error))?.value().to_owned();
        if let SipMessage::Request(request) = &message
            && request.method != cseq.method
        {
            return Err(format!("CSeq: {} in a {} request", cseq.method, request.method));
        }
        check_length(&message)?;
        check_typed(&message)?;
        Ok(Self {
            source,
            branch,
            call_id,
            from_tag: from.ok_or("From: no tag")?.to_string(),
            to_tag: to.map(|tag| tag.to_string()),
            cseq: cseq.seq,
            method: cseq.method,
            message,
        })
    }

    /// The status code of a response, `None` for a request.
    pub fn status(&self) -> Option<u16> {
        match &self.message {
            SipMessage::Response(response) => Some(response.status_code.code()),
            SipMessage::Request(_) => None,
        }
    }

    /// The user of the Request-URI.
    pub fn dialled(&self) -> Option<&str> {
        match &self.message {
            SipMessage::Request(request) => request.uri.user(),
            SipMessage::Response(_) => None,
        }
    }

    /// Every header as a name and a value, in the order received.
    pub fn headers(&self) -> Vec<(String, String)> {
        let split = |text: String| text.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned()));
        self.message.headers().iter().filter_map(|header| split(header.to_string())).collect()
    }

    /// The body.
    pub fn body(&self) -> &[u8] {
        self.message.body()
    }

    /// Where a response goes: to the source address, and to its port if the sender asked for that (RFC 3581), else
    /// to the port of the Via.
    fn response_address(&self) -> SocketAddr {
        let Ok(via) = self.message.via_header().and_then(|via| via.typed()) else { return self.source };
        let asked = via.params.iter().any(|param| matches!(param, Param::Other(name, _) if name.value() == "rport"));
        let port = via.uri.port().map_or(5060, |port| *port.value());
        SocketAddr::new(self.source.ip(), if asked { self.source.port() } else { port })
    }
}

fn complaint(field: &str, error: &rsip::Error) -> String {
    let error = error.to_string();
    // rsip's errors quote the whole message.
    let end = error.char_indices().nth(160).map_or(error.len(), |(at, _)| at);
    format!("{field}: {}", error[..end].escape_debug())
}

fn check_length(message: &SipMessage) -> Result<(), String> {
    let given = message.headers().iter().find_map(|header| match header {
        Header::ContentLength(length) => Some(length.value().trim().parse::<usize>()),
        _ => None,
    });
    match given {
        Some(Ok(length)) if length == message.body().len() => Ok(()),
        Some(given) => Err(format!("Content-Length: {given:?} with a body of {} octets", message.body().len())),
        None if message.body().is_empty() => Ok(()),
        None => Err("Content-Length: missing before a body".to_owned()),
    }
}

/// Reads, only to have them read, the other headers that we write and rsip knows the grammar of.
fn check_typed(message: &SipMessage) -> Result<(), String> {
    for header in message.headers().iter() {
        let (name, read) = match header {
            Header::Allow(value) => ("Allow", value.typed().map(drop)),
            Header::Contact(value) => ("Contact", value.typed().map(drop)),
            Header::ContentType(value) => ("Content-Type", value.typed().map(drop)),
            Header::RecordRoute(value) => ("Record-Route", value.typed().map(drop)),
            Header::Route(value) => ("Route", value.typed().map(drop)),
            _ => continue,
        };
        read.map_err(|error| complaint(name, &error))?;
    }
    Ok(())
}

/// The remote and the local end of a call, from which every later request in it is made (RFC 3261 section 12).
#[derive(Debug, Clone)]
pub struct Dialog {
    call_id: String,
    local: String,
    remote: String,
    target: Uri,
    routes: Vec<UriWithParams>,
    cseq: u32,
    address: SocketAddr,
    peer: SocketAddr,
}

impl Dialog {
    /// The dialog that answering `invite` with the local tag `tag` creates.
    pub fn of_server(invite: &Heard, address: SocketAddr, tag: &str) -> Result<Self, String> {
        let (from, to) = ends(invite)?;
        Ok(Self {
            call_id: invite.call_id.clone(),
            local: format!("{to};tag={tag}"),
            remote: from,
            target: remote_target(invite)?,
            routes: record_routes(invite)?,
            cseq: 0,
            address,
            peer: invite.source,
        })
    }

    /// The dialog that the 2xx `answer` to our INVITE creates.
    pub fn of_client(answer: &Heard, address: SocketAddr) -> Result<Self, String> {
        let (from, to) = ends(answer)?;
        let mut routes = record_routes(answer)?;
        routes.reverse();
        Ok(Self {
            call_id: answer.call_id.clone(),
            local: from,
            remote: to,
            target: remote_target(answer)?,
            routes,
            cseq: answer.cseq,
            address,
            peer: answer.source,
        })
    }

    /// A target refresh: the far side named a new Contact.
    pub fn refresh(&mut self, request: &Heard) -> Result<(), String> {
        self.target = remote_target(request)?;
        Ok(())
    }

    /// The next request of this dialog and where it goes.
    pub fn request(&mut self, method: Method, extra: Vec<Header>, body: &str) -> (Request, SocketAddr) {
        self.cseq += 1;
        (self.build(method, self.cseq, extra, body), self.next_hop())
    }

    /// The ACK of a 2xx to the INVITE with this number.
    pub fn ack(&self, cseq: u32) -> (Request, SocketAddr) {
        (self.build(Method::Ack, cseq, Vec::new(), ""), self.next_hop())
    }

    fn build(&self, method: Method, cseq: u32, extra: Vec<Header>, body: &str) -> Request {
        let mut headers: Headers = vec![via(self.address), rsip::headers::MaxForwards::default().into()].into();
        if !self.routes.is_empty() {
            headers.push(typed::Route(UriWithParamsList(self.routes.clone())).into());
        }
        headers.extend(vec![
            rsip::headers::From::new(&self.local).into(),
            rsip::headers::To::new(&self.remote).into(),
            rsip::headers::CallId::new(&self.call_id).into(),
            typed::CSeq { seq: cseq, method }.into(),
            typed::Contact::from(own_uri(self.address)).into(),
        ]);
        headers.extend(extra);
        headers.push(rsip::headers::ContentLength::from(body.len() as u32).into());
        Request { method, uri: self.target.clone(), version: Version::V2, headers, body: body.into() }
    }

    /// The first route or the remote target; a host name is not looked up: that request goes where the call came from.
    fn next_hop(&self) -> SocketAddr {
        let uri = self.routes.first().map_or(&self.target, |route| &route.uri);
        uri.host_with_port.clone().try_into().unwrap_or(self.peer)
    }
}

fn ends(heard: &Heard) -> Result<(String, String), String> {
    let from = heard.message.from_header().map_err(|error| complaint("From", &error))?;
    let to = heard.message.to_header().map_err(|error| complaint("To", &error))?;
    Ok((from.value().to_owned(), to.value().to_owned()))
}

fn remote_target(heard: &Heard) -> Result<Uri, String> {
    let contact = heard.message.contact_header().and_then(|contact| contact.typed());
    contact.map(|contact| contact.uri).map_err(|error| complaint("Contact", &error))
}

fn record_routes(heard: &Heard) -> Result<Vec<UriWithParams>, String> {
    let mut routes = Vec::new();
    for header in heard.message.headers().iter() {
        if let Header::RecordRoute(route) = header {
            routes.extend_from_slice(route.typed().map_err(|error| complaint("Record-Route", &error))?.uris());
        }
    }
    Ok(routes)
}

/// The first INVITE of a call.
#[derive(Debug, Clone)]
pub struct Invitation {
    /// Where it is sent, and the host of its Request-URI.
    pub target: SocketAddr,
    /// The user dialled.
    pub user: String,
    /// The user in From.
    pub caller: String,
    /// Further headers, written as they are.
    pub headers: Vec<(String, String)>,
    /// The offer.
    pub sdp: String,
}

impl Invitation {
    /// The request, from a party at `address`, under this Call-ID and local tag.
    pub fn request(&self, address: SocketAddr, call_id: &str, tag: &str) -> Request {
        let from = typed::From { display_name: None, uri: uri(Some(&self.caller), address), params: Vec::new() };
        let to = uri(Some(&self.user), self.target);
        let mut headers: Headers = vec![
            via(address),
            rsip::headers::MaxForwards::default().into(),
            from.with_tag(tag.into()).into(),
            typed::To { display_name: None, uri: to.clone(), params: Vec::new() }.into(),
            rsip::headers::CallId::new(call_id).into(),
            typed::CSeq { seq: 1, method: Method::Invite }.into(),
            typed::Contact::from(own_uri(address)).into(),
            allow(),
        ]
        .into();
        headers.extend(self.headers.iter().map(|(name, value)| Header::Other(name.clone(), value.clone())).collect());
        headers.extend(sdp_headers(&self.sdp));
        Request { method: Method::Invite, uri: to, version: Version::V2, headers, body: self.sdp.clone().into() }
    }
}

/// The CANCEL of `invite`, or the ACK of its refusal: the same branch, the same number (RFC 3261 sections 9.1, 17.1.1.3).
/// `to` is the To of the refusal.
pub fn beside(invite: &Request, method: Method, to: Option<Header>) -> Request {
    let kept = |header: &&Header| match header {
        Header::Via(_) | Header::From(_) | Header::CallId(_) | Header::MaxForwards(_) | Header::Route(_) => true,
        Header::To(_) => to.is_none(),
        _ => false,
    };
    let mut headers: Headers = invite.headers.iter().filter(kept).cloned().collect::<Vec<_>>().into();
    headers.extend(to.into_iter().collect());
    let seq = invite.cseq_header().and_then(|cseq| cseq.typed()).map_or(1, |cseq| cseq.seq);
    headers.push(typed::CSeq { seq, method }.into());
    headers.push(rsip::headers::ContentLength::from(0).into());
    Request { method, uri: invite.uri.clone(), version: Version::V2, headers, body: Vec::new() }
}

/// The response to `request`, and where it goes; `tag` is put on a To that has none, `sdp` may be empty.
pub fn response(request: &Heard, address: SocketAddr, status: u16, tag: &str, sdp: &str) -> (Response, SocketAddr) {
    let mut headers = Headers::default();
    for header in request.message.headers().iter() {
        match header {
            Header::Via(via) if headers.is_empty() => headers.push(seen_from(via.value(), request.source)),
            Header::To(to) if request.to_tag.is_none() && status > 100 => {
                headers.push(rsip::headers::To::new(format!("{};tag={tag}", to.value())).into());
            }
            Header::Via(_) | Header::From(_) | Header::To(_) | Header::CallId(_) | Header::CSeq(_) => {
                headers.push(header.clone());
            }
            Header::RecordRoute(_) if (101..300).contains(&status) => headers.push(header.clone()),
            _ => {}
        }
    }
    if (101..300).contains(&status) {
        headers.push(typed::Contact::from(own_uri(address)).into());
        headers.push(allow());
    }
    headers.extend(sdp_headers(sdp));
    let status_code = StatusCode::Other(status, phrase(status).to_owned());
    (Response { status_code, version: Version::V2, headers, body: sdp.into() }, request.response_address())
}

/// Fills a bare `rport` of the top Via in (RFC 3581).
fn seen_from(via: &str, source: SocketAddr) -> Header {
    let filled = format!(";received={};rport={}", source.ip(), source.port());
    let value = match via.find(";rport") {
        Some(at) if !via[at + 6..].starts_with('=') => format!("{}{filled}{}", &via[..at], &via[at + 6..]),
        _ => via.to_owned(),
    };
    rsip::headers::Via::new(value).into()
}

fn sdp_headers(sdp: &str) -> Vec<Header> {
    let length = rsip::headers::ContentLength::from(sdp.len() as u32).into();
    if sdp.is_empty() {
        return vec![length];
    }
    vec![rsip::headers::ContentType::new("application/sdp").into(), length]
}

fn via(address: SocketAddr) -> Header {
    let branch = Param::Branch(format!("z9hG4bK{}", token()).into());
    let params = vec![branch, Param::Other(OtherParam::new("rport"), None)];
    typed::Via { version: Version::V2, transport: Transport::Udp, uri: bare(address), params }.into()
}

fn allow() -> Header {
    rsip::headers::Allow::new("INVITE, ACK, CANCEL, BYE, OPTIONS, REFER, NOTIFY, INFO, UPDATE").into()
}

fn own_uri(address: SocketAddr) -> Uri {
    uri(None, address)
}

fn uri(user: Option<&str>, address: SocketAddr) -> Uri {
    Uri {
        scheme: Some(Scheme::Sip),
        auth: user.map(|user| (user, None::<&str>).into()),
        host_with_port: address.into(),
        ..Uri::default()
    }
}

fn bare(address: SocketAddr) -> Uri {
    Uri { host_with_port: address.into(), ..Uri::default() }
}

/// 64 random bits for a tag, a branch or a Call-ID.
pub fn token() -> String {
    format!("{:016x}", rand::random::<u64>())
}

/// True if rsip can write this address into a URI.
pub fn can_write(address: IpAddr) -> bool {
    address.is_ipv4()
}

fn phrase(status: u16) -> &'static str {
    match status {
        100 => "Trying",
        180 => "Ringing",
        183 => "Session Progress",
        200 => "OK",
        202 => "Accepted",
        302 => "Moved Temporarily",
        404 => "Not Found",
        408 => "Request Timeout",
        480 => "Temporarily Unavailable",
        481 => "Call/Transaction Does Not Exist",
        486 => "Busy Here",
        487 => "Request Terminated",
        488 => "Not Acceptable Here",
        500 => "Server Internal Error",
        503 => "Service Unavailable",
        603 => "Decline",
        _ => "Status",
    }
}
