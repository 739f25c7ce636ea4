//! S: strangers, guesses and hostile text.

use switchback::b2bua::io::FailureClass;
use switchback::b2bua::settings::Unlisted;

use crate::engine::{ms, secs};
use crate::happy::talk;
use crate::text::Sip;
use crate::world::World;

const STRANGER: &str = "198.18.0.66:5060";

#[test]
fn s1_an_unlisted_source_hears_nothing() {
    let w = World::new();
    let stranger = w.stranger(STRANGER);
    stranger.invite();
    stranger.expect_nothing_for(secs(5));
    assert_eq!((w.api.asked(), w.counters().calls, w.counters().unlisted), (0, 0, 1));
}

#[test]
fn s1_or_403_a_few_times_a_second() {
    let w = World::set(|settings| settings.unlisted = Unlisted::Forbid);
    let stranger = w.stranger(STRANGER);
    for _ in 0..100 {
        stranger.invite();
    }
    w.run_for(ms(10));
    assert_eq!(w.count(&stranger, "403"), 20);
    assert_eq!((w.api.asked(), w.counters().calls), (0, 0));
}

#[test]
fn s2_guessed_tags_change_nothing() {
    let w = World::new();
    let (mut customer, mut genagent) = talk(&w);
    for change in ["From", "To", "Call-ID"] {
        let mut bye = customer.request("BYE");
        bye.headers.iter_mut().filter(|(name, _)| name == change).for_each(|(_, value)| value.push('x'));
        let guessed_id = change == "Call-ID";
        customer.send(&bye);
        match guessed_id {
            false => drop(customer.expect("481 BYE")),
            true => w.run_for(ms(10)),
        }
    }
    assert_eq!(w.count(&w.ivr, "481 BYE"), 3);
    let mut cancel = customer.hop_by_hop("CANCEL");
    cancel.headers.iter_mut().for_each(|(_, value)| *value = value.replace("-ivr-", "-guess-").replace("@ivr", "@x"));
    customer.send(&cancel);
    w.run_for(secs(1));
    assert!(w.talking(&customer, &genagent));
    customer.bye();
    customer.expect("200 BYE");
    genagent.expect_and_ok("BYE");
}

#[test]
fn s9_a_premium_number_is_not_dialled_though_its_country_is_right() {
    let w = World::new();
    let mut customer = w.ivr.invite();
    customer.expect("180");
    w.api.expect_create().answer_number("+19005550199", secs(60));
    customer.expect_refusal(480);
    assert_eq!(w.count(&w.carrier, "INVITE"), 0);
}

#[test]
fn s9_a_minute_has_a_cap_on_dials_and_no_number_is_asked_for_beyond_it() {
    let w = World::set(|settings| {
        settings.trunks[0].max_calls_per_minute = 2;
        settings.call.max_attempts = 1;
    });
    let call = |number: &str| {
        let mut customer = w.ivr.invite();
        customer.expect("180");
        w.api.expect_create().answer_number(number, secs(60));
        let mut genagent = w.carrier.expect_invite();
        genagent.respond(486);
        genagent.expect("ACK");
        customer.expect_refusal(480);
    };
    ["+19995550101", "+19995550102"].into_iter().for_each(call);
    w.run_for(secs(50));
    let mut refused = w.ivr.invite();
    refused.expect("180");
    refused.expect_refusal(480);
    assert_eq!((w.count(&w.carrier, "INVITE"), w.counters().rejected["trunks_full"]), (2, 1));
    w.run_for(secs(11));
    call("+19995550103");
    assert_eq!(w.count(&w.carrier, "INVITE"), 3);
}

#[test]
fn s4_garbage_is_dropped_or_answered() {
    let w = World::new();
    let noise: [&[u8]; 8] = [
        b"",
        b"\r\n\r\n",
        b"\0\0\0\0",
        b"\xff\xfe\xfd",
        b"GET / HTTP/1.1\r\n\r\n",
        b"SIP/2.0 200 OK\r\n\r\n",
        b"INVITE sip:a@b SIP/2.0\r\n\r\n",
        b"SIP/2.0 999999 X\r\nVia: x\r\n\r\n",
    ];
    for octets in noise {
        w.ivr.send_raw(octets);
    }
    w.ivr.expect_nothing_for(secs(1));
    let line = w.ivr.call();
    let mut invite = line.invite();
    invite.expect("180");
    w.api.expect_create().fail(FailureClass::Refused);
    invite.expect_refusal(480);
    let cases: [(&str, &str, u16); 6] = [
        ("INVITE", "SIP/7.0", 505),
        ("FROBNICATE", "SIP/2.0", 501),
        ("REFER", "SIP/2.0", 603),
        ("BYE", "SIP/2.0", 481),
        ("SUBSCRIBE", "SIP/2.0", 405),
        ("OPTIONS", "SIP/2.0", 200),
    ];
    for (n, (method, version, status)) in cases.into_iter().enumerate() {
        let text = format!(
            "{method} sip:x@192.0.2.1 {version}\r\nVia: SIP/2.0/UDP 198.51.100.10:5060;branch=z9hG4bK-odd-{n};rport\r\n\
             Max-Forwards: 70\r\nFrom: <sip:a@b.example>;tag=1\r\nTo: <sip:x@192.0.2.1>\r\nCall-ID: odd-{n}\r\nCSeq: 1 {method}\r\n\
             Contact: <sip:a@198.51.100.10>\r\nContent-Length: 0\r\n\r\n"
        );
        w.ivr.send_raw(text);
        w.run_for(ms(10));
        let heard = w.stage().delivered.last().and_then(|(.., sip)| sip.status());
        assert_eq!(heard, Some(status), "{method} {version}");
    }
}

#[test]
fn s5_nothing_a_caller_wrote_starts_a_line() {
    let w = World::new();
    let mut customer = w
        .ivr
        .call()
        .header("X-GA-iv-evil", "1%0D%0AX-Evil:%201")
        .header("X-GA-extConversationId", "c%0d%0aX-Evil: 2")
        .header("X-GA-taskName", "t%00%0a")
        .invite();
    customer.expect("180");
    let post = w.api.expect_create();
    let body = post.body();
    let words = [&body.conversation.0, &body.variables[0].1, body.task.as_ref().expect("a task")];
    assert!(words.iter().all(|word| !word.chars().any(char::is_control)), "{words:?}");
    post.answer_number(crate::asapp::NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    let clean = |sip: &Sip| !sip.has("X-Evil") && !sip.body.contains("Evil");
    assert!(clean(&genagent.invite));
    genagent.answer();
    genagent.expect("ACK");
    assert!(clean(&customer.expect("200")));
    customer.ack();
    genagent.bye();
    genagent.expect("200 BYE");
    w.api.expect_fetch().answer_completed("SYSTEM", &[("a", "1\r\nX-Evil: 3"), ("b\r\nX-Evil", "4")]);
    let bye = customer.expect_and_ok("BYE");
    assert!(clean(&bye));
    assert_eq!(bye.header("X-GA-extConId"), "c%20%20X-Evil%3A%202");
}
