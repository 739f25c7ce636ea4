//! `asapp.return`: how GenerativeAgent is asked to give a customer back whom the API has announced to its SIP URI.

use serde::{Deserialize, Serialize};

use super::Config;
use super::routes::is_sip_uri;
use crate::b2bua::settings::Returns;
use crate::call::CallRef;
use crate::call::settings::{Return, ReturnUri, WayIn};

/// The word for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReturnWord {
    /// By BYE.
    Bye,
    /// By REFER.
    Refer,
    /// By an INVITE of its own.
    Invite,
}

/// Octets of a `returnURI` that ASAPP takes.
const LONGEST_URI: usize = 1_024;

impl super::Asapp {
    /// How GenerativeAgent is asked to give customers back.
    pub(super) fn gives_back(&self) -> Return {
        match self.returns {
            ReturnWord::Bye => Return::Bye,
            ReturnWord::Refer => Return::Refer(self.return_uri.clone()),
            ReturnWord::Invite => ReturnUri::read(&self.return_uri).map_or(Return::Bye, Return::Invite),
        }
    }
}

/// Reasons to refuse the way back.
pub(super) fn problems(config: &Config, problems: &mut Vec<String>) {
    let (asapp, uri) = (&config.asapp, &config.asapp.return_uri);
    let word = match asapp.returns {
        ReturnWord::Bye => return unused(config, problems),
        ReturnWord::Refer => "refer",
        ReturnWord::Invite => "invite",
    };
    let mut complain = |text: &str| problems.push(format!("asapp.return = \"{word}\" {text}"));
    if !matches!(asapp.way_in(), WayIn::Sip { .. }) {
        complain(
            "is for calls that the API announces to a SIP URI: write asapp.sip_uri and way = \"api\", or leave it out",
        );
    }
    if uri.is_empty() {
        complain("needs to say where to: write asapp.return_uri = \"sip:back@sbc.example.com\", an address of ours");
    } else if !is_sip_uri(uri) {
        problems.push(format!("asapp.return_uri = \"{uri}\" is no SIP URI: write \"sip:back@sbc.example.com\""));
    } else if asapp.returns == ReturnWord::Invite && ReturnUri::read(uri).is_none() {
        problems.push(format!(
            "asapp.return_uri = \"{uri}\" has no plain user for a transfer's id to follow: write \"sip:back@sbc.example.com\""
        ));
    } else if longest(&asapp.gives_back()) > LONGEST_URI {
        problems.push(format!(
            "asapp.return_uri is too long: ASAPP takes {LONGEST_URI} octets, with a transfer's id in it"
        ));
    }
    if asapp.returns == ReturnWord::Refer && config.trunk.values().all(|trunk| trunk.returns != Returns::Refer) {
        problems.push(
            "asapp.return = \"refer\" would get 603: write return = \"refer\" below the trunk that reaches GenerativeAgent"
                .to_owned(),
        );
    }
    if !asapp.return_user.is_empty() {
        authentication(config, problems);
    }
}

fn unused(config: &Config, problems: &mut Vec<String>) {
    for (key, text) in [("return_uri", &config.asapp.return_uri), ("return_user", &config.asapp.return_user)] {
        if !text.is_empty() {
            problems.push(format!(
                "asapp.{key} is nothing to GenerativeAgent's BYE: write return = \"refer\" or \"invite\", or leave it out"
            ));
        }
    }
}

/// Octets of the longest URI that a transfer may have.
fn longest(gives_back: &Return) -> usize {
    match gives_back {
        Return::Bye => 0,
        Return::Refer(uri) => uri.len(),
        Return::Invite(uri) => uri.of(&CallRef(u128::MAX).transfer(u8::MAX)).len(),
    }
}

fn authentication(config: &Config, problems: &mut Vec<String>) {
    let name = &config.asapp.return_user;
    let mut complain = |text: &str| problems.push(format!("asapp.return_user = \"{name}\" {text}"));
    if config.asapp.returns != ReturnWord::Invite {
        complain("is for a returning INVITE: write return = \"invite\", or leave it out");
    } else if !config.user.contains_key(name) {
        complain(&format!("is none of [user.NAME]: write [user.{name}] with password_file = \"/run/secrets/…\""));
    } else if config.sip.challenge.is_empty() {
        complain("is never asked for: write the trunk's network in sip.challenge");
    }
}
