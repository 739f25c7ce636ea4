//! The IVR asks by REFER for its customer to be called: SIPp is the IVR, the customer's side and the carrier.

use std::time::Duration;

use crate::stage::{SOON, Setting, Stage, Street};

const TALK: Duration = Duration::from_millis(500);

/// The IVR may ask for whoever is at the queue's address.
fn peer(street: &Street) -> Vec<(&'static str, String)> {
    vec![
        ("peer.ivr.from", street.ivr().ip().to_string()),
        ("peer.ivr.accept_refer", "true".to_owned()),
        ("peer.ivr.refer_hosts", street.queue().ip().to_string()),
    ]
}

#[tokio::test]
async fn t1_t11c_the_customer_is_called_and_then_genagent() {
    let stage = Stage::set(Setting::default().prepare(peer)).await;
    let carrier = stage.carrier("carrier_hangs_up").pause(TALK).start();
    let customer = stage.queue("customer_is_called").start();
    let named = format!("+15550100042@{}", stage.street.queue());
    let ivr = stage.ivr("ivr_asks_by_refer").option(&["-key", "customer", &named]).play(SOON).await;
    let accepted = ivr.times("accepted")[0];
    assert!(accepted < Duration::from_millis(200), "202 after {accepted:?}");
    println!("202 after {accepted:?}, told {:?}", ivr.logged("told"));
    carrier.well(SOON).await;
    let customer = customer.well(SOON).await;
    assert_eq!(customer.logged("caller"), ["sip:7000"]);
    assert_eq!((customer.logged("transfer"), customer.logged("reason")), (vec!["AGENT"], vec!["Q.850;cause=16"]));
    let (verdict, record) = stage.verdict().await;
    assert_eq!((verdict.as_str(), &record["task"]), ("agent", &"OrderStatus".into()));
    assert_eq!((&record["conversation_source"], &record["input_variables"][0]), (&"header".into(), &"name".into()));
    assert!(record["answered_at"].is_number(), "{record}");
    stage.close(&[]).await;
}
