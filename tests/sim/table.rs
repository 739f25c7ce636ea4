//! The living table: what every event does in every state of the call. A changed behaviour is a changed line.

use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use switchback::b2bua::io::{FailureClass, Transfer, TransferStatus};
use switchback::call::context::Carry;
use switchback::call::escape::{Digit, Escape, Sequence};
use switchback::call::event::{CallAction, CallEvent, CallTimer};
use switchback::call::intake::Intake;
use switchback::call::record::Epoch;
use switchback::call::recording::Recording;
use switchback::call::rules::{Rung, Target};
use switchback::call::settings::{CallSettings, WayIn};
use switchback::call::state::{
    Asking, Bridged, Call, CallState, Collecting, Dialing, Facts, HandingBack, Left, LegStage, Party, Releasing,
    Requesting, UnderWay,
};
use switchback::call::succession::Succession;
use switchback::call::ticket::DialTicket;
use switchback::call::verdict::{EndedBy, Evidence, Outcome, Phase, Verdict};
use switchback::call::{CallRef, TransferId};
use switchback::leg::{
    Cause, Info, Invitation, LegCommand, LegEvent, LegRole, LostCause, Referral, Side, Transfer as Referred,
};

use crate::asapp::{NUMBER, active, completed};
use crate::engine::{UNIX_MS, failure, secs};
use crate::ladder::compare;

#[test]
fn every_event_in_every_state() {
    let now = switchback::clock::now();
    let mut rows = Vec::new();
    for (state_name, at) in states() {
        for (event_name, event) in events() {
            let mut call = at(now);
            let (before, mut actions) = (named(call.state()), Vec::new());
            call.step(now, event, &mut actions);
            let after = named(call.state());
            if before != after || !actions.is_empty() {
                let after = if before == after { "(stays)".to_owned() } else { after };
                let actions: Vec<String> = actions.iter().map(|action| worded(action, now)).collect();
                rows.push((state_name, event_name.clone(), after, actions.join(", ")));
            }
        }
    }
    let width = |column: fn(&Row) -> &str| rows.iter().map(|row| column(row).chars().count()).max().unwrap_or(0);
    let (states, events, afters) = (width(|row| row.0), width(|row| &row.1), width(|row| &row.2));
    let mut text = "What does something, of all states times all events; the rest changes nothing.\n".to_owned();
    let mut last = "";
    for (state, event, after, actions) in &rows {
        if *state != last {
            text.push('\n');
        }
        last = state;
        let line = format!("{state:states$}  {event:events$}  {after:afters$}  {actions}");
        let _ = writeln!(text, "{}", line.trim_end());
    }
    compare("tests/sim/table.txt", &text);
}

const GENAGENT: &str = "sip:genagent@asapp.example";

type Row = (&'static str, String, String, String);

/// A state by name, and a fresh call in it.
type At = Box<dyn Fn(Instant) -> Call>;

fn key(key: char) -> Digit {
    Digit::read(key).expect("a key")
}

fn transfer() -> TransferId {
    CallRef(1).transfer(1)
}

fn verdict() -> Verdict {
    let evidence = Evidence::default();
    Verdict { outcome: Outcome::Agent, ended_by: EndedBy::Genagent, phase: Phase::Talking, evidence }
}

fn states() -> Vec<(&'static str, At)> {
    use LegStage::{None, Over, Ringing, Up};
    let requesting = |asking| -> At {
        Box::new(move |now| {
            let deadline = now + secs(8);
            let state = Requesting { transfer: transfer(), asking, asked: now, deadline, failures: 0 };
            Call::at(facts(now, Ringing, None, 0), CallState::Requesting(state))
        })
    };
    let reserving = || -> At {
        Box::new(|now| {
            let deadline = now + secs(8);
            let asking = Asking::Reserving;
            let state = Requesting { transfer: transfer(), asking, asked: now, deadline, failures: 0 };
            Call::at(by_headers(facts(now, Ringing, None, 0)), CallState::Requesting(state))
        })
    };
    let dialing_uri = || -> At {
        Box::new(|now| {
            let ticket = DialTicket::of_uri(GENAGENT, &transfer(), now);
            let state = Dialing { transfer: transfer(), guard: ticket.guard(), ticket: Some(ticket) };
            Call::at(by_headers(facts(now, Ringing, Ringing, 1)), CallState::Dialing(state))
        })
    };
    let untold = || -> At {
        Box::new(|now| {
            let state = Bridged { transfer: transfer(), party: Party::Accepted, escape: Escape::default() };
            Call::at(by_headers(facts(now, Up, Up, 1)), CallState::Bridged(state))
        })
    };
    let dialing = |dialled, unheard: bool| -> At {
        Box::new(move |now| {
            let (id, number) = (transfer(), active(NUMBER, secs(60)));
            let ticket = DialTicket::issue(&id, &number, &CallSettings::default(), now).ok();
            let state = Dialing { transfer: id, guard: now + secs(55), ticket: ticket.filter(|_| unheard) };
            Call::at(facts(now, Ringing, Ringing, dialled), CallState::Dialing(state))
        })
    };
    let resuming = || -> At {
        Box::new(|now| {
            let state = Dialing { transfer: transfer(), guard: now + secs(55), ticket: Option::None };
            let mut facts = facts(now, Up, Ringing, 2);
            facts.answered = Some(now);
            facts.broken_off = Some(Verdict { outcome: Outcome::GenagentLost, ..verdict() });
            Call::at(facts, CallState::Dialing(state))
        })
    };
    let bridged = |party| -> At {
        Box::new(move |now| {
            let state = Bridged { transfer: transfer(), party, escape: Escape::default() };
            Call::at(facts(now, Up, Up, 1), CallState::Bridged(state))
        })
    };
    let escaping = || -> At {
        Box::new(move |now| {
            let facts = facts(now, Up, Up, 1);
            let mut escape = Escape::default();
            escape.press(key('*'), &facts.settings.escape, secs(3), now);
            let state = Bridged { transfer: transfer(), party: Party::Accepted, escape };
            Call::at(facts, CallState::Bridged(state))
        })
    };
    let succeeding = |departed: Option<LegEvent>| -> At {
        Box::new(move |now| {
            let state = Bridged { transfer: transfer(), party: Party::Accepted, escape: Escape::default() };
            let customer = if departed.is_some() { Over } else { Up };
            let mut facts = facts(now, customer, Up, 1);
            facts.successor = Ringing;
            facts.succession = Some(Succession { departed: departed.clone() });
            Call::at(facts, CallState::Bridged(state))
        })
    };
    let gone = LegEvent::HungUp { by: Side::Far, reason: Option::None };
    let collecting = |fetching, left| -> At {
        Box::new(move |now| {
            let state =
                Collecting { transfer: transfer(), left, deadline: now + secs(3), fetching, polls: 1, failures: 0 };
            Call::at(facts(now, Up, Over, 1), CallState::Collecting(state))
        })
    };
    let handing_back = |rung: UnderWay, customer, onward| -> At {
        Box::new(move |now| {
            let ladder = [Rung::Dial("queue".to_owned())].into();
            let cause = Cause::FAILURE;
            let state = HandingBack { verdict: verdict(), rung: rung.clone(), ladder, cause };
            let mut facts = facts(now, customer, Over, 1);
            facts.onward = onward;
            Call::at(facts, CallState::HandingBack(state))
        })
    };
    let referring = |accepted| UnderWay::Referring { target: "queue".to_owned(), member: 0, accepted };
    let consulting = || UnderWay::Consulting { webhook: "router".to_owned(), number: 1 };
    let dialing_onward = |member| UnderWay::Dialing { target: "queue".to_owned(), member, attended: false };
    let attended = || UnderWay::Dialing { target: "queue".to_owned(), member: 0, attended: true };
    let introducing = |accepted| UnderWay::Introducing { target: "queue".to_owned(), accepted };
    let answered_first = || -> At {
        Box::new(|now| {
            let state = Dialing { transfer: transfer(), guard: now + secs(55), ticket: Option::None };
            let mut facts = facts(now, Up, Ringing, 2);
            facts.answered = Some(now);
            Call::at(facts, CallState::Dialing(state))
        })
    };
    let releasing = |fetching: Option<TransferId>, genagent| -> At {
        Box::new(move |now| {
            let state = Releasing { verdict: verdict(), fetching: fetching.clone() };
            Call::at(facts(now, Over, genagent, 1), CallState::Releasing(state))
        })
    };
    let inviting = || -> At { Box::new(|now| Call::at(facts(now, Ringing, None, 0), CallState::Inviting)) };
    vec![
        ("inviting", inviting()),
        ("requesting: creating", requesting(Asking::Creating)),
        ("requesting: settling", requesting(Asking::Settling)),
        ("requesting: reserving", reserving()),
        ("requesting: create due", requesting(Asking::PausingToCreate)),
        ("requesting: settle due", requesting(Asking::PausingToSettle)),
        ("dialing: nobody heard", dialing(1, true)),
        ("dialing", dialing(1, false)),
        ("dialing: last attempt", dialing(2, false)),
        ("dialing: to resume, last attempt", resuming()),
        ("dialing: answered first, last attempt", answered_first()),
        ("dialing: by headers only", dialing_uri()),
        ("bridged: unverified", bridged(Party::Unverified)),
        ("bridged: doubtful", bridged(Party::Doubtful)),
        ("bridged: accepted", bridged(Party::Accepted)),
        ("bridged: by headers only", untold()),
        ("bridged: half escaped", escaping()),
        ("bridged: a successor rings", succeeding(Option::None)),
        ("bridged: asker gone, successor rings", succeeding(Some(gone))),
        ("collecting: fetching", collecting(true, Left::HungUp)),
        ("collecting: poll due", collecting(false, Left::HungUp)),
        ("collecting: given back, fetching", collecting(true, Left::GaveBack)),
        ("handing back: dialing", handing_back(dialing_onward(0), Up, Ringing)),
        ("handing back: dialing, unanswered", handing_back(dialing_onward(1), Ringing, Ringing)),
        ("handing back: dialing, to introduce", handing_back(attended(), Up, Ringing)),
        ("handing back: referring", handing_back(referring(false), Up, None)),
        ("handing back: referring, accepted", handing_back(referring(true), Up, None)),
        ("handing back: consulting", handing_back(consulting(), Up, None)),
        ("handing back: introducing", handing_back(introducing(false), Up, Up)),
        ("handing back: introducing, accepted", handing_back(introducing(true), Up, Up)),
        ("handing back: introducing, alone", handing_back(introducing(true), Up, Over)),
        ("handing back: talking", handing_back(UnderWay::Talking, Up, Up)),
        ("handing back: announcing", handing_back(UnderWay::Announcing, Up, None)),
        ("handing back: parting", handing_back(UnderWay::Parting, Up, None)),
        ("releasing: a leg owes", releasing(Option::None, Up)),
        ("releasing: fetching", releasing(Some(transfer()), Over)),
        ("ended", Box::new(|now| Call::at(facts(now, Over, Over, 1), CallState::Ended))),
    ]
}

fn facts(now: Instant, customer: LegStage, genagent: LegStage, dialled: u8) -> Facts {
    let uris = ["sip:queue@pbx.example", "sip:next@pbx.example"].map(str::to_owned).into();
    let row = Target { uris, ring_limit: secs(20), silence: secs(6), accept_limit: secs(5), profile: None };
    let targets = [("queue".to_owned(), row)].into();
    let escape = Sequence::try_from("*0".to_owned()).expect("keys");
    let settings = Arc::new(CallSettings { targets, escape, retry_without_context: true, ..CallSettings::default() });
    let invitation = Invitation { call_id: "1@ivr".into(), ..Invitation::default() };
    let mut facts = Facts {
        call: CallRef(1),
        intake: Intake::read(&invitation, &settings.intake, &mut ()),
        settings,
        epoch: Epoch { instant: now, unix_ms: UNIX_MS },
        input: Vec::new(),
        reference: "reference".into(),
        received: now,
        answered: None,
        genagent_ended: None,
        early_media: false,
        decided: None,
        customer,
        genagent,
        onward: LegStage::None,
        successor: LegStage::None,
        succession: None,
        takeovers: 0,
        heard: false,
        recording: Recording::Off,
        without_context: false,
        attempts: Vec::new(),
        dialled,
        resumed: 0,
        broken_off: None,
        evidence: Evidence::default(),
        output: None,
        hand_back: None,
    };
    facts.begin_attempt(now);
    facts
}

/// The same call where no API is asked.
fn by_headers(mut facts: Facts) -> Facts {
    let way_in = WayIn::Headers { uri: GENAGENT.to_owned() };
    facts.settings = Arc::new(CallSettings { way_in, ..CallSettings::clone(&facts.settings) });
    facts
}

fn events() -> Vec<(String, CallEvent)> {
    let mut events = Vec::new();
    let headers = vec![("X-GA-transfer".to_owned(), "AGENT".to_owned())];
    let referral = Referral { uri: "sip:desk@pbx.example".into(), headers, invites: true };
    for role in LegRole::ALL {
        let who = name_of(role);
        let info = Info { content_type: "application/dtmf-relay".into(), body: "1".into() };
        let hung_up = |by| LegEvent::HungUp { by, reason: None };
        let refused = |status| LegEvent::Refused { status, reason: None, retry_after: None };
        let said = [
            ("rings", LegEvent::Progressed { status: 180, early_media: false }),
            ("is heard early", LegEvent::Progressed { status: 183, early_media: true }),
            ("answered", LegEvent::Answered),
            ("reoffered", LegEvent::Reoffered),
            ("sent INFO", LegEvent::Informed(info)),
            ("asks for a transfer", LegEvent::TransferAsked(Box::new(referral.clone()))),
            ("refused 403", refused(403)),
            ("refused 480", refused(480)),
            ("refused 486", refused(486)),
            ("hung up", hung_up(Side::Far)),
            ("was hung up", hung_up(Side::Us)),
            ("lost: no answer", LegEvent::Lost(LostCause::NoAnswer)),
            ("lost: no ACK", LegEvent::Lost(LostCause::NoAck)),
            ("lost: unusable answer", LegEvent::Lost(LostCause::UnusableAnswer)),
        ];
        for pressed in ['*', '0'] {
            events.push((format!("{who} pressed {pressed}"), CallEvent::Pressed(role, key(pressed))));
        }
        events.extend(said.map(|(what, event)| (format!("{who} {what}"), CallEvent::Leg(role, event))));
    }
    let transfers = [
        ("accepted the REFER", Referred::Accepted),
        ("says 180 of the REFER", Referred::Progressed(180)),
        ("says 200 of the REFER", Referred::Transferred),
        ("says 486 of the REFER", Referred::Refused(486)),
        ("rejected the REFER: 405", Referred::Rejected(405)),
        ("rejected the REFER: 603", Referred::Rejected(603)),
        ("asked who sent the REFER", Referred::Unauthorized),
        ("says nothing of the REFER", Referred::NoOutcome),
        ("left before it agreed", Referred::CallEnded),
        ("left after it agreed", Referred::AcceptedUnconfirmed),
    ];
    events.extend(transfers.map(|(what, transfer)| {
        let event = LegEvent::TransferProgressed(transfer);
        (format!("customer {what}"), CallEvent::Leg(LegRole::Customer, event))
    }));
    let invited = LegEvent::Invited(Box::default());
    events.push(("successor invited".to_owned(), CallEvent::Leg(LegRole::Successor, invited)));
    let status = |status| Transfer { status: Some(status), dated: UNIX_MS, ..Transfer::default() };
    let answers = [
        ("a number", active(NUMBER, secs(60))),
        ("a foreign number", active("+449995550199", secs(60))),
        ("ONGOING", status(TransferStatus::Ongoing)),
        ("COMPLETED AGENT", completed("AGENT", &[], &[])),
        ("COMPLETED", status(TransferStatus::Completed)),
        ("EXPIRED", status(TransferStatus::Expired)),
    ];
    let classes = [
        FailureClass::InvalidRequest,
        FailureClass::Refused,
        FailureClass::Unauthorized,
        FailureClass::NotFound,
        FailureClass::Conflict,
        FailureClass::Throttled,
        FailureClass::ServerError,
        FailureClass::Ambiguous,
        FailureClass::Unreachable,
        FailureClass::Withheld,
        FailureClass::NoTrunk,
        FailureClass::Malformed,
    ];
    let failures = classes.map(|class| (class.as_str(), Err(failure(class))));
    let all: Vec<_> = answers.map(|(name, answer)| (name, Ok(answer))).into_iter().chain(failures).collect();
    events.extend(
        all.iter().map(|(name, answer)| (format!("created: {name}"), CallEvent::Created(transfer(), answer.clone()))),
    );
    events.extend(
        all.iter().map(|(name, answer)| (format!("fetched: {name}"), CallEvent::Fetched(transfer(), answer.clone()))),
    );
    let other = CallRef(1).transfer(9);
    events.push(("created under another id: a number".into(), CallEvent::Created(other, Ok(active(NUMBER, secs(60))))));
    events.push(("the way failed".into(), CallEvent::WayFailed("silent".into())));
    let silent = Referral { headers: Vec::new(), ..referral.clone() };
    let asks = LegEvent::TransferAsked(Box::new(silent));
    events.push(("GenerativeAgent refers in silence".into(), CallEvent::Leg(LegRole::GenerativeAgent, asks)));
    events.push(("GenerativeAgent calls back".into(), CallEvent::Returned(transfer(), referral.headers.clone())));
    events.push(("GenerativeAgent calls in silence".into(), CallEvent::Returned(transfer(), Vec::new())));
    events.push(("a trunk is found".into(), CallEvent::Reserved(transfer(), true)));
    events.push(("no trunk is found".into(), CallEvent::Reserved(transfer(), false)));
    events.push(("advised: dial".into(), CallEvent::Advised(1, Ok(r#"{"ladder":["dial:queue"]}"#.into()))));
    events.push(("advised: no answer".into(), CallEvent::Advised(1, Err("no answer in 2s".into()))));
    events.push(("advised too late".into(), CallEvent::Advised(0, Ok(r#"{"ladder":["bye"]}"#.into()))));
    events.push(("customer heard".into(), CallEvent::Heard(LegRole::Customer)));
    events.push(("changed hands".into(), CallEvent::ChangedHands));
    events.push(("media dead".into(), CallEvent::MediaDead));
    events.push(("played".into(), CallEvent::Played));
    events.extend(CallTimer::ALL.map(|timer| (format!("timer {timer:?}"), CallEvent::Timer(timer))));
    events.push(("pulled back".into(), CallEvent::PulledBack));
    events.push(("ended by an operator".into(), CallEvent::Ended));
    events.push(("stopped".into(), CallEvent::Stopped));
    events
}

/// The state with what matters inside it.
fn named(state: &CallState) -> String {
    match state {
        CallState::Requesting(state) => format!(
            "requesting: {}",
            match state.asking {
                Asking::Creating => "creating",
                Asking::Settling => "settling",
                Asking::Reserving => "reserving",
                Asking::PausingToCreate => "create due",
                Asking::PausingToSettle => "settle due",
            }
        ),
        CallState::Collecting(state) if state.fetching => "collecting: fetching".into(),
        CallState::Collecting(_) => "collecting: poll due".into(),
        CallState::HandingBack(HandingBack { verdict, rung, .. }) => match rung {
            UnderWay::Dialing { target, member, attended } => {
                let dialing = if *attended { "attended" } else { "dialing" };
                format!("handing back: {}, {dialing} {target} {member}", verdict.outcome)
            }
            UnderWay::Introducing { target, accepted } => {
                let stage = if *accepted { "introduced" } else { "introducing" };
                format!("handing back: {}, {stage} {target}", verdict.outcome)
            }
            UnderWay::Referring { target, member, accepted } => {
                let stage = if *accepted { "referred" } else { "refer to" };
                format!("handing back: {}, {stage} {target} {member}", verdict.outcome)
            }
            UnderWay::Consulting { webhook, .. } => format!("handing back: {}, consulting {webhook}", verdict.outcome),
            UnderWay::Talking => format!("handing back: {}, talking", verdict.outcome),
            UnderWay::Announcing => format!("handing back: {}, announcing", verdict.outcome),
            UnderWay::Parting => format!("handing back: {}, parting", verdict.outcome),
        },
        CallState::Releasing(Releasing { verdict, fetching: None }) => format!("releasing: {}", verdict.outcome),
        CallState::Releasing(state) => format!("releasing: {}, fetching", state.verdict.outcome),
        CallState::Dialing(Dialing { ticket: Some(_), .. }) => "dialing: nobody heard".into(),
        CallState::Bridged(Bridged { escape, .. }) if *escape != Escape::default() => "bridged: keys pressed".into(),
        CallState::Inviting | CallState::Dialing(_) | CallState::Bridged(_) | CallState::Ended => {
            state.name().to_owned()
        }
    }
}

fn name_of(role: LegRole) -> &'static str {
    match role {
        LegRole::Customer => "customer",
        LegRole::GenerativeAgent => "GenerativeAgent",
        LegRole::Onward => "onward",
        LegRole::Successor => "successor",
    }
}

fn lines(carry: &Carry) -> String {
    if carry.lines.is_empty() { String::new() } else { format!(" +{}", carry.lines.len()) }
}

fn worded(action: &CallAction, now: Instant) -> String {
    let after = |at: Instant| format!("{:?}", Duration::from_millis((at - now).as_millis() as u64));
    match action {
        CallAction::Leg(role, command, carry) => {
            let who = name_of(*role);
            let what = match command {
                LegCommand::Ring { early_media: false } => "ring".to_owned(),
                LegCommand::Ring { early_media: true } => "ring with audio".to_owned(),
                LegCommand::Answer => "answer".to_owned(),
                LegCommand::Refuse { status, retry_after, .. } => {
                    format!("refuse {status}{}", retry_after.map_or(String::new(), |s| format!(" for {s} s")))
                }
                LegCommand::HangUp(cause) => format!("hang up {}", cause.0),
                LegCommand::Inform(_) => "INFO".to_owned(),
                LegCommand::Refer(to) => format!("REFER {to}"),
                LegCommand::Withdraw => "withdraw the REFER".to_owned(),
                LegCommand::Accept => "accept its transfer".to_owned(),
                LegCommand::Decline => "decline its transfer".to_owned(),
                LegCommand::Report(status) => format!("report {status}"),
            };
            format!("{who}: {what}{}", lines(carry))
        }
        CallAction::Dial(_) => "dial".to_owned(),
        CallAction::Onward { target, member, carry } => format!("dial {target} {member}{}", lines(carry)),
        CallAction::Consult(inquiry) => format!("consult {} {:?}", inquiry.webhook, inquiry.timeout),
        CallAction::Report(status) => format!("report {status} to who asked"),
        CallAction::ChangeHands => "change hands".to_owned(),
        CallAction::CallSuccessor(referral) => format!("call {} as successor", referral.uri),
        CallAction::Introduce => "introduce".to_owned(),
        CallAction::Abandon(role) => format!("abandon {}", name_of(*role)),
        CallAction::FellBack(reason, rung) => format!("fell back by {rung}: {}", reason.as_str()),
        CallAction::Reserve(_) => "reserve".to_owned(),
        CallAction::TakeBack => "take back".to_owned(),
        CallAction::Create(transfer, at) => {
            format!("create #{} {}", transfer.0.rsplit('-').next().unwrap_or(""), after(*at))
        }
        CallAction::Fetch(_, at) => format!("fetch {}", after(*at)),
        CallAction::Verify(_, at) => format!("verify {}", after(*at)),
        CallAction::Misdirected(_) => "alarm: misdirected".to_owned(),
        CallAction::Connect { with, watched: true } => format!("connect {}", name_of(*with)),
        CallAction::Connect { with, watched: false } => format!("connect {} unwatched", name_of(*with)),
        CallAction::Pass(role, press) => format!("{}: key {}", name_of(*role), press.digit().key()),
        CallAction::Play(sound) => format!("play {sound:?}"),
        CallAction::Record(on) => (if *on { "record" } else { "record no longer" }).to_owned(),
        CallAction::Start(timer, at) => format!("{timer:?} {}", after(*at)),
        CallAction::StopTimers => "stop timers".to_owned(),
        CallAction::Publish(context) => format!("publish {}", context.outcome),
        CallAction::NumberUnused => "number unused".to_owned(),
        CallAction::End(record) => format!("record {}", record.verdict.outcome),
    }
}
