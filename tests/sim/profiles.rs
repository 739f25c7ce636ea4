//! What receivers are sent: T12 and T15 by profile, and the context of hostile hands through every one of them.

use switchback::b2bua::io::FailureClass;
use switchback::b2bua::settings::{Network, Settings};
use switchback::call::rules::Matcher;
use switchback::call::settings::{BodyForm, ContextSettings, Uui, UuiForm};
use switchback::call::verdict::Outcome;

use crate::asapp::completed;
use crate::engine::{IVR, address};
use crate::happy::talk;
use crate::ladders::rules;
use crate::peer::Line;
use crate::text::Sip;
use crate::world::World;

/// A world whose IVR has this profile.
fn with_profile(profile: ContextSettings, change: impl FnOnce(&mut Settings)) -> World {
    World::set(|settings| {
        settings.call.profiles = [("ivr".to_owned(), profile)].into();
        settings.profiles = vec![(Network { address: address(IVR).ip(), prefix: 32 }, "ivr".to_owned())];
        change(settings);
    })
}

/// GenerativeAgent hangs up; it leaves these variables behind.
fn handed_back(w: &World, variables: &[(&str, &str)]) -> (Line, Sip) {
    let (mut customer, mut genagent) = talk(w);
    genagent.bye();
    genagent.expect("200 BYE");
    w.api.expect_fetch().answer(Ok(completed("AGENT", variables, &[])));
    let bye = customer.expect_and_ok("BYE");
    (customer, bye)
}

fn hex(text: &str) -> String {
    text.bytes().map(|b| format!("{b:02X}")).collect()
}

#[test]
fn t12_the_bye_speaks_as_the_profile_of_the_ivr_says() {
    let profile = ContextSettings {
        transfer_prefix: "X-My-".to_owned(),
        outcome_header: String::new(),
        uui: Uui::Ref,
        uui_form: UuiForm::Isdn,
        body: BodyForm::Json,
        causes: [(Outcome::Agent, 31)].into(),
        ..ContextSettings::default()
    };
    let w = with_profile(profile, |_| {});
    let (_, bye) = handed_back(&w, &[("tier", "gold é")]);
    assert_eq!(bye.all("Reason"), ["Q.850;cause=31", "switchback;text=\"agent\""]);
    assert_eq!(bye.header("X-My-tier"), "gold%20%C3%A9");
    assert!(!bye.has("X-Switchback-Outcome") && !bye.has("X-GA-tv-tier"));
    let reference = w.context().reference;
    let uui = format!("04{};encoding=hex;purpose=isdn-uui;content=isdn-uui", hex(&reference));
    assert_eq!(bye.header("User-to-User"), uui);
    assert_eq!(bye.header("Content-Type"), "application/json");
    assert_eq!(bye.header("Content-Disposition"), "render;handling=optional");
    let body: serde_json::Value = serde_json::from_str(&bye.body).expect("JSON");
    assert_eq!((body["ref"].as_str(), body["tier"].as_str()), (Some(reference.as_str()), Some("gold é")));
    assert!(bye.octets().len() <= 1300, "{}", bye.octets().len());
}

#[test]
fn t12_who_has_no_profile_is_sent_what_context_says() {
    let elsewhere = Network { address: address("198.51.100.99:5060").ip(), prefix: 32 };
    let w = with_profile(ContextSettings { uui: Uui::Kv, ..ContextSettings::default() }, |settings| {
        settings.profiles[0].0 = elsewhere;
    });
    let (_, bye) = handed_back(&w, &[("tier", "gold")]);
    assert!(!bye.has("User-to-User") && bye.body.is_empty());
    assert_eq!(bye.all("Reason"), ["Q.850;cause=16", "switchback;text=\"agent\""]);
}

#[test]
fn t12_of_two_networks_the_smaller_one_names_the_profile() {
    let w = with_profile(ContextSettings { uui: Uui::Ref, ..ContextSettings::default() }, |settings| {
        let everyone = Network { address: address("0.0.0.0:0").ip(), prefix: 0 };
        settings.call.profiles.insert("all".to_owned(), ContextSettings::default());
        settings.profiles.push((everyone, "all".to_owned()));
    });
    assert!(handed_back(&w, &[]).1.has("User-to-User"));
}

#[test]
fn h4_the_invite_to_a_target_speaks_as_the_profile_of_the_target_says() {
    let w = World::set(|settings| {
        rules(settings, [(Matcher::default(), &["dial:queue", "bye", "refuse:480"])]);
        let avaya = ContextSettings {
            uui: Uui::Kv,
            uui_form: UuiForm::Avaya,
            body: BodyForm::Form,
            max_variables: 0,
            max_invite_lines: 700,
            ..ContextSettings::default()
        };
        settings.call.profiles = [("pbx".to_owned(), avaya)].into();
        settings.call.targets.get_mut("queue").expect("the queue").profile = Some("pbx".to_owned());
    });
    let (mut customer, mut genagent) = talk(&w);
    genagent.bye();
    genagent.expect("200 BYE");
    w.api.expect_fetch().answer_completed("AGENT", &[("tier", "gold")]);
    let mut queue = w.queue.expect_invite();
    let kv = format!("ref={}&outcome=agent&transfer=AGENT&", w.context().reference);
    let uui = queue.invite.header("User-to-User");
    assert!(uui.starts_with("00C8") && uui[6..].starts_with(&hex(&kv)) && uui.ends_with(";encoding=hex"), "{uui}");
    assert_eq!(queue.invite.header("Content-Type"), "application/sdp");
    queue.answer();
    queue.expect("ACK");
    assert_eq!(w.counters().active_calls, 1);
    customer.bye();
    customer.expect("200 BYE");
    queue.expect_and_ok("BYE");
    let back = w.record().hand_back.expect("handed back");
    assert_eq!((back.values_sent, back.values_left_out), (1, 0), "by User-to-User");
}

#[test]
fn t15_a_contact_without_headers_where_the_profile_says_so() {
    let quiet = ContextSettings { contact_headers: false, uui: Uui::Ref, ..ContextSettings::default() };
    let w = with_profile(quiet, |settings| rules(settings, [(Matcher::default(), &["redirect:queue"])]));
    let mut customer = w.ivr.invite();
    customer.expect("180");
    w.api.expect_create().fail(FailureClass::Refused);
    let moved = customer.expect_refusal(302);
    assert_eq!(moved.header("Contact"), "<sip:queue@pbx.example>");
    assert!(moved.has("User-to-User") && moved.has("X-Switchback-Context"), "in the response itself");
    assert!(moved.body.is_empty());
}
