//! What receivers are sent: T12 and T15 by profile, and the context of hostile hands through every one of them.

use switchback::b2bua::io::FailureClass;
use switchback::b2bua::settings::{Network, Settings};
use switchback::call::rules::{Matcher, Pattern};
use switchback::call::settings::{BodyForm, ContextSettings, Encoding, Uui, UuiForm};
use switchback::call::verdict::Outcome;
use switchback::call::webhook::Webhook;
use switchback::config::Config;
use switchback::sip::refer::ReferTo;

use crate::asapp::completed;
use crate::engine::{IVR, address, secs};
use crate::happy::talk;
use crate::ladders::{rules, tried};
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
fn a_rule_for_the_callers_of_one_profile() {
    let for_whom = |name: &str| Matcher { profile: vec![Pattern(name.to_owned())], ..Matcher::default() };
    for (name, fits) in [("iv?", true), ("other", false)] {
        let w = with_profile(ContextSettings::default(), |settings| {
            rules(settings, [(for_whom(name), &["dial:queue"]), (Matcher::default(), &["bye"])]);
        });
        let (mut customer, mut genagent) = talk(&w);
        genagent.bye();
        genagent.expect("200 BYE");
        w.api.expect_fetch().answer_completed("AGENT", &[]);
        if fits {
            let mut queue = w.queue.expect_invite();
            queue.answer();
            queue.expect("ACK");
            queue.bye();
            queue.expect("200 BYE");
        }
        customer.expect_and_ok("BYE");
        assert_eq!(tried(&w), [if fits { "dial:queue answered" } else { "bye done" }]);
    }
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

/// What hostile hands may put into a context: 64 KB of names and values.
fn hostile() -> Vec<(String, String)> {
    let texts = [
        "1\r\nX-Evil: 1\r\n\r\nBYE sip:evil@example.com SIP/2.0\r\n",
        "\0\u{1}\u{7f}\u{85}\u{2028}",
        "\"quoted\\\" <sip:evil@example.com>;tag=1, second",
        "%0d%0aX-Evil: 1 %25 %",
        "?X-Evil=1&X-Evil=2;X-Evil=3",
        "\u{202e}é😀 \u{feff}",
        "{\"ref\":\"forged\"}",
        "plain",
    ];
    let names = ["Via", "Content-Length", "Reason", "ref", "outcome", "User-to-User", "X-Evil: 1\r\nX-Evil", "ok", ""];
    let mut all: Vec<(String, String)> = Vec::new();
    for (n, name) in names.iter().enumerate() {
        all.extend(
            texts
                .iter()
                .enumerate()
                .map(|(t, text)| (format!("{name}{}", if t == n { "" } else { text }), (*text).to_owned())),
        );
    }
    all.extend((0..40).map(|n| (format!("long-{n}"), texts[n % texts.len()].repeat(40))));
    all.push(("rest".to_owned(), "x".repeat(32 * 1024)));
    assert!(all.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > 64 * 1024);
    all
}

/// Every profile that a receiver could have: each form of each part.
fn every_profile() -> Vec<ContextSettings> {
    let mut all = Vec::new();
    for uui in [Uui::Off, Uui::Ref, Uui::Kv, Uui::Json] {
        for uui_form in [UuiForm::Hex, UuiForm::Isdn, UuiForm::Pd, UuiForm::Avaya] {
            for body in [BodyForm::None, BodyForm::Form, BodyForm::Json] {
                let encoding = if body == BodyForm::Form { Encoding::Plain } else { Encoding::Percent };
                all.push(ContextSettings { uui, uui_form, body, encoding, ..ContextSettings::default() });
            }
        }
    }
    all
}

/// The presets as `[profile.NAME]` reads them.
fn presets() -> Vec<ContextSettings> {
    let names = include_str!("../../src/config/presets.toml").lines().filter_map(|line| line.strip_prefix('['));
    let names: Vec<&str> = names.filter_map(|line| line.strip_suffix(']')).collect();
    assert_eq!(names.len(), 8, "{names:?}");
    names.into_iter().map(preset).collect()
}

fn preset(name: &str) -> ContextSettings {
    let least = "trunk.main.address = '192.0.2.10'\nasapp.api_id = 'id'\nasapp.api_secret = 'secret'\n";
    let config = Config::parse(&format!("{least}[profile.it]\npreset = '{name}'\n")).expect("a preset");
    config.profile["it"].context.clone()
}

/// What a URI carries, to be looked at like a message of its own.
fn inside(value: &str) -> Vec<(String, String)> {
    let read = ReferTo::read(value).unwrap_or_else(|| panic!("{value}"));
    assert_eq!(read.uri(), "sip:queue@pbx.example", "{value}");
    assert!(value.bytes().all(|b| b.is_ascii_graphic()), "{value}");
    read.headers().to_vec()
}

/// Nothing of a message is anything but what we wrote: its lines are ours, its values printable, and it fits a datagram.
fn unharmed(message: &Sip, settings: &ContextSettings) {
    let known = [
        "via",
        "from",
        "to",
        "call-id",
        "cseq",
        "max-forwards",
        "contact",
        "user-agent",
        "server",
        "reason",
        "allow",
        "supported",
        "session-expires",
        "min-se",
        "content-type",
        "content-length",
        "content-disposition",
        "user-to-user",
        "x-switchback-outcome",
        "x-switchback-context",
        "x-ga-extconid",
        "x-ga-transfer",
        "diversion",
        "record-route",
        "route",
        "accept",
        "refer-to",
        "referred-by",
    ];
    for (name, value) in &message.headers {
        let name = name.to_ascii_lowercase();
        assert!(known.contains(&name.as_str()) || name.starts_with("x-ga-tv-"), "{name}: {value}\n{message:?}");
        assert!(value.bytes().all(|b| (b' '..0x7f).contains(&b)), "{name}: {value}");
        assert!(known.contains(&name.as_str()) || value.len() <= settings.max_value, "{name}: {value}");
    }
    for name in ["Call-ID", "Via", "Content-Length", "User-to-User", "X-Switchback-Context"] {
        assert!(message.all(name).len() <= 1, "{name}: {message:?}");
    }
    if let Some(data) = message.all("User-to-User").first().and_then(|value| value.split(';').next()) {
        assert!(data.bytes().all(|b| b.is_ascii_hexdigit()) && data.len() / 2 <= settings.max_uui + 3, "{data}");
    }
    assert!(message.octets().len() <= 1300, "{} octets", message.octets().len());
}

fn borrowed(variables: &[(String, String)]) -> Vec<(&str, &str)> {
    variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

#[test]
fn s5_hostile_variables_through_every_rung_and_every_profile() {
    let variables = hostile();
    let borrowed = borrowed(&variables);
    for settings in every_profile().into_iter().chain(presets()) {
        let w = with_profile(settings.clone(), |_| {});
        let (_, bye) = handed_back(&w, &borrowed);
        unharmed(&bye, &settings);
        assert_eq!(bye.body.is_empty(), settings.body == BodyForm::None);
        complete(&w, &variables);
    }
    for settings in every_profile().into_iter().chain(presets()).filter(|settings| settings.body == BodyForm::None) {
        let w = with_profile(settings.clone(), |all| {
            rules(all, [(Matcher::default(), &["webhook:router", "dial:queue", "bye", "refuse:480"])]);
            let webhook = Webhook { limit: secs(2), allow_drop: false };
            all.call.webhooks = [("router".to_owned(), webhook)].into();
            all.call.targets.get_mut("queue").expect("the queue").profile = Some("ivr".to_owned());
        });
        let (mut customer, mut genagent) = talk(&w);
        genagent.bye();
        genagent.expect("200 BYE");
        w.api.expect_fetch().answer(Ok(completed("AGENT\r\nX-Evil: 2", &borrowed, &[])));
        for _ in 0..2 {
            let mut queue = w.queue.expect_invite();
            unharmed(&queue.invite, &settings);
            queue.respond(486);
            queue.expect("ACK");
        }
        unharmed(&customer.expect_and_ok("BYE"), &settings);
        complete(&w, &variables);
        let told: serde_json::Value = serde_json::from_slice(&w.stage().engine.inquiries[0].body).expect("JSON");
        assert_eq!(told["output"]["transferVariables"]["ok"], "plain");
    }
}

/// The profiles that differ inside a URI or an INVITE, which have no body.
fn without_body() -> impl Iterator<Item = ContextSettings> {
    every_profile().into_iter().filter(|settings| settings.body == BodyForm::None).chain(presets())
}

/// A world in which whoever is called has the profile, too.
fn with_ladder_and_profile(settings: &ContextSettings, ladder: &[&str]) -> World {
    with_profile(settings.clone(), |all| {
        rules(all, [(Matcher::default(), ladder)]);
        let queue = all.call.targets.get_mut("queue").expect("the queue");
        (queue.profile, queue.uris) = (Some("ivr".to_owned()), vec!["sip:queue@pbx.example".to_owned()]);
    })
}

/// GenerativeAgent leaves the hostile context behind.
fn ended(w: &World, variables: &[(String, String)]) -> Line {
    let (customer, mut genagent) = talk(w);
    genagent.bye();
    genagent.expect("200 BYE");
    w.api.expect_fetch().answer(Ok(completed("AGENT\r\nX-Evil: 2", &borrowed(variables), &[])));
    customer
}

#[test]
fn s5_hostile_variables_inside_refer_to() {
    let variables = hostile();
    for settings in without_body() {
        let w = with_ladder_and_profile(&settings, &["refer:queue"]);
        let mut customer = ended(&w, &variables);
        let refer = customer.expect("REFER");
        unharmed(&refer, &settings);
        unharmed(&Sip { headers: inside(refer.header("Refer-To")), ..Sip::request("INVITE", "sip:x") }, &settings);
        customer.reply(&refer, 202);
        customer.bye();
        customer.expect("200 BYE");
        complete(&w, &variables);
    }
}

#[test]
fn s5_hostile_variables_before_an_attended_transfer() {
    let variables = hostile();
    for settings in without_body() {
        let w = with_ladder_and_profile(&settings, &["refer_replaces:queue"]);
        let mut customer = ended(&w, &variables);
        let mut queue = w.queue.expect_invite();
        unharmed(&queue.invite, &settings);
        queue.answer();
        queue.expect("ACK");
        let refer = customer.expect("REFER");
        unharmed(&refer, &settings);
        let read = ReferTo::read(refer.header("Refer-To")).expect("a Refer-To");
        assert!(read.replaces().is_some() && read.headers().len() == 1, "{refer:?}");
        customer.reply(&refer, 603);
        customer.bye();
        customer.expect("200 BYE");
        queue.expect_and_ok("BYE");
        complete(&w, &variables);
    }
}

/// Before the answer there is no context yet; what the caller wrote comes back all the same.
#[test]
fn s5_a_hostile_conversation_inside_the_contact_of_a_302() {
    for settings in without_body() {
        for (_, text) in hostile().into_iter().take(8) {
            let w = with_ladder_and_profile(&settings, &["redirect:queue"]);
            let escaped: String = text.bytes().map(|b| format!("%{b:02X}")).collect();
            let mut customer = w.ivr.call().header("X-GA-extConversationId", &escaped).invite();
            customer.expect("180");
            w.api.expect_create().fail(FailureClass::Refused);
            let moved = customer.expect_refusal(302);
            unharmed(&moved, &settings);
            unharmed(&Sip { headers: inside(moved.header("Contact")), ..Sip::request("INVITE", "sip:x") }, &settings);
        }
    }
}

#[test]
fn t15_avayas_user_to_user_stands_inside_the_contact_of_a_302() {
    let w = with_ladder_and_profile(&preset("avaya"), &["redirect:queue"]);
    let mut customer = w.ivr.invite();
    customer.expect("180");
    w.api.expect_create().fail(FailureClass::Refused);
    let moved = customer.expect_refusal(302);
    let kv = format!("ref={}&outcome=not_connected&conversation=", w.context().reference);
    let headers = inside(moved.header("Contact"));
    let (_, uui) = headers.iter().find(|(name, _)| name == "User-to-User").expect("it is there");
    let (data, encoding) = uui.split_once(';').expect("a parameter");
    assert_eq!((&data[..4], encoding), ("00C8", "encoding=hex"), "{uui}");
    let length = usize::from_str_radix(&data[4..6], 16).expect("a length");
    assert!(data[6..].starts_with(&hex(&kv)) && data.len() == 6 + 2 * length, "{uui}");
    assert_eq!(moved.header("User-to-User"), uui, "and in the response itself");
}

/// Behind the reference is everything, and the record counts every variable once.
fn complete(w: &World, variables: &[(String, String)]) {
    assert_eq!(w.context().output.expect("it is kept").transfer_variables, variables);
    let back = w.record().hand_back.expect("handed back");
    assert_eq!((back.values_sent + back.values_left_out) as usize, variables.len());
}
