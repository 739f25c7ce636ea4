//! A confirmed dialog, until its last debt is paid: ACKs, BYEs, and a tombstone that answers.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use super::negotiation::Negotiation;
use super::notifier::{Asked, Notifier};
use super::prack::names_option;
use super::refer::Referrals;
use super::requests::Requests;
use super::session_timer::SessionTimer;
use super::{
    Cause, Info, LegCommand, LegEvent, LegTimer, LostCause, Material, Out, Side, Standing, Surroundings, Transfer,
    reason_of, respond, sensible_answer, write_headers,
};
use crate::sip::dialog::Dialog;
use crate::sip::hop::Hop;
use crate::sip::message::{HeaderName, Message, Method};
use crate::sip::refer::{ReferTo, Replaces};
use crate::sip::transaction::key::{ClientKey, ServerKey};
use crate::sip::write::Writer;

/// A dialog whose INVITE has been answered.
#[derive(Debug)]
pub struct Established {
    dialog: Dialog,
    /// Our 2xx that waits for its ACK.
    unacked: Option<Unacked>,
    /// Our ACK, kept for every repeat of the 2xx it belongs to, and its number.
    ack: Option<(u32, Bytes)>,
    closing: Closing,
    /// A REFER that waits for the call's word.
    asked: Option<Box<Asked>>,
    /// What we tell of the one taken on last.
    notifier: Option<Notifier>,
    /// Our BYE on its way.
    goodbye: Option<ClientKey>,
    requests: Requests,
    /// Early dialogs of other branches of the fork: what we ask there goes on counting.
    early: Vec<Dialog>,
    /// Other branches that have answered as well.
    forks: VecDeque<Fork>,
    /// The session timer, where one runs.
    timer: Option<SessionTimer>,
    /// Our refresh on its way.
    refresh: Option<ClientKey>,
    /// How we refresh: UPDATE where the far side allows it, else re-INVITE.
    refresh_by: Method,
    /// Whether the Call-ID is ours, which sets the pause after a glare (RFC 3261 section 14.1).
    ours: bool,
    /// What we asked it to do with its peer.
    referrals: Box<Referrals>,
}

/// A dialog that is acknowledged and hung up.
#[derive(Debug)]
struct Fork {
    dialog: Dialog,
    /// The number of its INVITE.
    number: u32,
    ack: Bytes,
}

/// How long a BYE waits for the answer to a NOTIFY before it: the far side hears our waiting sound meanwhile.
const PART_AFTER: Duration = Duration::from_millis(500);

/// Answers of a fork that are remembered.
const MAX_FORKS: usize = 8;

/// ```text
/// Open -HangUp, ACK missing-> Queued -ACK-> Sent -answer-> Over
///   |--------------- HangUp ----------------^  ^             ^
///   +--------------- BYE of the far side, no ACK in 64*T1 ---+
/// ```
#[derive(Debug)]
enum Closing {
    Open,
    /// From our 2xx until its ACK a BYE is only an intent (RFC 3261 section 15), and so it is for a moment while a
    /// NOTIFY of ours waits for its answer.
    Queued(Cause, Material),
    /// Our BYE waits for its answer, which brings the last word.
    Sent,
    /// The last word is spoken; what comes now is answered for 64*T1, and for as long as somebody is told of a transfer.
    Over,
}

/// A 2xx of ours on its way, repeated until its ACK comes (RFC 3261 section 13.3.1.4).
#[derive(Debug)]
pub struct Unacked {
    key: ServerKey,
    cseq: u32,
    response: Bytes,
    wait: Duration,
    /// Whether the 2xx carried our offer, so that the ACK must carry the answer.
    offered: bool,
}

impl Unacked {
    /// Sends the 2xx for the first time.
    pub(super) fn begin(key: ServerKey, cseq: u32, response: Bytes, offered: bool, s: &mut Surroundings<'_>) -> Self {
        s.out.push(Out::Respond { key: key.clone(), status: 200, message: response.clone() });
        s.out.push(Out::Start(LegTimer::Repeat, s.base.t1));
        s.out.push(Out::Start(LegTimer::NoAck, s.base.long()));
        Self { key, cseq, response, wait: s.base.t1, offered }
    }
}

impl Established {
    /// The dialog of an INVITE that we answered.
    pub(super) fn answered(
        dialog: Dialog,
        unacked: Unacked,
        timer: Option<SessionTimer>,
        updates: bool,
        requests: Requests,
        s: &mut Surroundings<'_>,
    ) -> Self {
        if let Some(timer) = timer {
            timer.start(s);
        }
        let refresh_by = if updates { Method::Update } else { Method::Invite };
        Self { unacked: Some(unacked), timer, refresh_by, ours: false, ..Self::dialled(dialog, requests) }
    }

    /// The dialog of an INVITE that was answered to us.
    pub(super) fn dialled(dialog: Dialog, requests: Requests) -> Self {
        Self {
            dialog,
            unacked: None,
            ack: None,
            closing: Closing::Open,
            asked: None,
            notifier: None,
            goodbye: None,
            requests,
            early: Vec::new(),
            forks: VecDeque::new(),
            timer: None,
            refresh: None,
            refresh_by: Method::Invite,
            ours: true,
            referrals: Box::default(),
        }
    }

    /// Takes over the dialogs of the branches that have not answered.
    pub(super) fn remember(&mut self, early: impl Iterator<Item = Dialog>) {
        self.early = early.collect();
    }

    /// Takes over what the 2xx to our INVITE agreed to.
    pub(super) fn agree(&mut self, response: &Message, s: &mut Surroundings<'_>) {
        if names_option(response, HeaderName::Allow, "UPDATE") {
            self.refresh_by = Method::Update;
        }
        self.timer = SessionTimer::agreed(response, s.session);
        if let Some(timer) = self.timer {
            timer.start(s);
        }
    }

    pub(super) fn call_id(&self) -> &str {
        &self.dialog.call_id
    }

    /// How it stands to an INVITE that asks for its place.
    pub(super) fn standing(&self, replaces: &Replaces) -> Standing {
        match &self.closing {
            _ if !self.dialog.is_meant_by(replaces) => Standing::Other,
            Closing::Open => Standing::Open { confirmed: true },
            Closing::Queued(..) | Closing::Sent | Closing::Over => Standing::Over,
        }
    }

    /// What takes our place here, as long as nobody has hung up.
    pub(super) fn place(&self) -> Option<(String, Replaces)> {
        matches!(self.closing, Closing::Open).then(|| self.dialog.place())?
    }

    // --- what the call wants ---

    pub(super) fn command(&mut self, command: LegCommand, material: &Material, s: &mut Surroundings<'_>) {
        match command {
            LegCommand::HangUp(cause) => self.hang_up(cause, material, s),
            LegCommand::Inform(info) if matches!(self.closing, Closing::Open) => self.inform(&info, material, s),
            LegCommand::Refer(to) if matches!(self.closing, Closing::Open) => self.refer(&to, material, s),
            LegCommand::Withdraw => s.out.extend(self.referrals.withdraw().map(Out::Abandon)),
            LegCommand::Accept => {
                if let Some(asked) = self.asked.take() {
                    let first = self.notifier.is_none();
                    self.notifier = Some(asked.accept(first, &mut self.dialog, &mut self.requests, s));
                }
            }
            LegCommand::Decline => self.asked.take().into_iter().for_each(|asked| asked.decline(s)),
            LegCommand::Report(status) => {
                if let Some(notifier) = &mut self.notifier {
                    notifier.tell(status, &mut self.dialog, &mut self.requests, s);
                }
            }
            LegCommand::Refer(_)
            | LegCommand::Inform(_)
            | LegCommand::Ring { .. }
            | LegCommand::Answer
            | LegCommand::Refuse { .. } => {}
        }
    }

    pub(super) fn hang_up(&mut self, cause: Cause, material: &Material, s: &mut Surroundings<'_>) {
        let owes = self.unacked.is_some() || self.notifier.as_ref().is_some_and(Notifier::owes);
        match (&self.closing, owes) {
            (Closing::Open, true) => {
                self.closing = Closing::Queued(cause, material.clone());
                s.out.push(Out::Start(LegTimer::Part, PART_AFTER));
            }
            (Closing::Open, false) => self.part(cause, material, s),
            (Closing::Queued(..) | Closing::Sent | Closing::Over, _) => {}
        }
    }

    fn part(&mut self, cause: Cause, material: &Material, s: &mut Surroundings<'_>) {
        self.send_bye(cause, material, s);
        self.closing = Closing::Sent;
    }

    fn send_bye(&mut self, cause: Cause, material: &Material, s: &mut Surroundings<'_>) {
        let key = send_bye(&mut self.requests, &mut self.dialog, cause, material, s);
        self.goodbye = Some(key);
    }

    fn inform(&mut self, info: &Info, material: &Material, s: &mut Surroundings<'_>) {
        let (key, mut writer) = self.requests.begin(&Method::Info, &mut self.dialog, &info.body, s);
        write_headers(&mut writer, &material.headers);
        let message = writer.finish_with(&info.content_type, &info.body);
        self.requests.send(key, message, self.dialog.next_hop(), s);
    }

    /// The lines go inside Refer-To and nowhere else, so that whoever is called there gets them.
    fn refer(&mut self, to: &str, material: &Material, s: &mut Surroundings<'_>) {
        if self.unacked.is_some() {
            return self.referrals.hold(to, material);
        }
        let Some(to) = ReferTo::new(to) else {
            return s.out.push(Out::Event(LegEvent::TransferProgressed(Transfer::Rejected(416))));
        };
        let to = material.headers.iter().fold(to, |to, (name, value)| to.with(name, value));
        let (key, mut writer) = self.requests.begin(&Method::Refer, &mut self.dialog, b"", s);
        writer
            .header(HeaderName::Contact, &self.dialog.contact(s.endpoint))
            .header(HeaderName::ReferTo, &to.to_string())
            .header(HeaderName::ReferredBy, self.dialog.local())
            .header(HeaderName::Allow, super::ALLOW);
        self.referrals.begin(key.clone(), self.dialog.local_cseq);
        self.requests.send(key, writer.finish(), self.dialog.next_hop(), s);
    }

    // --- what the far side wants ---

    pub(super) fn request(
        &mut self,
        request: &Message,
        key: ServerKey,
        negotiation: &mut Negotiation,
        s: &mut Surroundings<'_>,
    ) {
        if !self.dialog.matches_request(request) {
            return respond(request, key, 481, s);
        }
        if !self.dialog.accept_cseq(request) {
            let over = matches!(self.closing, Closing::Over);
            return respond(request, key, if over { 481 } else { 500 }, s);
        }
        match (request.method(), &self.closing) {
            (Some(Method::Bye), _) => self.far_bye(request, key, s),
            (Some(Method::Notify), _) => {
                let status = self.referrals.notified(request, s);
                respond(request, key, status, s);
            }
            (_, Closing::Over) => respond(request, key, 481, s),
            (Some(Method::Invite | Method::Update), Closing::Sent) => respond(request, key, 481, s),
            (Some(Method::Invite), Closing::Open | Closing::Queued(..)) => self.reinvite(request, key, negotiation, s),
            (Some(Method::Update), Closing::Open | Closing::Queued(..)) => {
                self.far_update(request, key, negotiation, s)
            }
            (Some(Method::Info), Closing::Open) => {
                respond(request, key, 200, s);
                let content_type = request.header(HeaderName::ContentType).unwrap_or("").to_owned();
                let body = Bytes::copy_from_slice(request.body());
                s.out.push(Out::Event(LegEvent::Informed(Info { content_type, body })));
            }
            (Some(Method::Refer), Closing::Open) if self.asked.is_none() => {
                if let Some((asked, referral)) = Asked::read(request, key, s) {
                    self.asked = Some(Box::new(asked));
                    s.out.push(Out::Event(LegEvent::TransferAsked(Box::new(referral))));
                }
            }
            (Some(Method::Subscribe), Closing::Open) => match &mut self.notifier {
                Some(notifier) => notifier.subscribed(request, key, &mut self.dialog, &mut self.requests, s),
                None => respond(request, key, sensible_answer(request), s),
            },
            (Some(Method::Info), Closing::Queued(..) | Closing::Sent) => respond(request, key, 200, s),
            _ => respond(request, key, sensible_answer(request), s),
        }
    }

    /// BYE is legal in every state and always answered 200.
    fn far_bye(&mut self, request: &Message, key: ServerKey, s: &mut Surroundings<'_>) {
        respond(request, key, 200, s);
        // Our own BYE is on its way: its answer brings the last word. Both sides know already.
        if matches!(self.closing, Closing::Open | Closing::Queued(..)) {
            self.referrals.hung_up(s);
            self.over(LegEvent::HungUp { by: Side::Far, reason: reason_of(request) }, s);
        }
    }

    fn reinvite(&mut self, request: &Message, key: ServerKey, negotiation: &mut Negotiation, s: &mut Surroundings<'_>) {
        if self.unacked.is_some() || self.refresh.is_some() {
            return respond(request, key, 491, s);
        }
        let timer = match self.renewed(request, s) {
            Ok(timer) => timer,
            Err(least) => return refuse_interval(request, key, least, s),
        };
        let Some((body, offered)) = negotiation.reoffer(request, s.ids) else { return respond(request, key, 488, s) };
        self.dialog.refresh_target(request);
        let mut writer = Writer::response(request, 200, None);
        writer
            .header(HeaderName::Contact, &self.dialog.contact(s.endpoint))
            .header(HeaderName::Allow, super::ALLOW)
            .header(HeaderName::Server, &s.endpoint.product);
        if let Some(timer) = timer {
            timer.write(&mut writer);
        }
        self.renew(timer, s);
        let message = writer.finish_with("application/sdp", body.as_bytes());
        let cseq = request.cseq().map_or(0, |cseq| cseq.number);
        self.unacked = Some(Unacked::begin(key, cseq, message, offered, s));
        if !offered {
            s.out.push(Out::RemoteChanged);
            s.out.push(Out::Event(LegEvent::Reoffered));
        }
    }

    fn far_update(
        &mut self,
        request: &Message,
        key: ServerKey,
        negotiation: &mut Negotiation,
        s: &mut Surroundings<'_>,
    ) {
        let offers = !request.body().is_empty();
        if offers && (self.unacked.is_some() || self.refresh.is_some()) {
            return respond(request, key, 491, s);
        }
        match self.renewed(request, s) {
            Ok(timer) => {
                if super::update(request, key, &mut self.dialog, negotiation, timer, s) {
                    self.renew(timer, s);
                }
            }
            Err(least) => refuse_interval(request, key, least, s),
        }
    }

    /// The timer that the far side's request asks for; without a wish in it the one that runs is kept.
    fn renewed(&self, request: &Message, s: &Surroundings<'_>) -> Result<Option<SessionTimer>, u32> {
        Ok(SessionTimer::asked(request, s.session)?.or(self.timer.filter(|timer| timer.is_ours())))
    }

    fn renew(&mut self, timer: Option<SessionTimer>, s: &mut Surroundings<'_>) {
        self.timer = timer;
        s.out.push(Out::Stop(LegTimer::Retry));
        match timer {
            Some(timer) => timer.start(s),
            None => s.out.extend([Out::Stop(LegTimer::Refresh), Out::Stop(LegTimer::Expire)]),
        }
    }

    pub(super) fn ack(&mut self, ack: &Message, negotiation: &mut Negotiation, s: &mut Surroundings<'_>) {
        let number = ack.cseq().map(|cseq| cseq.number);
        let awaited = self.unacked.as_ref().is_some_and(|unacked| Some(unacked.cseq) == number);
        if !awaited || !self.dialog.matches_request(ack) {
            return;
        }
        s.out.push(Out::Stop(LegTimer::Repeat));
        s.out.push(Out::Stop(LegTimer::NoAck));
        if self.unacked.take().is_some_and(|unacked| unacked.offered) {
            let first = negotiation.remote().is_none();
            let usable = negotiation.read_answer(ack) && negotiation.remote().is_some();
            // Later there is a session already, and an answer with the address 0.0.0.0 puts it on hold.
            if first && !usable && matches!(self.closing, Closing::Open) {
                return self.refuse_answer(s);
            }
            s.out.push(Out::RemoteChanged);
        }
        self.hang_up_at_last(s);
    }

    /// The goodbye that waits, if one does.
    fn queued(&mut self) -> Option<(Cause, Material)> {
        match std::mem::replace(&mut self.closing, Closing::Open) {
            Closing::Queued(cause, material) => Some((cause, material)),
            other => {
                self.closing = other;
                None
            }
        }
    }

    /// What the goodbye waited for has come.
    fn hang_up_at_last(&mut self, s: &mut Surroundings<'_>) {
        if let Some((cause, material)) = self.queued() {
            self.hang_up(cause, &material, s);
        } else if let Some((to, material)) = self.referrals.release() {
            self.refer(&to, &material, s);
        }
    }

    // --- what our own requests bring ---

    pub(super) fn response(
        &mut self,
        response: &Message,
        source: Hop,
        negotiation: &mut Negotiation,
        s: &mut Surroundings<'_>,
    ) {
        let (Some(key), Some(cseq), Some(status)) =
            (ClientKey::of_response(response), response.cseq(), response.status())
        else {
            return;
        };
        if status < 200 {
            return;
        }
        let again = self.said_again(response, source, s);
        match cseq.method {
            Method::Bye if self.goodbye.as_ref() == Some(&key) => match again {
                Some(again) => self.goodbye = Some(again),
                None => self.bye_answered(s),
            },
            Method::Invite | Method::Update if self.refresh.as_ref() == Some(&key) => match again {
                Some(again) => self.refresh = Some(again),
                None => self.refresh_answered(response, negotiation, s),
            },
            Method::Refer if self.referrals.awaits(&key) => match again {
                Some(again) => self.referrals.said_again(again, self.dialog.local_cseq),
                None => self.referrals.answered(status, s),
            },
            Method::Invite if (200..300).contains(&status) => self.repeated_2xx(response, cseq.number, s),
            Method::Notify => self.notify_answered(&key, status, again, s),
            _ => {}
        }
    }

    /// What asks who we are is told, our BYE whatever state we are in: a dialog that we left must not live on over
    /// there (flow O4). And so is a NOTIFY that a BYE waits for.
    fn said_again(&mut self, response: &Message, source: Hop, s: &mut Surroundings<'_>) -> Option<ClientKey> {
        let told = match response.cseq()?.method {
            Method::Bye => true,
            Method::Notify => matches!(self.closing, Closing::Open | Closing::Queued(..)),
            _ => matches!(self.closing, Closing::Open),
        };
        if !told {
            return None;
        }
        let tag = response.to_tag().unwrap_or("");
        let fork = self.forks.iter_mut().find(|fork| fork.dialog.remote_tag == tag);
        let dialog = fork.map_or(&mut self.dialog, |fork| &mut fork.dialog);
        self.requests.answered(response, source, dialog, s)
    }

    fn notify_answered(&mut self, key: &ClientKey, status: u16, again: Option<ClientKey>, s: &mut Surroundings<'_>) {
        let Some(notifier) = self.notifier.as_mut().filter(|notifier| notifier.awaits(key)) else { return };
        match again {
            Some(again) => notifier.said_again(again),
            None => {
                notifier.answered(status, &mut self.dialog, &mut self.requests, s);
                self.hang_up_at_last(s);
            }
        }
    }

    // --- refreshes of ours (RFC 4028 section 10) ---

    fn send_refresh(&mut self, negotiation: &Negotiation, s: &mut Surroundings<'_>) {
        let Some(timer) = self.timer.filter(|_| matches!(self.closing, Closing::Open)) else { return };
        if self.unacked.is_some() || self.refresh.is_some() {
            return s.out.push(Out::Start(LegTimer::Retry, s.base.t2));
        }
        let method = self.refresh_by.clone();
        let body = if method == Method::Update { "" } else { negotiation.last() };
        let (key, mut writer) = self.requests.begin(&method, &mut self.dialog, body.as_bytes(), s);
        writer.header(HeaderName::Contact, &self.dialog.contact(s.endpoint)).header(HeaderName::Allow, super::ALLOW);
        timer.write_refresh(&mut writer);
        let message = match method {
            Method::Update => writer.finish(),
            _ => writer.finish_with("application/sdp", body.as_bytes()),
        };
        self.refresh = Some(key.clone());
        self.requests.send(key, message, self.dialog.next_hop(), s);
    }

    fn refresh_answered(&mut self, response: &Message, negotiation: &mut Negotiation, s: &mut Surroundings<'_>) {
        let method = self.refresh_by.clone();
        self.refresh = None;
        match response.status().unwrap_or(0) {
            200..300 => self.refreshed(&method, response, negotiation, s),
            422 if self.timer.as_mut().is_some_and(|timer| timer.lengthen(response)) => {
                self.send_refresh(negotiation, s);
            }
            491 => {
                // 2.1 to 4 s where the Call-ID is ours, up to 2 s where it is theirs, in steps of 10 ms.
                let wait = if self.ours { 2_100 + 10 * s.ids.below(191) } else { 10 * s.ids.below(201) };
                s.out.push(Out::Start(LegTimer::Retry, Duration::from_millis(wait as u64)));
            }
            408 | 481 => self.expired(s),
            405 | 501 if method == Method::Update => {
                self.refresh_by = Method::Invite;
                self.send_refresh(negotiation, s);
            }
            status => self.refresh_refused(status, s),
        }
    }

    fn refreshed(
        &mut self,
        method: &Method,
        response: &Message,
        negotiation: &mut Negotiation,
        s: &mut Surroundings<'_>,
    ) {
        if *method == Method::Invite {
            self.acknowledge(response, s);
        }
        // A 2xx that comes after our BYE raises nobody from the dead (flow R13).
        if !matches!(self.closing, Closing::Open) {
            return;
        }
        if *method == Method::Invite {
            let far = |negotiation: &Negotiation| (negotiation.remote().cloned(), negotiation.keys().cloned());
            let before = far(negotiation);
            if negotiation.read_answer(response) && far(negotiation) != before {
                s.out.push(Out::RemoteChanged);
            }
        }
        self.dialog.refresh_target(response);
        self.timer = SessionTimer::agreed(response, s.session).or(self.timer);
        if let Some(timer) = self.timer {
            timer.start(s);
        }
    }

    /// A refusal that ends nothing at once (RFC 4028 section 10): tried again until the interval ends.
    fn refresh_refused(&mut self, status: u16, s: &mut Surroundings<'_>) {
        let Some(timer) = self.timer.filter(|_| matches!(self.closing, Closing::Open)) else { return };
        if timer.is_unasked() && !destroys_dialog(status) {
            return timer.start(s); // It never promised to be refreshed, and it is there.
        }
        s.out.push(Out::Start(LegTimer::Retry, timer.pause()));
    }

    /// The far side is gone, or might as well be.
    fn expired(&mut self, s: &mut Surroundings<'_>) {
        if matches!(self.closing, Closing::Open | Closing::Queued(..)) {
            self.send_bye(Cause::TIMEOUT, &Material::default(), s);
            self.over(LegEvent::Lost(LostCause::Expired), s);
        }
    }

    /// One of our requests got no answer at all.
    pub(super) fn timed_out(&mut self, key: &ClientKey, s: &mut Surroundings<'_>) {
        if self.goodbye.as_ref() == Some(key) {
            self.bye_answered(s);
        }
        if self.referrals.awaits(key) {
            self.referrals.answered(408, s);
        }
        self.notify_answered(key, 408, None, s);
        if self.refresh.take_if(|refresh| refresh == key).is_some() {
            self.expired(s);
        }
    }

    /// A 2xx again, or that of another branch of a fork, which is acknowledged and hung up (RFC 3261 section 13.2.2.4).
    fn repeated_2xx(&mut self, response: &Message, number: u32, s: &mut Surroundings<'_>) {
        if response.to_tag().unwrap_or("") == self.dialog.remote_tag {
            if let Some((_, ack)) = self.ack.as_ref().filter(|(of, _)| *of == number) {
                s.out.push(Out::Acknowledge { message: ack.clone(), to: self.dialog.next_hop() });
            }
            return;
        }
        self.another_answered(response, number, s);
    }

    /// Its BYE is repeated by its own transaction; a 2xx that comes again wants the ACK again.
    fn another_answered(&mut self, response: &Message, number: u32, s: &mut Surroundings<'_>) {
        let known = |fork: &&Fork| fork.number == number && response.to_tag().unwrap_or("") == fork.dialog.remote_tag;
        if let Some(fork) = self.forks.iter().find(known) {
            return s.out.push(Out::Acknowledge { message: fork.ack.clone(), to: fork.dialog.next_hop() });
        }
        let mut dialog = self.dialog.forked(response);
        let early = self.early.iter().find(|early| early.remote_tag == dialog.remote_tag);
        early.into_iter().for_each(|early| dialog.continue_from(early));
        let ack = acknowledge(&self.requests, &dialog, number, s);
        send_bye(&mut self.requests, &mut dialog, Cause::NORMAL, &Material::default(), s);
        if self.forks.len() == MAX_FORKS {
            self.forks.pop_front();
        }
        self.forks.push_back(Fork { dialog, number, ack });
    }

    /// Sends the ACK of a 2xx and keeps it.
    pub(super) fn acknowledge(&mut self, response: &Message, s: &mut Surroundings<'_>) {
        let number = response.cseq().map_or(1, |cseq| cseq.number);
        self.ack = Some((number, acknowledge(&self.requests, &self.dialog, number, s)));
    }

    /// Our BYE was answered, or will never be: either way it is over.
    pub(super) fn bye_answered(&mut self, s: &mut Surroundings<'_>) {
        if matches!(self.closing, Closing::Sent) {
            self.over(LegEvent::HungUp { by: Side::Us, reason: None }, s);
        }
    }

    /// An answer that cannot be used: hang up, and tell the call that this was no connection.
    pub(super) fn refuse_answer(&mut self, s: &mut Surroundings<'_>) {
        self.send_bye(Cause::INCOMPATIBLE, &Material::default(), s);
        self.over(LegEvent::Lost(LostCause::UnusableAnswer), s);
    }

    /// Speaks the last word; the tombstone stays for 64*T1 at least.
    pub(super) fn over(&mut self, last_word: LegEvent, s: &mut Surroundings<'_>) {
        self.closing = Closing::Over;
        self.unacked = None;
        self.referrals.close();
        for timer in LegTimer::ALL {
            s.out.push(Out::Stop(timer));
        }
        s.out.push(Out::Start(LegTimer::Forget, s.base.long()));
        s.out.push(Out::Event(last_word));
    }

    pub(super) fn timer(&mut self, timer: LegTimer, negotiation: &Negotiation, s: &mut Surroundings<'_>) {
        match (timer, &mut self.unacked) {
            (LegTimer::Repeat, Some(unacked)) => {
                unacked.wait = (unacked.wait * 2).min(s.base.t2);
                let (key, message) = (unacked.key.clone(), unacked.response.clone());
                s.out.push(Out::Respond { key, status: 200, message });
                s.out.push(Out::Start(LegTimer::Repeat, unacked.wait));
            }
            (LegTimer::NoAck, Some(_)) => {
                let (cause, material) = self.queued().unwrap_or((Cause::TIMEOUT, Material::default()));
                self.send_bye(cause, &material, s);
                self.over(LegEvent::Lost(LostCause::NoAck), s);
            }
            (LegTimer::Refresh | LegTimer::Retry, _) => self.send_refresh(negotiation, s),
            (LegTimer::Expire, _) => self.expired(s),
            (LegTimer::Unsubscribe, _) => self.referrals.expired(s),
            (LegTimer::Part, None) => {
                if let Some((cause, material)) = self.queued() {
                    self.part(cause, &material, s);
                }
            }
            // A subscription outlives its session (RFC 5057 section 4.1): who asked is still owed the outcome.
            (LegTimer::Forget, _) if self.notifier.as_ref().is_some_and(|notifier| !notifier.is_done()) => {
                s.out.push(Out::Start(LegTimer::Forget, s.base.long()));
            }
            (LegTimer::Forget, _) => s.out.push(Out::Gone),
            _ => {}
        }
    }
}

fn send_bye(
    requests: &mut Requests,
    dialog: &mut Dialog,
    cause: Cause,
    material: &Material,
    s: &mut Surroundings<'_>,
) -> ClientKey {
    let body = material.body.as_ref();
    let (key, mut writer) =
        requests.begin(&Method::Bye, dialog, body.map_or(b"", |(_, content)| content.as_bytes()), s);
    writer.header(HeaderName::Reason, &format!("Q.850;cause={}", cause.0));
    write_headers(&mut writer, &material.headers);
    let message = match body {
        Some((content_type, content)) => {
            // Whoever cannot read it must not refuse the BYE because of it (RFC 3261 section 20.11).
            writer.header(HeaderName::ContentDisposition, "render;handling=optional");
            writer.finish_with(content_type, content.as_bytes())
        }
        None => writer.finish(),
    };
    requests.send(key.clone(), message, dialog.next_hop(), s);
    key
}

/// Sends the ACK of a 2xx.
fn acknowledge(requests: &Requests, dialog: &Dialog, number: u32, s: &mut Surroundings<'_>) -> Bytes {
    let (branch, to) = (s.ids.branch(), dialog.next_hop());
    let mut writer = dialog.request_numbered(&Method::Ack, number, s.endpoint, &branch);
    for (name, value) in requests.shown_by_ack(&to) {
        writer.header(*name, value);
    }
    let message = writer.finish();
    s.out.push(Out::Acknowledge { message: message.clone(), to });
    message
}

/// Whether whoever answers a request with this knows no such dialog any more (RFC 5057 section 5.1).
fn destroys_dialog(status: u16) -> bool {
    matches!(status, 404 | 410 | 416 | 482..=485 | 502 | 604)
}

fn refuse_interval(request: &Message, key: ServerKey, least: u32, s: &mut Surroundings<'_>) {
    let message = Writer::response(request, 422, None).header(HeaderName::MinSe, &least.to_string()).finish();
    s.out.push(Out::Respond { key, status: 422, message });
}
