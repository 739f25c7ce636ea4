//! The name of ASAPP's API, in a DNS that fails while the program runs.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use switchback::demo::asapp::Behaviour;

use crate::stage::{SOON, Setting, Stage, handed_over, slow};
use crate::trunks::{A, answer, host};

const API: &str = "api.asapp.test";
const MOMENT: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Copy)]
enum Says {
    Nothing,
    /// SERVFAIL.
    Failure,
    /// The API's address, to be forgotten at once.
    Address,
}

/// One DNS server; ends with the test's process.
struct Dns {
    says: Arc<Mutex<Says>>,
    asked: Arc<AtomicUsize>,
}

impl Dns {
    fn open(at: SocketAddr, api: SocketAddr, says: Says) -> Self {
        let dns = Self { says: Arc::new(Mutex::new(says)), asked: Arc::default() };
        let (says, asked) = (Arc::clone(&dns.says), Arc::clone(&dns.asked));
        let socket = UdpSocket::bind(at).unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
                asked.fetch_add(1, Ordering::Relaxed);
                let mut octets = answer(&buffer[..length], &[((API, A), vec![host(api)])].into(), 0);
                match *says.lock().unwrap() {
                    Says::Nothing => continue,
                    Says::Failure => {
                        octets = [&buffer[..2], &[0x81, 0x82], &buffer[4..length]].concat();
                        octets[6..12].fill(0);
                    }
                    Says::Address => {}
                }
                let _ = socket.send_to(&octets, peer);
            }
        });
        dns
    }

    fn says(&self, says: Says) {
        *self.says.lock().unwrap() = says;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

/// Until the name was found once, each call reaches its fallback within the budget; from then on a resolver that fails
/// harms nobody.
#[tokio::test]
async fn a8_the_name_of_the_api_stops_being_found_and_comes_back() {
    let setting = Setting::default()
        .behaviour(Behaviour { create: slow(300), ..handed_over("AGENT") })
        .key("asapp.base_url", format!("http://{API}:8000"))
        .key("asapp.connect_timeout", "400ms")
        .key("asapp.timeout", "1s")
        .key("asapp.breaker_failures", "100")
        .key("call.number_budget", "1500ms")
        .prepare(|street| vec![("dns.servers", street.at(7, 5353).to_string())]);
    let stage = Stage::set(setting).await;
    let dns = Dns::open(stage.street.at(7, 5353), stage.street.at(5, 8000), Says::Nothing);
    for says in [Says::Nothing, Says::Failure] {
        dns.says(says);
        let ivr = stage.ivr("ivr_is_refused").calls(5).rate(50).play(SOON).await;
        assert_eq!(ivr.logged("status"), ["480"; 5], "{says:?}");
        let longest = *ivr.times("refused").last().unwrap();
        assert!(longest < Duration::from_millis(1800), "{says:?}: refused after {longest:?}, the budget is 1.5 s");
    }
    let records = stage.records(10).await;
    assert!(records.iter().all(|it| it["verdict"]["evidence"]["not_connected"] == "api_down"), "{records:#?}");
    assert_eq!(stage.asked("POST"), 0, "nothing of it has reached the API");

    let carrier = stage.carrier("carrier_is_hung_up_on").calls(31).start();
    dns.says(Says::Address);
    stage.ivr("ivr_hangs_up").pause(MOMENT).play(SOON).await;
    // Each time more calls at once than there are connections: the name is needed.
    for (says, calls) in [(Says::Nothing, 5), (Says::Failure, 10), (Says::Address, 15)] {
        dns.says(says);
        let before = dns.asked();
        stage.ivr("ivr_hangs_up").calls(calls).rate(100).pause(MOMENT).play(SOON).await;
        let asked = dns.asked() - before;
        println!("{says:?}: {calls} calls, {asked} questions to the DNS");
        assert!(asked > 0, "{says:?}: the name was not needed");
    }
    carrier.well(SOON).await;
    assert_eq!((stage.records(41).await.len(), stage.asked("POST")), (41, 31));
    stage.close(&["fallback: "]).await;
}
