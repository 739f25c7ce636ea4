//! O8, O13: GenerativeAgent's leg dies in the middle of a conversation. The customer is parked, a fresh number is asked
//! for under the same conversation, and both hear each other again.

use std::net::SocketAddr;
use std::time::Duration;

use switchback::demo::asapp::Behaviour;
use switchback::demo::message::Invitation;
use switchback::demo::party::{Call, CallEvent, Party};
use switchback::demo::sdp;
use switchback::demo::tap::Tap;
use tokio::time::timeout;

use crate::rtp::{Mouth, PACKET, stream, until_hung_up};
use crate::stage::{SOON, Setting, Stage};

const MOMENT: Duration = Duration::from_millis(500);
/// Half a second of speech.
const WORDS: u32 = 25;

/// GenerativeAgent on one leg.
struct Leg {
    call: Call,
    mouth: Mouth,
    /// Where its RTP goes.
    relay: SocketAddr,
    number: String,
}

/// The next call to reach the carrier is answered, with media on this port.
async fn answered(stage: &Stage, carrier: &mut Party, port: u16) -> Leg {
    let call = timeout(SOON, carrier.accept()).await.expect("an INVITE").unwrap();
    let number = call.invite().unwrap().dialled().unwrap().to_owned();
    stage.api().call_received(&number).expect("the number is somebody's");
    let there = stage.street.at(4, port);
    let mouth = Mouth::open(there).await;
    let relay = sdp::audio_address(call.invite().unwrap().body()).unwrap();
    assert!(call.respond(200, &sdp::describe(there)));
    Leg { call, mouth, relay, number }
}

/// A conversation, with the media of the customer in the test's hands.
struct Conversation {
    stage: Stage,
    carrier: Party,
    customer: Call,
    mouth: Mouth,
    /// Where the customer's RTP goes.
    relay: SocketAddr,
    _ivr: Party,
}

impl Conversation {
    async fn begin() -> (Self, Leg) {
        let setting = Setting::default()
            .behaviour(Behaviour::default())
            .key("call.resume_attempts", "1")
            .key("call.collect_limit", "700ms")
            .key("media.timeout", "1500ms");
        let stage = Stage::set(setting).await;
        let ivr = Party::start(stage.street.ivr(), Tap::default()).await.unwrap();
        let mut carrier = Party::start(stage.street.carrier(), Tap::default()).await.unwrap();
        let here = stage.street.at(3, 9000);
        let mouth = Mouth::open(here).await;
        let mut customer = ivr.call(&Invitation {
            target: stage.street.switchback(),
            user: "7000".to_owned(),
            caller: "+15550100042".to_owned(),
            headers: vec![("X-GA-extConversationId".to_owned(), "one-conversation".to_owned())],
            sdp: sdp::describe(here),
        });
        let leg = answered(&stage, &mut carrier, 9000).await;
        let relay = loop {
            match timeout(SOON, customer.next()).await.expect("an answer") {
                CallEvent::Answered(answer) => break sdp::audio_address(answer.body()).unwrap(),
                CallEvent::Progressed(_) => {}
                other => panic!("{other:?}"),
            }
        };
        (Self { stage, carrier, customer, mouth, relay, _ivr: ivr }, leg)
    }

    /// Both speak at once, and each hears every octet of the other.
    async fn they_hear_each_other(&self, leg: &Leg, voice: u32) {
        // The relay thread is told beside the last SIP message, which is here at once on loopback.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let (from_customer, from_genagent) = (stream(voice, WORDS), stream(voice + 1, WORDS));
        let (at_genagent, at_customer) = (leg.mouth.hear(MOMENT), self.mouth.hear(MOMENT));
        self.mouth.speak(self.relay, from_customer.clone(), PACKET);
        leg.mouth.speak(leg.relay, from_genagent.clone(), PACKET);
        let (at_genagent, at_customer) = (at_genagent.await.unwrap().0, at_customer.await.unwrap().0);
        // The customer sees one stream whoever speaks: the headers are the relay's, and what it heard while it was
        // parked comes before.
        assert!(payloads(&at_customer).ends_with(&payloads(&from_genagent)), "the customer: {}", at_customer.len());
        assert!(payloads(&at_genagent).ends_with(&payloads(&from_customer)), "GenerativeAgent: {}", at_genagent.len());
    }

    /// The conversation goes on through another number, the customer ends it, and the record tells both.
    async fn goes_on(mut self, spent: &str, broken_off: &str) {
        let mut again = answered(&self.stage, &mut self.carrier, 9100).await;
        assert_ne!(again.number, spent, "a fresh number");
        self.they_hear_each_other(&again, 0x2000).await;
        assert!(self.customer.hang_up(&[]));
        until_hung_up(&mut again.call).await;
        let (outcome, record) = self.stage.verdict().await;
        assert_eq!((outcome.as_str(), &record["verdict"]["phase"]), ("customer_hung_up", &"talking".into()));
        assert_eq!(record["attempts"].as_array().unwrap().len(), 2, "{record}");
        println!("{broken_off}: {}", record["attempts"]);
        let requests = self.stage.api().requests();
        let posts: Vec<_> = requests.iter().filter(|request| request.method == "POST").collect();
        let conversations: Vec<_> = posts.iter().map(|post| post.body["externalConversationId"].as_str()).collect();
        assert_eq!(conversations, [Some("one-conversation"); 2]);
        assert_ne!(posts[0].id, posts[1].id, "an id is used once");
        assert!(
            timeout(Duration::ZERO, self.customer.next())
                .await
                .is_ok_and(|event| matches!(event, CallEvent::Finished(..)))
        );
    }
}

fn payloads(packets: &[Vec<u8>]) -> Vec<&[u8]> {
    packets.iter().map(|packet| &packet[12..]).collect()
}

#[tokio::test]
async fn o8_a_bye_with_cause_41_while_the_api_says_ongoing_is_a_break_and_the_conversation_goes_on() {
    let (conversation, mut leg) = Conversation::begin().await;
    conversation.they_hear_each_other(&leg, 0x1000).await;
    assert!(leg.call.hang_up(&[("Reason".to_owned(), "Q.850;cause=41".to_owned())]));
    assert!(matches!(
        timeout(SOON, leg.call.next()).await.unwrap(),
        CallEvent::Confirmed(_) | CallEvent::Finished(_, 200)
    ));
    conversation.goes_on(&leg.number, "BYE with cause 41").await;
}

#[tokio::test]
async fn o13_rtp_that_dies_on_both_sides_is_a_break_and_the_conversation_goes_on() {
    let (conversation, mut leg) = Conversation::begin().await;
    conversation.they_hear_each_other(&leg, 0x1000).await;
    until_hung_up(&mut leg.call).await;
    conversation.goes_on(&leg.number, "RTP dead").await;
}

#[tokio::test]
async fn o13_a_carrier_that_is_gone_and_comes_back_knows_nothing_and_the_conversation_goes_on() {
    let (mut conversation, leg) = Conversation::begin().await;
    conversation.they_hear_each_other(&leg, 0x1000).await;
    let (spent, at, elsewhere) =
        (leg.number.clone(), conversation.carrier.address(), conversation.stage.street.at(7, 5060));
    // Its sockets are closed: what still goes there meets an ICMP error, and nothing comes.
    drop(leg);
    conversation.carrier = Party::start(elsewhere, Tap::default()).await.unwrap();
    tokio::time::sleep(MOMENT).await;
    conversation.carrier = Party::start(at, Tap::default()).await.unwrap();
    conversation.goes_on(&spent, "the carrier gone").await;
}
