//! Conversations that outlive the program.

use std::fs;
use std::time::Duration;

use serde_json::Value;

use crate::stage::{SOON, Setting, Stage, eventually};

const MOMENT: Duration = Duration::from_millis(300);

/// The customer hangs up; returns the conversation that ASAPP was told of, and the newest of so many records.
async fn hung_up(stage: &Stage, calls: usize) -> (String, Value) {
    let carrier = stage.carrier("carrier_is_hung_up_on").start();
    stage.ivr("ivr_hangs_up").pause(MOMENT).play(SOON).await;
    carrier.well(SOON).await;
    let record = stage.records(calls).await.pop().unwrap();
    let asked = stage.api().requests();
    let post = asked.iter().rfind(|request| request.method == "POST").unwrap();
    (post.body["externalConversationId"].as_str().unwrap().to_owned(), record)
}

#[tokio::test]
async fn h12_a_conversation_is_resumed_although_the_program_was_killed_in_between() {
    let setting = Setting::default()
        .key("conversations.path", "conversations.redb")
        .key("conversations.by_caller", "true")
        // The IVR names its calls in a header that nobody reads here: the number is all there is.
        .key("intake.conversation_header", "X-Nobody-Sends-This");
    let mut stage = Stage::set(setting).await;
    let (first, record) = hung_up(&stage, 1).await;
    assert_eq!((&record["conversation_source"], &record["resumes"]), (&"call_id".into(), &Value::Null));
    let written = async || stage.metrics().await.of("conversations_written_total") == 1;
    eventually("the conversation is on disk", SOON, written).await;
    stage.program_is_killed_and_started_again().await;

    let (again, resumed) = hung_up(&stage, 2).await;
    assert_eq!(again, first);
    assert_eq!((&resumed["conversation_source"], &resumed["resumes"]), (&"caller".into(), &record["call"]));
    assert_ne!(resumed["attempts"][0]["transfer"], record["attempts"][0]["transfer"]);

    let remembered = stage.get_json("/v1/conversations").await;
    assert_eq!(remembered[0]["conversation"], first.as_str());
    assert_eq!((&remembered[0]["caller"], &remembered[0]["call"]), (&"*******0042".into(), &resumed["call"]));
    let path = format!("/v1/conversations/{first}");
    let kept = stage.get_json(&path).await;
    let context = format!("/v1/context/{}", kept["contexts"][0].as_str().unwrap());
    assert_eq!(stage.get(&context).await.0, 200);

    assert_eq!(stage.delete(&path).await, 200);
    assert_eq!((stage.get(&path).await.0, stage.get(&context).await.0), (404, 404));
    assert_eq!(stage.delete(&path).await, 404);
    let file = fs::read(stage.path("conversations.redb")).unwrap();
    let holds = |text: &str| file.windows(text.len()).any(|it| it == text.as_bytes());
    assert!(!holds(&first) && !holds("15550100042"), "not one octet of it is left");
    stage.program_is_killed_and_started_again().await;
    assert_ne!(hung_up(&stage, 3).await.0, first);
    stage.close(&["can be forged"]).await;
}

#[tokio::test]
async fn h12_a_damaged_store_is_an_error_at_start_that_names_the_fix() {
    let stage = Stage::set(Setting::default()).await;
    let (file, configuration) = (stage.path("conversations.redb"), stage.path("damaged.toml"));
    fs::write(&file, "no store of anything").unwrap();
    fs::copy(stage.path("switchback.toml"), &configuration).unwrap();
    let started = std::process::Command::new(env!("CARGO_BIN_EXE_switchback"))
        .args(["run", "-c"])
        .arg(&configuration)
        .current_dir(stage.path("."))
        .env("SWITCHBACK__CONVERSATIONS__PATH", &file)
        .env("SWITCHBACK__SIP__LISTEN", stage.street.at(6, 5060).to_string())
        .env("SWITCHBACK__MEDIA__ADDRESS", stage.street.at(6, 5060).ip().to_string())
        .env("SWITCHBACK__ADMIN__LISTEN", stage.street.at(6, 8080).to_string())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&started.stderr).into_owned();
    assert!(
        !started.status.success() && said.contains("conversations.path") && said.contains("move it away"),
        "{said}"
    );
    assert_eq!(fs::read(&file).unwrap(), b"no store of anything", "and it is left as it was");
    stage.close(&[]).await;
}
