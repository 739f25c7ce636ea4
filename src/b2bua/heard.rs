//! Addresses that are heard because somebody whom we call has, or had, them: a call may outlive its server's address.

use std::collections::{HashSet, VecDeque};
use std::net::IpAddr;

/// Of more, the one that was found least recently is forgotten.
const MAX_HEARD: usize = 1024;

/// The addresses found last.
#[derive(Debug, Default)]
pub struct Heard {
    known: HashSet<IpAddr>,
    /// The same, least recently found first.
    order: VecDeque<IpAddr>,
}

impl Heard {
    /// Whether it is one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.known.contains(&address)
    }

    /// It has been found, or found again.
    pub fn found(&mut self, address: IpAddr) {
        if !self.known.insert(address) {
            self.order.retain(|known| *known != address);
        }
        self.order.push_back(address);
        if self.order.len() > MAX_HEARD
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_too_many_the_one_found_least_recently_is_forgotten() {
        let address = |n: u32| IpAddr::from(std::net::Ipv4Addr::from(n));
        let mut heard = Heard::default();
        (0..MAX_HEARD as u32).for_each(|n| heard.found(address(n)));
        heard.found(address(0));
        heard.found(address(9999));
        assert!(heard.contains(address(0)) && !heard.contains(address(1)) && heard.contains(address(9999)));
        assert_eq!((heard.known.len(), heard.order.len()), (MAX_HEARD, MAX_HEARD));
    }
}
