//! The happy paths.

use std::time::Duration;

use crate::stage::{SOON, Setting, Stage, eventually, handed_over};

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

/// A program that asks GenerativeAgent to give customers back like this.
async fn given_back(word: &str) -> Stage {
    let setting = Setting::default().key("asapp.sip_uri", "sip:genagent@asapp.example").key("asapp.return", word);
    Stage::set(setting.key("asapp.return_uri", "sip:back@sbc.example.com").key("trunk.main.return", "refer")).await
}

#[tokio::test]
async fn t5_a_refer_that_names_no_context_is_followed_by_a_fetch() {
    let stage = given_back("refer").await;
    let carrier = stage.carrier("genagent_hands_back_by_refer").pause(TALK);
    let told = ["X-GA-extConversationId:", "X-GA-taskName:", "X-GA-customerId:", "X-GA-iv-name:"];
    let carrier = told.iter().fold(carrier, |carrier, header| carrier.saying("X-ASAPP-CallTransferId:", header));
    let carrier = carrier.saying("X-GA-tv-unheard", "X-GA-transfer").start();
    let ivr = stage.ivr("ivr_gets_it_back").play(SOON).await;
    carrier.well(SOON).await;
    assert_eq!((ivr.logged("transfer"), ivr.logged("outcome")), (vec!["AGENT"], vec!["agent"]));
    let request = stage.api().requests().remove(0).body;
    let sip = serde_json::json!({ "returnTransferType": "REFER", "returnURI": "sip:back@sbc.example.com" });
    assert_eq!(request["sip"], sip);
    stage.close(&[]).await;
}

#[tokio::test]
async fn h14_an_invite_of_genagents_own_brings_the_customer_back() {
    let stage = given_back("invite").await;
    let carrier = stage.carrier("carrier_is_hung_up_on").start();
    let ivr = stage.ivr("ivr_gets_it_back").start();
    let talking = async || stage.get_json("/v1/calls").await.to_string().contains("bridged");
    eventually("the two talk", SOON, talking).await;
    let request = stage.api().requests().remove(0).body;
    let uri = format!("sip:back-{}@sbc.example.com", request["id"].as_str().unwrap());
    assert_eq!(request["sip"], serde_json::json!({ "returnTransferType": "INVITE", "returnURI": uri }));
    let back = uri.replace("sbc.example.com", "[remote_ip]");
    let genagent = stage.carrier_calls("ivr_is_answered_first").saying(&back, "sip:7000@[remote_ip]");
    assert_eq!(genagent.play(SOON).await.logged("reason"), ["Q.850;cause=16"]);
    carrier.well(SOON).await;
    let ivr = ivr.well(SOON).await;
    assert_eq!((ivr.logged("transfer"), ivr.logged("outcome")), (vec!["AGENT"], vec!["agent"]));
    assert_eq!(stage.verdict().await.0, "agent");
    stage.close(&[]).await;
}

#[tokio::test]
async fn h2_a_solved_call_comes_back_as_system() {
    handed_back_with("SYSTEM", "system").await;
}
