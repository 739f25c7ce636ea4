//! H: calls as they should go.

use switchback::call::verdict::{EndedBy, Outcome, Phase};

use crate::asapp::NUMBER;
use crate::engine::{ms, secs};
use crate::peer::Line;
use crate::world::World;

/// Brings a call to where both talk.
pub fn talk(w: &World) -> (Line, Line) {
    let mut customer = w.ivr.invite();
    customer.expect("180");
    w.api.expect_create().answer_number(NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    genagent.respond(180);
    genagent.answer();
    genagent.expect("ACK");
    customer.expect("200");
    customer.ack();
    w.run_for(ms(5));
    assert!(w.talking(&customer, &genagent), "{}", w.ladder());
    (customer, genagent)
}

#[test]
fn h1_genagent_ends_the_call_and_a_person_takes_over() {
    let w = World::new();
    let (mut customer, mut genagent) = talk(&w);
    w.run_for(secs(60));
    genagent.bye();
    let get = w.api.expect_fetch();
    genagent.expect("200 BYE");
    get.after(secs(2)).answer_completed("AGENT", &[("priority", "high")]);
    let bye = customer.expect_and_ok("BYE");
    assert_eq!(bye.all("Reason")[0], "Q.850;cause=16");
    assert_eq!(bye.header("X-GA-transfer"), "AGENT");
    assert_eq!(bye.header("X-GA-tv-priority"), "high");
    assert_eq!(w.verdict(), (Outcome::Agent, EndedBy::Genagent, Phase::Talking));
    w.golden("h1");
}
