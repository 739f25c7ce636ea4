//! Calls that do not reach GenerativeAgent, or not at once: the API's failures and the carrier's.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use switchback::clock;
use switchback::demo::asapp::{Behaviour, Fault, Manners, MockAsappSettings};
use switchback::demo::sdp;

use crate::stage::{Blackhole, SOON, Setting, Stage, eventually, handed_over, slow};
use crate::wire::Wire;

const MOMENT: Duration = Duration::from_millis(500);

fn failing(fault: Fault) -> Behaviour {
    Behaviour { create: Manners { fault: Some(fault), ..Manners::default() }, ..handed_over("AGENT") }
}

#[tokio::test]
async fn h7_the_caller_hears_180_before_the_answer() {
    let stage = Stage::set(Setting::default().behaviour(Behaviour { create: slow(300), ..handed_over("AGENT") })).await;
    let carrier = stage.carrier("carrier_rings_first").pause(Duration::from_secs(1)).start();
    // Its scenario wants 100 and 180 before the 200.
    stage.ivr("ivr_hangs_up").pause(MOMENT).play(SOON).await;
    carrier.well(SOON).await;
    let (_, record) = stage.verdict().await;
    let waited = record["answered_at"].as_i64().unwrap() - record["received_at"].as_i64().unwrap();
    assert!((1300..3000).contains(&waited), "answered after {waited} ms");
    stage.close(&[]).await;
}

#[tokio::test]
async fn h8_early_media_passes_as_183_on_the_port_that_stays() {
    let stage = Stage::set(Setting::default()).await;
    let carrier = stage.carrier("carrier_has_early_media").pause(MOMENT).start();
    let ivr = stage.ivr("ivr_hears_early_media").pause(MOMENT).play(SOON).await;
    carrier.well(SOON).await;
    assert_eq!(ivr.logged("early"), ivr.logged("answered"));
    stage.close(&[]).await;
}

#[tokio::test]
async fn h5_the_customer_hangs_up_and_nothing_is_handed_back() {
    let stage = Stage::set(Setting::default()).await;
    let carrier = stage.carrier("carrier_is_hung_up_on").start();
    stage.ivr("ivr_hangs_up").pause(MOMENT).play(SOON).await;
    let carrier = carrier.well(SOON).await;
    assert_eq!(carrier.logged("reason"), ["Q.850;cause=16"]);
    let (verdict, record) = stage.verdict().await;
    assert_eq!((verdict.as_str(), &record["hand_back"]), ("customer_hung_up", &serde_json::Value::Null));
    assert_eq!((&record["verdict"]["phase"], stage.asked("GET")), (&"talking".into(), 0));
    stage.close(&[]).await;
}

// --- the API -----------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a4_unknown_credentials_lead_to_the_fallback_within_a_second_and_are_not_logged() {
    let api = MockAsappSettings { api_secret: "another-secret".to_owned(), ..Setting::default().api };
    let stage = Stage::set(Setting { api, ..Setting::default() }.key("log.level", "trace")).await;
    let carrier = Wire::open(stage.street.carrier()).await;
    let ivr = stage.ivr("ivr_is_refused").play(SOON).await;
    assert_eq!((ivr.logged("status"), ivr.logged("outcome")), (vec!["480"], vec!["not_connected"]));
    assert!(ivr.times("refused")[0] < Duration::from_secs(1));
    assert_eq!(stage.asked("POST"), 1, "no retry");
    carrier.hears_nothing(MOMENT).await;
    let metrics = stage.metrics().await;
    assert_eq!(metrics.of("api_exchanges_total{operation=\"create\",result=\"unauthorized\"}"), 1);
    assert_eq!(metrics.of("fallback_total{reason=\"api_refused\",rung=\"refuse\"}"), 1);
    assert_eq!(metrics.of("credentials_refused"), 1, "alarm");
    let log = stage.program.log();
    assert!(!log.contains("mock-secret") && !log.contains("mock-id"), "credentials in the log");
    assert_eq!(stage.verdict().await.1["verdict"]["evidence"]["not_connected"], "api_refused");
}

#[tokio::test]
async fn a9_a_number_that_cannot_be_right_is_not_dialled() {
    let stage = Stage::set(Setting::default()).await;
    let carrier = Wire::open(stage.street.carrier()).await;
    let number = |number: &str| Fault::Merge(serde_json::json!({ "phoneNumber": { "transferNumber": number } }));
    let faults = [
        Fault::MissingNumber,
        Fault::ExpiredNumber,
        Fault::WrongCountry,
        Fault::Malformed,
        number("+499001234567"),
        number("+1999555019x"),
        number("+19995550199;isub=1@evil.example.com"),
    ];
    for (done, fault) in faults.into_iter().enumerate() {
        stage.api().behave(failing(fault.clone()));
        let ivr = stage.ivr("ivr_is_refused").play(SOON).await;
        assert_eq!(ivr.logged("status"), ["480"], "{fault:?}");
        assert_eq!(stage.records(done + 1).await[done]["verdict"]["outcome"], "not_connected", "{fault:?}");
    }
    carrier.hears_nothing(MOMENT).await;
    stage.close(&["fallback: "]).await;
}

#[tokio::test]
async fn a7_a_blackholed_api_costs_the_budget_then_nothing_and_one_probe_ends_it() {
    let setting = Setting::default()
        .key("asapp.connect_timeout", "300ms")
        .key("asapp.timeout", "1s")
        .key("call.number_budget", "1500ms")
        .key("asapp.breaker_failures", "3")
        .key("asapp.breaker_open_for", "2s");
    let mut stage = Stage::set(setting).await;
    // A call that is up before the API goes dark notices nothing.
    let carrier = stage.carrier("carrier_is_hung_up_on").calls(2).start();
    let running = stage.ivr("ivr_hangs_up").pause(Duration::from_secs(3)).start();
    eventually("a call is up", SOON, async || stage.get_json("/v1/calls").await[0]["state"] == "bridged").await;
    let dark: Blackhole = stage.api_goes_dark().await;

    let first = stage.ivr("ivr_is_refused").play(SOON).await;
    let waited = first.times("refused")[0];
    assert!((1400..1800).contains(&waited.as_millis()), "the fallback came after {waited:?}, the budget is 1.5 s");
    eventually("the breaker opens", SOON, async || stage.metrics().await.of("breaker_open") == 1).await;
    let fast = stage.ivr("ivr_is_refused").calls(20).rate(50).play(SOON).await;
    let longest = *fast.times("refused").last().unwrap();
    println!("first call refused after {waited:?}, 20 calls with the breaker open after at most {longest:?}");
    assert!(longest < Duration::from_millis(50), "refused after {longest:?} while the breaker is open");
    assert_eq!(fast.logged("status"), ["480"; 20]);

    stage.api_returns(dark).await;
    running.well(SOON).await;
    // A call that comes after the pause is the probe; it goes through.
    tokio::time::sleep(Duration::from_secs(2)).await;
    stage.ivr("ivr_hangs_up").pause(MOMENT).play(SOON).await;
    carrier.well(SOON).await;
    let metrics = stage.metrics().await;
    assert_eq!((metrics.of("breaker_open"), metrics.of("breaker_openings_total")), (0, 1));
    stage.close(&["circuit breaker", "fallback: api_down"]).await;
}

#[tokio::test]
async fn a11_200_calls_cancelled_during_the_post_are_never_dialled() {
    const CALLS: u32 = 200;
    let stage = Stage::set(Setting::default().behaviour(Behaviour { create: slow(300), ..handed_over("AGENT") })).await;
    let carrier = Wire::open(stage.street.carrier()).await;
    let ivr = stage.ivr("ivr_cancels").calls(CALLS).rate(50).play(SOON * 2).await;
    let times = ivr.times("cancel");
    let longest = *times.last().unwrap();
    println!("{CALLS} calls cancelled; CANCEL to 487 at most {longest:?}");
    assert!(longest < Duration::from_millis(200), "487 took {longest:?}");
    eventually("all numbers have arrived in vain", SOON, async || {
        stage.metrics().await.of("numbers_unused_total") == u64::from(CALLS)
    })
    .await;
    carrier.hears_nothing(MOMENT).await;
    for record in stage.records(CALLS as usize).await {
        assert_eq!(record["verdict"]["outcome"], "customer_hung_up");
        assert_eq!(record["verdict"]["phase"], "before_answer");
    }
    stage.close(&[]).await;
}

#[tokio::test]
async fn b1_the_context_is_polled_for_while_the_api_still_says_ongoing() {
    let stage = Stage::set(Setting::default().behaviour(Behaviour { ongoing_polls: 2, ..handed_over("AGENT") })).await;
    let carrier = stage.carrier("carrier_hangs_up").pause(MOMENT).start();
    let ivr = stage.ivr("ivr_gets_it_back").play(SOON).await;
    carrier.well(SOON).await;
    assert_eq!(ivr.logged("outcome"), ["agent"]);
    assert_eq!(stage.verdict().await.1["verdict"]["evidence"]["polls"], 3);
    stage.close(&[]).await;
}

#[tokio::test]
async fn b2_an_api_that_says_ongoing_to_the_deadline_leaves_the_end_unconfirmed() {
    let mut behaviour = handed_over("AGENT");
    behaviour.auto_complete.as_mut().unwrap().completed_after_ms = 3_600_000;
    let stage = Stage::set(Setting::default().behaviour(behaviour).key("call.collect_limit", "1s")).await;
    let carrier = stage.carrier("carrier_hangs_up").pause(MOMENT).start();
    let ivr = stage.ivr("ivr_is_released").play(SOON).await;
    carrier.well(SOON).await;
    assert_eq!((ivr.logged("outcome"), ivr.logged("transfer")), (vec!["unconfirmed"], vec![""]));
    assert_eq!(ivr.logged("reason"), ["Q.850;cause=16"]);
    let (verdict, record) = stage.verdict().await;
    assert_eq!((verdict.as_str(), &record["verdict"]["evidence"]["api_status"]), ("unconfirmed", &"ONGOING".into()));
    stage.close(&[]).await;
}

// --- the carrier -------------------------------------------------------------------------------------------------

#[tokio::test]
async fn o1_a_refusing_carrier_gets_a_fresh_number_and_then_the_customer_the_fallback() {
    let stage = Stage::set(Setting::default()).await;
    let carrier = Wire::open(stage.street.carrier()).await;
    for (done, (status, numbers)) in
        [("486", 2), ("480", 2), ("404", 2), ("503", 2), ("403", 1)].into_iter().enumerate()
    {
        let before = stage.asked("POST");
        let ivr = stage.ivr("ivr_is_refused").start();
        for _ in 0..numbers {
            let invite = carrier.hear("INVITE ").await;
            carrier.answer(&invite, &format!("{status} Refused"), "").await;
            carrier.hear("ACK ").await;
        }
        let ivr = ivr.well(SOON).await;
        assert_eq!((ivr.logged("status"), stage.asked("POST") - before), (vec!["480"], numbers), "{status}");
        let record = stage.records(done + 1).await.remove(done);
        assert_eq!(record["verdict"]["evidence"]["sip_status"].to_string(), status);
        assert_eq!(record["attempts"].as_array().unwrap().len(), numbers);
    }
    stage.close(&["fallback: "]).await;
}

#[tokio::test]
async fn o5_a_carrier_that_says_100_and_nothing_more_is_cancelled_at_the_ring_limit() {
    let stage = Stage::set(Setting::default().key("call.ring_limit", "1s")).await;
    let carrier = stage.carrier("carrier_never_answers").calls(2).start();
    let ivr = stage.ivr("ivr_is_refused").play(SOON).await;
    carrier.well(SOON).await;
    let waited = ivr.times("refused")[0].as_millis();
    assert!((1950..3000).contains(&waited), "two ring limits of 1 s, and {waited} ms");
    assert_eq!(stage.verdict().await.1["verdict"]["evidence"]["not_connected"], "no_answer");
    stage.close(&["fallback: "]).await;
}

#[tokio::test]
async fn o6_no_invite_leaves_after_the_numbers_last_safe_moment() {
    // A number of 7 s with a margin of 5 s may be dialled for 2 s, or nearly one less, because the answer's Date has no
    // fraction. The carrier is silent, so that the INVITE is repeated.
    let api = MockAsappSettings { life: Duration::from_secs(7), ..Setting::default().api };
    let stage = Stage::set(Setting { api, ..Setting::default() }).await;
    let carrier = Wire::open(stage.street.carrier()).await;
    let ivr = stage.ivr("ivr_is_refused").start();
    let mut arrivals: BTreeMap<String, Vec<Instant>> = BTreeMap::new();
    let end = clock::now() + Duration::from_secs(8);
    while let Some(heard) = carrier.next(end.saturating_duration_since(clock::now())).await {
        assert!(heard.text.starts_with("INVITE "), "{}", heard.text);
        arrivals.entry(heard.header("Call-ID").unwrap().to_owned()).or_default().push(heard.at);
    }
    ivr.well(SOON).await;
    assert_eq!(arrivals.len(), 2, "two numbers, one dialog each");
    for times in arrivals.values() {
        let span = times[times.len() - 1] - times[0];
        // Timer A: at 0, 0.5 and 1.5 s; the next one would be at 3.5 s.
        assert!((2..=3).contains(&times.len()), "{} INVITEs", times.len());
        assert!(span < Duration::from_secs(2), "an INVITE left {span:?} after the first");
    }
    let repeated: usize = arrivals.values().map(|times| times.len() - 1).sum();
    assert_eq!(stage.metrics().await.of("sip_retransmissions_total"), repeated as u64);
    assert_eq!(stage.verdict().await.1["verdict"]["evidence"]["not_connected"], "number_expired");
    // Not closed: the silent carrier is owed a CANCEL for 64·T1.
}

#[tokio::test]
async fn o6b_a_number_that_answers_after_its_last_safe_moment_is_hung_up_and_never_bridged() {
    let api = MockAsappSettings { life: Duration::from_secs(7), ..Setting::default().api };
    let stage = Stage::set(Setting { api, ..Setting::default() }.key("call.max_attempts", "1")).await;
    let carrier = Wire::open(stage.street.carrier()).await;
    let ivr = stage.ivr("ivr_is_refused").start();
    let invite = carrier.hear("INVITE ").await;
    carrier.answer(&invite, "180 Ringing", "").await;
    let cancel = carrier.hear("CANCEL ").await;
    let waited = cancel.at - invite.at;
    assert!(
        (950..2050).contains(&waited.as_millis()),
        "cancelled after {waited:?}; the number is safe for 2 s at most"
    );
    // The answer crosses the CANCEL.
    carrier.answer(&invite, "200 OK", &sdp::describe(stage.street.at(4, 9000))).await;
    carrier.answer(&cancel, "200 OK", "").await;
    carrier.hear("ACK ").await;
    let bye = carrier.hear("BYE ").await;
    carrier.answer(&bye, "200 OK", "").await;
    let ivr = ivr.well(SOON).await;
    assert_eq!(ivr.logged("status"), ["480"]);
    stage.close(&["fallback: "]).await;
}

#[tokio::test]
async fn m10_without_ports_a_call_is_503_and_the_ports_serve_again_after_their_quarantine() {
    let stage = Stage::set(Setting::default().key("media.ports", "20000-20005").key("sip.max_calls", "10")).await;
    let carrier = stage.carrier("carrier_is_hung_up_on").calls(2).start();
    let running = stage.ivr("ivr_hangs_up").pause(Duration::from_secs(1)).start();
    eventually("all pairs are lent", SOON, async || stage.metrics().await.of("port_pairs{state=\"lent\"}") == 3).await;
    let refused = stage.ivr("ivr_is_refused").play(SOON).await;
    assert_eq!((refused.logged("status"), refused.logged("retry")), (vec!["503"], vec!["5"]));
    running.well(SOON).await;
    eventually("all pairs are free", SOON, async || stage.metrics().await.of("port_pairs{state=\"free\"}") == 3).await;
    stage.ivr("ivr_hangs_up").pause(Duration::ZERO).play(SOON).await;
    carrier.well(SOON).await;
    assert_eq!(stage.asked("POST"), 2, "no number is asked for in vain");
    stage.close(&["media.ports"]).await;
}
