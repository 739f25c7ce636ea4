//! `[peer.NAME]`: what is permitted to some of those who may call us, and who we are where they ask it.

use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::{Config, words};
use crate::b2bua::settings::{Network, Peer as CorePeer};
use crate::sip::digest::Credentials;
use crate::sip::value::host_and_port;

/// An IVR, PBX or SBC of those in `sip.access`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Peer {
    /// Where it calls from.
    #[serde(with = "words::networks")]
    pub from: Vec<Network>,
    /// Whether its REFERs are followed.
    pub accept_refer: bool,
    /// The hosts that these may lead to.
    pub refer_hosts: Vec<String>,
    /// User name for digest authentication, where it asks who we are before it takes a request of ours.
    pub username: String,
    /// The password for it. Nobody else is told.
    #[serde(serialize_with = "words::nothing")]
    pub password: SecretString,
    /// A file with the password instead.
    pub password_file: Option<PathBuf>,
    /// The only realm that is answered; absent: the one the peer names.
    pub realm: Option<String>,
}

impl Peer {
    /// As the core knows it.
    pub fn core(&self) -> CorePeer {
        let bare = |host: &String| host.trim_matches(['[', ']']).to_owned();
        let credentials = Credentials {
            username: self.username.clone(),
            password: self.password.expose_secret().to_owned(),
            realm: self.realm.clone(),
        };
        CorePeer {
            from: self.from.clone(),
            accept_refer: self.accept_refer,
            refer_hosts: self.refer_hosts.iter().map(bare).collect(),
            credentials: Some(credentials).filter(|credentials| !credentials.username.is_empty()),
        }
    }
}

/// Reasons to refuse these peers.
pub(super) fn problems(config: &Config, problems: &mut Vec<String>) {
    for (name, peer) in &config.peer {
        if peer.from.is_empty() {
            problems.push(format!("peer.{name} is nobody: write from = [\"192.0.2.10\"], as in sip.access"));
        }
        let listed = |address| config.sip.access.iter().any(|network| network.contains(address));
        if let Some(stranger) = peer.from.iter().find(|network| !listed(network.address)) {
            problems.push(format!("peer.{name}.from: {} is not in sip.access, and so is not heard", stranger.address));
        }
        if peer.accept_refer && peer.refer_hosts.is_empty() {
            problems.push(format!(
                "peer.{name}.accept_refer leads nowhere: name the hosts in peer.{name}.refer_hosts, such as [\"192.0.2.10\"]"
            ));
        }
        let is_host = |host: &str| {
            let literal = host.parse::<std::net::IpAddr>().is_ok();
            literal || host_and_port(host).is_some_and(|(_, port)| port.is_none())
        };
        for host in peer.refer_hosts.iter().filter(|host| !is_host(host)) {
            problems.push(format!(
                "peer.{name}.refer_hosts: \"{host}\" is no host; write a name or an IP address, no port"
            ));
        }
        if peer.username.is_empty() != peer.password.expose_secret().is_empty() {
            problems
                .push(format!("peer.{name} has half of its credentials: write username and password_file, or neither"));
        }
        if peer.username.chars().any(char::is_control) {
            problems.push(format!("peer.{name}.username holds a control character: copy it again"));
        }
    }
}
