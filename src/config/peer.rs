//! `[peer.NAME]`: what is permitted to some of those who may call us.

use serde::{Deserialize, Serialize};

use super::{Config, words};
use crate::b2bua::settings::{Network, Peer as CorePeer};
use crate::sip::value::host_and_port;

/// Some of those in `sip.access`, and what more they may do than call.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Peer {
    /// Who they are.
    #[serde(with = "words::networks")]
    pub from: Vec<Network>,
    /// Whether their REFERs are followed.
    pub accept_refer: bool,
    /// The hosts that these may lead to.
    pub refer_hosts: Vec<String>,
}

impl Peer {
    /// As the core knows it.
    pub fn core(&self) -> CorePeer {
        let bare = |host: &String| host.trim_matches(['[', ']']).to_owned();
        CorePeer {
            from: self.from.clone(),
            accept_refer: self.accept_refer,
            refer_hosts: self.refer_hosts.iter().map(bare).collect(),
        }
    }
}

/// Reasons to refuse these peers.
pub(super) fn problems(config: &Config, problems: &mut Vec<String>) {
    for (name, peer) in &config.peer {
        if peer.accept_refer && peer.from.is_empty() {
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
    }
}
