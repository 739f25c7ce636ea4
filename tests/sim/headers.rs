//! Header fields that cross between the legs, seen on the wire; and the hop count that crosses with them.

use switchback::b2bua::settings::HeaderSettings;

use crate::asapp::NUMBER;
use crate::engine::{CORE, address, secs};
use crate::peer::{Draft, Line};
use crate::text::Sip;
use crate::world::World;

const A: &str = "ab30317f1a784dc48ff824d0d3715d86";
const B: &str = "47755a9de7794ba387653f2099600ef2";
/// What must not be seen beyond the leg it came on.
const INSIDE: &str = "pbx.inside";

/// What a PBX may say of a call.
const SAID: [(&str, &str); 9] = [
    ("P-Asserted-Identity", "\"Ada\" <sip:+15551@pbx.inside;x=pbx.inside>, <tel:+15552;phone-context=pbx.inside>"),
    ("Remote-Party-ID", "<sip:+15551@pbx.inside>;party=calling;screen=yes;privacy=off"),
    ("Diversion", "<sip:100@pbx.inside>;reason=user-busy;counter=1;extension=pbx.inside"),
    ("History-Info", "<sip:100@pbx.inside>;index=1"),
    ("History-Info", "<sip:7000@pbx.inside?Reason=SIP%3Bcause%3D302>;index=1.1"),
    ("Identity", "eyJhbGciOiJFUzI1NiJ9.e30.c2ln;info=<https://pbx.inside/c.pem>"),
    ("User-to-User", "706278;encoding=hex"),
    ("Reason", "SIP;cause=302, Q.850;cause=17"),
    ("X-Site", "pbx.inside"),
];

fn spoken<'a>(draft: Draft<'a>, headers: &[(&str, &str)]) -> Draft<'a> {
    headers.iter().fold(draft, |draft, (name, value)| draft.header(name, value))
}

fn said(sip: Sip, headers: &[(&str, &str)]) -> Sip {
    headers.iter().fold(sip, |sip, (name, value)| sip.with(name, *value))
}

/// GenerativeAgent's INVITE, for a customer who calls like this.
fn dialled(w: &World, draft: Draft<'_>) -> (Line, Line) {
    let mut customer = draft.invite();
    customer.expect("180");
    w.api.expect_create().answer_number(NUMBER, secs(60));
    (customer, w.carrier.expect_invite())
}

fn answered(customer: &mut Line, genagent: &mut Line, headers: &[(&str, &str)]) -> Sip {
    let answer = said(genagent.response(&genagent.invite, 200), headers).with_sdp(genagent.sdp());
    genagent.send(&answer);
    genagent.expect("ACK");
    let answer = customer.expect("200");
    customer.ack();
    answer
}

/// These headers cross everywhere.
fn passing(names: &[&str]) -> World {
    let names = || names.iter().map(|&name| name.to_owned()).collect();
    World::set(|settings| {
        settings.headers = HeaderSettings {
            to_genagent: names(),
            to_customer: names(),
            bye_to_genagent: names(),
            bye_to_customer: names(),
            info_to_genagent: names(),
            info_to_customer: names(),
            hide_topology: true,
        }
    })
}

fn octets(sip: &Sip) -> String {
    String::from_utf8(sip.octets()).expect("UTF-8")
}

fn hides_all(sip: &Sip) {
    for (name, _) in SAID.iter().filter(|(name, _)| *name != "Reason") {
        assert!(!sip.has(name), "{name} crossed:\n{}", octets(sip));
    }
    assert!(!octets(sip).contains(INSIDE) && !octets(sip).contains("cause=302"), "{}", octets(sip));
}

fn with_session(session: &str) -> Vec<(&str, &str)> {
    [&SAID[..], &[("Session-ID", session)]].concat()
}

fn info(line: &mut Line, headers: &[(&str, &str)]) {
    let mut info = said(line.request("INFO"), headers).with("Content-Type", "application/media_control+xml");
    info.body = "<media_control/>".to_owned();
    line.send(&info);
    line.expect("200 INFO");
}

#[test]
fn by_default_one_session_id_crosses_and_nothing_else() {
    let w = World::new();
    let (from_a, from_b) = (format!("{A};remote={B}"), format!("{B};remote={A}"));
    let (a, b) = (from_a.as_str(), from_b.as_str());
    let (mut customer, mut genagent) = dialled(&w, spoken(w.ivr.call(), &with_session(a)));
    hides_all(&genagent.invite);
    assert_eq!(genagent.invite.header("Session-ID"), a);
    assert!(genagent.invite.header("From").contains(&format!("<sip:+15550100@{CORE}>")));
    let answer = answered(&mut customer, &mut genagent, &with_session(b));
    hides_all(&answer);
    assert_eq!(answer.header("Session-ID"), b);
    info(&mut customer, &with_session(a));
    let relayed = genagent.expect_and_ok("INFO");
    hides_all(&relayed);
    assert_eq!((relayed.header("Session-ID"), relayed.body.as_str()), (a, "<media_control/>"));
    let bye = said(genagent.request("BYE"), &with_session(b));
    genagent.send(&bye);
    genagent.expect("200 BYE");
    w.api.expect_fetch().answer_completed("AGENT", &[]);
    let bye = customer.expect_and_ok("BYE");
    hides_all(&bye);
    assert_eq!(bye.header("Session-ID"), b);
}

#[test]
fn what_is_configured_crosses_in_order_and_without_the_hosts() {
    let w = passing(&["P-Asserted-Identity", "Remote-Party-ID", "Diversion", "History-Info", "user-to-user", "Reason"]);
    let host = address(CORE).ip();
    let parties = |sip: &Sip| {
        assert!(!octets(sip).contains(INSIDE), "{}", octets(sip));
        let one = format!("\"Ada\" <sip:+15551@{host}>, <tel:+15552>");
        assert_eq!(sip.all("P-Asserted-Identity"), [one]);
        assert_eq!(sip.all("Remote-Party-ID"), [format!("<sip:+15551@{host}>;party=calling;screen=yes")]);
        assert_eq!(sip.all("Diversion"), [format!("<sip:100@{host}>;reason=user-busy;counter=1")]);
        let history = [format!("<sip:100@{host}>;index=1"), format!("<sip:7000@{host}>;index=1.1")];
        assert_eq!(sip.all("History-Info"), history);
        assert_eq!(sip.header("User-to-User"), "706278;encoding=hex");
        assert!(!sip.has("X-Site") && !sip.has("Identity"));
    };
    let (mut customer, mut genagent) = dialled(&w, spoken(w.ivr.call(), &SAID));
    parties(&genagent.invite);
    assert_eq!(genagent.invite.all("Reason"), ["SIP;cause=302"]);
    parties(&answered(&mut customer, &mut genagent, &SAID));
    info(&mut genagent, &SAID);
    parties(&customer.expect_and_ok("INFO"));
    let bye = said(customer.request("BYE"), &SAID);
    customer.send(&bye);
    customer.expect("200 BYE");
    let bye = genagent.expect_and_ok("BYE");
    parties(&bye);
    assert_eq!(bye.all("Reason"), ["Q.850;cause=16", "SIP;cause=302"], "one of each protocol");
}

#[test]
fn topology_may_be_shown() {
    let w = World::set(|settings| {
        settings.headers.to_genagent = vec!["Diversion".to_owned()];
        settings.headers.hide_topology = false;
    });
    let (mut customer, mut genagent) = dialled(&w, spoken(w.ivr.call(), &SAID));
    assert_eq!(genagent.invite.header("Diversion"), SAID[2].1);
    give_up(&mut customer, &mut genagent);
}

#[test]
fn who_asks_for_privacy_is_named_to_nobody() {
    for wish in ["id", "user;critical", "header", "history"] {
        let w = passing(&["P-Asserted-Identity", "Remote-Party-ID", "Diversion", "History-Info", "Privacy"]);
        let named = &SAID[..5];
        let (mut customer, mut genagent) = dialled(&w, spoken(w.ivr.call(), named).header("Privacy", wish));
        let nameless = |sip: &Sip| named.iter().all(|(name, _)| !sip.has(name));
        assert!(nameless(&genagent.invite), "{wish}");
        assert_eq!(genagent.invite.header("Privacy"), wish);
        assert!(
            genagent.invite.header("From").contains("<sip:+15550100@") && !octets(&genagent.invite).contains("Ada")
        );
        let answer = answered(&mut customer, &mut genagent, named);
        assert!(answer.has("Diversion"), "it is the customer who asked");
        let bye = said(customer.request("BYE"), named);
        customer.send(&bye);
        customer.expect("200 BYE");
        assert!(nameless(&genagent.expect_and_ok("BYE")), "{wish} holds for the whole call");
    }
}

#[test]
fn no_wish_is_no_privacy() {
    let w = passing(&["Diversion"]);
    let (mut customer, mut genagent) = dialled(&w, spoken(w.ivr.call(), &SAID).header("Privacy", "none"));
    assert!(genagent.invite.has("Diversion"));
    give_up(&mut customer, &mut genagent);
}

/// The customer thinks better of it.
fn give_up(customer: &mut Line, genagent: &mut Line) {
    genagent.respond(180);
    customer.cancel();
    customer.expect("200 CANCEL");
    customer.expect_refusal(487);
    genagent.expect_and_ok("CANCEL");
    genagent.respond(487);
    genagent.expect("ACK");
}

#[test]
fn s5_nothing_that_crosses_starts_a_line_or_grows_without_bound() {
    let w = passing(&["X-Site", "X-Many", "Session-ID", "Diversion"]);
    let long = "x".repeat(1_025);
    let mut draft = w
        .ivr
        .call()
        .header("X-Site", "a\r\n X-Evil: 1")
        .header("X-Site", "b\rX-Evil: 2")
        .header("X-Site", "c\u{1}d")
        .header("X-Site", &long)
        .header("x-site", "good")
        .header("Session-ID", "pbx.inside")
        .header("Diversion", "\"a\u{b}\" <sip:1@pbx.inside>")
        .header("Diversion", "<sip:1%0d%0aX-Evil:%203@pbx.inside>");
    for n in 0..100 {
        draft = draft.header("X-Many", &n.to_string());
    }
    let (mut customer, mut genagent) = dialled(&w, draft);
    let invite = &genagent.invite;
    assert!(!invite.has("X-Evil") && !invite.has("Session-ID") && !invite.has("Diversion"), "{}", octets(invite));
    assert_eq!(invite.all("X-Site"), ["a   X-Evil: 1", "good"]);
    let many: Vec<String> = (0..14).map(|n| n.to_string()).collect();
    assert_eq!(invite.all("X-Many"), many, "sixteen lines in all, the first ones");
    give_up(&mut customer, &mut genagent);
}

#[test]
fn what_we_say_ourselves_is_not_said_for_us() {
    let w = passing(&["X-Switchback-Context", "X-Switchback-Outcome"]);
    let (mut customer, mut genagent) = dialled(&w, w.ivr.call());
    let answer = answered(&mut customer, &mut genagent, &[("X-Switchback-Context", "forged")]);
    assert_eq!(answer.all("X-Switchback-Context"), [w.context().reference]);
    let bye = genagent.request("BYE").with("x-switchback-outcome", "forged");
    genagent.send(&bye);
    genagent.expect("200 BYE");
    w.api.expect_fetch().answer_completed("AGENT", &[]);
    assert_eq!(customer.expect_and_ok("BYE").all("X-Switchback-Outcome"), ["agent"]);
}

#[test]
fn s2_a_bye_with_guessed_tags_puts_no_header_into_ours() {
    let w = passing(&["X-Site"]);
    let (mut customer, mut genagent) = dialled(&w, w.ivr.call());
    answered(&mut customer, &mut genagent, &[]);
    let mut guessed = genagent.request("BYE").with("X-Site", "forged");
    guessed.headers.iter_mut().filter(|(name, _)| name == "From").for_each(|(_, value)| value.push('x'));
    genagent.send(&guessed);
    genagent.expect("481 BYE");
    genagent.bye();
    genagent.expect("200 BYE");
    w.api.expect_fetch().answer_completed("AGENT", &[]);
    assert!(!customer.expect_and_ok("BYE").has("X-Site"));
}

#[test]
fn t17_a_loop_runs_out_of_hops() {
    for (received, sent) in [("70", "69"), ("5", "4"), ("1", "0"), ("255", "70")] {
        let w = World::new();
        let (mut customer, mut genagent) = dialled(&w, w.ivr.call().header("Max-Forwards", received));
        assert_eq!(genagent.invite.header("Max-Forwards"), sent);
        give_up(&mut customer, &mut genagent);
    }
    let w = World::new();
    w.ivr.call().header("Max-Forwards", "0").invite().expect_refusal(483);
    assert_eq!((w.api.asked(), w.counters().calls, w.counters().rejected["hops"]), (0, 0, 1));
}
