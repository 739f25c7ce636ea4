//! The customer goes on to the queue: SIPp is the IVR, the carrier and the queue.

use std::time::Duration;

use serde_json::Value;
use switchback::demo::asapp::Behaviour;

use crate::stage::{SOON, Setting, Stage, handed_over, slow};
use crate::wire::Wire;

const TALK: Duration = Duration::from_millis(500);
const RULES: &str = "[target.queue]\nuri = 'sip:queue@QUEUE'\n\
                     [[rule]]\nwhen.outcome = 'agent'\nladder = ['dial:queue', 'bye']\n\
                     [[rule]]\nwhen.outcome = 'not_connected'\nladder = ['dial:queue', 'refuse:480']\n";

/// Customer and queue heard each other: the queue echoes, and nobody else said anything.
fn heard(record: &Value, least: u64) {
    let count = |leg: &str, what: &str| record[leg][what].as_u64().unwrap();
    let (to_queue, echoed) = (count("onward_media", "sent_packets"), count("onward_media", "received_packets"));
    println!("{to_queue} packets to the queue, {echoed} came back; the customer's leg: {}", record["customer_media"]);
    assert!(to_queue >= least, "{to_queue} packets reached the queue");
    // The last echo may cross the BYE.
    assert!(to_queue - echoed <= 2, "{echoed} of {to_queue} came back");
    assert_eq!(count("genagent_media", "received_packets"), 0, "the carrier is silent");
    assert!(count("customer_media", "sent_packets") >= echoed - 2, "the echo reaches the customer");
    assert_eq!(count("onward_media", "foreign_packets"), 0);
}

#[tokio::test]
async fn h4_the_queue_takes_over_and_hangs_up() {
    let stage = Stage::set(Setting::default().rules(RULES)).await;
    stage.has_voice("customer.ulaw");
    let carrier = stage.carrier("carrier_hangs_up").pause(TALK).start();
    let queue = stage.queue("queue_hangs_up").pause(Duration::from_secs(2)).option(&["-rtp_echo"]).start();
    let ivr = stage.ivr("ivr_speaks_until_released").play(SOON).await;
    carrier.well(SOON).await;
    let queue = queue.well(SOON).await;
    assert_eq!((queue.logged("transfer"), queue.logged("order")), (vec!["AGENT"], vec!["48213"]));
    assert_eq!(queue.logged("caller"), ["sip:+15550100042"]);
    assert_eq!(ivr.logged("reason"), ["Q.850;cause=16"]);
    let (verdict, record) = stage.verdict().await;
    assert_eq!((verdict.as_str(), &record["hand_back"]["ended_by"]), ("agent", &"onward".into()));
    assert_eq!(record["hand_back"]["rungs"][0]["result"], "answered");
    heard(&record, 90);
    stage.close(&[]).await;
}

#[tokio::test]
async fn h4_the_customer_hangs_up_on_the_queue() {
    let stage = Stage::set(Setting::default().rules(RULES)).await;
    stage.has_voice("customer.ulaw");
    let carrier = stage.carrier("carrier_hangs_up").pause(TALK).start();
    let queue = stage.queue("queue_is_hung_up_on").option(&["-rtp_echo"]).start();
    stage.ivr("ivr_speaks").pause(Duration::from_secs(3)).play(SOON).await;
    carrier.well(SOON).await;
    let queue = queue.well(SOON).await;
    assert_eq!(queue.logged("reason"), ["Q.850;cause=16"]);
    let (verdict, record) = stage.verdict().await;
    assert_eq!((verdict.as_str(), &record["hand_back"]["ended_by"]), ("agent", &"customer".into()));
    heard(&record, 110);
    stage.close(&[]).await;
}

#[tokio::test]
async fn h6_answered_at_once_and_back_to_the_ivr_when_nobody_can_be_reached() {
    let setting = Setting::default().key("call.answer", "first").key("asapp.api_secret", "unknown");
    let stage = Stage::set(setting).await;
    let ivr = stage.ivr("ivr_is_answered_first").play(SOON).await;
    assert_eq!(ivr.logged("reason"), ["Q.850;cause=16"]);
    let (verdict, record) = stage.verdict().await;
    assert_eq!((verdict.as_str(), &record["hand_back"]["rungs"][0]["rung"]), ("not_connected", &"bye".into()));
    assert!(record["answered_at"].as_i64().unwrap() - record["received_at"].as_i64().unwrap() < 100);
    assert_eq!(stage.metrics().await.of("fallback_total{reason=\"api_refused\",rung=\"bye\"}"), 1);
    stage.close(&["fallback: api_refused"]).await;
}

#[tokio::test]
async fn a13_a_customer_of_whom_nothing_is_heard_is_gone_and_nobody_is_dialled() {
    let behaviour = Behaviour { create: slow(2_000), ..handed_over("AGENT") };
    let setting = Setting::default().behaviour(behaviour).key("call.answer", "first").key("call.dwell_limit", "1s");
    let stage = Stage::set(setting).await;
    let carrier = Wire::open(stage.street.carrier()).await;
    let ivr = stage.ivr("ivr_is_answered_first").play(SOON).await;
    assert_eq!(ivr.logged("reason"), ["Q.850;cause=102"]);
    carrier.hears_nothing(Duration::from_secs(2)).await;
    let (verdict, record) = stage.verdict().await;
    assert_eq!((verdict.as_str(), &record["verdict"]["ended_by"]), ("customer_hung_up", &"network".into()));
    assert_eq!(stage.metrics().await.of("numbers_unused_total"), 1);
    stage.close(&[]).await;
}
