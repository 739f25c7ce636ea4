//! The happy paths.

use std::time::Duration;

use crate::stage::{SOON, Setting, Stage, handed_over};

const TALK: Duration = Duration::from_millis(500);

/// GenerativeAgent hangs up with this transferType: the IVR gets the customer back with the context.
async fn handed_back_with(transfer_type: &str, outcome: &str) {
    let stage = Stage::set(Setting::default().behaviour(handed_over(transfer_type))).await;
    let carrier = stage.carrier("carrier_hangs_up").pause(TALK).start();
    let ivr = stage.ivr("ivr_gets_it_back").play(SOON).await;
    carrier.well(SOON).await;

    assert_eq!(ivr.logged("transfer"), [transfer_type]);
    assert_eq!(ivr.logged("outcome"), [outcome]);
    assert_eq!(ivr.logged("conversation"), ivr.logged("sent"));
    assert_eq!(ivr.logged("sentiment"), ["neutral"]);
    let (verdict, record) = stage.verdict().await;
    assert_eq!(verdict, outcome);
    assert_eq!(record["verdict"]["ended_by"], "genagent");
    let context = stage.get_json(&format!("/v1/context/{}", ivr.logged("reference")[0])).await;
    assert_eq!(context["reference"], record["context_ref"]);
    assert_eq!(context["outcome"], outcome);
    assert_eq!(context["output"]["transferVariables"]["orderNumber"], "48213", "{context}");
    stage.close(&[]).await;
}

#[tokio::test]
async fn h1_genagent_hangs_up_and_the_ivr_gets_the_customer_back_with_the_context() {
    handed_back_with("AGENT", "agent").await;
}

#[tokio::test]
async fn h15_the_headers_of_the_invite_arrive_in_the_post() {
    let stage = Stage::set(Setting::default()).await;
    let carrier = stage.carrier("carrier_hangs_up").pause(TALK).start();
    let ivr = stage.ivr("ivr_gets_it_back").play(SOON).await;
    carrier.well(SOON).await;
    let request = stage.api().requests().remove(0).body;
    assert_eq!(request["externalConversationId"], ivr.logged("sent")[0]);
    assert_eq!(request["phoneNumber"]["country"], "US");
    assert_eq!(request["inputContext"]["taskName"], "OrderStatus");
    let variables = serde_json::json!({ "name": "Ada Ü", "customerId": "c-1" });
    assert_eq!(request["inputContext"]["inputVariables"], variables);
    stage.close(&[]).await;
}

#[tokio::test]
async fn h14_a_transfer_of_type_sip_goes_to_genagents_own_uri() {
    let stage = Stage::set(Setting::default().key("asapp.sip_uri", "sip:genagent@asapp.example")).await;
    let carrier = stage.carrier("carrier_hangs_up").pause(TALK).start();
    let ivr = stage.ivr("ivr_gets_it_back").play(SOON).await;
    carrier.well(SOON).await;
    assert_eq!(ivr.logged("outcome"), ["agent"]);
    let request = stage.api().requests().remove(0).body;
    assert_eq!((&request["type"], &request["phoneNumber"]), (&"SIP".into(), &serde_json::Value::Null));
    stage.close(&[]).await;
}

#[tokio::test]
async fn h14_by_headers_alone_the_call_goes_there_and_comes_back_and_no_api_is_asked() {
    let setting = Setting::default().key("asapp.way", "headers").key("asapp.sip_uri", "sip:genagent@asapp.example");
    let stage = Stage::set(setting.key("trunk.main.return", "refer")).await;
    let carrier = stage.carrier("genagent_hands_back_by_refer").pause(TALK).start();
    let ivr = stage.ivr("ivr_gets_it_back").play(SOON).await;
    let carrier = carrier.well(SOON).await;
    assert_eq!(carrier.logged("conversation"), ivr.logged("sent"));
    let told = ["task", "customer", "name"].map(|name| carrier.logged(name)[0]);
    assert_eq!(told, ["OrderStatus", "c-1", "Ada%20%C3%9C"]);
    assert_eq!((ivr.logged("transfer"), ivr.logged("outcome")), (vec!["SYSTEM"], vec!["system"]));
    assert_eq!(ivr.logged("sentiment"), ["neutral"]);
    let (outcome, record) = stage.verdict().await;
    assert_eq!((outcome.as_str(), &record["input_variables"]), ("system", &serde_json::json!(["name", "customerId"])));
    assert!(stage.api().requests().is_empty());
    stage.close(&[]).await;
}

#[tokio::test]
async fn h2_a_solved_call_comes_back_as_system() {
    handed_back_with("SYSTEM", "system").await;
}
