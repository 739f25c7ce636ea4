//! O4 and S3: who is shown credentials, for which question, how often.

use switchback::b2bua::io::{Transfer, TransferStatus};
use switchback::call::settings::{Return, WayIn};
use switchback::call::verdict::{NotConnected, Outcome};
use switchback::sip::digest::Credentials;

use crate::asapp::NUMBER;
use crate::engine::{IVR, address, ms, secs};
use crate::peer::Line;
use crate::provisional::{dialled, hang_up};
use crate::text::Sip;
use crate::world::World;

const REALM: &str = "carrier.example";

fn world() -> World {
    trusting(Some(REALM.to_owned()))
}

fn trusting(realm: Option<String>) -> World {
    World::set(|settings| {
        let (username, password) = ("switchback".to_owned(), "secret word".to_owned());
        settings.trunks[0].credentials = Some(Credentials { username, password, realm });
    })
}

fn challenge(realm: &str, nonce: &str, rest: &str) -> String {
    format!("Digest realm=\"{realm}\", nonce=\"{nonce}\", qop=\"auth\"{rest}")
}

/// The carrier asks who we are.
fn ask(line: &mut Line, status: u16, challenges: &[String]) {
    let name = if status == 401 { "WWW-Authenticate" } else { "Proxy-Authenticate" };
    let asked = challenges.iter().fold(line.response(&line.invite, status), |sip, one| sip.with(name, one));
    line.send(&asked);
    line.expect("ACK");
}

/// A parameter of an Authorization header.
fn shown<'a>(value: &'a str, name: &str) -> &'a str {
    let params = value.trim_start_matches("Digest ").split(", ");
    params.filter_map(|p| p.split_once('=')).find(|(n, _)| *n == name).map_or("", |(_, v)| v.trim_matches('"'))
}

fn shows_nothing(sip: &Sip) -> bool {
    !sip.has("Authorization") && !sip.has("Proxy-Authorization")
}

#[test]
fn o4_a_challenge_is_answered_on_the_same_member() {
    for (status, name) in [(407, "Proxy-Authorization"), (401, "Authorization")] {
        let w = world();
        let (mut customer, mut genagent) = dialled(&w);
        let first = genagent.invite.clone();
        assert!(shows_nothing(&first));
        ask(&mut genagent, status, &[challenge(REALM, "n1", ", algorithm=MD5")]);
        let again = genagent.expect_invite_again();
        let value = again.header(name);
        let same = ["username", "realm", "nonce", "uri", "qop", "nc"].map(|param| shown(value, param));
        assert_eq!(same, ["switchback", REALM, "n1", again.uri(), "auth", "00000001"], "{value}");
        assert!(shown(value, "response").len() == 32 && !value.contains("secret"));
        assert_eq!(
            (again.uri(), again.call_id(), again.tag("From")),
            (first.uri(), first.call_id(), first.tag("From"))
        );
        assert_eq!((again.cseq(), again.tag("To"), &again.body), (first.cseq() + 1, "", &first.body));
        assert_ne!(again.branch(), first.branch(), "a transaction of its own");
        genagent.answer();
        assert_eq!(genagent.expect("ACK").cseq(), again.cseq());
        customer.expect("200");
        customer.ack();
        w.run_for(ms(5));
        assert!(w.talking(&customer, &genagent));
        assert_eq!(w.api.asked(), 1, "the same number");
        customer.bye();
        customer.expect("200 BYE");
        let bye = genagent.expect("BYE");
        genagent.send(&genagent.response(&bye, 407).with("Proxy-Authenticate", challenge(REALM, "n2", "")));
        let again = genagent.expect_and_ok("BYE");
        assert_eq!(again.cseq(), bye.cseq() + 1);
        assert_eq!(shown(again.header("Proxy-Authorization"), "nonce"), "n2");
        assert_eq!(again.all("Reason"), bye.all("Reason"));
        genagent.expect_nothing_for(secs(5));
    }
}

#[test]
fn o4_two_proxies_in_a_row_are_both_answered() {
    let w = trusting(None);
    let (mut customer, mut genagent) = dialled(&w);
    ask(&mut genagent, 407, &[challenge("near.example", "n1", "")]);
    genagent.expect_invite_again();
    ask(&mut genagent, 407, &[challenge("far.example", "f1", "")]);
    let again = genagent.expect_invite_again();
    let values = again.all("Proxy-Authorization");
    let told = values.iter().map(|value| ["realm", "nonce", "nc"].map(|param| shown(value, param)));
    assert_eq!(
        told.collect::<Vec<_>>(),
        [["near.example", "n1", "00000002"], ["far.example", "f1", "00000001"]],
        "RFC 3261 section 22.3"
    );
    genagent.answer();
    let ack = genagent.expect("ACK");
    assert_eq!(ack.all("Proxy-Authorization"), values, "what the INVITE showed (RFC 3261 section 22.1)");
    customer.expect("200");
    customer.ack();
    hang_up(&mut customer, &mut genagent);
}

#[test]
fn o4_two_realms_at_once_are_both_answered() {
    let w = trusting(None);
    let (mut customer, mut genagent) = dialled(&w);
    let realms = ["near.example", "far.example"];
    let asked: Vec<String> = [", algorithm=SHA-256", ", algorithm=MD5"]
        .iter()
        .flat_map(|algorithm| realms.map(|realm| challenge(realm, "n", algorithm)))
        .collect();
    ask(&mut genagent, 407, &asked);
    let again = genagent.expect_invite_again();
    let told: Vec<_> = again.all("Proxy-Authorization").iter().map(|value| shown(value, "realm").to_owned()).collect();
    assert_eq!(told, realms);
    assert!(again.all("Proxy-Authorization").iter().all(|value| shown(value, "algorithm") == "SHA-256"));
    ask(&mut genagent, 407, &[challenge("near.example", "n2", "")]);
    customer.expect_refusal(480);
    assert_eq!(w.count(&w.carrier, "INVITE"), 2, "who has refused us once is not asked again");
}

#[test]
fn o4_what_was_asked_once_is_shown_at_once_and_counted() {
    let w = world();
    let (mut customer, mut genagent) = dialled(&w);
    ask(&mut genagent, 407, &[challenge(REALM, "n1", "")]);
    genagent.expect_invite_again();
    genagent.answer();
    genagent.expect("ACK");
    customer.expect("200");
    customer.ack();
    let info = customer.request("INFO").with("Content-Type", "application/media_control+xml");
    customer.send(&Sip { body: "<media_control/>".to_owned(), ..info });
    customer.expect("200 INFO");
    let info = genagent.expect_and_ok("INFO");
    customer.bye();
    customer.expect("200 BYE");
    let bye = genagent.expect_and_ok("BYE");
    let told = [info, bye].map(|sip| {
        let value = sip.header("Proxy-Authorization").to_owned();
        ["nonce", "nc"].map(|param| shown(&value, param).to_owned())
    });
    assert_eq!(told, [["n1", "00000002"], ["n1", "00000003"]]);
}

/// The carrier asks who sends this request, and gets it again.
fn explained(genagent: &mut Line, method: &str, nonce: &str) {
    let first = genagent.expect(method);
    let asked = challenge(REALM, nonce, "");
    genagent.send(&Sip::response(&first, 401, "").with("WWW-Authenticate", asked));
    let again = genagent.expect(method);
    assert_eq!(shown(again.header("Authorization"), "nonce"), nonce);
    assert_eq!((again.cseq(), again.uri()), (first.cseq() + 1, first.uri()));
    assert_eq!(
        (&again.body, again.tag("To"), again.header("RAck")),
        (&first.body, first.tag("To"), first.header("RAck"))
    );
    assert_ne!(again.branch(), first.branch());
    genagent.send(&Sip::response(&again, 200, ""));
}

#[test]
fn o4_prack_info_and_the_bye_of_a_losing_fork_are_explained() {
    let w = world();
    let (mut customer, mut genagent) = dialled(&w);
    for (rseq, branch) in [("7", "-a"), ("9", "-b")] {
        let ringing = genagent.forked(180, branch).with("Require", "100rel").with("RSeq", rseq);
        genagent.send(&ringing);
        match branch {
            "-a" => explained(&mut genagent, "PRACK", "p"),
            _ => drop(genagent.expect_and_ok("PRACK")),
        }
    }
    genagent.send(&genagent.forked(200, "-a").with_sdp(genagent.sdp()));
    genagent.expect("ACK");
    customer.expect("200");
    customer.ack();
    genagent.send(&genagent.forked(200, "-b").with_sdp(genagent.sdp()));
    genagent.expect("ACK");
    explained(&mut genagent, "BYE", "b");
    let info = customer.request("INFO").with("Content-Type", "application/media_control+xml");
    customer.send(&Sip { body: "<media_control/>".to_owned(), ..info });
    customer.expect("200 INFO");
    explained(&mut genagent, "INFO", "i");
    w.run_for(secs(1));
    assert!(w.talking(&customer, &genagent));
    hang_up(&mut customer, &mut genagent);
}

#[test]
fn o4_one_stale_nonce_is_forgiven() {
    let w = world();
    let (mut customer, mut genagent) = dialled(&w);
    ask(&mut genagent, 407, &[challenge(REALM, "n1", "")]);
    genagent.expect_invite_again();
    ask(&mut genagent, 407, &[challenge(REALM, "n2", ", stale=TRUE")]);
    let again = genagent.expect_invite_again();
    assert_eq!(shown(again.header("Proxy-Authorization"), "nonce"), "n2");
    ask(&mut genagent, 407, &[challenge(REALM, "n3", ", stale=true")]);
    customer.expect_refusal(480);
    assert_eq!(w.count(&w.carrier, "INVITE"), 3);
    let record = w.record();
    assert_eq!(record.verdict.outcome, Outcome::NotConnected);
    assert_eq!(record.verdict.evidence.not_connected, Some(NotConnected::TrunkFailed));
}

/// The carrier asks who says goodbye, and wants to know it again and again.
fn insist(genagent: &mut Line) {
    let mut bye = genagent.expect("BYE");
    for (nonce, stale) in [("b1", "false"), ("b2", "true"), ("b3", "true")] {
        let asked = challenge(REALM, nonce, &format!(", stale={stale}"));
        genagent.send(&genagent.response(&bye, 407).with("Proxy-Authenticate", asked));
        if nonce != "b3" {
            bye = genagent.expect("BYE");
            assert_eq!(shown(bye.header("Proxy-Authorization"), "nonce"), nonce);
        }
    }
    genagent.expect_nothing_for(secs(20));
}

#[test]
fn o4_a_bye_is_not_explained_for_ever() {
    let w = world();
    let (mut customer, mut genagent) = dialled(&w);
    genagent.answer();
    genagent.expect("ACK");
    customer.expect("200");
    customer.ack();
    w.run_for(secs(1));
    customer.bye();
    customer.expect("200 BYE");
    insist(&mut genagent);
}

#[test]
fn o4_the_bye_after_an_unusable_answer_is_explained_as_well() {
    let w = world();
    let (mut customer, mut genagent) = dialled(&w);
    genagent.respond_with(200, "nonsense");
    genagent.expect("ACK");
    insist(&mut genagent);
    w.api.expect_create().fail(switchback::b2bua::io::FailureClass::Refused);
    customer.expect_refusal(480);
}

#[test]
fn o4_a_refresh_is_explained() {
    let w = world();
    let (mut customer, mut genagent) = dialled(&w);
    let answer = genagent.response(&genagent.invite, 200).with("Session-Expires", "90;refresher=uac");
    genagent.send(&answer.with("Allow", "UPDATE").with_sdp(genagent.sdp()));
    genagent.expect("ACK");
    customer.expect("200");
    customer.ack();
    for round in 0..3 {
        let update = genagent.expect("UPDATE");
        let asked = challenge(REALM, &format!("u{round}"), "");
        genagent.send(&genagent.response(&update, 407).with("Proxy-Authenticate", asked));
        let again = genagent.expect("UPDATE");
        assert_eq!(shown(again.header("Proxy-Authorization"), "nonce"), format!("u{round}"));
        assert_eq!(again.cseq(), update.cseq() + 1);
        genagent.send(&genagent.response(&again, 200).with("Session-Expires", "90;refresher=uac"));
    }
    w.run_for(secs(1));
    assert!(w.talking(&customer, &genagent));
    hang_up(&mut customer, &mut genagent);
}

#[test]
fn o4_a_second_refusal_is_a_refusal() {
    let w = world();
    let (mut customer, mut genagent) = dialled(&w);
    ask(&mut genagent, 407, &[challenge(REALM, "n1", "")]);
    genagent.expect_invite_again();
    ask(&mut genagent, 407, &[challenge(REALM, "n2", "")]);
    customer.expect_refusal(480);
    assert_eq!((w.count(&w.carrier, "INVITE"), w.api.asked()), (2, 1));
    assert_eq!(w.record().verdict.evidence.sip_status, Some(407));
}

#[test]
fn o4_a_cancel_means_the_invite_that_lives() {
    for proceeding in [true, false] {
        let w = world();
        let (mut customer, mut genagent) = dialled(&w);
        let first = genagent.invite.clone();
        genagent.respond(100);
        ask(&mut genagent, 407, &[challenge(REALM, "n1", "")]);
        let again = genagent.expect_invite_again();
        if proceeding {
            genagent.respond(180);
            w.run_for(ms(20));
        }
        customer.cancel();
        customer.expect("200 CANCEL");
        customer.expect_refusal(487);
        if !proceeding {
            genagent.expect_nothing_for(secs(2));
            genagent.respond(180); // Only now is a CANCEL permitted (RFC 3261 section 9.1).
        }
        let cancel = genagent.expect_and_ok("CANCEL");
        assert!(cancel.branch() == again.branch() && cancel.branch() != first.branch());
        assert_eq!(cancel.cseq(), again.cseq());
        genagent.respond(487);
        genagent.expect("ACK");
        genagent.expect_nothing_for(secs(5));
    }
}

#[test]
fn o4_cancelled_while_challenged_is_not_sent_again() {
    let w = world();
    let (mut customer, mut genagent) = dialled(&w);
    genagent.respond(100);
    w.run_for(ms(20));
    customer.cancel();
    customer.expect("200 CANCEL");
    customer.expect_refusal(487);
    genagent.expect_and_ok("CANCEL");
    ask(&mut genagent, 407, &[challenge(REALM, "n1", "")]);
    genagent.expect_nothing_for(secs(5));
}

#[test]
fn o4_the_first_challenge_that_we_can_answer_is_answered() {
    let (md5, sha, turnip) = (", algorithm=MD5", ", algorithm=SHA-256", ", algorithm=TURNIP-7");
    for (offered, chosen, length) in
        [([sha, md5], "SHA-256", 64), ([md5, sha], "MD5", 32), ([turnip, sha], "SHA-256", 64)]
    {
        let w = world();
        let (mut customer, mut genagent) = dialled(&w);
        ask(&mut genagent, 407, &offered.map(|algorithm| challenge(REALM, "n", algorithm)));
        let again = genagent.expect_invite_again();
        let value = again.header("Proxy-Authorization");
        assert_eq!((shown(value, "algorithm"), shown(value, "response").len()), (chosen, length), "RFC 8760: {value}");
        assert_eq!(again.all("Proxy-Authorization").len(), 1);
        genagent.answer();
        genagent.expect("ACK");
        customer.expect("200");
        customer.ack();
        hang_up(&mut customer, &mut genagent);
    }
}

#[test]
fn o4_a_trunk_without_credentials_gets_none() {
    let w = World::new();
    let (mut customer, mut genagent) = dialled(&w);
    ask(&mut genagent, 407, &[challenge(REALM, "n1", "")]);
    customer.expect_refusal(480);
    assert_eq!(w.count(&w.carrier, "INVITE"), 1);
}

#[test]
fn o6_a_challenge_after_the_guard_wins_no_invite() {
    for arrivals_first in [false, true] {
        let w = world();
        w.stage().engine.arrivals_first = arrivals_first;
        let mut customer = w.ivr.invite();
        customer.expect("180");
        w.api.expect_create().answer_number(NUMBER, secs(6));
        let mut genagent = w.carrier.expect_invite();
        genagent.respond(100);
        w.run_for(ms(900));
        w.stall(ms(400));
        let asked = genagent.response(&genagent.invite, 407).with("Proxy-Authenticate", challenge(REALM, "n1", ""));
        genagent.send(&asked);
        w.api.expect_create().fail(switchback::b2bua::io::FailureClass::Refused);
        customer.expect_refusal(480);
        w.run_for(secs(1));
        assert_eq!(w.count(&w.carrier, "INVITE"), 1);
        assert!(genagent.answer_all().contains(&"ACK".to_owned()));
    }
}

#[test]
fn s3_another_realm_gets_no_credentials() {
    let w = world();
    let (mut customer, mut genagent) = dialled(&w);
    ask(&mut genagent, 407, &[challenge("elsewhere.example", "n1", "")]);
    customer.expect_refusal(480);
    assert_eq!(w.count(&w.carrier, "INVITE"), 1);
}

#[test]
fn s3_a_challenge_from_another_host_gets_no_credentials() {
    let w = world();
    let (mut customer, mut genagent) = dialled(&w);
    let asked = genagent.response(&genagent.invite, 407).with("Proxy-Authenticate", challenge(REALM, "n1", ""));
    w.ivr.send_raw(asked.octets());
    genagent.expect("ACK");
    customer.expect_refusal(480);
    assert_eq!(w.count(&w.carrier, "INVITE"), 1);
}

#[test]
fn s3_a_bye_that_goes_elsewhere_carries_no_credentials() {
    for from_the_trunk in [false, true] {
        let w = world();
        let (mut customer, genagent) = dialled(&w);
        let mut answer = genagent.response(&genagent.invite, 200).with_sdp(genagent.sdp());
        let elsewhere = format!("<sip:gw@{IVR}>");
        answer.headers.iter_mut().filter(|(name, _)| name == "Contact").for_each(|(_, at)| at.clone_from(&elsewhere));
        genagent.send(&answer);
        customer.expect("200");
        customer.ack();
        w.run_for(secs(1));
        customer.bye();
        customer.expect("200 BYE");
        w.run_for(ms(50));
        let mail: Vec<Sip> = w.stage().letters(address(IVR), &genagent.call_id).drain(..).collect();
        let bye = mail.iter().find(|sip| sip.is("BYE")).expect("a BYE to the Contact").clone();
        let asked = genagent.response(&bye, 407).with("Proxy-Authenticate", challenge(REALM, "n1", ""));
        match from_the_trunk {
            true => w.carrier.send_raw(asked.octets()),
            false => w.ivr.send_raw(asked.octets()),
        }
        w.run_for(secs(5));
        let byes =
            w.stage().delivered.iter().filter(|(.., sip)| sip.is("BYE") && sip.call_id() == genagent.call_id).count();
        assert_eq!(byes, 1, "the trunk's credentials are for the trunk");
    }
}

#[test]
fn s3_a_server_that_we_were_sent_to_gets_no_credentials() {
    let elsewhere = "203.0.113.99:5060";
    let w = World::set(|settings| {
        let (username, password) = ("switchback".to_owned(), "secret word".to_owned());
        settings.trunks[0].credentials = Some(Credentials { username, password, realm: None });
        settings.trunks[0].redirects = vec![address(elsewhere).ip()];
    });
    let there = w.stranger(elsewhere);
    w.stage().engine.carriers.push(address(elsewhere));
    let (mut customer, mut genagent) = dialled(&w);
    ask(&mut genagent, 407, &[challenge(REALM, "n1", "")]);
    assert!(!shows_nothing(&genagent.expect_invite_again()));
    let moved = genagent.response(&genagent.invite, 302);
    genagent.send(&moved.with("Contact", format!("<sip:{NUMBER}@{elsewhere}>")));
    genagent.expect("ACK");
    let mut redirected = there.expect_invite();
    assert!(shows_nothing(&redirected.invite), "{:?}", redirected.invite);
    ask(&mut redirected, 407, &[challenge(REALM, "n2", "")]);
    customer.expect_refusal(480);
    assert_eq!(w.count(&there, "INVITE"), 1);
}

#[test]
fn s3_a_customer_who_asks_is_told_nothing() {
    let w = world();
    let (mut customer, mut genagent) = dialled(&w);
    ask(&mut genagent, 407, &[challenge(REALM, "n1", "")]);
    genagent.expect_invite_again();
    genagent.answer();
    genagent.expect("ACK");
    customer.expect("200");
    customer.ack();
    let info = genagent.request("INFO").with("Content-Type", "application/media_control+xml");
    genagent.send(&Sip { body: "<media_control/>".to_owned(), ..info });
    genagent.expect("200 INFO");
    genagent.bye();
    genagent.expect("200 BYE");
    w.api.expect_fetch().answer_completed("AGENT", &[]);
    for word in ["INFO", "BYE"] {
        let request = customer.expect(word);
        assert!(shows_nothing(&request));
        customer.send(&customer.response(&request, 407).with("Proxy-Authenticate", challenge(REALM, "c", "")));
    }
    customer.expect_nothing_for(secs(20));
}

#[test]
fn h14_genagents_own_uri_asks_who_we_are_and_is_shown_what_the_trunk_has() {
    let w = World::set(|settings| {
        let (username, password) = ("switchback".to_owned(), "secret word".to_owned());
        settings.trunks[0].credentials = Some(Credentials { username, password, realm: Some(REALM.to_owned()) });
        settings.call.way_in = WayIn::Sip { uri: "sip:genagent@asapp.example".to_owned(), returns: Return::Bye };
    });
    let mut customer = w.ivr.invite();
    customer.expect("180");
    let post = w.api.expect_create();
    let id = post.id();
    post.answer(Ok(Transfer { status: Some(TransferStatus::Active), ..Transfer::default() }));
    let mut genagent = w.carrier.expect_invite();
    ask(&mut genagent, 407, &[challenge(REALM, "n1", "")]);
    let again = genagent.expect_invite_again();
    let value = again.header("Proxy-Authorization");
    assert_eq!((shown(value, "username"), shown(value, "uri")), ("switchback", "sip:genagent@asapp.example"));
    assert_eq!((again.uri(), again.all("X-ASAPP-CallTransferId")), ("sip:genagent@asapp.example", vec![id.as_str()]));
    genagent.answer();
    genagent.expect("ACK");
    customer.expect("200");
    customer.ack();
    w.run_for(ms(5));
    assert!(w.talking(&customer, &genagent), "{}", w.ladder());
    assert_eq!(w.api.asked(), 1, "the same transfer");
    customer.bye();
    customer.expect("200 BYE");
    genagent.expect_and_ok("BYE");
}
