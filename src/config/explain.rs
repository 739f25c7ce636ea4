//! The configuration in plain words, for `switchback check`.

use std::fmt::Write;

use super::words::{Prefix, span};
use super::{Config, Destination, Keep};
use crate::b2bua::settings::Caller;
use crate::call::settings::Ringing;
use crate::call::verdict::Outcome;

/// What happens to a call, and the table of last words.
pub(super) fn explain(config: &Config) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = story(config, &mut text).and_then(|()| table(config, &mut text));
    text
}

fn story(config: &Config, to: &mut String) -> std::fmt::Result {
    let Config { sip, media, trunk, asapp, call, .. } = config;
    let peers: Vec<String> = sip.access.iter().map(|network| Prefix(*network).to_string()).collect();
    let peers = if peers.is_empty() { "nobody: sip.access is empty".to_owned() } else { peers.join(", ") };
    let [budget, margin, ring, collect, longest, dead] =
        [call.number_budget, call.expiry_margin, call.ring_limit, call.collect_limit, call.max_duration, media.timeout]
            .map(span::format);
    writeln!(to, "A call")?;
    writeln!(to, "  comes in on {} (we call ourselves {}) from {peers}.", sip.listen, config.sip_address())?;
    writeln!(to, "  At most {} calls, {} new ones a second; above that 503.", sip.max_calls, sip.max_calls_per_second)?;
    writeln!(
        to,
        "  The customer hears {} while we ask {} for a number in {} and dial it.",
        match call.ringing {
            Ringing::Local => "the caller's own ringing tone (180)",
            Ringing::EarlyMedia => "our ringing tone (183)",
        },
        asapp.base_url,
        asapp.country
    )?;
    writeln!(to, "  Asking may take {budget}, in at most {} attempts.", call.max_attempts)?;
    writeln!(to, "  The number is dialled, never later than {margin} before it expires, and may ring {ring}. Over:")?;
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
        media.address,
        String::from(media.ports)
    )?;
    writeln!(to, "  A conversation lasts at most {longest}.")?;
    writeln!(to, "  When GenerativeAgent hangs up, we ask for its outputContext for up to {collect} and hand back.")?;
    conversations(config, to)?;
    match &config.records.path {
        Destination::File(path) => writeln!(to, "  One line about it is appended to {}.", path.display()),
        Destination::Stdout => writeln!(to, "  One line about it is printed."),
        Destination::Nowhere => writeln!(to, "  No record of it is kept."),
    }
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
        Keep::InMemory => "in memory, until the program ends".to_owned(),
    };
    writeln!(to, "  When the customer hangs up, the conversation is remembered for {window} {place}.")
}

fn table(config: &Config, to: &mut String) -> std::fmt::Result {
    writeln!(to, "\nWhen it ends\n  {:<17} {:<32} redirected entry", "outcome", "supervised entry")?;
    for outcome in Outcome::ALL {
        let [supervised, redirected] = [Entry::Supervised, Entry::Redirected].map(|entry| done(config, outcome, entry));
        writeln!(to, "  {:<17} {supervised:<32} {redirected}", outcome.as_str())?;
    }
    to.write_str(
        "\nSupervised: the IVR called us and goes on after our BYE. Redirected: the call was sent on to us.\n\
         (!) Nobody is behind us: this BYE hangs up on the customer. This version hands back by BYE in both cases.\n",
    )
}

/// How a call came to us.
#[derive(Clone, Copy)]
enum Entry {
    Supervised,
    Redirected,
}

/// What is done for this outcome; keep it in step with the call's hand-back.
fn done(config: &Config, outcome: Outcome, entry: Entry) -> String {
    let bye = |carrying: &str| match entry {
        Entry::Supervised => format!("bye, with {carrying}"),
        Entry::Redirected => format!("bye, with {carrying} (!)"),
    };
    match outcome {
        Outcome::Agent | Outcome::System | Outcome::Unspecified => bye("verdict and context"),
        Outcome::Unconfirmed | Outcome::ContextMissing | Outcome::GenagentLost => bye("verdict and reference"),
        Outcome::Misdirected | Outcome::MaxDuration | Outcome::Operator => bye("verdict and reference"),
        Outcome::NotConnected => match (&config.fallback.redirect, config.fallback.status) {
            (Some(target), _) => format!("302 to {target}"),
            (None, status) => format!("refused with {}", status.unwrap_or(480)),
        },
        Outcome::CustomerHungUp => "nothing to hand back".to_owned(),
        Outcome::Drained => "both legs ended with a Reason".to_owned(),
        Outcome::RecoveredLost => "a record only".to_owned(),
    }
}
