//! `switchback load`: the whole program under calls, measured from outside.

use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde_json::json;
use switchback::demo::asapp::{MockAsapp, MockAsappSettings};
use switchback::demo::load::{Customer, Intruder, Offer, Streams, answer_all, party};
use switchback::demo::party::Party;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep};

const HOME: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const INTRUDER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 66));
const FIRST_PORT: u16 = 20_000;
/// How long what is on its way may take at the end.
const SETTLE: Duration = Duration::from_millis(500);
/// How long those talk who come beside the calls that are up.
const VISIT: Duration = Duration::from_secs(1);

/// Starts a Switchback of its own, with a mock API, and plays customers and GenerativeAgent against it, all on loopback.
/// Fails when a call fails, or when anybody hears what is not meant for him.
#[derive(Debug, Args)]
pub struct Load {
    /// Calls that are up at once.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=3000))]
    calls: u16,
    /// New calls a second until they are up.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rate: u32,
    /// Seconds that are measured, from when all are up.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Everybody talks: 50 packets a second in each direction of each call.
    #[arg(long)]
    media: bool,
    /// Packets a second that somebody else sends to all media ports meanwhile.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=200_000))]
    foreign: u32,
    /// New calls a second meanwhile, twice as many as the program is told to take: one half is refused, the other stays a
    /// second.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1000))]
    overload: u32,
    /// Relay threads of the program; 0: as many as it has by itself.
    #[arg(long, default_value_t = 0)]
    workers: u16,
    /// Where the figures go as JSON, too.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Plays it and prints the figures.
pub fn play(load: &Load) -> Result<()> {
    super::runtime()?.block_on(run(load))
}

async fn run(load: &Load) -> Result<()> {
    let numbers = (load.calls.saturating_mul(2) + 10 * load.overload as u16).clamp(1000, 10_000);
    let api = MockAsapp::start(MockAsappSettings { numbers, ..MockAsappSettings::default() }).await?;
    let streams = load.media.then(Streams::start).transpose()?.map(Arc::new);
    let genagent = party(HOME).await?;
    let customers = party(HOME).await?;
    // Six ports a call; whoever visits is here for a second, and what he leaves is quiet after two more.
    let last_port = FIRST_PORT + 6 * load.calls + 12 * load.overload as u16 + 199;
    let mut program = Program::start(&api, genagent.address(), last_port, load).await?;
    let answering = tokio::spawn(answer_all(genagent, streams.clone(), api.handle()));

    let fresh = program.used()?;
    // What is told to take so many a second is filled more slowly.
    let rate = if load.overload > 0 { load.rate.min(load.overload / 4).max(1) } else { load.rate };
    let (mut pace, mut calling) = (interval(Duration::from_secs(1) / rate), Vec::new());
    let (target, customers) = (program.sip, Arc::new(customers));
    for _ in 0..load.calls {
        pace.tick().await;
        let (customers, streams) = (Arc::clone(&customers), streams.clone());
        calling.push(tokio::spawn(async move { Customer::call(&customers, streams.as_deref(), target).await }));
    }
    let (mut talking, mut setups, mut failures) = (Vec::new(), Vec::new(), Vec::new());
    for call in calling {
        match call.await? {
            Ok((customer, setup)) => {
                talking.push(customer);
                setups.push(setup.as_nanos() as u64);
            }
            Err(error) => failures.push(error.to_string()),
        }
    }
    // What the latch and the checks of the first seconds cost is not what is measured.
    sleep(Duration::from_secs(if load.media { 2 } else { 0 })).await;

    let up = program.used()?;
    streams.iter().for_each(|streams| drop(streams.look()));
    let ports = FIRST_PORT..=last_port;
    let intruder = (load.foreign > 0).then(|| Intruder::start(INTRUDER, HOME, ports, load.foreign)).transpose()?;
    let measured_time = Duration::from_secs(load.seconds);
    let visits = match load.overload {
        0 => None,
        rate => Some(overload(&customers, target, rate, measured_time).await?),
    };
    sleep(if visits.is_some() { Duration::ZERO } else { measured_time }).await;
    let heard = streams.as_ref().map(|streams| streams.look());
    let measured = program.used()?;
    let foreign = intruder.map(Intruder::stop);

    let hang_ups: Vec<_> = talking.into_iter().map(|customer| tokio::spawn(customer.hang_up())).collect();
    for hang_up in hang_ups {
        if let Err(error) = hang_up.await? {
            failures.push(error.to_string());
        }
    }
    sleep(SETTLE).await;
    let end = program.used()?;
    answering.abort();
    program.stop()?;

    setups.sort_unstable();
    let calls = u64::from(load.calls);
    let seconds = load.seconds as f64;
    println!("{calls} calls at {rate} a second, {} failed", failures.len());
    println!("setup     {} (INVITE to 200, the mock parties included)", quantiles(&setups, 1e6, "ms"));
    let signalling = (up.others - fresh.others + end.others - measured.others) as f64 / calls as f64 / 1e6;
    println!("CPU       {signalling:.2} ms a call for its beginning and its end");
    let memory = up.resident.saturating_sub(fresh.resident) / calls;
    println!("memory    {memory} kB a call ({} kB before them, {} kB with all up)", fresh.resident, up.resident);
    let mut figures = json!({
        "calls": calls, "failed": failures.len(), "signalling_ms_per_call": signalling, "kilobytes_per_call": memory,
        "setup_ns": at(&setups),
    });
    let mut strangers = 0;
    if let Some(mut heard) = heard {
        heard.delays.sort_unstable();
        strangers = heard.strangers;
        let relay = (measured.relay - up.relay) as f64;
        let each = relay / 1e3 / heard.received.max(1) as f64;
        // What was on its way at either look counts for one and not for the other.
        let lost = heard.sent.saturating_sub(heard.received);
        let share = 100.0 * lost as f64 / heard.sent.max(1) as f64;
        println!(
            "media     {} packets sent, {lost} missing ({share:.3} %), {strangers} heard by a stranger",
            heard.sent
        );
        println!(
            "delay     {} (the sender's and the receiver's wake-up included)",
            quantiles(&heard.delays, 1e3, "µs")
        );
        let cores = relay / 1e9 / seconds;
        println!("relay     {each:.1} µs a packet, {cores:.2} cores: {:.0} calls a core", calls as f64 / cores);
        figures["media"] = json!({
            "sent": heard.sent, "received": heard.received, "strangers": strangers, "delay_ns": at(&heard.delays),
            "relay_us_per_packet": each, "relay_cores": cores,
        });
    }
    if let Some(mut visits) = visits {
        visits.taken.sort_unstable();
        visits.refused.sort_unstable();
        println!(
            "overload  {} calls a second: {} taken, {}",
            load.overload,
            visits.taken.len(),
            quantiles(&visits.taken, 1e6, "ms")
        );
        println!("          {} refused, {}", visits.refused.len(), quantiles(&visits.refused, 1e6, "ms"));
        println!("          {} kB before it, {} kB after it", up.resident, measured.resident);
        figures["overload"] = json!({
            "taken": visits.taken.len(), "taken_ns": at(&visits.taken), "refused": visits.refused.len(),
            "refused_ns": at(&visits.refused), "kilobytes": [up.resident, measured.resident],
        });
        failures.extend(visits.failures);
    }
    if let Some(foreign) = foreign {
        println!("foreign   {foreign} packets, {:.0} a second", foreign as f64 / seconds);
        figures["foreign"] = foreign.into();
    }
    if let Some(path) = &load.json {
        std::fs::write(path, format!("{figures:#}\n")).with_context(|| format!("cannot write {}", path.display()))?;
    }
    ensure!(failures.is_empty(), "{} calls failed; the first: {}", failures.len(), failures[0]);
    ensure!(strangers == 0, "{strangers} packets were heard by somebody they were not for");
    Ok(())
}

/// What became of those who came beside the calls that were up.
#[derive(Default)]
struct Visits {
    /// Nanoseconds from INVITE to 200,
    taken: Vec<u64>,
    /// and to a 503 that says when to try again.
    refused: Vec<u64>,
    /// What should not have been.
    failures: Vec<String>,
}

impl Visits {
    fn count(&mut self, visit: io::Result<(bool, Duration)>) {
        match visit {
            Ok((taken, time)) => (if taken { &mut self.taken } else { &mut self.refused }).push(time.as_nanos() as u64),
            Err(error) => self.failures.push(error.to_string()),
        }
    }
}

/// So many calls a second for so long.
async fn overload(customers: &Arc<Party>, target: SocketAddr, rate: u32, time: Duration) -> Result<Visits> {
    let (mut pace, mut calling) = (interval(Duration::from_secs(1) / rate), JoinSet::new());
    let mut visits = Visits::default();
    for _ in 0..u64::from(rate) * time.as_secs() {
        pace.tick().await;
        calling.spawn(visit(Arc::clone(customers), target));
        while let Some(visit) = calling.try_join_next() {
            visits.count(visit?);
        }
    }
    while let Some(visit) = calling.join_next().await {
        visits.count(visit?);
    }
    Ok(visits)
}

/// One call beside those that are up: whether it was taken, and how long the answer took.
async fn visit(customers: Arc<Party>, target: SocketAddr) -> io::Result<(bool, Duration)> {
    match Customer::offer(&customers, None, target).await? {
        (Offer::Taken(customer), time) => {
            sleep(VISIT).await;
            customer.hang_up().await.map(|()| (true, time))
        }
        (Offer::Refused(503, true), time) => Ok((false, time)),
        (Offer::Refused(status, later), _) => {
            Err(io::Error::other(format!("refused with {status}, Retry-After: {later}")))
        }
    }
}

/// The 50th and the 99th in a hundred, and the last, of what is sorted.
fn at(sorted: &[u64]) -> [u64; 3] {
    [50, 99, 100].map(|percent| sorted.len().checked_sub(1).map_or(0, |last| sorted[last * percent / 100]))
}

fn quantiles(sorted: &[u64], unit: f64, name: &str) -> String {
    let [p50, p99, longest] = at(sorted).map(|nanoseconds| nanoseconds as f64 / unit);
    format!("p50 {p50:.2} {name}, p99 {p99:.2} {name}, longest {longest:.2} {name}")
}

/// The Switchback under load: this binary once more.
struct Program {
    child: Child,
    sip: SocketAddr,
    configuration: PathBuf,
}

/// What it has used so far.
struct Used {
    /// Nanoseconds on a core: its relay threads,
    relay: u64,
    /// and all others.
    others: u64,
    /// Resident memory in kilobytes.
    resident: u64,
}

impl Program {
    async fn start(api: &MockAsapp, trunk: SocketAddr, last_port: u16, load: &Load) -> Result<Self> {
        let free = SocketAddr::new(HOME, 0);
        let (sip, admin) = (UdpSocket::bind(free)?.local_addr()?, TcpListener::bind(free)?.local_addr()?);
        let workers = if load.workers == 0 { String::new() } else { format!("workers = {}\n", load.workers) };
        // Who visits is counted until all of his call is over.
        let limit = u32::from(load.calls) + 50 + 4 * load.overload;
        let pace = if load.overload > 0 { load.overload.div_ceil(2) } else { 100_000 };
        let text = format!(
            "[sip]\nlisten = '{sip}'\naccess = ['127.0.0.0/8']\nmax_calls = {limit}\nmax_calls_per_second = {pace}\n\
             max_messages_per_source = 0\n\
             [media]\naddress = '{HOME}'\nports = '{FIRST_PORT}-{last_port}'\ntimeout = '1h'\n{workers}\
             [trunk.main]\naddress = '{trunk}'\ncaller_id = '+15550100000'\n\
             [asapp]\nbase_url = '{}'\nallow_http = true\napi_id = 'mock-id'\napi_secret = 'mock-secret'\nrate = 0\n\
             [records]\npath = 'none'\n[admin]\nlisten = '{admin}'\n[log]\nlevel = 'error'\n",
            api.base_url(),
        );
        let configuration = std::env::temp_dir().join(format!("switchback-load-{}.toml", std::process::id()));
        std::fs::File::create_new(&configuration)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(|| format!("cannot write {}", configuration.display()))?;
        let child = Command::new(std::env::current_exe()?)
            .args(["run", "--config"])
            .arg(&configuration)
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start the program under load")?;
        let mut program = Self { child, sip, configuration };
        for _ in 0..100 {
            sleep(Duration::from_millis(50)).await;
            ensure!(program.child.try_wait()?.is_none(), "the program under load has ended; its log says why");
            if std::net::TcpStream::connect(admin).is_ok() {
                return Ok(program);
            }
        }
        anyhow::bail!("the program under load was not ready within 5 s")
    }

    fn used(&self) -> Result<Used> {
        let folder = PathBuf::from(format!("/proc/{}", self.child.id()));
        let mut used = Used { relay: 0, others: 0, resident: 0 };
        for thread in std::fs::read_dir(folder.join("task"))? {
            let thread = thread?.path();
            let on_core = std::fs::read_to_string(thread.join("schedstat"))?;
            let nanoseconds: u64 = on_core.split(' ').next().unwrap_or("").parse().context("schedstat")?;
            let is_relay = std::fs::read_to_string(thread.join("comm"))?.starts_with("media-");
            *(if is_relay { &mut used.relay } else { &mut used.others }) += nanoseconds;
        }
        let status = std::fs::read_to_string(folder.join("status"))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        used.resident = resident.trim().trim_end_matches(" kB").parse()?;
        Ok(used)
    }

    fn stop(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.stop(); // it may have ended before
        let _ = std::fs::remove_file(&self.configuration);
    }
}
