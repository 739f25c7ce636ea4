//! What takes the machine for itself: load, and clocks that are measured against. One at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use switchback::demo::asapp::Behaviour;
use tokio::sync::{Mutex, MutexGuard};

use crate::sipp::Played;
use crate::stage::{SOON, Setting, Stage, eventually, handed_over, slow};

/// Held by one heavy test after the other; nextest, with a process for each, has a test group for that.
static MACHINE: Mutex<()> = Mutex::const_new(());

/// Waits for the machine.
pub async fn alone() -> MutexGuard<'static, ()> {
    MACHINE.lock().await
}

const HALF: u32 = 500;
const PER_SECOND: u32 = 50;
const TALK: Duration = Duration::from_secs(2);
/// 64·T1, the life of tombstones and transactions, and a little.
const LINGER: Duration = Duration::from_secs(36);
/// What the second thousand calls may leave in memory beyond the first, in KiB: their contexts, which are kept for an
/// hour, the conversations of those who hung up, which are kept for half an hour, and the allocator's slack.
const GROWTH: u64 = 6144;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn load_2000_calls_at_50_a_second_lose_nothing_repeat_nothing_and_leave_nothing() {
    let _machine = alone().await;
    // A call is a POST and a GET at least: 50 calls a second are more than ASAPP's 100 requests permit.
    let setting =
        Setting::default().key("media.ports", "20000-29999").key("sip.max_calls", "1666").key("asapp.rate", "0");
    let stage = Stage::set(setting).await;
    let (at_first, fresh) = (stage.metrics().await, stage.program.resident());
    let cores = std::thread::available_parallelism().unwrap().get();
    assert_eq!(stage.program.threads("media-"), cores.min(17), "one for each core, and for every 100 calls at most");

    // Both kinds of call once, so that the allocator has seen what there is; then both again.
    handed_back(&stage, 0).await;
    hung_up(&stage, HALF).await;
    let after_first = settled(&stage, &at_first).await;
    handed_back(&stage, 2 * HALF).await;
    hung_up(&stage, 3 * HALF).await;
    let after_second = settled(&stage, &at_first).await;

    println!("resident: {fresh} KiB fresh, {after_first} after the first thousand, {after_second} after the second");
    assert!(after_second < after_first + GROWTH, "memory grew from {after_first} to {after_second} KiB");
    let end = stage.metrics().await;
    assert_eq!(end.of("calls_ended_total{outcome=\"agent\"}"), u64::from(2 * HALF));
    assert_eq!(end.of("calls_ended_total{outcome=\"customer_hung_up\"}"), u64::from(2 * HALF));
    assert_eq!((end.of("sip_retransmissions_total"), end.of("records_lost_total")), (0, 0));
    stage.close(&[]).await;
}

/// Calls that GenerativeAgent ends, after so many others.
async fn handed_back(stage: &Stage, before: u32) {
    let carrier = stage.carrier("carrier_hangs_up").calls(HALF).pause(TALK).start();
    let ivr = stage.ivr("ivr_gets_it_back").calls(HALF).rate(PER_SECOND).play(LINGER).await;
    let carrier = carrier.well(SOON).await;
    report("BYE from GenerativeAgent", &ivr, &carrier, stage).await;
    assert_eq!(ivr.logged("conversation"), ivr.logged("sent"), "every BYE carries the context of its own call");
    let records = by_call_id(stage.records((before + HALF) as usize).await);
    for (call, reference) in ivr.logged("call").into_iter().zip(ivr.logged("reference")) {
        assert_eq!(records[call]["context_ref"], reference);
        assert_eq!(records[call]["verdict"]["outcome"], "agent");
    }
    assert_eq!(ivr.logged("reference").into_iter().collect::<BTreeSet<_>>().len(), HALF as usize);
}

/// Calls that the customer ends, after so many others.
async fn hung_up(stage: &Stage, before: u32) {
    let carrier = stage.carrier("carrier_is_hung_up_on").calls(HALF).start();
    let ivr = stage.ivr("ivr_hangs_up").calls(HALF).rate(PER_SECOND).pause(TALK).play(LINGER).await;
    let carrier = carrier.well(SOON).await;
    report("BYE from the customer", &ivr, &carrier, stage).await;
    let records = by_call_id(stage.records((before + HALF) as usize).await);
    for call in ivr.logged("call") {
        assert_eq!(records[call]["verdict"]["outcome"], "customer_hung_up");
        assert_eq!(records[call]["verdict"]["phase"], "talking");
    }
}

/// Prints what a load did, and fails on any repetition: SIPp repeats what we do not answer within T1, and we count what
/// we repeat ourselves.
async fn report(what: &str, ivr: &Played, carrier: &Played, stage: &Stage) {
    let metrics = stage.metrics().await;
    let repeated = [ivr.counter("Retransmissions(C)"), carrier.counter("Retransmissions(C)")];
    let ours = metrics.of("sip_retransmissions_total");
    let (trying, bye) = (ivr.times("trying"), if what.contains("customer") { ivr } else { carrier }.times("bye"));
    println!(
        "{what}: {} calls, {} failed; repeated by the IVR {}, by the carrier {}, by us {ours}; \
         INVITE to 100 {}; BYE to 200 {}; {} calls at once",
        ivr.counter("SuccessfulCall(C)"),
        ivr.counter("FailedCall(C)"),
        repeated[0],
        repeated[1],
        percentiles(&trying),
        percentiles(&bye),
        ivr.counter("CurrentCall").max(u64::from(PER_SECOND) * TALK.as_secs()),
    );
    assert_eq!((repeated, ours), ([0, 0], 0), "nothing is repeated");
}

fn percentiles(sorted: &[Duration]) -> String {
    let at = |percent: usize| sorted[(sorted.len() - 1) * percent / 100];
    format!("p50 {:?}, p99 {:?}, longest {:?}", at(50), at(99), at(100))
}

fn by_call_id(records: Vec<Value>) -> BTreeMap<String, Value> {
    let count = records.len();
    let keyed = records.into_iter().map(|record| (record["customer_call_id"].as_str().unwrap().to_owned(), record));
    let records: BTreeMap<String, Value> = keyed.collect();
    assert_eq!(records.len(), count, "one record a call");
    records
}

/// Waits until every gauge is back where it was at first; resident memory then, in KiB.
async fn settled(stage: &Stage, at_first: &crate::stage::Metrics) -> u64 {
    const GAUGES: [&str; 8] = [
        "active_calls",
        "active_legs",
        "active_transactions",
        "active_timers",
        "active_dialogs",
        "port_pairs{state=\"free\"}",
        "port_pairs{state=\"lent\"}",
        "port_pairs{state=\"draining\"}",
    ];
    eventually("all gauges are back at their baseline", LINGER + SOON, async || {
        let now = stage.metrics().await;
        GAUGES.iter().all(|gauge| now.of(gauge) == at_first.of(gauge))
    })
    .await;
    stage.program.resident()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h1_heavy_the_answer_to_genagents_bye_does_not_wait_for_a_slow_api_nor_do_other_calls() {
    let _machine = alone().await;
    const FETCH: u64 = 2900;
    let behaviour = Behaviour { fetch: slow(FETCH), ..handed_over("AGENT") };
    // The limit on collecting is 3 s by default: close enough to 2.9 s that a busy machine may reach it.
    let stage = Stage::set(Setting::default().behaviour(behaviour).key("call.collect_limit", "5s")).await;
    const CALLS: u32 = 40;
    let carrier = stage.carrier("carrier_hangs_up").calls(CALLS).pause(Duration::from_millis(200)).start();
    let ivr = stage.ivr("ivr_gets_it_back").calls(CALLS).rate(10).play(SOON * 2).await;
    let carrier = carrier.well(SOON).await;

    let (bye, trying) = (carrier.times("bye"), ivr.times("trying"));
    println!("API takes {FETCH} ms; BYE to 200 {}; INVITE to 100 {}", percentiles(&bye), percentiles(&trying));
    assert!(bye[bye.len() - 1] < Duration::from_millis(200), "BYE to 200 took {:?}", bye[bye.len() - 1]);
    assert!(trying[trying.len() - 1] < Duration::from_millis(200), "INVITE to 100 took {:?}", trying[trying.len() - 1]);
    assert_eq!(ivr.logged("conversation"), ivr.logged("sent"));
    let metrics = stage.metrics().await;
    let within = |histogram: &str, bound: &str| metrics.of(&format!("{histogram}_seconds_bucket{{le=\"{bound}\"}}"));
    assert_eq!(within("setup", "0.5"), u64::from(CALLS), "no call was set up late");
    assert_eq!(within("hand_back", "2.5"), 0, "every hand-back waited for the API");
    stage.close(&[]).await;
}

/// Everything, and not only what is quick.
fn long() -> bool {
    std::env::var_os("SWITCHBACK_LONG").is_some()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x7_300_calls_a_second_meet_an_api_that_bears_100_requests() {
    const OFFERED: u32 = 300;
    let _machine = alone().await;
    let calls = OFFERED * if long() { 60 } else { 10 };
    let behaviour = Behaviour { rate: Some(100), ..handed_over("AGENT") };
    let setting = Setting::default()
        .behaviour(behaviour)
        .key("media.ports", "20000-29999")
        .key("sip.max_calls", "1666")
        .key("sip.max_calls_per_second", "1000");
    let stage = Stage::set(setting).await;
    // How many of them are called nobody knows: it is not waited for.
    let carrier = stage.carrier("carrier_hangs_up").calls(calls).pause(Duration::from_secs(1)).start();
    let limit = SOON * 3 + Duration::from_secs(u64::from(calls / OFFERED));
    let ivr = stage.ivr("ivr_takes_what_comes").calls(calls).rate(OFFERED).play(limit).await;
    drop(carrier);

    let (refused, served) = (ivr.logged("status").len() as u64, ivr.logged("outcome").len() as u64);
    let (metrics, early) = (stage.metrics().await, ivr.times("refused"));
    let exchanges = |result: &str| {
        let of = |operation: &str| format!("api_exchanges_total{{operation=\"{operation}\",result=\"{result}\"}}");
        metrics.of(&of("create")) + metrics.of(&of("fetch"))
    };
    let (throttled, ok) = (exchanges("throttled"), exchanges("ok"));
    println!(
        "{calls} calls at {OFFERED} a second: {served} talked, {refused} got 480, {}; the API was asked {} times and \
         said 429 to {throttled}",
        percentiles(&early),
        throttled + ok
    );
    assert_eq!(served + refused, u64::from(calls));
    assert!(throttled * 100 < throttled + ok, "more than one in a hundred");
    assert!(ivr.logged("outcome").iter().all(|outcome| *outcome == "agent"), "every finished call has its context");
    assert_eq!(metrics.of("hand_back_seconds_bucket{le=\"2.5\"}"), served, "within its limit");
    assert!(served * 3 > ok, "the rate is not wasted: {served} calls of {ok} exchanges");
    assert!(early[early.len() * 99 / 100] < Duration::from_millis(200), "the excess is refused at once");
    stage.close(&["fallback: "]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a7_a_black_hole_under_load_costs_the_first_calls_their_budget_and_the_others_nothing() {
    const PER_SECOND: u32 = 20;
    const RUNNING: u32 = 5;
    let _machine = alone().await;
    let (dark_for, budget, connect, pause) = if long() { (60, 8.0, 2.0, 10.0) } else { (8, 2.0, 0.5, 2.0) };
    let setting = Setting::default()
        .key("media.ports", "20000-29999")
        .key("sip.max_calls", "500")
        .key("call.number_budget", format!("{}ms", budget * 1000.0))
        // SIPp says nothing in RTP, and the running calls are to outlive the darkness.
        .key("media.timeout", "10m")
        .key("asapp.timeout", format!("{}ms", budget * 500.0))
        .key("asapp.connect_timeout", format!("{}ms", connect * 1000.0))
        .key("asapp.breaker_open_for", format!("{pause}s"));
    let mut stage = Stage::set(setting).await;
    // SIPp gives up a call after 30 s without a message unless it is told otherwise.
    let patient = ["-recv_timeout", "180000"];
    let carrier = stage.carrier("carrier_is_hung_up_on").calls(RUNNING + 1).option(&patient).start();
    let running = stage.ivr("ivr_hangs_up").calls(RUNNING).rate(50).pause(Duration::from_secs(dark_for + 4)).start();
    eventually("calls are up", SOON, async || stage.metrics().await.of("calls_total") == u64::from(RUNNING)).await;
    eventually("they talk", SOON, async || {
        let calls = stage.get_json("/v1/calls").await;
        calls.as_array().unwrap().iter().filter(|call| call["state"] == "bridged").count() == RUNNING as usize
    })
    .await;
    let dark = stage.api_goes_dark().await;

    let calls = PER_SECOND * dark_for as u32;
    let ivr =
        stage.ivr("ivr_is_refused").calls(calls).rate(PER_SECOND).play(Duration::from_secs(dark_for) + SOON).await;
    let refused = ivr.times("refused");
    assert_eq!(ivr.logged("status"), vec!["480"; calls as usize]);
    let longest = *refused.last().unwrap();
    let waited = refused.iter().filter(|time| **time >= Duration::from_millis(50)).count();
    // Those that came before the breaker opened, and one probe each time it had been open long enough.
    let most = f64::from(PER_SECOND) * (connect + 0.5) + dark_for as f64 / pause + 1.0;
    let openings = stage.metrics().await.of("breaker_openings_total");
    println!(
        "{calls} calls in {dark_for} s of darkness: {waited} waited, {longest:?} at most; the others {}; the breaker \
         opened {openings} times",
        percentiles(&refused[..refused.len() - waited])
    );
    assert!(longest.as_secs_f64() < budget + 0.4, "beyond the budget: {longest:?}");
    assert!((waited as f64) <= most, "{waited} of {calls} waited");

    stage.api_returns(dark).await;
    tokio::time::sleep(Duration::from_secs_f64(pause)).await;
    stage.ivr("ivr_hangs_up").pause(Duration::ZERO).play(SOON).await;
    assert_eq!(stage.metrics().await.of("breaker_open"), 0, "one probe was enough");
    running.well(SOON).await;
    carrier.well(SOON).await;
    stage.close(&["circuit breaker", "fallback: "]).await;
}
