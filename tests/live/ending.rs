//! How the program ends.

use std::time::Duration;

use rustix::process::Signal;

use crate::stage::{SOON, Setting, Stage, eventually};
use crate::wire::Wire;

async fn a_call_is_up(stage: &Stage) {
    eventually("a call is up", SOON, async || stage.get_json("/v1/calls").await[0]["state"] == "bridged").await;
}

#[tokio::test]
async fn x1_sigterm_lets_running_calls_end_and_takes_no_new_ones() {
    let mut stage = Stage::set(Setting::default()).await;
    let carrier = stage.carrier("carrier_hangs_up").pause(Duration::from_secs(2)).start();
    let running = stage.ivr("ivr_gets_it_back").start();
    a_call_is_up(&stage).await;
    assert_eq!(stage.get("/readyz").await.0, 200);
    stage.program.signal(Signal::TERM);
    eventually("it is not ready any more", SOON, async || stage.get("/readyz").await.0 == 503).await;

    let probe = Wire::open(stage.street.at(3, 5099)).await;
    probe.send(stage.street.switchback(), &probe.request("OPTIONS", "options", "options", "", "")).await;
    probe.hear("SIP/2.0 503 ").await;
    let refused = stage.ivr("ivr_is_refused").play(SOON).await;
    assert_eq!((refused.logged("status"), refused.logged("retry")), (vec!["503"], vec!["5"]));

    let back = running.well(SOON).await;
    carrier.well(SOON).await;
    assert_eq!((back.logged("outcome"), back.logged("order")), (vec!["agent"], vec!["48213"]));
    let status = stage.program.exit(SOON).await;
    assert!(status.success(), "{status}");
    assert_eq!(stage.verdict().await.0, "agent");
    assert_eq!(stage.asked("POST"), 1);
}

#[tokio::test]
async fn x2_a_second_sigterm_ends_running_calls_at_once_with_a_reason_and_a_record() {
    let mut stage = Stage::set(Setting::default()).await;
    let carrier = stage.carrier("carrier_is_hung_up_on").start();
    let ivr = stage.ivr("ivr_is_released").start();
    a_call_is_up(&stage).await;
    stage.program.signal(Signal::TERM);
    eventually("it is not ready any more", SOON, async || stage.get("/readyz").await.0 == 503).await;
    assert!(stage.program.is_running());
    stage.program.signal(Signal::TERM);
    let status = stage.program.exit(Duration::from_secs(2)).await;
    assert!(status.success(), "{status}");
    let (ivr, carrier) = (ivr.well(SOON).await, carrier.well(SOON).await);
    assert_eq!(ivr.logged("outcome"), ["drained"]);
    assert!(ivr.logged("reason")[0].starts_with("Q.850;cause="), "{:?}", ivr.logged("reason"));
    assert!(carrier.logged("reason")[0].starts_with("Q.850;cause="), "{:?}", carrier.logged("reason"));
    assert_eq!(stage.verdict().await.0, "drained");
}
