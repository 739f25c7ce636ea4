//! What takes the machine for itself: load, and clocks that are measured against. One at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{Mutex, MutexGuard};

use crate::sipp::Played;
use crate::stage::{SOON, Setting, Stage, eventually, handed_over, slow};

/// Held by one heavy test after the other; nextest, with a process for each, has a test group for that.
static MACHINE: Mutex<()> = Mutex::const_new(());

/// Waits for the machine.
pub async fn alone() -> MutexGuard<'static, ()> {
    MACHINE.lock().await
}

const THOUSAND: u32 = 1000;
const PER_SECOND: u32 = 50;
const TALK: Duration = Duration::from_secs(2);
/// 64·T1, the life of tombstones and transactions, and a little.
const LINGER: Duration = Duration::from_secs(36);
/// What the second thousand calls may leave in memory beyond the first, in KiB: their contexts, which are kept for an
/// hour, and the allocator's slack.
const GROWTH: u64 = 4096;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn load_2000_calls_at_50_a_second_lose_nothing_repeat_nothing_and_leave_nothing() {
    let _machine = alone().await;
    // A call is a POST and a GET at least: 50 calls a second are more than ASAPP's 100 requests permit.
    let setting =
        Setting::default().key("media.ports", "20000-29999").key("sip.max_calls", "2500").key("asapp.rate", "0");
    let stage = Stage::set(setting).await;
    let (at_first, fresh) = (stage.metrics().await, stage.program.resident());

    let carrier = stage.carrier("carrier_hangs_up").calls(THOUSAND).pause(TALK).start();
    let ivr = stage.ivr("ivr_gets_it_back").calls(THOUSAND).rate(PER_SECOND).play(LINGER).await;
    let carrier = carrier.well(SOON).await;
    report("BYE from GenerativeAgent", &ivr, &carrier, &stage).await;
    assert_eq!(ivr.logged("conversation"), ivr.logged("sent"), "every BYE carries the context of its own call");
    let records = by_call_id(stage.records(THOUSAND as usize).await);
    for (call, reference) in ivr.logged("call").into_iter().zip(ivr.logged("reference")) {
        assert_eq!(records[call]["context_ref"], reference);
        assert_eq!(records[call]["verdict"]["outcome"], "agent");
    }
    assert_eq!(ivr.logged("reference").into_iter().collect::<BTreeSet<_>>().len(), THOUSAND as usize);
    let after_first = settled(&stage, &at_first).await;

    let carrier = stage.carrier("carrier_is_hung_up_on").calls(THOUSAND).start();
    let ivr = stage.ivr("ivr_hangs_up").calls(THOUSAND).rate(PER_SECOND).pause(TALK).play(LINGER).await;
    let carrier = carrier.well(SOON).await;
    report("BYE from the customer", &ivr, &carrier, &stage).await;
    let records = by_call_id(stage.records(2 * THOUSAND as usize).await);
    for call in ivr.logged("call") {
        assert_eq!(records[call]["verdict"]["outcome"], "customer_hung_up");
        assert_eq!(records[call]["verdict"]["phase"], "talking");
    }
    let after_second = settled(&stage, &at_first).await;

    println!("resident: {fresh} KiB fresh, {after_first} after the first thousand, {after_second} after the second");
    assert!(after_second < after_first + GROWTH, "memory grew from {after_first} to {after_second} KiB");
    let end = stage.metrics().await;
    assert_eq!(end.of("calls_ended_total{outcome=\"agent\"}"), u64::from(THOUSAND));
    assert_eq!(end.of("calls_ended_total{outcome=\"customer_hung_up\"}"), u64::from(THOUSAND));
    assert_eq!((end.of("sip_retransmissions_total"), end.of("records_lost_total")), (0, 0));
    stage.close(&[]).await;
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
    let behaviour = switchback::demo::asapp::Behaviour { fetch: slow(FETCH), ..handed_over("AGENT") };
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
