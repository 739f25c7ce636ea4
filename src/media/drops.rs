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

/// A thread that looks now and then, and never where packets pass.
pub(super) struct Drops {
    count: Arc<AtomicU64>,
    /// `None` once it was told to stop.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drops {
    /// Looks at the sockets on these ports of these addresses.
    pub(super) fn watch(addresses: Vec<IpAddr>, ports: RangeInclusive<u16>) -> io::Result<Self> {
        let count = Arc::new(AtomicU64::new(0));
        let (stop, stopped) = channel();
        let counted = count.clone();
        let look = move || {
            let mut before = None;
            while stopped.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                let errors = errors();
                if errors.is_some() && errors == std::mem::replace(&mut before, errors) {
                    continue;
                }
                let lists = LISTS.iter().filter_map(|list| fs::read_to_string(list).ok());
                counted.store(lists.map(|list| dropped(&list, &addresses, &ports)).sum(), Ordering::Relaxed);
            }
        };
        let thread = thread::Builder::new().name("drops".to_owned()).spawn(look)?;
        Ok(Self { count, stop: Some(stop), thread: Some(thread) })
    }

    /// Packets dropped since the start, as of the last look.
    pub(super) fn count(&self) -> Arc<AtomicU64> {
        self.count.clone()
    }
}

impl Drop for Drops {
    fn drop(&mut self) {
        self.stop = None;
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Datagrams that reached no reader, of all sockets; `None` where the kernel does not say.
fn errors() -> Option<u64> {
    let [v4, v6] = COUNTERS.map(|file| fs::read_to_string(file).unwrap_or_default());
    Some(errors_v4(&v4)? + errors_v6(&v6).unwrap_or(0))
}

/// One line has the names, the next one the values.
fn errors_v4(counters: &str) -> Option<u64> {
    let mut lines = counters.lines().filter(|line| line.starts_with("Udp: "));
    let (names, values) = (lines.next()?, lines.next()?);
    let (_, errors) = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == "InErrors")?;
    errors.parse().ok()
}

/// Each line has a name and its value.
fn errors_v6(counters: &str) -> Option<u64> {
    counters.lines().find_map(|line| line.strip_prefix("Udp6InErrors"))?.trim().parse().ok()
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
        let before = errors().unwrap();
        let flood = UdpSocket::bind((home, 0)).unwrap();
        (0..5_000).for_each(|_| drop(flood.send_to(&[0; 1_000], there)));
        let lost = count();
        socket.set_nonblocking(true).unwrap();
        let kept = std::iter::from_fn(|| socket.recv(&mut [0; 1_000]).ok()).count() as u64;
        assert_eq!(lost + kept, 5_000, "each is lost or kept");
        assert!(lost > 0);
        assert!(errors().unwrap() >= before + lost, "which is the sign to read the list again");
        let list = fs::read_to_string(LISTS[0]).unwrap();
        assert_eq!(dropped(&list, &["127.0.0.2".parse().unwrap()], &(0..=u16::MAX)), 0);
    }

    #[test]
    fn the_short_counters_of_both_families_are_read() {
        let v4 = "Ip: Forwarding\nIp: 1\nUdp: InDatagrams NoPorts InErrors OutDatagrams\nUdp: 9 8 7 6\nUdpLite: InErrors\nUdpLite: 5\n";
        assert_eq!(errors_v4(v4), Some(7));
        assert_eq!(errors_v6("Udp6NoPorts         \t1\nUdp6InErrors             \t23\n"), Some(23));
        assert_eq!((errors_v4("Udp: InErrors\n"), errors_v6("Udp6InErrors x")), (None, None));
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
