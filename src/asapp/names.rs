//! Name resolution for the API's host.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::net::lookup_host;
use tokio::time::timeout;

use crate::clock;

/// How long the last good addresses stand in for a resolver that fails.
const REMEMBER: Duration = Duration::from_secs(600);

/// Finds the addresses of a host; their ports do not matter.
pub type FindHost =
    Arc<dyn Fn(String) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>> + Send + Sync>;

/// The system's resolver, asked on tokio's blocking threads.
pub(super) fn system() -> FindHost {
    Arc::new(|host| Box::pin(async move { Ok(lookup_host((host, 0)).await?.collect()) }))
}

/// A resolver with a memory: when it fails or hangs, the addresses it last gave are used for [`REMEMBER`]. One client
/// talks to one host, so one answer is all there is to keep.
#[derive(Clone)]
pub(super) struct Names {
    find: FindHost,
    patience: Duration,
    last: Arc<Mutex<Option<Remembered>>>,
}

#[derive(Debug)]
struct Remembered {
    at: Instant,
    addresses: Vec<SocketAddr>,
}

impl Names {
    /// `patience` is how long one look-up may take before the memory is used.
    pub(super) fn new(find: FindHost, patience: Duration) -> Self {
        Self { find, patience, last: Arc::default() }
    }

    /// What a look-up that ended at `now` means: its addresses, or else the remembered ones, or its error.
    fn settle(&self, found: io::Result<Vec<SocketAddr>>, now: Instant) -> io::Result<Vec<SocketAddr>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match found {
            Ok(addresses) if !addresses.is_empty() => {
                *last = Some(Remembered { at: now, addresses: addresses.clone() });
                Ok(addresses)
            }
            failed => match &*last {
                Some(known) if now.saturating_duration_since(known.at) < REMEMBER => Ok(known.addresses.clone()),
                Some(_) | None => failed.and(Err(io::Error::other("the name has no address"))),
            },
        }
    }
}

impl Resolve for Names {
    fn resolve(&self, name: Name) -> Resolving {
        let names = self.clone();
        Box::pin(async move {
            let silence = |_| Err(io::Error::new(io::ErrorKind::TimedOut, "the resolver did not answer"));
            let found = timeout(names.patience, (names.find)(name.as_str().to_owned())).await.unwrap_or_else(silence);
            let addresses = names.settle(found, clock::now())?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a8_the_last_good_answer_stands_in_for_a_failing_resolver_within_its_limit() {
        let names = Names::new(system(), Duration::from_secs(1));
        let start = clock::now();
        let good = vec![SocketAddr::from(([192, 0, 2, 1], 0))];
        let fails = || Err(io::Error::other("SERVFAIL"));

        assert_eq!(names.settle(fails(), start).unwrap_err().to_string(), "SERVFAIL");
        assert_eq!(names.settle(Ok(good.clone()), start).unwrap(), good);
        assert_eq!(names.settle(fails(), start + REMEMBER / 2).unwrap(), good);
        assert_eq!(names.settle(Ok(Vec::new()), start + REMEMBER / 2).unwrap(), good);
        assert_eq!(names.settle(fails(), start + REMEMBER).unwrap_err().to_string(), "SERVFAIL");
        assert_eq!(names.settle(Ok(Vec::new()), start + REMEMBER).unwrap_err().to_string(), "the name has no address");
    }
}
