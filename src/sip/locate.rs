//! Finding a server (RFC 3263, RFC 2782) as a function over DNS records: it names the next question until it knows.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use super::hop::Transport;
use super::value::literal_host;

/// Where a server is to be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// An IP address, or a name to be looked up.
    pub host: String,
    /// Named, it is taken, and nobody asks for SRV records.
    pub port: Option<u16>,
    /// Named, it is taken; else NAPTR and SRV records decide.
    pub transport: Option<Transport>,
}

impl Place {
    /// An address that needs no look-up.
    pub fn at(transport: Transport, address: SocketAddr) -> Self {
        Self { host: address.ip().to_string(), port: Some(address.port()), transport: Some(transport) }
    }
}

/// One question to the DNS. Names are as they were written, without a final dot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Question {
    /// NAPTR records (RFC 3403).
    Naptr(String),
    /// SRV records (RFC 2782).
    Srv(String),
    /// A and AAAA records.
    Addresses(String),
}

/// What the DNS has under that name; an empty list where it has nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Records {
    /// To [`Question::Naptr`].
    Naptr(Vec<Naptr>),
    /// To [`Question::Srv`].
    Srv(Vec<Srv>),
    /// To [`Question::Addresses`].
    Addresses(Vec<IpAddr>),
}

/// A NAPTR record, as far as RFC 3263 section 4.1 reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Naptr {
    /// Lower first.
    pub order: u16,
    /// Lower first among the same order.
    pub preference: u16,
    /// `s`: the replacement is the name of SRV records.
    pub flags: String,
    /// `SIP+D2U`, `SIP+D2T`, `SIPS+D2T`.
    pub service: String,
    /// The next name.
    pub replacement: String,
}

/// An SRV record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Srv {
    /// Lower first.
    pub priority: u16,
    /// Its share among the same priority.
    pub weight: u16,
    /// The port.
    pub port: u16,
    /// The host; empty: the service is decidedly not there.
    pub target: String,
}

/// What is known of the DNS so far.
pub type Known = HashMap<Question, Records>;

/// One server: the addresses of one host, to be tried in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// How to speak to it.
    pub transport: Transport,
    /// Lower first.
    pub priority: u16,
    /// Its share among the same priority.
    pub weight: u16,
    /// Where it is.
    pub addresses: Vec<SocketAddr>,
}

/// Servers of one place, and addresses of one server, that are considered; more are left out.
const MAX_SERVERS: usize = 16;

/// The servers of a place, or the question whose answer is needed next. `speaks` tells which transports are ours.
/// No servers: the place is known to have none.
pub fn locate(place: &Place, known: &Known, speaks: impl Fn(Transport) -> bool) -> Result<Vec<Server>, Question> {
    let transport = |default| place.transport.unwrap_or(default);
    if let Some(ip) = literal_host(&place.host) {
        let transport = transport(Transport::Udp);
        let address = SocketAddr::new(ip, place.port.unwrap_or(transport.default_port()));
        return Ok(vec![Server { transport, priority: 0, weight: 0, addresses: vec![address] }]);
    }
    if let Some(port) = place.port {
        return hosts(&place.host, port, transport(Transport::Udp), known);
    }
    if place.transport.is_none()
        && let Some((transport, name)) = naptr(&place.host, known, &speaks)?
    {
        return Ok(services(&name, transport, known)?.unwrap_or_default());
    }
    // TLS is never guessed: the configuration names it, or a NAPTR record does.
    let guesses: &[Transport] = match &place.transport {
        Some(transport) => std::slice::from_ref(transport),
        None => &[Transport::Udp, Transport::Tcp],
    };
    for &transport in guesses.iter().filter(|transport| speaks(**transport)) {
        let service = match transport {
            Transport::Udp => "_sip._udp",
            Transport::Tcp => "_sip._tcp",
            Transport::Tls => "_sips._tcp",
        };
        if let Some(servers) = services(&format!("{service}.{}", place.host), transport, known)? {
            return Ok(servers);
        }
    }
    let transport = transport(Transport::Udp);
    hosts(&place.host, transport.default_port(), transport, known)
}

/// The best way that NAPTR records offer among those that are ours (RFC 3263 section 4.1).
fn naptr(
    host: &str,
    known: &Known,
    speaks: impl Fn(Transport) -> bool,
) -> Result<Option<(Transport, String)>, Question> {
    let question = Question::Naptr(host.to_owned());
    let Some(records) = known.get(&question) else { return Err(question) };
    let Records::Naptr(records) = records else { return Ok(None) };
    let usable = records.iter().filter_map(|record| {
        let transport = match record.service.to_ascii_uppercase().as_str() {
            "SIP+D2U" => Transport::Udp,
            "SIP+D2T" => Transport::Tcp,
            "SIPS+D2T" => Transport::Tls,
            _ => return None,
        };
        let ours = speaks(transport) && record.flags.eq_ignore_ascii_case("s") && !record.replacement.is_empty();
        ours.then_some((record.order, record.preference, transport, &record.replacement))
    });
    let best = usable.min_by_key(|(order, preference, ..)| (*order, *preference));
    Ok(best.map(|(_, _, transport, name)| (transport, name.clone())))
}

/// The servers that SRV records name; `None` where there are no such records.
fn services(name: &str, transport: Transport, known: &Known) -> Result<Option<Vec<Server>>, Question> {
    let question = Question::Srv(name.to_owned());
    let Some(records) = known.get(&question) else { return Err(question) };
    let Records::Srv(records) = records else { return Ok(None) };
    if records.is_empty() {
        return Ok(None);
    }
    let mut servers = Vec::new();
    for record in records.iter().filter(|record| !record.target.is_empty()).take(MAX_SERVERS) {
        let found = hosts(&record.target, record.port, transport, known)?.into_iter();
        servers.extend(found.map(|server| Server { priority: record.priority, weight: record.weight, ..server }));
    }
    Ok(Some(servers))
}

/// One server with every address of its name.
fn hosts(name: &str, port: u16, transport: Transport, known: &Known) -> Result<Vec<Server>, Question> {
    let question = Question::Addresses(name.to_owned());
    let Some(records) = known.get(&question) else { return Err(question) };
    let Records::Addresses(found) = records else { return Ok(Vec::new()) };
    let addresses: Vec<_> = found.iter().take(MAX_SERVERS).map(|ip| SocketAddr::new(*ip, port)).collect();
    Ok(if addresses.is_empty() { Vec::new() } else { vec![Server { transport, priority: 0, weight: 0, addresses }] })
}

/// In which order things are tried that have a priority and a weight: indices into `of` (RFC 2782). `draw(n)` is a
/// random number below n.
pub fn in_order(of: &[(u16, u16)], mut draw: impl FnMut(usize) -> usize) -> Vec<usize> {
    let mut rest: Vec<usize> = (0..of.len()).collect();
    // Those without weight first, so that they have a chance at all.
    rest.sort_by_key(|&index| (of[index].0, of[index].1 > 0));
    let mut order = Vec::with_capacity(rest.len());
    while let Some(&first) = rest.first() {
        let group = rest.iter().take_while(|&&index| of[index].0 == of[first].0).count();
        let weight = |index: usize| usize::from(of[index].1);
        let drawn = draw(rest[..group].iter().map(|&index| weight(index)).sum::<usize>() + 1);
        let mut sum = 0;
        let chosen = rest[..group].iter().position(|&index| {
            sum += weight(index);
            sum >= drawn
        });
        order.push(rest.remove(chosen.unwrap_or(0)));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A zone, one record a line: `name NAPTR order preference flags service replacement`, `name SRV priority weight
    /// port target`, `name A address`.
    fn zone(text: &str) -> Known {
        let mut known = Known::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (name, number) = (words[0].to_owned(), |at: usize| words[at].parse::<u16>().unwrap());
            match words[1] {
                "NAPTR" => {
                    let record = Naptr {
                        order: number(2),
                        preference: number(3),
                        flags: words[4].into(),
                        service: words[5].into(),
                        replacement: words[6].into(),
                    };
                    let Records::Naptr(records) = known.entry(Question::Naptr(name)).or_insert(Records::Naptr(vec![]))
                    else {
                        unreachable!()
                    };
                    records.push(record);
                }
                "SRV" => {
                    let target = words.get(5).map_or(String::new(), |target| (*target).to_owned());
                    let record = Srv { priority: number(2), weight: number(3), port: number(4), target };
                    let Records::Srv(records) = known.entry(Question::Srv(name)).or_insert(Records::Srv(vec![])) else {
                        unreachable!()
                    };
                    records.push(record);
                }
                _ => {
                    let Records::Addresses(records) =
                        known.entry(Question::Addresses(name)).or_insert(Records::Addresses(vec![]))
                    else {
                        unreachable!()
                    };
                    records.push(words[2].parse().unwrap());
                }
            }
        }
        known
    }

    /// Asks a complete zone, as a resolver would: what is not in it is known not to be there.
    fn ask(place: &Place, zone: &Known, speaks: &[Transport]) -> (Vec<String>, Vec<Question>) {
        let (mut known, mut asked) = (Known::new(), Vec::new());
        loop {
            match locate(place, &known, |transport| speaks.contains(&transport)) {
                Ok(servers) => {
                    let drawn = servers.iter().map(|s| {
                        let addresses: Vec<_> = s.addresses.iter().map(ToString::to_string).collect();
                        format!("{} {}/{} {}", s.transport.as_str(), s.priority, s.weight, addresses.join(" "))
                    });
                    return (drawn.collect(), asked);
                }
                Err(question) => {
                    let nothing = match question {
                        Question::Naptr(_) => Records::Naptr(vec![]),
                        Question::Srv(_) => Records::Srv(vec![]),
                        Question::Addresses(_) => Records::Addresses(vec![]),
                    };
                    let answer = zone.get(&question).cloned().unwrap_or(nothing);
                    asked.push(question.clone());
                    assert!(known.insert(question, answer).is_none(), "nothing is asked twice");
                }
            }
        }
    }

    fn place(host: &str, port: Option<u16>, transport: Option<Transport>) -> Place {
        Place { host: host.into(), port, transport }
    }

    const ALL: [Transport; 3] = [Transport::Udp, Transport::Tcp, Transport::Tls];

    #[test]
    fn an_address_needs_no_question() {
        for (host, port, transport, expected) in [
            ("192.0.2.1", None, None, "UDP 0/0 192.0.2.1:5060"),
            ("192.0.2.1", Some(5080), Some(Transport::Tcp), "TCP 0/0 192.0.2.1:5080"),
            ("[2001:db8::1]", None, Some(Transport::Tls), "TLS 0/0 [2001:db8::1]:5061"),
        ] {
            let (found, asked) = ask(&place(host, port, transport), &Known::new(), &ALL);
            assert_eq!((found, asked), (vec![expected.to_owned()], vec![]));
        }
    }

    /// The example of RFC 3263 section 4.1: NAPTR prefers TLS, then TCP, then UDP.
    #[test]
    fn the_example_of_rfc_3263() {
        let zone = zone(
            "example.com NAPTR 50 50 s SIPS+D2T _sips._tcp.example.com
             example.com NAPTR 90 50 s SIP+D2T _sip._tcp.example.com
             example.com NAPTR 100 50 s SIP+D2U _sip._udp.example.com
             _sip._tcp.example.com SRV 0 1 5060 server1.example.com
             _sip._tcp.example.com SRV 0 2 5060 server2.example.com
             server1.example.com A 192.0.2.1
             server2.example.com A 192.0.2.2
             server2.example.com A 2001:db8::2",
        );
        let (found, asked) = ask(&place("example.com", None, None), &zone, &[Transport::Udp, Transport::Tcp]);
        assert_eq!(found, ["TCP 0/1 192.0.2.1:5060", "TCP 0/2 192.0.2.2:5060 [2001:db8::2]:5060"]);
        assert_eq!(asked.len(), 4, "{asked:?}");
    }

    #[test]
    fn without_naptr_the_srv_of_each_transport_then_the_host() {
        let srv = zone("_sip._tcp.a.example SRV 1 0 5070 h.a.example\n h.a.example A 192.0.2.7");
        assert_eq!(ask(&place("a.example", None, None), &srv, &ALL).0, ["TCP 1/0 192.0.2.7:5070"]);
        let host = zone("a.example A 192.0.2.8");
        assert_eq!(ask(&place("a.example", None, None), &host, &ALL).0, ["UDP 0/0 192.0.2.8:5060"]);
        let tls = ask(&place("a.example", None, Some(Transport::Tls)), &host, &ALL);
        assert_eq!(tls.0, ["TLS 0/0 192.0.2.8:5061"]);
        let asked = [Question::Srv("_sips._tcp.a.example".into()), Question::Addresses("a.example".into())];
        assert_eq!(tls.1, asked, "a transport that is named asks for no NAPTR");
        let port = ask(&place("a.example", Some(5090), None), &host, &ALL);
        assert_eq!((port.0, port.1.len()), (vec!["UDP 0/0 192.0.2.8:5090".to_owned()], 1));
    }

    #[test]
    fn what_leads_nowhere_has_no_servers() {
        for text in [
            "",
            "_sip._udp.a.example SRV 0 0 0",
            "_sip._udp.a.example SRV 0 0 5060 gone.a.example",
            "a.example NAPTR 1 1 s SIP+D2U _sip._udp.b.example",
        ] {
            assert_eq!(ask(&place("a.example", None, None), &zone(text), &ALL).0, [""; 0], "{text}");
        }
        let odd = zone("a.example NAPTR 1 1 u SIP+D2U x\na.example NAPTR 1 1 s FAX+D2T x\na.example A 192.0.2.9");
        assert_eq!(ask(&place("a.example", None, None), &odd, &ALL).0, ["UDP 0/0 192.0.2.9:5060"]);
    }

    #[test]
    fn a_zone_without_end_is_cut() {
        let mut text: String = (0..100).map(|n| format!("_sip._udp.a.example SRV 0 0 5060 h{n}.a.example\n")).collect();
        (0..100).for_each(|n| text.push_str(&format!("h0.a.example A 192.0.2.{n}\nh{n}.a.example A 192.0.2.1\n")));
        let (found, asked) = ask(&place("a.example", None, None), &zone(&text), &ALL);
        assert_eq!((found.len(), asked.len()), (16, 18));
        assert_eq!(found[0].split(' ').count(), 2 + 16);
    }

    #[test]
    fn priority_first_then_by_weight() {
        let of = [(20, 5), (10, 0), (10, 30), (10, 10)];
        let mut firsts = [0; 4];
        let mut seed = 1u64;
        for _ in 0..10_000 {
            let order = in_order(&of, |limit| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                ((seed >> 33) % limit as u64) as usize
            });
            assert_eq!(order[3], 0, "the lowest priority comes last");
            let mut all = order.clone();
            all.sort_unstable();
            assert_eq!(all, [0, 1, 2, 3]);
            firsts[order[0]] += 1;
        }
        assert!((50..500).contains(&firsts[1]), "no weight, hardly ever: {firsts:?}");
        assert!((6_900..7_700).contains(&firsts[2]) && (2_200..2_900).contains(&firsts[3]), "three to one: {firsts:?}");
    }
}
