//! Where we never send, whatever a session description says.

use std::net::{IpAddr, SocketAddr};

use super::MediaSettings;
use super::ports::is_local;
use crate::b2bua::io::Family;

/// What the answer depends on.
#[derive(Debug, Clone)]
pub struct Guard {
    bound: Vec<IpAddr>,
    first_port: u16,
    last_port: u16,
}

impl Guard {
    /// The guard of a relay with these settings.
    pub fn new(settings: &MediaSettings) -> Self {
        Self { bound: settings.addresses.clone(), first_port: settings.first_port, last_port: settings.last_port }
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

    fn is_ours(&self, here: IpAddr, far: SocketAddr) -> bool {
        (self.first_port..=self.last_port).contains(&far.port())
            && if here.is_unspecified() { is_local(far.ip()) } else { far.ip() == here }
    }
}

/// Loopback and link-local addresses lead to this machine's own services, unless we live there ourselves.
fn scope_fits(here: IpAddr, far: IpAddr) -> bool {
    let loopback = !far.is_loopback() || here.is_loopback() || here.is_unspecified();
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
    fn hosts_are_admitted() {
        for (bound, far) in [
            ("192.0.2.1", "192.0.2.1:9000"), // this machine, but not this relay
            ("192.0.2.1", "10.0.0.1:10000"), // somebody else's port of the same number
            ("127.0.0.1", "127.0.0.2:10000"),
            ("0.0.0.0", "127.0.0.1:9000"),
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
            ("0.0.0.0", "127.0.0.1:10001"),
            ("2001:db8::1", "[ff02::1]:4000"),
            ("2001:db8::1", "[::ffff:10.0.0.1]:4000"),
        ] {
            assert!(!admits(bound, far), "{far} from {bound}");
        }
    }
}
