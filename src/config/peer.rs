//! `[peer.NAME]`: who we are where the customer's side asks it.

use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::{Config, words};
use crate::b2bua::settings::{Network, Peer as CorePeer};
use crate::sip::digest::Credentials;

/// An IVR, PBX or SBC that asks who we are before it takes a REFER.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Peer {
    /// Where it calls from. Nobody else is told.
    #[serde(with = "words::networks")]
    pub address: Vec<Network>,
    /// User name for digest authentication.
    pub username: String,
    /// Its password.
    #[serde(serialize_with = "words::nothing")]
    pub password: SecretString,
    /// A file with the password instead.
    pub password_file: Option<PathBuf>,
    /// The only realm that is answered; absent: the one the peer names.
    pub realm: Option<String>,
}

impl Peer {
    /// As the core knows it.
    pub(super) fn core(&self) -> CorePeer {
        CorePeer {
            networks: self.address.clone(),
            credentials: Credentials {
                username: self.username.clone(),
                password: self.password.expose_secret().to_owned(),
                realm: self.realm.clone(),
            },
        }
    }
}

/// Reasons to refuse these peers.
pub(super) fn problems(config: &Config, problems: &mut Vec<String>) {
    for (name, peer) in &config.peer {
        if peer.address.is_empty() {
            problems.push(format!("peer.{name}.address is missing: write [\"192.0.2.30\"], or a list of networks"));
        }
        if peer.username.is_empty() || peer.password.expose_secret().is_empty() {
            problems.push(format!("peer.{name} needs username and password: write both, the latter in password_file"));
        }
        if peer.username.chars().any(char::is_control) {
            problems.push(format!("peer.{name}.username holds a control character: copy it again"));
        }
    }
}
