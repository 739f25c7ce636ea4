//! The DNS, one question at a time. What is asked next, and what the answers mean, is decided in `sip::locate`.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};

use crate::b2bua::io::{Look, Naptr, Question, Records, Srv};
use crate::clock;

/// How long "there is nothing of that name" holds.
const NOTHING_HOLDS: Duration = Duration::from_secs(300);

/// Asks the DNS. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Resolver(Option<TokioResolver>);

impl Resolver {
    /// A resolver that asks these servers, or those of the system. Without either, every question fails: an address
    /// needs none.
    pub fn new(servers: &[SocketAddr]) -> Self {
        let builder = match servers {
            [] => TokioResolver::builder_tokio(),
            servers => Ok(TokioResolver::builder_with_config(of(servers), TokioRuntimeProvider::default())),
        };
        match builder.and_then(hickory_resolver::ResolverBuilder::build) {
            Ok(resolver) => Self(Some(resolver)),
            Err(error) => {
                tracing::warn!(%error, "the system's DNS configuration cannot be used: name servers in dns.servers");
                Self(None)
            }
        }
    }

    /// Asks one question; its own time limits are those of the resolver, some seconds.
    pub async fn look(&self, question: Question) -> Look {
        let answer = match &self.0 {
            Some(resolver) => look(resolver, &question).await,
            None => Err("no DNS server is known".to_owned()),
        };
        Look { question, answer }
    }
}

fn of(servers: &[SocketAddr]) -> ResolverConfig {
    let server = |address: &SocketAddr| {
        let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
            connection.port = address.port();
            connection
        });
        NameServerConfig::new(address.ip(), true, connections.into())
    };
    ResolverConfig::from_parts(None, Vec::new(), servers.iter().map(server).collect())
}

async fn look(resolver: &TokioResolver, question: &Question) -> Result<(Records, Duration), String> {
    match question {
        Question::Naptr(name) => {
            let found = answers(resolver.lookup(rooted(name), RecordType::NAPTR).await)?;
            Ok((Records::Naptr(found.0.iter().filter_map(naptr).collect()), found.1))
        }
        Question::Srv(name) => {
            let found = answers(resolver.lookup(rooted(name), RecordType::SRV).await)?;
            Ok((Records::Srv(found.0.iter().filter_map(srv).collect()), found.1))
        }
        Question::Addresses(name) => {
            let (v4, v6) = tokio::join!(
                resolver.lookup(rooted(name), RecordType::A),
                resolver.lookup(rooted(name), RecordType::AAAA)
            );
            let (v4, v6) = match (answers(v4), answers(v6)) {
                (Err(error), Err(_)) => return Err(error),
                (v4, v6) => (v4.unwrap_or_default(), v6.unwrap_or_default()),
            };
            let holds = [&v4, &v6].into_iter().filter(|(found, _)| !found.is_empty()).map(|(_, holds)| *holds).min();
            let addresses = v4.0.iter().chain(&v6.0).filter_map(address).collect();
            Ok((Records::Addresses(addresses), holds.unwrap_or(NOTHING_HOLDS)))
        }
    }
}

/// A name with dots in it is complete; one without may be the system's to complete.
fn rooted(name: &str) -> String {
    if name.contains('.') && !name.ends_with('.') { format!("{name}.") } else { name.to_owned() }
}

/// What was found, and for how long it holds; nothing is an answer too.
fn answers(found: Result<Lookup, NetError>) -> Result<(Vec<RData>, Duration), String> {
    match found {
        Ok(lookup) => {
            let holds = lookup.valid_until().saturating_duration_since(clock::now());
            Ok((lookup.answers().iter().map(|record| record.data.clone()).collect(), holds))
        }
        Err(error) if error.is_no_records_found() => Ok((Vec::new(), NOTHING_HOLDS)),
        Err(error) => Err(error.to_string()),
    }
}

fn naptr(data: &RData) -> Option<Naptr> {
    let RData::NAPTR(record) = data else { return None };
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    Some(Naptr {
        order: record.order,
        preference: record.preference,
        flags: text(&record.flags),
        service: text(&record.services),
        replacement: plain(&record.replacement.to_ascii()),
    })
}

fn srv(data: &RData) -> Option<Srv> {
    let RData::SRV(record) = data else { return None };
    let target = plain(&record.target.to_ascii());
    Some(Srv { priority: record.priority, weight: record.weight, port: record.port, target })
}

fn address(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(address) => Some(address.0.into()),
        RData::AAAA(address) => Some(address.0.into()),
        _ => None,
    }
}

fn plain(name: &str) -> String {
    name.trim_end_matches('.').to_owned()
}
