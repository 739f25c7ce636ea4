//! Where we never send, whatever a session description says.

use std::net::{IpAddr, SocketAddr};

use super::MediaSettings;
use super::ports::is_local;
use crate::b2bua::io::Family;

/// What the answer depends on.
#[derive(Debug, Clone)]
pub struct Guard {
    bound: Vec<IpAddr>,
    told: Vec<IpAddr>,
    closed: Vec<SocketAddr>,
    first_port: u16,
    last_port: u16,
}

impl Guard {
    /// The guard of a relay with these settings.
    pub fn new(settings: &MediaSettings) -> Self {
        let MediaSettings { addresses, told, closed, first_port, last_port, .. } = settings;
        let (bound, told, closed) = (addresses.clone(), told.clone(), closed.clone());
        Self { bound, told, closed, first_port: *first_port, last_port: *last_port }
    }

    /// The address when it is one to send to from our sockets of this family: one host of it, with a port, not this
    /// relay itself.
    pub fn admit(&self, family: Family, far: SocketAddr) -> Option<SocketAddr> {
        let far = SocketAddr::new(far.ip(), far.port());
        let of = |address: IpAddr| Family::of(address) == family;
        let here = self.bound.iter().copied().find(|bound| of(*bound) && of(far.ip()));
        let fit = |here| is_one_host(far.ip()) && scope_fits(here, far.ip()) && !self.is_ours(here, far);
        let admitted = far.port() != 0 && here.is_some_and(fit);
        if !admitted {
            tracing::info!(%far, "a far side announced an address we do not send to; it hears nothing");
        }
        admitted.then_some(far)
    }

    /// A port of the relay, under any name it has, or a service of ours.
    fn is_ours(&self, here: IpAddr, far: SocketAddr) -> bool {
        let leads_to = |own: IpAddr| if own.is_unspecified() { is_local(far.ip()) } else { far.ip() == own };
        let media = (self.first_port..=self.last_port).contains(&far.port());
        media && (leads_to(here) || self.told.contains(&far.ip()))
            || self.closed.iter().any(|own| own.port() == far.port() && leads_to(own.ip()))
    }
}

/// Loopback and link-local addresses lead to this machine's own services, unless we live there ourselves.
fn scope_fits(here: IpAddr, far: IpAddr) -> bool {
    let loopback = !far.is_loopback() || here.is_loopback();
    let link_local = !is_link_local(far) || is_link_local(here);
    loopback && link_local
}

fn is_one_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !(v4.is_multicast() || v4.is_broadcast() || v4.octets()[0] == 0),
        IpAddr::V6(v6) => !(v6.is_multicast() || v6.is_unspecified() || v6.to_ipv4_mapped().is_some()),
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(bound: &str, far: &str) -> bool {
        let here: IpAddr = bound.parse().unwrap();
        let settings = MediaSettings { addresses: vec![here], ..MediaSettings::default() };
        Guard::new(&settings).admit(Family::of(here), far.parse().unwrap()).is_some()
    }

    #[test]
    fn a_socket_sends_to_its_own_family_only() {
        let addresses = ["192.0.2.1", "2001:db8::1"].map(|bound| bound.parse().unwrap()).to_vec();
        let guard = Guard::new(&MediaSettings { addresses, ..MediaSettings::default() });
        let [v4, v6] = ["192.0.2.9:4000", "[2001:db8::9]:4000"].map(|far| far.parse().unwrap());
        assert_eq!((guard.admit(Family::V4, v4), guard.admit(Family::V6, v6)), (Some(v4), Some(v6)));
        assert_eq!((guard.admit(Family::V6, v4), guard.admit(Family::V4, v6)), (None, None));
    }

    #[test]
    fn what_leads_back_to_us_under_another_name_is_refused() {
        let of = |addresses: [&str; 1]| addresses.map(|address| address.parse().unwrap()).to_vec();
        let closed = ["192.0.2.1:5060", "127.0.0.1:8080"].map(|own| own.parse().unwrap()).to_vec();
        let settings =
            MediaSettings { addresses: of(["192.0.2.1"]), told: of(["203.0.113.7"]), closed, ..Default::default() };
        let guard = Guard::new(&settings);
        let admits = |far: &str| guard.admit(Family::V4, far.parse().unwrap()).is_some();
        for far in ["203.0.113.7:10000", "192.0.2.1:5060", "127.0.0.1:8080"] {
            assert!(!admits(far), "{far}");
        }
        for far in ["203.0.113.7:9000", "192.0.2.1:5062", "203.0.113.7:5060"] {
            assert!(admits(far), "{far}");
        }
    }

    #[test]
    fn hosts_are_admitted() {
        for (bound, far) in [
            ("192.0.2.1", "192.0.2.1:9000"), // this machine, but not this relay
            ("192.0.2.1", "10.0.0.1:10000"), // somebody else's port of the same number
            ("127.0.0.1", "127.0.0.2:10000"),
            ("2001:db8::1", "[2001:db8::2]:4000"),
        ] {
            assert!(admits(bound, far), "{far} from {bound}");
        }
    }

    #[test]
    fn nowhere_everywhere_and_ourselves_are_refused() {
        for (bound, far) in [
            ("192.0.2.1", "192.0.2.9:0"),
            ("192.0.2.1", "0.0.0.0:4000"),
            ("192.0.2.1", "224.0.0.1:4000"),
            ("192.0.2.1", "255.255.255.255:4000"),
            ("192.0.2.1", "127.0.0.1:4000"),
            ("192.0.2.1", "169.254.169.254:80"),
            ("192.0.2.1", "192.0.2.1:10000"),
            ("192.0.2.1", "[2001:db8::2]:4000"),
            ("0.0.0.0", "127.0.0.1:9000"),
            ("2001:db8::1", "[ff02::1]:4000"),
            ("2001:db8::1", "[::ffff:10.0.0.1]:4000"),
        ] {
            assert!(!admits(bound, far), "{far} from {bound}");
        }
    }
}
