//! The configuration in plain words, for `switchback check`.

use std::fmt::Write;

use super::words::{Prefix, span};
use super::{Config, Destination, Keep, Listener, Recording, Sounds, routes};
use crate::b2bua::settings::{Caller, Srtp};
use crate::call::TransferId;
use crate::call::recording::Occasion;
use crate::call::rules::Entry;
use crate::call::settings::{Answer, BodyForm, ContextSettings, Return, Ringing, Uui, WayIn};
use crate::call::verdict::Outcome;

/// What happens to a call, and the table of last words.
pub(super) fn explain(config: &Config) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = story(config, &mut text).and_then(|()| table(config, &mut text));
    text
}

fn story(config: &Config, to: &mut String) -> std::fmt::Result {
    let Config { sip, media, user, trunk, call, .. } = config;
    let peers: Vec<String> = sip.access.iter().map(|network| Prefix(*network).to_string()).collect();
    let peers = if peers.is_empty() { "nobody: sip.access is empty".to_owned() } else { peers.join(", ") };
    let [longest, dead] = [call.max_duration, media.timeout].map(span::format);
    writeln!(to, "A call")?;
    let ways: Vec<String> = config.listeners().into_iter().map(way).collect();
    writeln!(to, "  comes in over {}, from {peers}.", ways.join(", "))?;
    if !sip.challenge.is_empty() {
        let asked: Vec<String> = sip.challenge.iter().map(|network| Prefix(*network).to_string()).collect();
        let users: Vec<&str> = user.keys().map(String::as_str).collect();
        writeln!(to, "  Who calls from {} must say who it is: {}.", asked.join(", "), users.join(", "))?;
    }
    for (name, peer) in config.peer.iter().filter(|(_, peer)| peer.accept_refer) {
        let hosts = peer.refer_hosts.join(", ");
        writeln!(to, "  A REFER of {name} is followed to {hosts}; any other gets 603.")?;
    }
    writeln!(to, "  At most {} calls, {} new ones a second; above that 503.", sip.max_calls, sip.max_calls_per_second)?;
    reaching(config, to)?;
    let mut trunks: Vec<_> = trunk.iter().collect();
    trunks.sort_by_key(|(_, trunk)| trunk.order);
    for (name, trunk) in trunks {
        let also = if trunk.caller == Caller::Passthrough { " or the customer's own number" } else { "" };
        writeln!(
            to,
            "    {name} ({}), order {}, weight {}, as {}{also}.",
            trunk.address, trunk.order, trunk.weight, trunk.caller_id
        )?;
    }
    writeln!(
        to,
        "  RTP passes through {} ports {}; {dead} without any ends the call.",
        media.address.iter().map(|here| named(*here, media.told(*here))).collect::<Vec<_>>().join(" and "),
        String::from(media.ports)
    )?;
    protection(config, to)?;
    writeln!(
        to,
        "  Of the customer's INVITE {} passes on to the trunk, of GenerativeAgent's answers {} to the customer; hosts are {}.",
        listed(&config.headers.to_genagent),
        listed(&config.headers.to_customer),
        if config.headers.hide_topology { "hidden" } else { "shown" }
    )?;
    writeln!(to, "  A conversation lasts at most {longest}.")?;
    if !call.escape.is_empty() {
        writeln!(
            to,
            "  A customer who presses {}, a key at most {} after the other, leaves GenerativeAgent (outcome operator below).",
            String::from(call.escape.clone()),
            span::format(call.escape_pause)
        )?;
    }
    way_back(config, to)?;
    sounds(config, to)?;
    recording(config, to)?;
    conversations(config, to)?;
    match &config.records.path {
        Destination::File(path) => writeln!(to, "  One line about it is appended to {}.", path.display()),
        Destination::Stdout => writeln!(to, "  One line about it is printed."),
        Destination::Nowhere => writeln!(to, "  No record of it is kept."),
    }
}

/// From the customer's INVITE to GenerativeAgent's.
fn reaching(config: &Config, to: &mut String) -> std::fmt::Result {
    let Config { asapp, call, .. } = config;
    let [budget, margin, ring] = [call.number_budget, call.expiry_margin, call.ring_limit].map(span::format);
    let heard = match (call.answer, call.ringing) {
        (Answer::First, _) => "our ringing tone, being answered at once,",
        (Answer::OnBridge, Ringing::Local) => "the caller's own ringing tone (180)",
        (Answer::OnBridge, Ringing::EarlyMedia) => "our ringing tone (183)",
    };
    let wanted = match asapp.way_in() {
        WayIn::Number => format!("a number in {}", asapp.country),
        WayIn::Sip { uri, .. } => format!("a transfer to {uri}"),
        WayIn::Headers { uri } => {
            let room = config.context.max_invite_lines;
            writeln!(to, "  The customer hears {heard} while we call {uri}. No API is asked:")?;
            return writeln!(
                to,
                "  X-GA-* headers of the INVITE say what it is about, in {room} octets. It may ring {ring}. Over:"
            );
        }
    };
    let (url, attempts) = (&asapp.base_url, call.max_attempts);
    writeln!(to, "  The customer hears {heard} while we ask {url} for {wanted} and dial it.")?;
    writeln!(to, "  Asking may take {budget}, in at most {attempts} attempts.")?;
    writeln!(to, "  The number is dialled, never later than {margin} before it expires, and may ring {ring}. Over:")
}

/// How GenerativeAgent gives a customer back.
fn way_back(config: &Config, to: &mut String) -> std::fmt::Result {
    let collect = span::format(config.call.collect_limit);
    match config.asapp.way_in() {
        WayIn::Headers { .. } => {
            return writeln!(
                to,
                "  When GenerativeAgent hangs up, we hand back at once; its outputContext comes only by REFER."
            );
        }
        WayIn::Number | WayIn::Sip { returns: Return::Bye, .. } => {}
        WayIn::Sip { returns: Return::Refer(uri), .. } => {
            writeln!(to, "  GenerativeAgent is asked to give a customer back by REFER to {uri}.")?;
        }
        WayIn::Sip { returns: Return::Invite(uri), .. } => {
            let uri = uri.of(&TransferId("ID".to_owned()));
            writeln!(
                to,
                "  GenerativeAgent is asked to give a customer back by INVITE to {uri}, ID being the transfer's."
            )?;
        }
    }
    writeln!(to, "  When GenerativeAgent hangs up, we ask for its outputContext for up to {collect} and hand back.")
}

fn sounds(config: &Config, to: &mut String) -> std::fmt::Result {
    let Sounds { ringback, waiting, onward, hold, announcement, announcement_limit, .. } = &config.sounds;
    writeln!(
        to,
        "  Of ours the customer hears {ringback} before the answer, {waiting} while he waits, {onward} while a target"
    )?;
    writeln!(to, "  rings; who talks with somebody who holds hears {hold}.")?;
    match announcement {
        Some(said) => {
            let limit = span::format(*announcement_limit);
            writeln!(
                to,
                "  When no target can be reached, an answered customer hears {said}, at most {limit}, and BYE follows."
            )
        }
        None => writeln!(to, "  When no target can be reached, nothing is said before the BYE."),
    }
}

fn recording(config: &Config, to: &mut String) -> std::fmt::Result {
    let Recording { max_megabytes, beep, when, .. } = &config.recording;
    let Some(folder) = config.recording.folder() else { return writeln!(to, "  Nothing is recorded.") };
    let which = match when.len() {
        0 => "only who is asked for over HTTP".to_owned(),
        _ if when.contains(&Occasion::default()) => "every call".to_owned(),
        count => format!("calls that fit one of {count} occasions, and who is asked for over HTTP"),
    };
    let tone =
        if beep.is_zero() { "without a tone".to_owned() } else { format!("with a tone every {}", span::format(*beep)) };
    writeln!(to, "  Recorded in {}, up to {max_megabytes} MB in all, is {which}, {tone}.", folder.display())
}

fn protection(config: &Config, to: &mut String) -> std::fmt::Result {
    let all = |srtp: Srtp| match srtp {
        Srtp::Off => "plain RTP only",
        Srtp::Allow => "SRTP where it is offered",
        Srtp::Require => "SRTP only",
    };
    let trunks = config.trunk.iter().map(|(name, trunk)| format!(", with {name} {}", all(trunk.srtp)));
    let keys = if config.media.srtp_without_tls { "whatever carries SIP" } else { "TLS only" };
    let trunks: String = trunks.collect();
    writeln!(to, "  With callers {}{trunks}; SRTP keys are told over {keys}.", all(config.media.srtp))
}

fn way(listener: Listener) -> String {
    format!("{} on {}", listener.transport.as_str(), named(listener.here, listener.told))
}

/// An address of ours, and what peers are told in its place.
fn named<T: PartialEq + std::fmt::Display>(here: T, told: T) -> String {
    if here == told { here.to_string() } else { format!("{here} (peers are told {told})") }
}

fn listed(headers: &[String]) -> String {
    if headers.is_empty() { "no header".to_owned() } else { headers.join(", ") }
}

fn conversations(config: &Config, to: &mut String) -> std::fmt::Result {
    let (conversations, header) = (&config.conversations, &config.intake.conversation_header);
    let caller = if conversations.by_caller { ", or the caller's number" } else { "" };
    writeln!(to, "  Its conversation is named by {header}, User-to-User, a URI parameter or Session-ID{caller}.")?;
    if conversations.resume_window.is_zero() {
        return writeln!(to, "  Conversations are not remembered.");
    }
    let window = span::format(conversations.resume_window);
    let place = match &conversations.path {
        Keep::File(path) => format!("in {}", path.display()),
        Keep::Nowhere => "in memory, until the program ends".to_owned(),
    };
    writeln!(to, "  When the customer hangs up, the conversation is remembered for {window} {place}.")
}

fn table(config: &Config, to: &mut String) -> std::fmt::Result {
    for (name, row) in &config.target {
        let uris = row.uri.join(", then ");
        let sent =
            row.profile.as_ref().map_or(String::new(), |profile| format!("; is sent what profile {profile} says"));
        let silence = if row.silence.is_zero() { row.ring_limit } else { row.silence.min(row.ring_limit) };
        let [ring, silence, accept] = [row.ring_limit, silence, row.accept_limit].map(span::format);
        writeln!(
            to,
            "  Target {name}: {uris}; each may ring {ring} or be silent {silence}; a REFER to it is accepted within {accept} \
             and may then be silent {ring}{sent}."
        )?;
    }
    for (name, row) in &config.webhook {
        writeln!(to, "  Webhook {name}: {}, asked for up to {}.", bare(&row.url), span::format(row.timeout))?;
    }
    profiles(config, to)?;
    writeln!(to, "\nWhen it ends\n  {:<17} {:<13} what is done", "outcome", "entry")?;
    for outcome in Outcome::ALL {
        for &entry in routes::entries(config) {
            let kind = if entry == Entry::Supervised { "supervised" } else { "redirected" };
            for (before, done) in done(config, outcome, entry) {
                writeln!(to, "  {:<17} {kind:<13} {before}{done}", outcome.as_str())?;
            }
        }
    }
    to.write_str(
        "\nSupervised: the IVR called us and goes on after our BYE. Redirected: the call was sent on to us (Referred-By,\n\
         Diversion, History-Info, a REFER outside a call, or call.entry). (!) Nobody is behind us: this BYE hangs up on\n\
         the customer. A BYE, a refusal, a 302, an onward INVITE and a Refer-To carry the verdict, the context reference\n\
         and the context, if there is one. refer: the customer's side calls the target itself; only its word that this\n\
         worked counts, or its BYE after it has accepted, and until then the customer stays with us.\n\
         refer_replaces: the target is dialled, and then the customer's side is asked to take our place with it; where\n\
         that fails, it was a dial.\n",
    )
}

/// A URL without what may be a secret in it.
fn bare(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or_default()
}

/// Who is sent a context in which way.
fn profiles(config: &Config, to: &mut String) -> std::fmt::Result {
    for (name, row) in &config.profile {
        let networks = row.peers.iter().map(|network| Prefix(*network).to_string());
        let trunks = config.trunk.iter().filter(|(_, trunk)| trunk.profile.as_ref() == Some(name));
        let whom: Vec<String> = networks.chain(trunks.map(|(trunk, _)| format!("trunk {trunk}"))).collect();
        let whom = if whom.is_empty() { "targets only".to_owned() } else { whom.join(", ") };
        writeln!(to, "  Profile {name} ({}), for {whom}: {}.", row.context.preset, sent(&row.context))?;
    }
    writeln!(to, "  Everybody else ({}): {}.", config.context.preset, sent(&config.context))
}

/// In which form a receiver gets the context.
fn sent(context: &ContextSettings) -> String {
    let mut ways = Vec::new();
    if context.max_variables > 0 {
        ways.push(format!("headers {}NAME", context.transfer_prefix));
    }
    let data = match context.uui {
        Uui::Off => None,
        Uui::Ref => Some("the reference"),
        Uui::Kv => Some("name=value"),
        Uui::Json => Some("JSON"),
    };
    ways.extend(data.map(|data| format!("User-to-User with {data}")));
    match context.body {
        BodyForm::None => {}
        BodyForm::Form => ways.push("a form on the BYE".to_owned()),
        BodyForm::Json => ways.push("JSON on the BYE".to_owned()),
    }
    if !context.reference_header.is_empty() {
        ways.push(context.reference_header.clone());
    }
    if ways.is_empty() { "nothing but a cause".to_owned() } else { ways.join(", ") }
}

/// What is done for this outcome: a line of conditions and one of rungs for each case.
fn done(config: &Config, outcome: Outcome, entry: Entry) -> Vec<(String, String)> {
    let only = |text: &str| vec![(String::new(), text.to_owned())];
    match outcome {
        Outcome::CustomerHungUp => only("nothing to hand back"),
        Outcome::Drained => only("both legs ended with a Reason"),
        Outcome::RecoveredLost => only("a record only"),
        _ => {
            let stages: Vec<bool> = routes::stages(config, outcome).collect();
            let told = |answered| {
                if stages.len() == 1 {
                    ""
                } else if answered {
                    "answered: "
                } else {
                    "not answered: "
                }
            };
            let cases = stages.iter().flat_map(|&answered| {
                let cases = routes::cases(config, outcome, answered, entry);
                cases.into_iter().map(move |case| (format!("{}{}", told(answered), case.condition()), case.worded()))
            });
            cases.collect()
        }
    }
}
