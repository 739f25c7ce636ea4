//! The mock IVR calls the mock GenerativeAgent directly, on real sockets.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::genagent::{Ending, MockGenAgent, Script, Settings};
use super::hooks::{Hooks, News, output_context};
use super::ivr::{self, CallReport, EndedBy, MockIvr};
use super::tap::{Seen, Tap, Traffic};
use super::voice::{Voice, speaks};

const NUMBER: &str = "+19995550199";

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn agent(script: Script) -> Settings {
    Settings {
        bind: loopback(),
        ring: Duration::from_millis(50),
        talk: Duration::from_millis(4500),
        script,
        early_media: false,
        tap: Tap::default(),
    }
}

fn customer(target: &MockGenAgent) -> ivr::Settings {
    ivr::Settings {
        bind: loopback(),
        target: target.address(),
        user: NUMBER.to_owned(),
        caller: "+15550100".to_owned(),
        headers: vec![("X-GA-taskName".to_owned(), "OrderStatus".to_owned())],
        speak: true,
        hang_up_after: None,
        cancel_after: None,
        tap: Tap::default(),
    }
}

/// Places a call; the agent has recorded it when this returns.
async fn call(agent: &MockGenAgent, settings: ivr::Settings) -> CallReport {
    let before = agent.calls().len();
    let report = MockIvr::call(settings).await.unwrap();
    for _ in 0..100 {
        if agent.calls().len() > before {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(report.complaints.is_empty(), "{:?}", report.complaints);
    assert!(agent.complaints().is_empty(), "{:?}", agent.complaints());
    report
}

#[tokio::test]
async fn both_voices_arrive_and_the_agent_hangs_up() {
    let news = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&news);
    let hooks = Hooks::Closure(Arc::new(move |item| {
        told.lock().unwrap().push(item);
        Some("transfer".to_owned())
    }));
    let seen = Arc::new(Mutex::new(Vec::<Seen>::new()));
    let wire = Arc::clone(&seen);
    let agent = MockGenAgent::start(agent(Script::Agent), hooks).await.unwrap();
    let settings =
        ivr::Settings { tap: Tap::new(move |datagram| wire.lock().unwrap().push(datagram)), ..customer(&agent) };
    let report = call(&agent, settings).await;

    assert_eq!((report.status, report.ended_by), (200, EndedBy::Switchback));
    assert!(report.to_ringing.unwrap() < report.to_answer.unwrap());
    assert!(report.to_answer.unwrap() >= Duration::from_millis(50));
    assert_eq!(report.bye("cseq"), ["1 BYE"]);
    let there = agent.calls().remove(0);
    assert_eq!((there.number.as_str(), there.ending), (NUMBER, Ending::HungUp));
    assert!(there.invite_headers.contains(&("X-GA-taskName".to_owned(), "OrderStatus".to_owned())));
    for (heard, voice) in [(&report.heard, Voice::GenAgent), (&there.heard, Voice::Customer)] {
        assert!(speaks(&heard.samples));
        assert!(voice.times_heard(&heard.samples) >= 1, "{voice:?} was not heard");
        assert_eq!((heard.stats.lost, heard.stats.out_of_order, heard.stats.ssrc_changes), (0, 0, 0));
        assert!((180..=230).contains(&heard.stats.packets), "{:?}", heard.stats);
    }

    let labels: Vec<_> = seen.lock().unwrap().iter().filter(|seen| seen.traffic == Traffic::Sip).map(label).collect();
    assert_eq!(labels, ["INVITE sdp", "100", "180", "200 sdp", "ACK", "BYE", "200 BYE"]);
    let news = news.lock().unwrap();
    assert_eq!(news[0], News::Received { number: NUMBER.to_owned() });
    let completed = News::Completed {
        number: NUMBER.to_owned(),
        transfer: Some("transfer".to_owned()),
        output: Some(output_context("AGENT")),
    };
    assert_eq!(news[1], completed);
}

fn label(seen: &Seen) -> String {
    super::ladder::label(&seen.bytes).unwrap()
}

#[tokio::test]
async fn the_customer_hangs_up() {
    let agent = MockGenAgent::start(agent(Script::WaitForCustomer), Hooks::Nobody).await.unwrap();
    let settings = ivr::Settings { hang_up_after: Some(Duration::from_millis(500)), ..customer(&agent) };
    let report = call(&agent, settings).await;
    assert_eq!((report.status, report.ended_by), (200, EndedBy::Ivr));
    assert_eq!(agent.calls()[0].ending, Ending::Released);
}

#[tokio::test]
async fn a_ringing_call_is_cancelled() {
    let agent = MockGenAgent::start(agent(Script::RingForever), Hooks::Nobody).await.unwrap();
    let settings = ivr::Settings { cancel_after: Some(Duration::from_millis(200)), ..customer(&agent) };
    let report = call(&agent, settings).await;
    assert_eq!((report.status, report.ended_by), (487, EndedBy::Cancel));
    assert_eq!(agent.calls()[0].ending, Ending::Cancelled);
}

#[tokio::test]
async fn a_busy_agent_refuses() {
    let agent = MockGenAgent::start(agent(Script::Busy(486)), Hooks::Nobody).await.unwrap();
    let report = call(&agent, customer(&agent)).await;
    assert_eq!((report.status, report.ended_by, report.to_answer), (486, EndedBy::Refusal, None));
    assert_eq!(agent.calls()[0].ending, Ending::Refused(486));
}

#[tokio::test]
async fn a_silent_agent_gets_the_invite_again() {
    let seen = Arc::new(Mutex::new(Vec::<Seen>::new()));
    let wire = Arc::clone(&seen);
    let tap = Tap::new(move |datagram| wire.lock().unwrap().push(datagram));
    let agent = MockGenAgent::start(agent(Script::NoAnswerAtAll), Hooks::Nobody).await.unwrap();
    let report = MockIvr::call(ivr::Settings { tap, ..customer(&agent) });
    assert!(tokio::time::timeout(Duration::from_millis(2500), report).await.is_err());
    let labels: Vec<_> = seen.lock().unwrap().iter().map(label).collect();
    assert_eq!(labels, ["INVITE sdp"; 3], "at 0, 0.5 and 1.5 s");
}

#[tokio::test]
async fn the_customer_hears_early_media_and_many_calls_are_taken_at_once() {
    let early = Settings { early_media: true, ring: Duration::from_millis(400), ..agent(Script::WaitForCustomer) };
    let agent = MockGenAgent::start(early, Hooks::Nobody).await.unwrap();
    let calls = (0..20).map(|_| {
        let settings = ivr::Settings { hang_up_after: Some(Duration::from_millis(300)), ..customer(&agent) };
        tokio::spawn(MockIvr::call(settings))
    });
    for report in calls.collect::<Vec<_>>() {
        let report = report.await.unwrap().unwrap();
        assert_eq!((report.status, report.ended_by, report.heard.stats.lost), (200, EndedBy::Ivr, 0));
        assert!(report.heard.started.unwrap() < report.started + report.to_answer.unwrap(), "before the answer");
    }
}
