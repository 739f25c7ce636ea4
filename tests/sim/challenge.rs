//! S1: callers who are asked who they are, and what they hear until they have said it.

use bytes::Bytes;
use switchback::b2bua::settings::Network;
use switchback::call::verdict::Outcome;
use switchback::sip::digest::{Answered, Credentials, Keyring};
use switchback::sip::gate::User;
use switchback::sip::ids::Ids;
use switchback::sip::message::Message;

use crate::asapp::NUMBER;
use crate::engine::{IVR, Lane, address, ms, secs};
use crate::peer::Line;
use crate::provisional::hang_up;
use crate::text::Sip;
use crate::world::World;

/// Another host of the caller's network.
const BESIDE: &str = "198.51.100.77:5060";

fn world() -> World {
    World::set(|settings| {
        let network = Network { address: address(IVR).ip(), prefix: 24 };
        settings.access = vec![network];
        settings.challenge = vec![network];
        settings.users = vec![User { name: "ivr".to_owned(), password: "open sesame".to_owned() }];
    })
}

fn keyring(password: &str) -> Keyring {
    let (username, password) = ("ivr".to_owned(), password.to_owned());
    Keyring::new(Credentials { username, password, realm: Some("switchback".to_owned()) }, address(IVR).ip())
}

/// Takes the challenges of a 401.
fn hear(keyring: &mut Keyring, refusal: &Sip) {
    let read = Message::read(Bytes::from(refusal.octets())).expect("SIP");
    let (source, ids) = (address(IVR).ip(), &mut Ids::from_seed([3; 32]));
    assert!(keyring.challenged(&read, source, &mut Answered::default(), ids), "{:?}", refusal.all("WWW-Authenticate"));
}

/// The request with what it shows.
fn showing(request: Sip, keyring: &mut Keyring) -> Sip {
    let shown = keyring.shown(request.method(), request.uri(), request.body.as_bytes(), address(IVR).ip());
    shown.into_iter().fold(request, |request, (name, value)| request.with(name.as_str(), value))
}

/// The INVITE once more, with what it shows.
fn again(line: &mut Line, keyring: &mut Keyring) {
    let fresh = line.request("INVITE");
    let mut invite = line.invite.clone();
    invite.headers.retain(|(name, _)| !["Via", "CSeq", "Authorization"].contains(&name.as_str()));
    let invite = invite.with("Via", fresh.header("Via")).with("CSeq", fresh.header("CSeq"));
    line.invite = showing(invite, keyring);
    line.send(&line.invite);
}

/// A call that has said who it is and talks.
fn talk(w: &World, keyring: &mut Keyring) -> (Line, Line) {
    let mut customer = w.ivr.invite();
    hear(keyring, &customer.expect_refusal(401));
    again(&mut customer, keyring);
    customer.expect("180");
    w.api.expect_create().answer_number(NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    assert!(!genagent.invite.has("Authorization"), "what the caller shows us is for us");
    genagent.answer();
    genagent.expect("ACK");
    customer.expect("200");
    customer.ack();
    (customer, genagent)
}

#[test]
fn s1_who_does_not_say_who_it_is_costs_nothing() {
    let w = world();
    let mut customer = w.ivr.invite();
    let refusal = customer.expect_refusal(401);
    let asked = refusal.all("WWW-Authenticate");
    assert!(asked[0].contains("algorithm=SHA-256") && asked[1].contains("algorithm=MD5"), "RFC 8760: {asked:?}");
    assert!(asked.iter().all(|it| it.contains("qop=\"auth\"") && !it.contains("stale")));
    customer.send(&customer.invite.clone());
    let repeated = customer.expect_refusal(401);
    assert_eq!(repeated.tag("To"), refusal.tag("To"), "RFC 3261 section 8.2.7");
    let counters = w.counters();
    assert_eq!((w.api.asked(), counters.calls, counters.active_transactions), (0, 0, 0));
    assert_eq!(counters.challenged, 2);
    let (mut refer, mut options) = (w.ivr.request("REFER"), w.ivr.request("OPTIONS"));
    refer.expect("401 REFER");
    options.expect("200 OPTIONS");
}

#[test]
fn s1_who_says_who_it_is_is_not_asked_again_in_the_dialog() {
    let w = world();
    let mut keyring = keyring("open sesame");
    let (mut customer, mut genagent) = talk(&w, &mut keyring);
    let info = customer.request("INFO").with("Content-Type", "application/dtmf-relay");
    customer.send(&info);
    customer.expect("200 INFO");
    genagent.expect_and_ok("INFO");
    hang_up(&mut customer, &mut genagent);
    assert_eq!(w.verdict().0, Outcome::CustomerHungUp);
    assert_eq!(w.counters().challenged, 1);
}

#[test]
fn s1_a_cancel_is_never_asked() {
    let w = world();
    let mut keyring = keyring("open sesame");
    let mut customer = w.ivr.invite();
    hear(&mut keyring, &customer.expect_refusal(401));
    again(&mut customer, &mut keyring);
    customer.expect("180");
    customer.cancel();
    customer.expect("200 CANCEL");
    customer.expect_refusal(487);
    w.api.expect_create().answer_number(NUMBER, secs(60));
    w.run_for(secs(1));
    assert_eq!(w.count(&w.carrier, "INVITE"), 0);
}

#[test]
fn s1_a_wrong_password_and_a_replay_do_not_pass() {
    let w = world();
    let mut wrong = keyring("open barley");
    let mut customer = w.ivr.invite();
    hear(&mut wrong, &customer.expect_refusal(401));
    again(&mut customer, &mut wrong);
    let refusal = customer.expect_refusal(401);
    assert!(!refusal.header("WWW-Authenticate").contains("stale"), "there is nothing to be had from trying again");

    let mut keyring = keyring("open sesame");
    let (mut customer, mut genagent) = talk(&w, &mut keyring);
    let value = customer.invite.header("Authorization").to_owned();
    let mut replayed = w.ivr.call().header("Authorization", &value).invite();
    let refusal = replayed.expect_refusal(401);
    assert!(refusal.header("WWW-Authenticate").contains("stale=true"));
    assert_eq!(w.counters().calls, 1);
    hang_up(&mut customer, &mut genagent);
}

#[test]
fn s1_an_old_nonce_is_stale() {
    let w = world();
    let mut keyring = keyring("open sesame");
    let mut customer = w.ivr.invite();
    hear(&mut keyring, &customer.expect_refusal(401));
    w.run_for(secs(301));
    again(&mut customer, &mut keyring);
    let refusal = customer.expect_refusal(401);
    assert!(refusal.header("WWW-Authenticate").contains("stale=true"));
    hear(&mut keyring, &refusal);
    again(&mut customer, &mut keyring);
    customer.expect("180");
    customer.cancel();
    customer.expect("200 CANCEL");
    customer.expect_refusal(487);
    w.api.expect_create().answer_number(NUMBER, secs(60));
}

#[test]
fn s2_a_bye_from_elsewhere_must_say_who_it_is() {
    let w = world();
    w.stage().engine.lanes.insert(address(BESIDE), Lane::clean(ms(1)));
    let mut keyring = keyring("open sesame");
    let (mut customer, mut genagent) = talk(&w, &mut keyring);
    let mut bye = customer.request("BYE");
    bye.headers
        .iter_mut()
        .for_each(|(_, value)| *value = value.replace(&format!("UDP {IVR}"), &format!("UDP {BESIDE}")));
    let beside = w.stranger(BESIDE);
    w.stage().own(address(BESIDE), &customer.call_id);
    beside.send_raw(bye.octets());
    w.run_for(secs(1));
    assert_eq!(w.count(&beside, "401 BYE"), 1);
    w.stage().letters(address(BESIDE), &customer.call_id).clear();
    assert!(w.talking(&customer, &genagent));
    hang_up(&mut customer, &mut genagent);
}
