//! A mock of the customer's IVR: it calls Switchback, lets the customer speak, and gets the call back.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::complaint::Complaint;
use super::message::{Heard, Invitation};
use super::party::{Call, CallEvent, Party};
use super::rtp::{Line, Recording};
use super::sdp;
use super::tap::Tap;
use super::voice::Voice;
use crate::clock;

/// How long the socket outlives a call, for a far side that did not hear our last answer.
const LINGER: Duration = Duration::from_secs(5);

/// One call to place.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the IVR sends SIP from; port 0 for one of its own. Its RTP uses the same IP address, which goes into the
    /// SDP and must be a concrete one. IPv4.
    pub bind: SocketAddr,
    /// Switchback.
    pub target: SocketAddr,
    /// The user dialled.
    pub user: String,
    /// The caller's number, in From.
    pub caller: String,
    /// Further headers of the INVITE.
    pub headers: Vec<(String, String)>,
    /// Whether the customer speaks.
    pub speak: bool,
    /// The customer hangs up this long after the answer; `None`: waits for the far side.
    pub hang_up_after: Option<Duration>,
    /// The IVR cancels this long after the INVITE, unless the call was answered.
    pub cancel_after: Option<Duration>,
    /// Sees every datagram.
    pub tap: Tap,
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndedBy {
    /// The IVR, by BYE.
    Ivr,
    /// Switchback, by BYE.
    Switchback,
    /// Switchback refused the call; see the status.
    Refusal,
    /// The IVR, by CANCEL.
    Cancel,
    /// Nobody answered any more.
    Silence,
}

/// What the IVR saw and the customer heard.
#[derive(Debug, Clone)]
pub struct CallReport {
    /// SIP's Call-ID.
    pub call_id: String,
    /// The final status of the INVITE; 408 if there was none.
    pub status: u16,
    /// When the INVITE was sent.
    pub started: Instant,
    /// From the INVITE to the first 180 or 183.
    pub to_ringing: Option<Duration>,
    /// From the INVITE to the 2xx.
    pub to_answer: Option<Duration>,
    /// From the INVITE to the end.
    pub length: Duration,
    /// Who ended it.
    pub ended_by: EndedBy,
    /// The headers of the final response to the INVITE.
    pub final_headers: Vec<(String, String)>,
    /// The headers of the BYE received, if one was.
    pub bye_headers: Vec<(String, String)>,
    /// The Refer-To of a REFER received. It is accepted and reported as successful; nobody is called.
    pub referred_to: Option<String>,
    /// What the customer heard.
    pub heard: Recording,
    /// What rsip could not accept.
    pub complaints: Vec<Complaint>,
}

impl CallReport {
    /// The values of one header of the BYE, in order; names are compared without case.
    pub fn bye(&self, name: &str) -> Vec<&str> {
        values(&self.bye_headers, name)
    }
}

fn values<'a>(headers: &'a [(String, String)], name: &str) -> Vec<&'a str> {
    headers.iter().filter(|(is, _)| is.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str()).collect()
}

/// The IVR.
pub struct MockIvr;

impl MockIvr {
    /// Places a call and sees it through to its end. Ends with the far side's BYE unless told to hang up.
    pub async fn call(settings: Settings) -> io::Result<CallReport> {
        let party = Party::start(settings.bind, settings.tap.clone()).await?;
        let line = Line::open(settings.bind.ip(), settings.tap.clone()).await?;
        let sdp = sdp::describe(line.address());
        let call = party.call(&Invitation {
            target: settings.target,
            user: settings.user.clone(),
            caller: settings.caller.clone(),
            headers: settings.headers.clone(),
            sdp: sdp.clone(),
        });
        let report = CallReport {
            call_id: call.call_id().to_owned(),
            status: 408,
            started: clock::now(),
            to_ringing: None,
            to_answer: None,
            length: Duration::ZERO,
            ended_by: EndedBy::Silence,
            final_headers: Vec::new(),
            bye_headers: Vec::new(),
            referred_to: None,
            heard: Recording::default(),
            complaints: Vec::new(),
        };
        let mut visit = Visit { settings: &settings, call, line, sdp, report };
        visit.report.ended_by = match visit.setup().await {
            Some(ended_by) => ended_by,
            None => visit.talk().await,
        };
        visit.line.close();
        let Visit { line, mut report, .. } = visit;
        report.length = clock::now() - report.started;
        report.heard = line.recording();
        report.complaints = party.complaints().list();
        if settings.bind.port() == 0 {
            party.linger(LINGER);
        }
        Ok(report)
    }
}

/// One call on its way.
struct Visit<'a> {
    settings: &'a Settings,
    call: Call,
    line: Line,
    sdp: String,
    report: CallReport,
}

impl Visit<'_> {
    /// From the INVITE to its final response; `None` once answered.
    async fn setup(&mut self) -> Option<EndedBy> {
        let mut cancel = self.settings.cancel_after;
        loop {
            let event = tokio::select! {
                event = self.call.next() => event,
                () = after(self.report.started, cancel) => {
                    cancel = None;
                    self.call.cancel();
                    continue;
                }
            };
            match event {
                CallEvent::Progressed(response) => self.progressed(&response),
                CallEvent::Answered(response) => {
                    self.answered(&response);
                    if self.settings.cancel_after.is_some() && cancel.is_none() {
                        // The answer crossed our CANCEL.
                        return Some(self.hang_up(EndedBy::Cancel).await);
                    }
                    return None;
                }
                CallEvent::Refused(response) => {
                    self.report.status = response.status().unwrap_or_default();
                    self.report.final_headers = response.headers();
                    let cancelled = self.report.status == 487 && cancel.is_none();
                    return Some(if cancelled { EndedBy::Cancel } else { EndedBy::Refusal });
                }
                CallEvent::Unanswered => return Some(EndedBy::Silence),
                _ => {}
            }
        }
    }

    fn progressed(&mut self, response: &Heard) {
        if matches!(response.status(), Some(180..=183)) {
            self.report.to_ringing.get_or_insert(clock::now() - self.report.started);
        }
        self.speak_to(response.body());
    }

    fn answered(&mut self, response: &Heard) {
        self.report.status = response.status().unwrap_or_default();
        self.report.to_answer = Some(clock::now() - self.report.started);
        self.report.final_headers = response.headers();
        self.speak_to(response.body());
    }

    async fn talk(&mut self) -> EndedBy {
        let answered = clock::now();
        loop {
            let event = tokio::select! {
                event = self.call.next() => event,
                () = after(answered, self.settings.hang_up_after) => return self.hang_up(EndedBy::Ivr).await,
            };
            match event {
                CallEvent::HungUp(bye) => {
                    self.report.bye_headers = bye.headers();
                    return EndedBy::Switchback;
                }
                CallEvent::Reoffered(offer) => {
                    self.call.answer_offer(&offer, &self.sdp);
                    self.speak_to(offer.body());
                }
                CallEvent::Referred(refer) => {
                    self.report.referred_to = values(&refer.headers(), "Refer-To").first().map(|&to| to.to_owned());
                    self.call.notify("SIP/2.0 200 OK", true);
                }
                CallEvent::Unanswered => return EndedBy::Silence,
                _ => {}
            }
        }
    }

    /// Sends a BYE and waits for its answer; a BYE that crosses it is noted.
    async fn hang_up(&mut self, reason: EndedBy) -> EndedBy {
        self.call.hang_up(&[]);
        loop {
            match self.call.next().await {
                CallEvent::HungUp(bye) => self.report.bye_headers = bye.headers(),
                CallEvent::Finished(rsip::Method::Bye, _) => return reason,
                CallEvent::Unanswered => return EndedBy::Silence,
                _ => {}
            }
        }
    }

    fn speak_to(&self, sdp: &[u8]) {
        if let Some(target) = sdp::audio_address(sdp).filter(|_| self.settings.speak) {
            self.line.speak(target, Voice::Customer);
        }
    }
}

/// Sleeps until `wait` after `since`, or for ever.
async fn after(since: Instant, wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep_until((since + wait).into()).await,
        None => std::future::pending().await,
    }
}
