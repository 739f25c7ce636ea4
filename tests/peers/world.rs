//! The place where the peers meet: a network namespace in the middle, with Switchback, the mock API and the proxies in
//! it, and one for each party. They are reached through a pair of virtual Ethernet devices each, so that nobody but
//! Switchback can carry media between the two.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Signal, geteuid};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;
use switchback::demo::asapp::{Behaviour, MockAsapp, MockAsappSettings};
use tempfile::TempDir;

use crate::authority::Authority;
use crate::stage::{Program, SOON, eventually, handed_over};

/// What to do about a missing tool.
pub const INSTALL: &str = "tests/run installs it, or: apt-get install -y baresip-core kamailio kamailio-tls-modules \
     sip-tester tshark iproute2 python3-venv";

/// Switchback, its RTP included.
pub const SWITCHBACK: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// The proxy in front of it.
pub const FRONT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 6);
/// The proxy behind it.
pub const BEHIND: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 7);
const API: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 5);
/// Where customers come from who are sent on to us: see [`World::behind_the_customer`].
pub const IVR: Ipv4Addr = Ipv4Addr::new(10, 77, 5, 2);
/// Where customers are sent on to: see there.
pub const QUEUE: Ipv4Addr = Ipv4Addr::new(10, 77, 6, 2);

/// All devices in the middle.
pub const DEVICES: [&str; 3] = ["customer", "genagent", "lo"];
/// The one number there is: baresip answers for nobody else.
pub const NUMBER: &str = "+19995550000";
/// The name in the one certificate that all of them show.
const DOMAIN: &str = "sip.example.com";

/// How SIP travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    Udp,
    Tcp,
    Tls,
}

impl Over {
    /// As in a URI.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }

    /// Where this transport is listened for.
    pub fn at(self, ip: Ipv4Addr) -> SocketAddr {
        (ip, if self == Self::Tls { 5061 } else { 5060 }).into()
    }
}

/// Which way the two legs go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// The customer dials Switchback; the trunk is GenerativeAgent itself.
    Direct,
    /// A proxy that records its route is in front, and one behind.
    Proxied,
}

/// A party's own namespace, and its address in it.
#[derive(Debug)]
pub struct Place {
    pub ip: Ipv4Addr,
    namespace: File,
}

impl Place {
    /// What is begun in here stays in here.
    pub fn within<T>(&self, begin: impl FnOnce() -> T) -> T {
        let middle = File::open("/proc/thread-self/ns/net").unwrap();
        enter(&self.namespace);
        let begun = begin();
        enter(&middle);
        begun
    }
}

fn enter(namespace: &File) {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
}

/// Everything one test needs. Dropping it ends the program; the namespaces go with their last process.
#[derive(Debug)]
pub struct World {
    pub customer: Place,
    pub genagent: Place,
    pub over: Over,
    pub path: Path,
    program: Program,
    _api: MockAsapp,
    folder: TempDir,
}

impl World {
    /// Moves this thread into a world of its own and waits until the program in it is ready.
    pub async fn set(over: Over, path: Path) -> Self {
        Self::between(over, over, path).await
    }

    /// The same with a trunk over another transport.
    pub async fn between(over: Over, trunk_over: Over, path: Path) -> Self {
        Self::ruled(over, trunk_over, path, handed_over("AGENT"), "[call]\nentry = 'supervised'\n").await
    }

    /// Over UDP, with an API that behaves like this, and these targets and rules, as TOML.
    pub async fn handing_back(behaviour: Behaviour, rules: &str) -> Self {
        Self::ruled(Over::Udp, Over::Udp, Path::Direct, behaviour, rules).await
    }

    /// Over UDP, with proxies, and more lines of configuration.
    pub async fn behind_a_proxy(more: &str) -> Self {
        Self::ruled(Over::Udp, Over::Udp, Path::Proxied, handed_over("AGENT"), more).await
    }

    async fn ruled(over: Over, trunk_over: Over, path: Path, behaviour: Behaviour, rules: &str) -> Self {
        let (customer, genagent) = namespaces();
        let folder = tempfile::Builder::new().prefix("switchback-peers-").tempdir().unwrap();
        let address = (API, 8000).into();
        let settings = MockAsappSettings { address, numbers: 1, behaviour, ..Default::default() };
        let api = MockAsapp::start(settings).await.unwrap();
        certify(&folder, &[SWITCHBACK, FRONT, BEHIND, customer.ip, genagent.ip]);
        let (caller, trunk) = match path {
            Path::Direct => (customer.ip, genagent.ip),
            Path::Proxied => (FRONT, BEHIND),
        };
        let configuration = configuration(&api.base_url(), caller, trunk, trunk_over, &folder) + rules;
        let program = Program::start(folder.path(), &configuration, &[], (SWITCHBACK, 8080).into()).await;
        Self { customer, genagent, over, path, program, _api: api, folder }
    }

    /// A place that only the customer reaches, and is reached from.
    pub fn behind_the_customer(&self, name: &str, ip: Ipv4Addr) -> Place {
        let own = Name::add(name);
        self.customer.within(|| {
            run_ip(&["link", "add", name, "type", "veth", "peer", "name", "line", "netns", &own.0], "");
            run_ip(&["link", "set", name, "up"], "");
        });
        own.batch(&format!(
            "link set lo up\naddr add {ip}/32 dev line\nlink set line up\nroute add default dev line\n"
        ));
        let (to, from) = (ip.to_string(), self.customer.ip.to_string());
        self.customer.within(|| run_ip(&["route", "add", &to, "dev", name, "src", &from], ""));
        Place { ip, namespace: own.file() }
    }

    /// What the customer dials; the telephones add their transport.
    pub fn dialled(&self) -> String {
        format!("sip:7000@{}", self.over.at(if self.path == Path::Proxied { FRONT } else { SWITCHBACK }))
    }

    /// A file in this test's folder, which is gone after it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A folder for a party, the certificates in it.
    pub fn room(&self, name: &str) -> PathBuf {
        let room = self.path(name);
        fs::create_dir(&room).unwrap();
        for file in ["ca.pem", "identity.pem"] {
            fs::copy(self.path(file), room.join(file)).unwrap();
        }
        room
    }

    /// The call records once there are this many.
    pub async fn records(&self, count: usize) -> Vec<Value> {
        let path = self.path("records.jsonl");
        let lines = || fs::read_to_string(&path).unwrap_or_default();
        eventually(&format!("{count} call records"), SOON, async || lines().lines().count() >= count).await;
        lines().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Ends the program as an operator would, with nothing in its log that somebody should look at in the morning.
    pub async fn close(mut self) {
        self.program.signal(Signal::TERM);
        let status = self.program.exit(SOON).await;
        assert!(status.success(), "{status}");
        let log = self.program.log();
        let worrying = |line: &&str| {
            !line.contains("not encrypted")
                && (line.contains(" WARN ") || line.contains(" ERROR ") || line.contains("panicked"))
        };
        let unexpected: Vec<&str> = log.lines().filter(worrying).collect();
        assert!(unexpected.is_empty(), "{unexpected:#?}");
    }
}

fn configuration(api: &str, caller: Ipv4Addr, trunk: Ipv4Addr, over: Over, folder: &TempDir) -> String {
    let at = folder.path().display();
    format!(
        "[sip]\nlisten = '{}'\ntcp_listen = '{0}'\ntls_listen = '{}'\naccess = ['{caller}']\nmax_calls = 10\n\
         tls_certificate = '{at}/chain.pem'\ntls_key = '{at}/key.pem'\ntls_ca = '{at}/ca.pem'\n\
         [media]\naddress = '{SWITCHBACK}'\nports = '20000-20199'\n\
         [trunk.main]\naddress = '{}'\ntransport = '{}'\ndomain = '{DOMAIN}'\ncaller_id = '+15550100000'\n\
         [asapp]\nbase_url = '{api}'\nallow_http = true\napi_id = 'mock-id'\napi_secret = 'mock-secret'\n\
         [admin]\nlisten = '{SWITCHBACK}:8080'\ntoken = 'nobody-asks'\n\
         [records]\npath = '{at}/records.jsonl'\n",
        Over::Udp.at(SWITCHBACK),
        Over::Tls.at(SWITCHBACK),
        over.at(trunk),
        over.as_str(),
    )
}

/// An authority that everybody believes, and one identity for all.
fn certify(folder: &TempDir, addresses: &[Ipv4Addr]) {
    let authority = Authority::new();
    let addresses = addresses.iter().map(|&ip| rcgen::SanType::IpAddress(ip.into()));
    let names = [rcgen::SanType::DnsName(DOMAIN.try_into().unwrap())].into_iter().chain(addresses).collect();
    let identity = authority.issue(|params| params.subject_alt_names = names);
    identity.write(folder.path());
    fs::write(folder.path().join("ca.pem"), &authority.1).unwrap();
    fs::write(folder.path().join("identity.pem"), format!("{}{}", identity.0, identity.1)).unwrap();
}

// --- namespaces --------------------------------------------------------------------------------------------------

/// A namespace's name, which `ip` needs and nobody else. Without it the kernel clears the namespace up with its last
/// user, even after a test that was killed.
struct Name(String);

impl Name {
    fn add(kind: &str) -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let name = format!("peers-{}-{}-{kind}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        run_ip(&["netns", "add", &name], "");
        Self(name)
    }

    fn file(&self) -> File {
        File::open(format!("/run/netns/{}", self.0)).unwrap()
    }

    /// Does these things in it, a line each.
    fn batch(&self, lines: &str) {
        run_ip(&["-n", &self.0, "-batch", "-"], lines);
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        run_ip(&["netns", "del", &self.0], "");
    }
}

/// Makes the three namespaces, moves this thread into the middle one and returns the other two.
fn namespaces() -> (Place, Place) {
    assert!(
        geteuid().is_root(),
        "network namespaces need root: run the tests as root, or leave these out: tests/run -E 'not binary(peers)'"
    );
    let middle = Name::add("middle");
    middle.batch("link set lo up\n");
    for ip in [SWITCHBACK, API, FRONT, BEHIND] {
        middle.batch(&format!("addr add {ip}/32 dev lo\n"));
    }
    let place = |name: &str, net: u8| {
        let (own, near, far) = (Name::add(name), Ipv4Addr::new(10, 77, net, 1), Ipv4Addr::new(10, 77, net, 2));
        middle.batch(&format!(
            "link add {name} type veth peer name line netns {}\naddr add {near}/24 dev {name}\nlink set {name} up\n",
            own.0
        ));
        own.batch(&format!(
            "link set lo up\naddr add {far}/24 dev line\nlink set line up\nroute add default via {near}\n"
        ));
        Place { ip: far, namespace: own.file() }
    };
    let parties = (place("customer", 3), place("genagent", 4));
    enter(&middle.file());
    parties
}

fn run_ip(arguments: &[&str], input: &str) {
    let mut command = Command::new("ip");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = match command.spawn() {
        Err(error) if error.kind() == ErrorKind::NotFound => panic!("ip is missing; {INSTALL}"),
        spawned => spawned.unwrap(),
    };
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "ip {arguments:?} {input}");
}
