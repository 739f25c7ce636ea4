//! Scripted SIP parties: what they say is plain text, what they hear is in their mail.

use std::net::SocketAddr;
use std::time::Duration;

use crate::engine::CORE;
use crate::text::{self, Sip};
use crate::world::Shared;

/// An address on the network that a script speaks for.
pub struct Party {
    pub address: SocketAddr,
    name: &'static str,
    stage: Shared,
}

/// One dialog, from this party's side.
pub struct Line {
    pub call_id: String,
    /// Where this party listens for audio.
    pub rtp: SocketAddr,
    /// The audio port that the core named last.
    pub told: Option<u16>,
    /// The INVITE of this dialog, ours or theirs.
    pub invite: Sip,
    /// From of our requests.
    local: String,
    /// To of our requests.
    remote: String,
    target: String,
    cseq: u32,
    tag: String,
    address: SocketAddr,
    stage: Shared,
}

/// An INVITE in the making.
pub struct Draft<'a> {
    party: &'a Party,
    headers: Vec<(String, String)>,
    user: String,
    from: String,
    body: Option<String>,
}

impl Party {
    pub fn new(stage: Shared, address: SocketAddr, name: &'static str) -> Self {
        Self { address, name, stage }
    }

    /// Calls with everything as usual.
    pub fn invite(&self) -> Line {
        self.call().invite()
    }

    pub fn call(&self) -> Draft<'_> {
        Draft { party: self, headers: Vec::new(), user: "7000".to_owned(), from: "+15557654321".to_owned(), body: None }
    }

    /// The INVITE of a new dialog.
    pub fn expect_invite(&self) -> Line {
        self.expect_request("INVITE")
    }

    /// The next request outside a dialog.
    pub fn expect_request(&self, word: &str) -> Line {
        let mut stage = self.stage.borrow_mut();
        let call_id = stage.wait(&format!("{word} to the {}", self.name), |stage| stage.fresh(self.address));
        let invite = stage.letters(self.address, &call_id).pop_front().expect("fresh mail");
        if !invite.is(word) {
            stage.fail(&format!("the {} wanted {word} and got {}", self.name, invite.word()));
        }
        stage.serial += 1;
        let tag = format!("{}-{}", self.name, stage.serial);
        Line {
            local: format!("{};tag={tag}", invite.header("To")),
            remote: invite.header("From").to_owned(),
            target: invite.contact().to_owned(),
            cseq: 100,
            rtp: SocketAddr::new(self.address.ip(), 30_000 + 2 * stage.serial as u16),
            told: invite.audio_port(),
            call_id,
            tag,
            address: self.address,
            stage: self.stage.clone(),
            invite,
        }
    }

    pub fn expect_nothing_for(&self, time: Duration) {
        let mut stage = self.stage.borrow_mut();
        let before = stage.delivered.len();
        stage.run_for(time);
        let came = stage.delivered[before..].iter().find(|(_, to, _)| *to == self.address).map(|(.., sip)| sip.word());
        if let Some(word) = came {
            stage.fail(&format!("the {} wanted nothing and got {word}", self.name));
        }
    }

    /// Octets as they are.
    pub fn send_raw(&self, octets: impl Into<Vec<u8>>) {
        self.stage.borrow_mut().engine.send(self.address, octets.into());
    }

    /// A request outside every dialog.
    pub fn request(&self, method: &str) -> Line {
        self.call().request(method)
    }
}

impl Draft<'_> {
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    #[must_use]
    pub fn calling_as(mut self, user: &str) -> Self {
        self.from = user.to_owned();
        self
    }

    #[must_use]
    pub fn dialling(mut self, user: &str) -> Self {
        self.user = user.to_owned();
        self
    }

    #[must_use]
    pub fn offering(mut self, sdp: impl Into<String>) -> Self {
        self.body = Some(sdp.into());
        self
    }

    /// No session description: a delayed offer.
    #[must_use]
    pub fn without_offer(self) -> Self {
        self.offering("")
    }

    pub fn invite(self) -> Line {
        let line = self.line();
        line.send(&line.invite);
        line
    }

    /// Another request with these headers, and no description.
    pub fn request(self, method: &str) -> Line {
        let mut line = self.line();
        let request = Sip { start: line.invite.start.replace("INVITE", method), ..line.invite.clone() };
        let kept = request.headers.into_iter().filter(|(name, _)| name != "Content-Type" && name != "Content-Length");
        let headers = kept.map(|(name, value)| match name.as_str() {
            "CSeq" => (name, value.replace(" INVITE", &format!(" {method}"))),
            _ => (name, value),
        });
        line.invite = Sip { headers: headers.collect(), body: String::new(), ..request };
        line.send(&line.invite.clone());
        line
    }

    fn line(self) -> Line {
        let (name, address) = (self.party.name, self.party.address);
        let mut stage = self.party.stage.borrow_mut();
        stage.serial += 1;
        let serial = stage.serial;
        let call_id = format!("{serial}@{name}");
        stage.own(address, &call_id);
        let rtp = SocketAddr::new(address.ip(), 40_000 + 2 * serial as u16);
        let tag = format!("{name}-{serial}");
        let (local, remote) =
            (format!("\"A Customer\" <sip:{}@{address}>;tag={tag}", self.from), format!("<sip:{}@{CORE}>", self.user));
        let target = format!("sip:{}@{CORE}", self.user);
        let transport = stage.engine.transport(address).as_str();
        let mut invite = Sip::request("INVITE", &target)
            .with("Via", format!("SIP/2.0/{transport} {address};branch=z9hG4bK-{name}-{serial};rport"))
            .with("Max-Forwards", "70")
            .with("From", &local)
            .with("To", &remote)
            .with("Call-ID", &call_id)
            .with("CSeq", "1 INVITE")
            .with("Contact", format!("<sip:{name}@{address}>"));
        let own_hops = self.headers.iter().any(|(name, _)| name == "Max-Forwards");
        invite.headers.retain(|(name, _)| !(own_hops && name == "Max-Forwards"));
        invite.headers.extend(self.headers);
        let invite = invite.with_sdp(self.body.unwrap_or_else(|| text::sdp(&rtp.ip().to_string(), rtp.port())));
        let stage = self.party.stage.clone();
        Line { call_id, rtp, told: None, invite, local, remote, target, cseq: 1, tag, address, stage }
    }
}

impl Line {
    pub fn send(&self, sip: &Sip) {
        self.stage.borrow_mut().engine.send(self.address, sip.octets());
    }

    /// Our session description.
    pub fn sdp(&self) -> String {
        text::sdp(&self.rtp.ip().to_string(), self.rtp.port())
    }

    // --- hearing ---

    /// The next message must be this one: `180`, `200`, `BYE`, `200 BYE`. A 100 may come before it unasked.
    pub fn expect(&mut self, word: &str) -> Sip {
        let mut stage = self.stage.borrow_mut();
        let sip = stage.wait(&format!("{word} at {}", self.call_id), |stage| {
            loop {
                match stage.letters(self.address, &self.call_id).pop_front() {
                    Some(sip) if sip.word() == "100" && word != "100" => {}
                    other => return other,
                }
            }
        });
        if sip.word() != word {
            stage.fail(&format!("{} wanted {word} and got {}", self.call_id, sip.word()));
        }
        drop(stage);
        self.told = sip.audio_port().or(self.told);
        if !sip.tag("To").is_empty() && sip.status().is_some() && matches!(sip.method(), "INVITE" | "REFER") {
            self.remote = sip.header("To").to_owned();
            if sip.has("Contact") {
                self.target = sip.contact().to_owned();
            }
        }
        sip
    }

    /// The next message, whatever it is.
    pub fn expect_any(&mut self) -> Sip {
        let mut stage = self.stage.borrow_mut();
        stage.wait("anything at all", |stage| stage.letters(self.address, &self.call_id).pop_front())
    }

    /// The next message, if one is there.
    pub fn heard(&mut self) -> Option<Sip> {
        self.stage.borrow_mut().letters(self.address, &self.call_id).pop_front()
    }

    pub fn expect_nothing_for(&mut self, time: Duration) {
        let mut stage = self.stage.borrow_mut();
        stage.run_for(time);
        if let Some(sip) = stage.letters(self.address, &self.call_id).pop_front() {
            stage.fail(&format!("{} wanted nothing and got {}", self.call_id, sip.word()));
        }
    }

    /// Reads everything there is and answers requests with 200; what was read, in words.
    pub fn answer_all(&mut self) -> Vec<String> {
        let mail: Vec<Sip> = self.stage.borrow_mut().letters(self.address, &self.call_id).drain(..).collect();
        mail.iter().filter(|sip| sip.status().is_none()).for_each(|sip| self.reply(sip, 200));
        mail.iter().map(Sip::word).collect()
    }

    // --- saying, as the one who was called ---

    pub fn reply(&self, request: &Sip, status: u16) {
        self.send(&self.response(request, status));
    }

    pub fn response(&self, request: &Sip, status: u16) -> Sip {
        let response = Sip::response(request, status, &self.tag);
        let dialog = request.is("INVITE") && (101..300).contains(&status);
        if dialog { response.with("Contact", format!("<sip:gw@{}>", self.address)) } else { response }
    }

    /// The same from another branch of a fork.
    pub fn forked(&self, status: u16, branch: &str) -> Sip {
        let mut response = self.response(&self.invite, status);
        response.headers.iter_mut().filter(|(name, _)| name == "To").for_each(|(_, to)| *to += branch);
        response
    }

    /// Expects our INVITE to come once more, and answers that one from now on.
    pub fn expect_invite_again(&mut self) -> Sip {
        self.invite = self.expect("INVITE");
        self.invite.clone()
    }

    /// Answers the INVITE with this status and no description.
    pub fn respond(&self, status: u16) {
        self.reply(&self.invite, status);
    }

    pub fn respond_with(&self, status: u16, sdp: impl Into<String>) {
        self.send(&self.response(&self.invite, status).with_sdp(sdp));
    }

    /// Answers the INVITE with 200 and our description.
    pub fn answer(&self) {
        self.respond_with(200, self.sdp());
    }

    /// Expects this request and answers it with 200.
    pub fn expect_and_ok(&mut self, word: &str) -> Sip {
        let request = self.expect(word);
        self.reply(&request, 200);
        request
    }

    // --- saying, as the one who calls, or inside the dialog ---

    fn branch(&self) -> String {
        let mut stage = self.stage.borrow_mut();
        stage.serial += 1;
        let transport = stage.engine.transport(self.address).as_str();
        format!("SIP/2.0/{transport} {};branch=z9hG4bK-x-{};rport", self.address, stage.serial)
    }

    /// A request inside the dialog, not sent yet.
    pub fn request(&mut self, method: &str) -> Sip {
        self.cseq += 1;
        self.numbered(method, self.cseq)
    }

    fn numbered(&self, method: &str, cseq: u32) -> Sip {
        Sip::request(method, &self.target)
            .with("Via", self.branch())
            .with("Max-Forwards", "70")
            .with("From", &self.local)
            .with("To", &self.remote)
            .with("Call-ID", &self.call_id)
            .with("CSeq", format!("{cseq} {method}"))
    }

    /// The ACK for a 2xx of our INVITE.
    pub fn ack(&self) {
        self.send(&self.numbered("ACK", self.invite.cseq()));
    }

    /// The ACK for a 2xx that carried an offer.
    pub fn ack_with(&self, sdp: impl Into<String>) {
        self.send(&self.numbered("ACK", self.invite.cseq()).with_sdp(sdp));
    }

    /// Expects a final refusal of our INVITE and acknowledges it.
    pub fn expect_refusal(&mut self, status: u16) -> Sip {
        let refusal = self.expect(&status.to_string());
        let mut ack = self.hop_by_hop("ACK");
        ack.headers
            .iter_mut()
            .filter(|(name, _)| name == "To")
            .for_each(|(_, to)| *to = refusal.header("To").to_owned());
        self.send(&ack);
        refusal
    }

    pub fn cancel(&self) {
        self.send(&self.hop_by_hop("CANCEL"));
    }

    /// A request with the branch of our INVITE.
    pub fn hop_by_hop(&self, method: &str) -> Sip {
        let copied = ["Via", "Max-Forwards", "From", "To", "Call-ID"];
        let headers = self.invite.headers.iter().filter(|(name, _)| copied.contains(&name.as_str())).cloned();
        let request = Sip { headers: headers.collect(), ..Sip::request(method, self.invite.uri()) };
        request.with("CSeq", format!("{} {method}", self.invite.cseq()))
    }

    /// Says goodbye and returns what was said, to be said again.
    pub fn bye(&mut self) -> Sip {
        let bye = self.request("BYE");
        self.send(&bye);
        bye
    }

    /// A new offer inside the dialog.
    pub fn reinvite(&mut self, sdp: impl Into<String>) -> Sip {
        let contact = format!("<sip:again@{}>", self.address);
        let invite = self.request("INVITE").with("Contact", contact).with_sdp(sdp);
        self.invite = invite.clone();
        self.send(&invite);
        invite
    }

    /// A re-INVITE or an UPDATE, with this description where there is one.
    pub fn offer(&mut self, method: &str, sdp: impl Into<String>) -> Sip {
        let contact = format!("<sip:again@{}>", self.address);
        let request = self.request(method).with("Contact", contact).with_sdp(sdp);
        if method == "INVITE" {
            self.invite = request.clone();
        }
        self.send(&request);
        request
    }

    /// This party's tag and the core's.
    pub fn tags(&self) -> [String; 2] {
        let tag = |value: &str| value.split(";tag=").nth(1).unwrap_or("").to_owned();
        [tag(&self.local), tag(&self.remote)]
    }

    /// From of our requests, our tag included.
    pub fn local(&self) -> &str {
        &self.local
    }
}
