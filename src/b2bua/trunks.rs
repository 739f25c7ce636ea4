//! The trunks: which of them takes a call, which of their servers is alive, and how much each may bear.
//!
//! A trunk is found by its place (RFC 3263), has an order and a weight among the others, and limits of its own. A
//! *way* is one address of one trunk. A call asks for a way before it asks for a number, so that no number is wasted.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::heard::Heard;
use super::limiter::{Limiter, PerMinute, Priority};
use super::places::{Look, Progress, Search};
use super::settings::Trunk;
use crate::sip::hop::{Hop, Transport};
use crate::sip::ids::Ids;
use crate::sip::locate::{Question, Server, in_order};

/// One address of one trunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Way {
    /// Which trunk, by its place in the settings.
    pub trunk: usize,
    /// Where its requests go.
    pub hop: Hop,
}

/// The ways of one call: the one reserved for its next number, those its present number has tried, and the trunk whose
/// room it takes.
#[derive(Debug, Default)]
pub struct Route {
    reserved: Option<Way>,
    tried: Vec<Hop>,
    holds: Option<usize>,
}

/// Why there is no way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoWay {
    /// Every trunk is down, or its servers are not found.
    Down,
    /// Those that are up bear no more calls now.
    Full,
}

/// How an address fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Up,
    /// A request got no answer; until then it is taken only where nothing better is up.
    Suspect(Instant),
    /// It said so itself (503 with Retry-After), until then.
    Resting(Instant),
    /// It does not answer our pings; its first answer ends this.
    Down,
}

/// How gladly an address is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Gladly,
    IfNeedBe,
    Never,
}

/// A peer that asks to be left alone for longer is not believed.
const LONGEST_REST: Duration = Duration::from_secs(300);

#[derive(Debug)]
struct Member {
    hop: Hop,
    health: Health,
    /// When it is pinged next; `None` while a ping is under way, or where nobody pings.
    ping: Option<Instant>,
}

impl Member {
    fn usable(&self, now: Instant) -> Use {
        match self.health {
            Health::Up => Use::Gladly,
            Health::Suspect(until) | Health::Resting(until) if now >= until => Use::Gladly,
            Health::Suspect(_) => Use::IfNeedBe,
            Health::Resting(_) | Health::Down => Use::Never,
        }
    }
}

#[derive(Debug)]
struct Line {
    settings: Arc<Trunk>,
    search: Search,
    servers: Vec<Server>,
    members: Vec<Member>,
    rate: Limiter,
    minute: PerMinute,
    calls: usize,
}

impl Line {
    /// Whether one more INVITE may go there; one that may is counted.
    fn admit(&mut self, held: bool, now: Instant) -> bool {
        (held || self.settings.max_calls == 0 || self.calls < self.settings.max_calls)
            && self.rate.admit(now, Priority::Fetch)
            && self.minute.admit(now)
    }
}

/// What a search brought about.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// Ask the DNS this.
    Ask(Question),
    /// This address stands for this SIP domain: a certificate must be for the domain (RFC 5922 section 7.1).
    Named(IpAddr, String),
}

/// All trunks.
#[derive(Debug)]
pub struct Trunks {
    lines: Vec<Line>,
    heard: Heard,
}

impl Trunks {
    /// Trunks whose servers are not looked for yet.
    pub fn new(settings: &[Trunk]) -> Self {
        let line = |trunk: &Trunk| Line {
            search: Search::new(trunk.place.clone()),
            servers: Vec::new(),
            members: Vec::new(),
            rate: Limiter::new(trunk.max_calls_per_second),
            minute: PerMinute::new(trunk.max_calls_per_minute),
            calls: 0,
            settings: Arc::new(trunk.clone()),
        };
        Self { lines: settings.iter().map(line).collect(), heard: Heard::default() }
    }

    /// The settings of a way's trunk.
    pub fn settings(&self, way: Way) -> Arc<Trunk> {
        self.lines[way.trunk].settings.clone()
    }

    /// Whether this address is, or was, one of a trunk's, or one that it may send us to.
    pub fn hears(&self, address: IpAddr) -> bool {
        self.heard.contains(address) || self.lines.iter().any(|line| line.settings.redirects.contains(&address))
    }

    /// The settings of the trunk that has a server at this address now.
    pub fn settings_at(&self, address: IpAddr) -> Option<&Trunk> {
        let here = |line: &&Line| line.members.iter().any(|member| member.hop.ip() == address);
        self.lines.iter().find(here).map(|line| line.settings.as_ref())
    }

    // --- finding them ---

    /// Looks for every trunk whose time has come.
    pub fn search(&mut self, now: Instant, first: bool, speaks: impl Fn(&Hop) -> bool) -> Vec<Found> {
        let mut found = Vec::new();
        for index in 0..self.lines.len() {
            let search = &mut self.lines[index].search;
            if first || search.due().is_some_and(|due| due <= now) {
                let progress = search.begin(now, |transport| speaks_at_all(&speaks, transport));
                self.progress(index, now, progress, &speaks, &mut found);
            }
        }
        found
    }

    /// Takes the DNS's answer.
    pub fn looked(&mut self, now: Instant, look: &Look, speaks: impl Fn(&Hop) -> bool) -> Vec<Found> {
        let mut found = Vec::new();
        for index in 0..self.lines.len() {
            let search = &mut self.lines[index].search;
            let progress = search.answered(now, look, |transport| speaks_at_all(&speaks, transport));
            self.progress(index, now, progress, &speaks, &mut found);
        }
        found
    }

    fn progress(
        &mut self,
        index: usize,
        now: Instant,
        progress: Progress,
        speaks: impl Fn(&Hop) -> bool,
        found: &mut Vec<Found>,
    ) {
        let line = &mut self.lines[index];
        let name = &line.settings.name;
        match progress {
            // Two searches may want the same answer; it is asked for once.
            Progress::Ask(question) => {
                if !found.iter().any(|other| matches!(other, Found::Ask(asked) if *asked == question)) {
                    found.push(Found::Ask(question));
                }
            }
            Progress::Failed(why) => {
                tracing::warn!(trunk = name, why, "the trunk's servers could not be looked up; it goes on as before");
            }
            Progress::Found(servers) => {
                self.moved(index, now, servers, speaks, found);
            }
            Progress::Nothing => {}
        }
    }

    /// The servers of a trunk are these now; those that stay keep their health.
    fn moved(
        &mut self,
        index: usize,
        now: Instant,
        servers: Vec<Server>,
        speaks: impl Fn(&Hop) -> bool,
        found: &mut Vec<Found>,
    ) {
        let line = &mut self.lines[index];
        let mut members = Vec::new();
        for server in &servers {
            for hop in server.addresses.iter().map(|address| Hop::new(server.transport, *address)) {
                if !speaks(&hop) || members.iter().any(|member: &Member| member.hop == hop) {
                    continue;
                }
                let known = line.members.iter().find(|member| member.hop == hop);
                let (health, ping) = match known {
                    Some(known) => (known.health, known.ping),
                    None => (Health::Up, (!line.settings.ping.is_zero()).then_some(now)),
                };
                members.push(Member { hop, health, ping });
                self.heard.found(hop.ip());
                if hop.transport == Transport::Tls {
                    found.push(Found::Named(hop.ip(), line.settings.domain.clone()));
                }
            }
        }
        if members.is_empty() {
            tracing::warn!(trunk = line.settings.name, "the trunk has no server that we can speak to");
        }
        line.members = members;
        line.servers = servers;
    }

    // --- taking one ---

    /// Reserves a way for the call's next number; the one it has already, where it is still good.
    pub fn reserve(&mut self, now: Instant, route: &mut Route, ids: &mut Ids) -> Result<(), NoWay> {
        route.tried.clear();
        let good = |way: &Way| self.member(*way).is_some_and(|member| member.usable(now) != Use::Never);
        route.reserved = route.reserved.filter(good);
        if route.reserved.is_none() {
            route.reserved = Some(self.choose(now, route, ids)?);
        }
        Ok(())
    }

    /// The way that was reserved, or the next one that this number has not tried.
    pub fn take(&mut self, now: Instant, route: &mut Route, ids: &mut Ids) -> Result<Way, NoWay> {
        let way = match route.reserved.take() {
            Some(way) => way,
            None => self.choose(now, route, ids)?,
        };
        route.tried.push(way.hop);
        Ok(way)
    }

    /// Keeps a way ready for the same number, if there is one that it has not tried.
    pub fn another(&mut self, now: Instant, route: &mut Route, ids: &mut Ids) -> bool {
        if route.reserved.is_none() {
            route.reserved = self.choose(now, route, ids).ok();
        }
        route.reserved.is_some()
    }

    /// The call needs no trunk any more.
    pub fn release(&mut self, route: &mut Route) {
        if let Some(line) = route.holds.take().and_then(|held| self.lines.get_mut(held)) {
            line.calls -= 1;
        }
        *route = Route::default();
    }

    /// The trunk that the call has, while it has other servers; then by order and weight. What is suspect comes after
    /// everything that is not.
    fn choose(&mut self, now: Instant, route: &mut Route, ids: &mut Ids) -> Result<Way, NoWay> {
        let ranks: Vec<_> = self.lines.iter().map(|line| (line.settings.order, line.settings.weight)).collect();
        let mut order = in_order(&ranks, |limit| ids.below(limit));
        order.sort_by_key(|index| Some(*index) != route.holds);
        let mut why = NoWay::Down;
        for wanted in [Use::Gladly, Use::IfNeedBe] {
            for &trunk in &order {
                let line = &mut self.lines[trunk];
                let Some(hop) = usable(line, wanted, now, &route.tried, ids) else { continue };
                if !line.admit(route.holds == Some(trunk), now) {
                    why = NoWay::Full;
                    continue;
                }
                self.hold(route, trunk);
                return Ok(Way { trunk, hop });
            }
        }
        Err(why)
    }

    fn hold(&mut self, route: &mut Route, trunk: usize) {
        if route.holds != Some(trunk) {
            if let Some(before) = route.holds.replace(trunk) {
                self.lines[before].calls -= 1;
            }
            self.lines[trunk].calls += 1;
        }
    }

    // --- how they fare ---

    fn member(&self, way: Way) -> Option<&Member> {
        self.lines.get(way.trunk)?.members.iter().find(|member| member.hop == way.hop)
    }

    fn judge(&mut self, way: Way, health: impl FnOnce(Health, &Trunk) -> Health) {
        let Some(line) = self.lines.get_mut(way.trunk) else { return };
        let Some(member) = line.members.iter_mut().find(|member| member.hop == way.hop) else { return };
        let after = health(member.health, &line.settings);
        if std::mem::discriminant(&member.health) != std::mem::discriminant(&after) {
            let (trunk, at) = (&line.settings.name, way.hop);
            match after {
                Health::Up => tracing::info!(trunk, %at, "trunk server is up"),
                Health::Suspect(_) => {
                    tracing::info!(trunk, %at, "trunk server gave no answer: it comes last for a while")
                }
                Health::Resting(_) => tracing::warn!(trunk, %at, "trunk server asks to be left alone"),
                Health::Down => tracing::warn!(trunk, %at, "trunk server is down: no answer to OPTIONS"),
            }
        }
        member.health = after;
    }

    /// It answered something.
    pub fn answered(&mut self, now: Instant, way: Way) {
        self.judge(way, |before, _| match before {
            Health::Resting(until) if now < until => before,
            _ => Health::Up,
        });
    }

    /// A request of a call got no answer.
    pub fn silent(&mut self, now: Instant, way: Way) {
        self.judge(way, |before, trunk| match before {
            Health::Up | Health::Suspect(_) => Health::Suspect(now + trunk.down_for),
            Health::Resting(_) | Health::Down => before,
        });
        // Somebody pings it: the sooner it is known.
        if let Some(line) = self.lines.get_mut(way.trunk)
            && let Some(member) = line.members.iter_mut().find(|member| member.hop == way.hop)
        {
            member.ping = member.ping.map(|_| now);
        }
    }

    /// It asked to be left alone.
    pub fn rests(&mut self, now: Instant, way: Way, wait: Duration) {
        self.judge(way, |_, _| Health::Resting(now + wait.min(LONGEST_REST)));
    }

    /// Takes a ping that is due.
    pub fn ping_due(&mut self, now: Instant) -> Option<Way> {
        self.lines.iter_mut().enumerate().find_map(|(trunk, line)| {
            let member = line.members.iter_mut().find(|member| member.ping.is_some_and(|due| due <= now))?;
            member.ping = None;
            Some(Way { trunk, hop: member.hop })
        })
    }

    /// A ping was answered, or not, and may be repeated later.
    pub fn pinged(&mut self, now: Instant, way: Way, alive: bool) {
        match alive {
            true => self.answered(now, way),
            false => self.judge(way, |_, _| Health::Down),
        }
        if let Some(line) = self.lines.get_mut(way.trunk)
            && let Some(member) = line.members.iter_mut().find(|member| member.hop == way.hop)
        {
            member.ping = Some(now + line.settings.ping);
        }
    }

    /// The first server that is up, for a registration.
    pub fn first_up(&self, now: Instant, trunk: usize) -> Option<Way> {
        let members = &self.lines.get(trunk)?.members;
        let up = |wanted: Use| members.iter().find(|member| member.usable(now) == wanted);
        up(Use::Gladly).or_else(|| up(Use::IfNeedBe)).map(|member| Way { trunk, hop: member.hop })
    }

    /// When there is something to do at the latest: a search, or a ping.
    pub fn next(&self) -> Option<Instant> {
        let pings = self.lines.iter().flat_map(|line| line.members.iter().filter_map(|member| member.ping));
        self.lines.iter().filter_map(|line| line.search.due()).chain(pings).min()
    }

    /// Every server: trunk, address, whether it is up, and calls of its trunk.
    pub fn states(&self, now: Instant) -> Vec<TrunkState> {
        let of = |line: &Line, member: &Member| TrunkState {
            trunk: line.settings.name.clone(),
            server: member.hop.to_string(),
            up: member.usable(now) == Use::Gladly,
        };
        self.lines.iter().flat_map(|line| line.members.iter().map(move |member| of(line, member))).collect()
    }

    /// Calls that each trunk carries.
    pub fn loads(&self) -> Vec<(String, u64)> {
        self.lines.iter().map(|line| (line.settings.name.clone(), line.calls as u64)).collect()
    }
}

/// One server of a trunk, as metrics show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrunkState {
    /// The trunk's name.
    pub trunk: String,
    /// Transport and address.
    pub server: String,
    /// Whether calls go there.
    pub up: bool,
}

/// Whether we speak this transport in any family.
pub(super) fn speaks_at_all(speaks: &impl Fn(&Hop) -> bool, transport: Transport) -> bool {
    let families = [IpAddr::from([0, 0, 0, 0]), IpAddr::from([0u16; 8])];
    families.into_iter().any(|ip| speaks(&Hop::new(transport, (ip, 0).into())))
}

/// The next address of this trunk that this number has not tried, by priority and weight of its servers.
fn usable(line: &Line, wanted: Use, now: Instant, tried: &[Hop], ids: &mut Ids) -> Option<Hop> {
    let ranks: Vec<_> = line.servers.iter().map(|server| (server.priority, server.weight)).collect();
    let order = in_order(&ranks, |limit| ids.below(limit));
    let hops = order.into_iter().flat_map(|index| {
        let server = &line.servers[index];
        server.addresses.iter().map(|address| Hop::new(server.transport, *address))
    });
    let fits = |hop: &Hop| {
        let member = line.members.iter().find(|member| member.hop == *hop);
        !tried.contains(hop) && member.is_some_and(|member| member.usable(now) == wanted)
    };
    hops.into_iter().find(fits)
}
