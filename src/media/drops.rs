//! What the kernel dropped because a media socket's queue was full: it tells nobody but those who look.
//!
//! Its list of sockets says it of each, and is long to read; so it is read only after the counters of all UDP here, which
//! are short, have moved.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(10);
/// The kernel's lists of its sockets (proc(5)).
const LISTS: [&str; 2] = ["/proc/net/udp", "/proc/net/udp6"];
/// Its counters of both families.
const COUNTERS: [&str; 2] = ["/proc/net/snmp", "/proc/net/snmp6"];

/// What the kernel kept from us since the start, as of the last look.
#[derive(Debug, Default)]
pub struct KernelLosses {
    /// Media packets for whose socket's queue there was no room.
    pub dropped: AtomicU64,
    /// Datagrams of everybody here that no socket wanted. Strangers are among them who send to a media port whose far side
    /// is known: the kernel refuses them before anybody else counts them (flow M2).
    pub refused: AtomicU64,
}

/// A thread that looks now and then, and never where packets pass.
pub(super) struct Drops {
    losses: Arc<KernelLosses>,
    /// `None` once it was told to stop.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drops {
    /// Looks at the sockets on these ports of these addresses.
    pub(super) fn watch(addresses: Vec<IpAddr>, ports: RangeInclusive<u16>) -> io::Result<Self> {
        let losses = Arc::new(KernelLosses::default());
        let (stop, stopped) = channel();
        let counted = losses.clone();
        let start = Counters::read();
        let look = move || {
            let mut errors = start.as_ref().map(|start| start.errors);
            while stopped.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                let counters = Counters::read();
                if let (Some(start), Some(now)) = (&start, &counters) {
                    counted.refused.store(now.refused.saturating_sub(start.refused), Ordering::Relaxed);
                }
                let before = std::mem::replace(&mut errors, counters.map(|counters| counters.errors));
                if errors.is_none() || errors != before {
                    let lists = LISTS.iter().filter_map(|list| fs::read_to_string(list).ok());
                    let dropped = lists.map(|list| dropped(&list, &addresses, &ports)).sum();
                    counted.dropped.store(dropped, Ordering::Relaxed);
                }
            }
        };
        let thread = thread::Builder::new().name("drops".to_owned()).spawn(look)?;
        Ok(Self { losses, stop: Some(stop), thread: Some(thread) })
    }

    /// What was seen.
    pub(super) fn losses(&self) -> Arc<KernelLosses> {
        self.losses.clone()
    }
}

impl Drop for Drops {
    fn drop(&mut self) {
        self.stop = None;
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The kernel's own counters of all UDP here, both families together.
struct Counters {
    /// Datagrams that reached a socket and no reader.
    errors: u64,
    /// Datagrams that no socket wanted.
    refused: u64,
}

impl Counters {
    /// `None` where the kernel does not say.
    fn read() -> Option<Self> {
        let [v4, v6] = COUNTERS.map(|file| fs::read_to_string(file).unwrap_or_default());
        let both = |name| Some(counter_v4(&v4, name)? + counter_v6(&v6, name).unwrap_or(0));
        Some(Self { errors: both("InErrors")?, refused: both("NoPorts")? })
    }
}

/// One line has the names, the next one the values.
fn counter_v4(counters: &str, name: &str) -> Option<u64> {
    let mut lines = counters.lines().filter(|line| line.starts_with("Udp: "));
    let (names, values) = (lines.next()?, lines.next()?);
    let (_, value) = names.split(' ').zip(values.split(' ')).find(|(column, _)| *column == name)?;
    value.parse().ok()
}

/// Each line has a name and its value.
fn counter_v6(counters: &str, name: &str) -> Option<u64> {
    let value = counters.lines().find_map(|line| line.strip_prefix("Udp6")?.strip_prefix(name))?;
    value.trim().parse().ok()
}

/// The last column of each line whose local address is one of these.
fn dropped(list: &str, addresses: &[IpAddr], ports: &RangeInclusive<u16>) -> u64 {
    let of_line = |line: &str| {
        let mut columns = line.split_whitespace();
        let (address, port) = columns.nth(1)?.split_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        let ours = ports.contains(&port) && addresses.iter().any(|own| written(*own).eq_ignore_ascii_case(address));
        columns.next_back().filter(|_| ours)?.parse::<u64>().ok()
    };
    list.lines().filter_map(of_line).sum()
}

/// An address as those lists write it: words of 32 bits in the order of the machine's octets, hexadecimal.
fn written(address: IpAddr) -> String {
    let word = |octets: &[u8]| octets.try_into().map_or(0, u32::from_ne_bytes);
    match address {
        IpAddr::V4(v4) => format!("{:08X}", word(&v4.octets())),
        IpAddr::V6(v6) => v6.octets().chunks(4).map(|octets| format!("{:08X}", word(octets))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn what_a_full_queue_lost_is_counted_for_our_ports_alone() {
        let home: IpAddr = "127.0.0.1".parse().unwrap();
        let socket = UdpSocket::bind((home, 0)).unwrap();
        let there = socket.local_addr().unwrap();
        let count = || {
            let list = fs::read_to_string(LISTS[0]).unwrap();
            dropped(&list, &[home], &(there.port()..=there.port()))
        };
        assert_eq!(count(), 0);
        let before = Counters::read().unwrap().errors;
        let flood = UdpSocket::bind((home, 0)).unwrap();
        (0..5_000).for_each(|_| drop(flood.send_to(&[0; 1_000], there)));
        let lost = count();
        socket.set_nonblocking(true).unwrap();
        let kept = std::iter::from_fn(|| socket.recv(&mut [0; 1_000]).ok()).count() as u64;
        assert_eq!(lost + kept, 5_000, "each is lost or kept");
        assert!(lost > 0);
        assert!(Counters::read().unwrap().errors >= before + lost, "the sign to read the list again");
        let list = fs::read_to_string(LISTS[0]).unwrap();
        assert_eq!(dropped(&list, &["127.99.88.77".parse().unwrap()], &(0..=u16::MAX)), 0);
    }

    #[test]
    fn the_short_counters_of_both_families_are_read() {
        let v4 = "Ip: InErrors\nIp: 1\nUdp: InDatagrams NoPorts InErrors\nUdp: 9 8 7\nUdpLite: InErrors\nUdpLite: 5\n";
        assert_eq!(["InErrors", "NoPorts"].map(|name| counter_v4(v4, name)), [Some(7), Some(8)]);
        let v6 = "Ip6InErrors \t4\nUdp6NoPorts         \t1\nUdp6InErrors             \t23\n";
        assert_eq!(["InErrors", "NoPorts"].map(|name| counter_v6(v6, name)), [Some(23), Some(1)]);
        assert_eq!((counter_v4("Udp: InErrors\n", "InErrors"), counter_v6("Udp6InErrors x", "InErrors")), (None, None));
    }

    #[test]
    fn m2_strangers_whom_the_kernel_refuses_are_counted_by_it() {
        let before = Counters::read().unwrap().refused;
        let [ours, far, stranger] = [(); 3].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        ours.connect(far.local_addr().unwrap()).unwrap();
        (0..100).for_each(|_| drop(stranger.send_to(b"me", ours.local_addr().unwrap())));
        assert!(Counters::read().unwrap().refused >= before + 100);
    }

    #[test]
    fn addresses_are_written_as_the_kernel_writes_them() {
        let line = |address: &str| {
            format!("  1: {address}:2710 00000000:0000 07 00000000:00000000 00:00000000 00000000 0 0 1 2 0 7")
        };
        let ports = 10_000..=10_001;
        let ours = ["127.0.0.1", "::1"].map(|address| address.parse().unwrap());
        assert_eq!(dropped(&line("0100007F"), &ours, &ports), 7);
        assert_eq!(dropped(&line("00000000000000000000000001000000"), &ours, &ports), 7);
        assert_eq!(dropped(&line("0200007F"), &ours, &ports), 0);
        assert_eq!(dropped("  sl  local_address rem_address\nnonsense\n 1: x:y", &ours, &ports), 0);
    }
}
