//! A customer who takes the call back from GenerativeAgent with the keys of a telephone.

use std::time::Duration;

use switchback::demo::party::CallEvent;
use switchback::demo::sdp;
use tokio::time::timeout;

use crate::rtp::{Mouth, PACKET, bridge_as, stream};
use crate::stage::{SOON, Setting, Stage, eventually};

const MOMENT: Duration = Duration::from_millis(500);

/// Who speaks and presses keys: one RTP stream, telephone events under number 101.
struct Customer {
    spoken: Vec<Vec<u8>>,
    /// The packets with events in them.
    pressed: Vec<Vec<u8>>,
}

impl Customer {
    /// Speaks for half a second, then presses each of these keys for 100 ms with 100 ms of speech after it.
    fn who_presses(keys: &[u8]) -> Self {
        let (mut spoken, mut pressed) = (stream(0xc057, 25), Vec::new());
        for &key in keys {
            let begun = spoken.len();
            let timestamp: [u8; 4] = spoken[begun - 1][4..8].try_into().unwrap();
            let next = |packets: u32| (u32::from_be_bytes(timestamp).wrapping_add(packets * 160)).to_be_bytes();
            for (at, duration) in [160_u16, 320, 480, 640, 800, 800, 800].into_iter().enumerate() {
                let mut packet = header(&spoken, if at == 0 { 0x80 | 101 } else { 101 }, next(1));
                packet.extend([key, if at < 4 { 10 } else { 0x80 | 10 }]);
                packet.extend(duration.to_be_bytes());
                pressed.push(packet.clone());
                spoken.push(packet);
            }
            for at in 0..5 {
                let mut packet = header(&spoken, 0, next(8 + at));
                packet.extend([0xff; 160]);
                spoken.push(packet);
            }
        }
        Self { spoken, pressed }
    }
}

/// The header of the packet after these.
fn header(spoken: &[Vec<u8>], payload_type: u8, timestamp: [u8; 4]) -> Vec<u8> {
    let last = spoken.last().unwrap();
    let sequence = u16::from_be_bytes([last[2], last[3]]).wrapping_add(1).to_be_bytes();
    [&[0x80, payload_type], &sequence[..], &timestamp, &last[8..12]].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m5_a_customer_presses_the_escape_and_is_handed_back() {
    let stage = Stage::set(Setting::default().key("call.escape", "*0")).await;
    let (here, there) = (stage.street.at(3, 9000), stage.street.at(4, 9000));
    let (customer, genagent) = (Mouth::open(here).await, Mouth::open(there).await);
    // GenerativeAgent's side has telephone events under another number.
    let mut call = bridge_as(&stage, &sdp::describe(here), &sdp::describe(there).replace("101", "96")).await;

    let keys = Customer::who_presses(&[5, 10, 0]);
    let listening = genagent.hear(MOMENT);
    customer.speak(call.towards_customer_leg, keys.spoken, PACKET);
    let bye = loop {
        match timeout(SOON, call.customer.next()).await.unwrap() {
            CallEvent::HungUp(bye) => break bye,
            CallEvent::Progressed(_) | CallEvent::Finished(..) => {}
            other => panic!("{other:?}"),
        }
    };
    crate::rtp::until_hung_up(&mut call.genagent).await;
    let of = |name: &str| -> Vec<String> {
        let headers = bye.headers().into_iter().filter(|(found, _)| found.eq_ignore_ascii_case(name));
        headers.map(|(_, value)| value).collect()
    };
    assert_eq!(of("X-Switchback-Outcome"), ["operator"]);
    assert_eq!(of("Reason"), ["Q.850;cause=16", "switchback;text=\"operator\""]);

    // Until then GenerativeAgent has heard every key, under its own number, at most the last one not to its end.
    let heard: Vec<Vec<u8>> = listening.await.unwrap().0.into_iter().filter(|packet| packet[1] & 0x7f == 96).collect();
    assert!(heard.len() > 14, "{} of {} packets", heard.len(), keys.pressed.len());
    for (heard, pressed) in heard.iter().zip(&keys.pressed) {
        assert_eq!((heard[1], &heard[2..]), (pressed[1] & 0x80 | 96, &pressed[2..]));
    }

    let (outcome, record) = stage.verdict().await;
    assert_eq!((outcome.as_str(), &record["verdict"]["ended_by"]), ("operator", &"customer".into()), "{record}");
    assert_eq!(
        (&record["verdict"]["phase"], &record["hand_back"]["rungs"][0]["rung"]),
        (&"talking".into(), &"bye".into())
    );
    let context = stage.get_json(&format!("/v1/context/{}", of("X-Switchback-Context")[0])).await;
    assert_eq!(context["outcome"], "operator", "{context}");
    eventually("no call is left", SOON, async || stage.metrics().await.of("active_calls") == 0).await;
    stage.close(&[]).await;
}
