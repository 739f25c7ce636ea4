//! Where customers go next: the servers of each URI of each target, found as those of trunks are (RFC 3263).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use super::heard::Heard;
use super::places::{Look, Progress, Search};
use super::settings::Reach;
use super::trunks::{Found, speaks_at_all};
use crate::sip::hop::{Hop, Transport};
use crate::sip::ids::Ids;
use crate::sip::locate::{Server, in_order};

#[derive(Debug)]
struct Row {
    name: String,
    reach: Reach,
    search: Search,
    servers: Vec<Server>,
}

/// All targets.
#[derive(Debug)]
pub struct Targets {
    rows: Vec<Row>,
    heard: Heard,
}

impl Targets {
    /// Targets whose servers are not looked for yet: each has its URIs in order.
    pub fn new(targets: &BTreeMap<String, Vec<Reach>>) -> Self {
        let row = |name: &String, reach: &Reach| Row {
            name: name.clone(),
            reach: reach.clone(),
            search: Search::new(reach.place.clone()),
            servers: Vec::new(),
        };
        let rows = targets.iter().flat_map(|(name, uris)| uris.iter().map(move |reach| row(name, reach)));
        Self { rows: rows.collect(), heard: Heard::default() }
    }

    /// Whether this address is, or was, one of a target's.
    pub fn hears(&self, address: IpAddr) -> bool {
        self.heard.contains(address)
    }

    /// Where the URI at this place in the target's list is reached now.
    pub fn hop(&self, target: &str, member: usize, speaks: impl Fn(&Hop) -> bool, ids: &mut Ids) -> Option<Hop> {
        let row = self.rows.iter().filter(|row| row.name == target).nth(member)?;
        let ranks: Vec<_> = row.servers.iter().map(|server| (server.priority, server.weight)).collect();
        let order = in_order(&ranks, |limit| ids.below(limit));
        let servers = order.into_iter().map(|index| &row.servers[index]);
        let mut hops = servers.flat_map(|it| it.addresses.iter().map(|address| Hop::new(it.transport, *address)));
        hops.find(|hop| speaks(hop))
    }

    /// Looks for every target whose time has come.
    pub fn search(&mut self, now: Instant, first: bool, speaks: impl Fn(&Hop) -> bool) -> Vec<Found> {
        let mut found = Vec::new();
        for row in &mut self.rows {
            if first || row.search.due().is_some_and(|due| due <= now) {
                let progress = row.search.begin(now, |transport| speaks_at_all(&speaks, transport));
                row.progress(progress, &mut self.heard, &mut found);
            }
        }
        found
    }

    /// Takes the DNS's answer.
    pub fn looked(&mut self, now: Instant, look: &Look, speaks: impl Fn(&Hop) -> bool) -> Vec<Found> {
        let mut found = Vec::new();
        for row in &mut self.rows {
            let progress = row.search.answered(now, look, |transport| speaks_at_all(&speaks, transport));
            row.progress(progress, &mut self.heard, &mut found);
        }
        found
    }

    /// When a search is due.
    pub fn next(&self) -> Option<Instant> {
        self.rows.iter().filter_map(|row| row.search.due()).min()
    }
}

impl Row {
    fn progress(&mut self, progress: Progress, heard: &mut Heard, found: &mut Vec<Found>) {
        match progress {
            Progress::Ask(question) => found.push(Found::Ask(question)),
            Progress::Found(servers) => {
                let hosts = servers.iter().flat_map(|server| server.addresses.iter().map(|it| (server.transport, it)));
                for (transport, address) in hosts {
                    heard.found(address.ip());
                    if transport == Transport::Tls {
                        found.push(Found::Named(address.ip(), self.reach.domain.clone()));
                    }
                }
                self.servers = servers;
            }
            Progress::Failed(why) => {
                tracing::warn!(target = self.name, why, "the target could not be looked up; it stays where it was");
            }
            Progress::Nothing => {}
        }
    }
}
