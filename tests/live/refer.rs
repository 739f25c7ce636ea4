//! The customer is handed back by REFER: SIPp is an IVR of many tempers, and the queue where it does not work.

use std::time::Duration;

use crate::sipp::{Played, Sipp};
use crate::stage::{SOON, Setting, Stage};

const TALK: Duration = Duration::from_millis(300);
pub const RULES: &str = "[target.queue]\nuri = 'sip:queue@QUEUE'\nring_limit = '2s'\naccept_limit = '2s'\n\
                     [[rule]]\nwhen.outcome = 'agent'\nladder = ['refer:queue', 'dial:queue', 'bye']\n";

async fn stage() -> Stage {
    Stage::set(Setting::default().rules(RULES)).await
}

/// Outcome of the call, then each rung with what became of it.
pub async fn told(stage: &Stage) -> (String, Vec<String>) {
    let (outcome, record) = stage.verdict().await;
    let rungs = record["hand_back"]["rungs"].as_array().expect("rungs").clone();
    let worded = rungs.iter().map(|rung| format!("{} {}", rung["rung"], rung["result"]).replace('"', ""));
    (outcome, worded.collect())
}

/// The IVR keeps the customer to itself: it alone is there.
async fn goes_with(ivr: impl FnOnce(&Stage) -> Sipp, outcome: &str, rung: &str) -> Played {
    let stage = stage().await;
    let carrier = stage.carrier("carrier_hangs_up").pause(TALK).start();
    let played = ivr(&stage).play(SOON).await;
    carrier.well(SOON).await;
    assert_eq!(told(&stage).await, (outcome.to_owned(), vec![format!("refer:queue {rung}")]));
    stage.close(&[]).await;
    played
}

/// The IVR does not do it, and the queue takes the customer all the same.
async fn stays_with(ivr: impl FnOnce(&Stage) -> Sipp, rung: &str) {
    let stage = stage().await;
    let carrier = stage.carrier("carrier_hangs_up").pause(TALK).start();
    let queue = stage.queue("queue_hangs_up").pause(TALK).start();
    ivr(&stage).play(SOON).await;
    carrier.well(SOON).await;
    queue.well(SOON).await;
    let rungs = vec![format!("refer:queue {rung}"), "dial:queue answered".to_owned()];
    assert_eq!(told(&stage).await, ("agent".to_owned(), rungs));
    stage.close(&[]).await;
}

pub fn referred(stage: &Stage, frag: &str) -> Sipp {
    stage.ivr("ivr_is_referred").option(&["-key", "frag", frag])
}

/// The IVR ends the subscription with a NOTIFY that says nothing (RFC 6665 section 4.1.3 permits it).
pub fn falls_silent(stage: &Stage) -> Sipp {
    let body = "Content-Type: message/sipfrag;version=2.0\nContent-Length: [len]\n\n[frag]\n";
    stage.ivr("ivr_is_referred").saying("Content-Length: 0\n\n", body)
}

pub fn answers(stage: &Stage, answer: &str, header: &str) -> Sipp {
    stage.ivr("ivr_refuses_refer").saying(answer, "603 Decline").saying(header, "Server: ivr")
}

#[tokio::test]
async fn t7_the_ivr_does_it_and_gets_our_bye() {
    let played = goes_with(|stage| referred(stage, "SIP/2.0 200 OK"), "agent", "transferred").await;
    assert_eq!(played.logged("reason"), ["Q.850;cause=16"]);
    let to = played.logged("refer_to")[0];
    for part in
        ["<sip:queue@127.77.", "?X-Switchback-Outcome=agent&", "&X-GA-transfer=AGENT", "&X-GA-tv-orderNumber=48213"]
    {
        assert!(to.contains(part), "{part}: {to}");
    }
}

#[tokio::test]
async fn t8_the_ivr_finds_the_queue_busy() {
    stays_with(|stage| referred(stage, "SIP/2.0 486 Busy Here"), "refused 486").await;
}

#[tokio::test]
async fn t13_the_ivr_ends_the_subscription_without_a_status() {
    stays_with(|stage| referred(stage, "nonsense"), "no outcome").await;
    stays_with(falls_silent, "no outcome").await;
}

#[tokio::test]
async fn t6_the_ivr_knows_no_refer_or_declines() {
    stays_with(|stage| answers(stage, "405 Method Not Allowed", "Allow: INVITE, ACK, BYE"), "rejected 405").await;
    stays_with(|stage| answers(stage, "603 Decline", "Server: ivr"), "rejected 603").await;
}

#[tokio::test]
async fn t10_the_ivr_agrees_and_is_silent() {
    stays_with(|stage| answers(stage, "202 Accepted", "Server: ivr"), "no outcome in time").await;
}

#[tokio::test]
async fn t11_the_ivr_asks_who_we_are_and_we_cannot_say() {
    let challenge = "WWW-Authenticate: Digest realm=\"pbx\", nonce=\"n\", qop=\"auth\"";
    stays_with(|stage| answers(stage, "401 Unauthorized", challenge), "unauthorized").await;
}

#[tokio::test]
async fn t9_the_ivr_agrees_and_hangs_up_and_notifies_too_late() {
    goes_with(|stage| stage.ivr("ivr_agrees_and_hangs_up"), "agent", "accepted, unconfirmed").await;
}

#[tokio::test]
async fn r16_the_customer_hangs_up_in_the_moment_of_the_refer() {
    goes_with(|stage| stage.ivr("ivr_hangs_up_at_refer"), "customer_hung_up", "call ended").await;
}
