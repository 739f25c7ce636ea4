//! What arrives twice, late, or from the wrong place.

use std::time::Duration;

use switchback::demo::sdp;

use crate::stage::{SOON, Setting, Stage, eventually};
use crate::wire::Wire;

const MOMENT: Duration = Duration::from_millis(500);

#[tokio::test]
async fn r6_every_repeated_200_of_the_carrier_gets_its_ack_and_is_one_answer() {
    let stage = Stage::set(Setting::default()).await;
    let carrier = Wire::open(stage.street.carrier()).await;
    let ivr = stage.ivr("ivr_hangs_up").pause(Duration::from_secs(1)).start();
    let invite = carrier.hear("INVITE ").await;
    let description = sdp::describe(stage.street.at(4, 9000));
    carrier.answer(&invite, "200 OK", &description).await;
    let first = carrier.hear("ACK ").await;
    for _ in 0..3 {
        carrier.answer(&invite, "200 OK", &description).await;
        assert_eq!(carrier.hear("ACK ").await.text, first.text, "the same ACK again");
    }
    let bye = carrier.hear("BYE ").await;
    carrier.answer(&bye, "200 OK", "").await;
    ivr.well(SOON).await;
    let record = stage.verdict().await.1;
    assert_eq!(record["attempts"].as_array().unwrap().len(), 1);
    stage.close(&[]).await;
}

#[tokio::test]
async fn r12_a_bye_repeated_after_the_end_is_answered_200_and_481_when_the_tombstone_is_gone() {
    // 64·T1 is 3.2 s.
    let stage = Stage::set(Setting::default().key("sip.t1", "50ms")).await;
    let carrier = Wire::open(stage.street.carrier()).await;
    let ivr = stage.ivr("ivr_gets_it_back").start();
    let invite = carrier.hear("INVITE ").await;
    carrier.answer(&invite, "200 OK", &sdp::describe(stage.street.at(4, 9000))).await;
    carrier.hear("ACK ").await;
    let bye = carrier.bye_after(&invite, "one");
    carrier.send(stage.street.switchback(), &bye).await;
    let answer = carrier.hear("SIP/2.0 200 ").await;
    ivr.well(SOON).await;
    stage.records(1).await;
    carrier.send(stage.street.switchback(), &bye).await;
    assert_eq!(carrier.hear("SIP/2.0 ").await.text, answer.text, "the same request, the same answer");
    carrier.send(stage.street.switchback(), &carrier.bye_after(&invite, "two").replace("1 BYE", "2 BYE")).await;
    carrier.hear("SIP/2.0 200 ").await;
    eventually("the tombstone is gone", SOON, async || stage.metrics().await.of("active_dialogs") == 0).await;
    carrier.send(stage.street.switchback(), &carrier.bye_after(&invite, "three").replace("1 BYE", "3 BYE")).await;
    carrier.hear("SIP/2.0 481 ").await;
    stage.close(&[]).await;
}

#[tokio::test]
async fn r15_an_invite_sent_eight_times_is_one_call_and_a_merged_one_is_482() {
    let stage = Stage::set(Setting::default()).await;
    let ivr = Wire::open(stage.street.ivr()).await;
    let carrier = Wire::open(stage.street.carrier()).await;
    let offer = sdp::describe(stage.street.at(3, 9000));
    let switchback = stage.street.switchback();
    let invite = ivr.request("INVITE", "r15", "first", "", &offer);
    for _ in 0..8 {
        ivr.send(switchback, &invite).await;
    }
    ivr.send(switchback, &ivr.request("INVITE", "r15", "second", "", &offer)).await;
    // One 100 and one 180 for each, and never two tags.
    let mut tags = std::collections::BTreeSet::new();
    let merged = loop {
        let heard = ivr.hear("SIP/2.0 ").await;
        if heard.text.starts_with("SIP/2.0 482 ") {
            break heard;
        }
        assert!(heard.text.starts_with("SIP/2.0 1"), "{}", heard.text);
        if heard.text.starts_with("SIP/2.0 180") {
            tags.insert(heard.to_tag());
        }
    };
    ivr.send(switchback, &ivr.request("ACK", "r15", "second", &merged.to_tag(), "")).await;
    assert!(tags.len() <= 1, "{tags:?}");

    let dialled = carrier.hear("INVITE ").await;
    carrier.answer(&dialled, "200 OK", &sdp::describe(stage.street.at(4, 9000))).await;
    carrier.hear("ACK ").await;
    let answer = loop {
        let heard = ivr.hear("SIP/2.0 ").await;
        if heard.text.starts_with("SIP/2.0 200 ") {
            break heard;
        }
        assert!(heard.text.starts_with("SIP/2.0 1"), "{}", heard.text);
    };
    ivr.send(switchback, &ivr.request("ACK", "r15", "ack", &answer.to_tag(), "")).await;
    ivr.send(switchback, &ivr.request("BYE", "r15", "bye", &answer.to_tag(), "")).await;
    ivr.hear("SIP/2.0 200 ").await;
    let bye = carrier.hear("BYE ").await;
    carrier.answer(&bye, "200 OK", "").await;
    carrier.hears_nothing(MOMENT).await;
    stage.records(1).await;
    assert_eq!(stage.asked("POST"), 1);
    stage.close(&[]).await;
}

#[tokio::test]
async fn s1_an_unlisted_source_hears_nothing_and_costs_no_post() {
    let stage = Stage::set(Setting::default()).await;
    let stranger = Wire::open(stage.street.stranger()).await;
    let carrier = Wire::open(stage.street.carrier()).await;
    let offer = sdp::describe(stage.street.at(9, 9000));
    for method in ["INVITE", "OPTIONS", "BYE", "CANCEL", "REGISTER"] {
        let request = stranger.request(method, method, method, "", if method == "INVITE" { &offer } else { "" });
        stranger.send(stage.street.switchback(), &request).await;
    }
    stranger.send(stage.street.switchback(), "not SIP at all\r\n\r\n").await;
    stranger.hears_nothing(MOMENT).await;
    carrier.hears_nothing(MOMENT).await;
    let metrics = stage.metrics().await;
    assert_eq!((metrics.of("sip_unlisted_total"), metrics.of("calls_total"), stage.asked("POST")), (6, 0, 0));
    stage.close(&[]).await;
}
