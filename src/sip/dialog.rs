//! The dialog (RFC 3261 section 12): identity, sequence numbers, route set, and requests inside it.

use std::net::SocketAddr;

use super::hop::{Hop, Transport};
use super::message::{HeaderName, Message, Method};
use super::refer::{ReferTo, Replaces};
use super::value::{NameAddr, Uri, Via, literal_host};
use super::write::Writer;

/// Who we are on this network: what goes into Via and Contact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// What we are called where nothing says how we are reached; Via and Contact of every hop without a listener of
    /// its own.
    pub address: SocketAddr,
    /// Address and port of Via and Contact by transport, more than one of a transport where both IP families are
    /// spoken.
    pub listeners: Vec<(Transport, SocketAddr)>,
    /// User-Agent and Server.
    pub product: String,
}

impl Endpoint {
    /// Our address as the far side of this hop should know it: same transport, and same family where we have both.
    pub fn towards(&self, hop: &Hop) -> SocketAddr {
        let of = || self.listeners.iter().filter(|(transport, _)| *transport == hop.transport).map(|(_, own)| *own);
        let family = of().find(|own| own.is_ipv4() == hop.peer.is_ipv4());
        family.or_else(|| of().next()).unwrap_or(self.address)
    }

    /// Whether this hop can reach us in turn: over its transport, in its family of addresses.
    pub fn reaches(&self, hop: &Hop) -> bool {
        let same = |own: &SocketAddr| own.is_ipv4() == hop.peer.is_ipv4();
        self.listeners.iter().any(|(own, address)| *own == hop.transport && same(address))
    }

    /// Whether we are reachable over this transport at all.
    pub fn speaks(&self, transport: Transport) -> bool {
        self.listeners.iter().any(|(own, _)| *own == transport)
    }

    /// Whether this Via names an address of ours, as [`Self::via`] writes it.
    pub fn is_named_by(&self, via: &Via<'_>) -> bool {
        let named = literal_host(via.host).zip(via.port).map(|(host, port)| SocketAddr::new(host, port));
        let mut own = self.listeners.iter().map(|(_, own)| *own).chain([self.address]);
        named.is_some_and(|named| own.any(|own| own == named))
    }

    /// The Via value for a branch; asks for rport (RFC 3581). Over TLS the far side, whose certificate we have seen and
    /// who has seen ours, may send us requests over the same connection (RFC 5923).
    pub fn via(&self, hop: &Hop, branch: &str) -> String {
        let heard = hop.transport == Transport::Tls && self.speaks(Transport::Tls);
        let alias = if heard { ";alias" } else { "" };
        format!("SIP/2.0/{} {};branch={branch};rport{alias}", hop.transport.as_str(), self.towards(hop))
    }

    /// The Contact value.
    pub fn contact(&self, hop: &Hop) -> String {
        let transport = match hop.transport {
            Transport::Udp => "",
            Transport::Tcp => ";transport=tcp",
            Transport::Tls => ";transport=tls",
        };
        format!("<sip:switchback@{}{transport}>", self.towards(hop))
    }
}

/// A confirmed or early dialog, seen from our side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dialog {
    /// Call-ID.
    pub call_id: String,
    /// Our tag.
    pub local_tag: String,
    /// The far tag; empty for an RFC 2543 peer.
    pub remote_tag: String,
    /// Our From when we send: name-addr without tag.
    local: String,
    /// Our To when we send: name-addr without tag.
    remote: String,
    /// Sequence number of our last request.
    pub local_cseq: u32,
    /// Highest sequence number seen from the far side.
    remote_cseq: Option<u32>,
    remote_target: String,
    route_set: Vec<String>,
    /// Where the far side's messages came from; used where a URI names no address, or one behind a NAT.
    source: Hop,
    behind_nat: bool,
    /// Whether requests to the host that the far side's messages came from go over the connection they came on.
    reuses: bool,
}

impl Dialog {
    /// The dialog that our answer with `local_tag` to this INVITE makes (RFC 3261 section 12.1.1).
    pub fn as_uas(invite: &Message, local_tag: &str, source: Hop) -> Option<Self> {
        let (from, to) = (invite.header(HeaderName::From)?, invite.header(HeaderName::To)?);
        Some(Self {
            call_id: invite.call_id()?.to_owned(),
            local_tag: local_tag.to_owned(),
            remote_tag: invite.from_tag().to_owned(),
            local: without_tag(to),
            remote: without_tag(from),
            local_cseq: 0,
            remote_cseq: Some(invite.cseq()?.number),
            // RFC 2543 knew INVITEs without a Contact; their From is where they can be reached, if anything is.
            remote_target: invite.contact().or(invite.from())?.uri.text.to_owned(),
            route_set: invite.list(HeaderName::RecordRoute).map(str::to_owned).collect(),
            source,
            behind_nat: literal_host(invite.via()?.host).is_some_and(|host| host != source.ip()),
            // A client's Contact often names a port that it does not listen on. With a proxy in between that records
            // no route, the connection is the proxy's and not ours to reuse.
            reuses: source.transport.is_reliable()
                && (invite.header(HeaderName::RecordRoute).is_some() || invite.list(HeaderName::Via).count() == 1),
        })
    }

    /// The dialog that this response to our INVITE makes (RFC 3261 section 12.1.2).
    pub fn as_uac(invite: &Message, response: &Message, source: Hop) -> Option<Self> {
        let mut route_set: Vec<String> = response.list(HeaderName::RecordRoute).map(str::to_owned).collect();
        route_set.reverse();
        let target = response.contact().map_or(invite.request_uri(), |contact| contact.uri.text);
        Some(Self {
            call_id: invite.call_id()?.to_owned(),
            local_tag: invite.from_tag().to_owned(),
            remote_tag: response.to_tag().unwrap_or("").to_owned(),
            local: without_tag(invite.header(HeaderName::From)?),
            remote: without_tag(response.header(HeaderName::To)?),
            local_cseq: invite.cseq()?.number,
            remote_cseq: None,
            remote_target: target.to_owned(),
            route_set,
            source,
            behind_nat: false,
            reuses: false,
        })
    }

    /// Goes on counting where the early dialog of the same tags stopped.
    pub fn continue_from(&mut self, early: &Self) {
        self.local_cseq = self.local_cseq.max(early.local_cseq);
        self.remote_cseq = self.remote_cseq.max(early.remote_cseq);
    }

    /// The dialog of another branch of the same forked INVITE, as its 2xx makes it.
    pub fn forked(&self, response: &Message) -> Self {
        let mut route_set: Vec<String> = response.list(HeaderName::RecordRoute).map(str::to_owned).collect();
        route_set.reverse();
        Self {
            remote_tag: response.to_tag().unwrap_or("").to_owned(),
            local_cseq: response.cseq().map_or(1, |cseq| cseq.number),
            remote_cseq: None,
            remote_target: response.contact().map_or(self.remote_target.clone(), |c| c.uri.text.to_owned()),
            route_set,
            ..self.clone()
        }
    }

    /// Whether the message's tags are this dialog's, seen as a request of the far side.
    pub fn matches_request(&self, request: &Message) -> bool {
        request.call_id() == Some(&self.call_id)
            && request.to_tag() == Some(&self.local_tag)
            && request.from_tag() == self.remote_tag
    }

    /// Whether a Replaces header means this dialog (RFC 3891 section 3).
    pub fn is_meant_by(&self, replaces: &Replaces) -> bool {
        let far = replaces.from_tag == self.remote_tag || (replaces.from_tag == "0" && self.remote_tag.is_empty());
        replaces.call_id == self.call_id && replaces.to_tag == self.local_tag && far
    }

    /// The far side's URI, without headers, and the Replaces by which it knows this dialog; `None` where there is no
    /// such URI.
    pub fn place(&self) -> Option<(String, Replaces)> {
        let far_tag = if self.remote_tag.is_empty() { "0" } else { &self.remote_tag };
        let replaces = Replaces {
            call_id: self.call_id.clone(),
            to_tag: far_tag.to_owned(),
            from_tag: self.local_tag.clone(),
            early_only: false,
        };
        Some((ReferTo::new(&self.remote_target)?.uri().to_owned(), replaces))
    }

    /// Accepts the sequence number of a request of the far side; false when it is out of order (RFC 3261 section
    /// 12.2.2) and 500 is due.
    pub fn accept_cseq(&mut self, request: &Message) -> bool {
        let Some(number) = request.cseq().map(|cseq| cseq.number) else { return false };
        if self.remote_cseq.is_some_and(|last| number <= last) {
            return false;
        }
        self.remote_cseq = Some(number);
        true
    }

    /// A target refresh (RFC 3261 section 12.2.1.2).
    pub fn refresh_target(&mut self, message: &Message) {
        if let Some(contact) = message.contact() {
            self.remote_target = contact.uri.text.to_owned();
        }
    }

    /// The Request-URI of requests inside the dialog.
    pub fn request_target(&self) -> &str {
        match self.first_route() {
            Some(uri) if uri.params.get("lr").is_none() => uri.text,
            _ => &self.remote_target,
        }
    }

    /// Begins a request inside the dialog: Request-URI, Via, Route, Max-Forwards, From, To, Call-ID, CSeq.
    pub fn request(&mut self, method: &Method, endpoint: &Endpoint, branch: &str) -> Writer {
        self.local_cseq += 1;
        self.request_numbered(method, self.local_cseq, endpoint, branch)
    }

    /// The same with a sequence number of the past: ACK.
    pub fn request_numbered(&self, method: &Method, cseq: u32, endpoint: &Endpoint, branch: &str) -> Writer {
        let loose = self.first_route().is_none_or(|uri| uri.params.get("lr").is_some());
        let mut writer = Writer::request(method, self.request_target());
        writer.header(HeaderName::Via, &endpoint.via(&self.next_hop(), branch)).header(HeaderName::MaxForwards, "70");
        for route in self.route_set.iter().skip(usize::from(!loose)) {
            writer.header(HeaderName::Route, route);
        }
        if !loose {
            writer.header(HeaderName::Route, &format!("<{}>", self.remote_target));
        }
        writer
            .header(HeaderName::From, &with_tag(&self.local, &self.local_tag))
            .header(HeaderName::To, &with_tag(&self.remote, &self.remote_tag))
            .header(HeaderName::CallId, &self.call_id)
            .header(HeaderName::CSeq, &format!("{cseq} {method}"))
            .header(HeaderName::UserAgent, &endpoint.product);
        writer
    }

    fn first_route(&self) -> Option<Uri<'_>> {
        Some(NameAddr::read(self.route_set.first()?)?.uri)
    }

    /// Where requests inside the dialog go: the first route or the remote target, where that is an address; else
    /// where the far side's messages came from. A URI that names no transport means the one its messages came by.
    pub fn next_hop(&self) -> Hop {
        let uri = self.first_route().or_else(|| Uri::read(&self.remote_target).filter(|_| !self.behind_nat));
        let Some(hop) = uri.and_then(|uri| literal_hop(&uri, self.source.transport)) else { return self.source };
        let same_host = hop.transport == self.source.transport && hop.ip() == self.source.ip();
        match self.reuses && same_host {
            true => Hop { peer: self.source.peer, otherwise: Some(hop.peer), ..hop },
            false => hop,
        }
    }

    /// Who we are in this dialog: a name-addr.
    pub fn local(&self) -> &str {
        &self.local
    }

    /// Our Contact in this dialog: by the transport that the far side speaks.
    pub fn contact(&self, endpoint: &Endpoint) -> String {
        endpoint.contact(&self.source)
    }
}

/// The hop a URI names, if it names one without DNS.
pub fn literal_hop(uri: &Uri<'_>, unsaid: Transport) -> Option<Hop> {
    let transport = Transport::of_uri(uri).unwrap_or(unsaid);
    let host = literal_host(uri.params.get("maddr").unwrap_or(uri.host))?;
    Some(Hop::new(transport, SocketAddr::new(host, uri.port.unwrap_or(transport.default_port()))))
}

fn with_tag(name_addr: &str, tag: &str) -> String {
    if tag.is_empty() { name_addr.to_owned() } else { format!("{name_addr};tag={tag}") }
}

/// The name-addr without its tag parameter, ready to carry one.
fn without_tag(value: &str) -> String {
    let Some(read) = NameAddr::read(value) else { return value.to_owned() };
    let mut out = if read.display.is_empty() { String::new() } else { format!("{} ", read.display) };
    out.push_str(&format!("<{}>", read.uri.text));
    for (name, param) in read.params.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("tag")) {
        out.push(';');
        out.push_str(name);
        if let Some(param) = param {
            out.push('=');
            out.push_str(param);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn udp(address: &str) -> Hop {
        Hop::new(Transport::Udp, address.parse().unwrap())
    }

    fn dialog(record_route: &str) -> Dialog {
        let text = format!(
            "INVITE sip:u@h SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKa\r\nFrom: \"A\" <sip:a@b>;x=1;tag=ft\r\n\
             To: sip:u@h;y\r\nCall-ID: c\r\nCSeq: 5 INVITE\r\nContact: <sip:a@192.0.2.1:5080>\r\n{record_route}\r\n"
        );
        let invite = Message::read(Bytes::from(text)).unwrap();
        Dialog::as_uas(&invite, "lt", udp("192.0.2.1:5060")).unwrap()
    }

    fn bye(dialog: &mut Dialog) -> Message {
        let endpoint =
            Endpoint { address: "198.51.100.1:5060".parse().unwrap(), listeners: Vec::new(), product: "p".into() };
        Message::read(dialog.request(&Method::Bye, &endpoint, "z9hG4bKx").finish()).unwrap()
    }

    #[test]
    fn loose_routes_stay_in_order_and_carry_the_request() {
        let mut dialog = dialog("Record-Route: <sip:192.0.2.9:5062;lr>, <sip:p2.example.com;lr>\r\n");
        let bye = bye(&mut dialog);
        assert_eq!(bye.request_uri(), "sip:a@192.0.2.1:5080");
        assert_eq!(
            bye.list(HeaderName::Route).collect::<Vec<_>>(),
            ["<sip:192.0.2.9:5062;lr>", "<sip:p2.example.com;lr>"]
        );
        assert_eq!(dialog.next_hop(), udp("192.0.2.9:5062"));
        assert_eq!(bye.header(HeaderName::To), Some("\"A\" <sip:a@b>;x=1;tag=ft"));
        assert_eq!(bye.header(HeaderName::From), Some("<sip:u@h>;y;tag=lt"));
        assert_eq!(bye.header(HeaderName::CSeq), Some("1 BYE"));
    }

    #[test]
    fn a_strict_router_becomes_the_request_uri() {
        let mut dialog = dialog("Record-Route: <sip:192.0.2.9>\r\n");
        let bye = bye(&mut dialog);
        assert_eq!(bye.request_uri(), "sip:192.0.2.9");
        assert_eq!(bye.list(HeaderName::Route).collect::<Vec<_>>(), ["<sip:a@192.0.2.1:5080>"]);
    }

    #[test]
    fn behind_a_nat_the_source_is_where_requests_go() {
        let text = "INVITE sip:u@h SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.9;branch=z9hG4bKa\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:u@h>\r\n\
                    Call-ID: c\r\nCSeq: 5 INVITE\r\nContact: <sip:a@10.0.0.9>\r\n\r\n";
        let invite = Message::read(Bytes::from(text)).unwrap();
        let source = udp("203.0.113.5:40000");
        assert_eq!(Dialog::as_uas(&invite, "lt", source).unwrap().next_hop(), source);
    }

    fn from_stream(contact: &str, more: &str, source: Hop) -> Dialog {
        let text = format!(
            "INVITE sip:u@h SIP/2.0\r\nVia: SIP/2.0/TCP 192.0.2.1:5080;branch=z9hG4bKa\r\n{more}From: <sip:a@b>;tag=1\r\n\
             To: <sip:u@h>\r\nCall-ID: c\r\nCSeq: 5 INVITE\r\nContact: <{contact}>\r\n\r\n"
        );
        Dialog::as_uas(&Message::read(Bytes::from(text)).unwrap(), "lt", source).unwrap()
    }

    #[test]
    fn a_connection_is_used_again_for_requests_to_its_own_host() {
        let source = Hop::new(Transport::Tcp, "192.0.2.1:33333".parse().unwrap());
        let contact: SocketAddr = "192.0.2.1:5080".parse().unwrap();
        let reused = Hop { otherwise: Some(contact), ..source };
        for target in ["sip:a@192.0.2.1:5080;transport=TCP", "sip:a@192.0.2.1:5080"] {
            assert_eq!(from_stream(target, "", source).next_hop(), reused, "{target}");
        }
        let proxied = "Via: SIP/2.0/TCP 10.0.0.1;branch=z9hG4bKb\r\n";
        let direct = Hop::new(Transport::Tcp, contact);
        assert_eq!(from_stream("sip:a@192.0.2.1:5080", proxied, source).next_hop(), direct, "it may be a proxy's");
        assert_eq!(from_stream("sip:a@example.com", "", source).next_hop(), source, "no address but the connection's");
    }

    #[test]
    fn a_target_names_its_transport() {
        let source = Hop::new(Transport::Tcp, "192.0.2.1:33333".parse().unwrap());
        let hop = |transport, address: &str| Hop::new(transport, address.parse().unwrap());
        for (target, wanted) in [
            ("sips:a@192.0.2.7", hop(Transport::Tls, "192.0.2.7:5061")),
            ("sip:a@192.0.2.7;transport=tls", hop(Transport::Tls, "192.0.2.7:5061")),
            ("sip:a@192.0.2.7;transport=Udp", hop(Transport::Udp, "192.0.2.7:5060")),
            ("sip:a@[2001:db8::7]:5070", hop(Transport::Tcp, "[2001:db8::7]:5070")),
            ("sip:a@192.0.2.7;transport=ws", hop(Transport::Tcp, "192.0.2.7:5060")),
        ] {
            assert_eq!(from_stream(target, "", source).next_hop(), wanted, "{target}");
        }
    }

    #[test]
    fn via_and_contact_follow_transport_and_family() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let endpoint = Endpoint {
            address: address("198.51.100.1:5060"),
            listeners: vec![
                (Transport::Udp, address("198.51.100.1:5060")),
                (Transport::Tcp, address("198.51.100.1:5070")),
                (Transport::Tcp, address("[2001:db8::1]:5070")),
                (Transport::Tls, address("198.51.100.1:5061")),
            ],
            product: "p".into(),
        };
        let v6 = Hop::new(Transport::Tcp, address("[2001:db8::9]:1"));
        assert_eq!(endpoint.via(&v6, "b"), "SIP/2.0/TCP [2001:db8::1]:5070;branch=b;rport");
        assert_eq!(endpoint.contact(&v6), "<sip:switchback@[2001:db8::1]:5070;transport=tcp>");
        let secure = Hop::new(Transport::Tls, address("192.0.2.9:1"));
        assert_eq!(endpoint.via(&secure, "b"), "SIP/2.0/TLS 198.51.100.1:5061;branch=b;rport;alias");
        let v4 = Hop::new(Transport::Tcp, address("192.0.2.9:1"));
        assert_eq!(endpoint.contact(&v4), "<sip:switchback@198.51.100.1:5070;transport=tcp>");
        assert_eq!(endpoint.contact(&udp("192.0.2.9:1")), "<sip:switchback@198.51.100.1:5060>");
    }
}
