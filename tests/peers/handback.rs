//! H3: the customer's own stack does what our REFER asks: it calls the queue, and says so.

use switchback::demo::asapp::Behaviour;

use crate::door::Door;
use crate::phone::{Phone, Stack};
use crate::stage::handed_over;
use crate::talk::{CUSTOMER, GENAGENT, LISTENING, SETTLING, ended, is_heard};
use crate::tone::Tone;
use crate::world::{NUMBER, Over, Place, QUEUE, World};

/// What the queue says.
pub const AT_THE_QUEUE: Tone = Tone(1800);

/// The queue's row in the configuration, and a ladder that begins with a REFER to it.
fn rules() -> String {
    format!(
        "[target.queue]\nuri = 'sip:{NUMBER}@{QUEUE}'\n\
         [[rule]]\nwhen.outcome = 'agent'\nladder = ['refer:queue', 'bye']\n"
    )
}

/// GenerativeAgent hangs up; the customer's stack calls the queue, and our leg to it ends.
pub async fn play(customer: Stack, queue: Stack) {
    let behaviour: Behaviour = handed_over("AGENT");
    let world = World::handing_back(behaviour, &rules()).await;
    let place = world.behind_the_customer("queue", QUEUE);
    let mut caller = Phone::start(customer, &world.customer, Over::Udp, CUSTOMER, world.room("customer-room")).await;
    let mut genagent =
        Phone::start(Stack::Pjsua, &world.genagent, Over::Udp, GENAGENT, world.room("genagent-room")).await;
    let queue = Phone::start(queue, &place, Over::Udp, AT_THE_QUEUE, world.room("queue-room")).await;

    caller.obey(&format!("dial {}", world.dialled()));
    for phone in [&caller, &genagent] {
        phone.says("CALL_ESTABLISHED", 1).await;
    }
    both_hear((&world.customer, GENAGENT), (&world.genagent, CUSTOMER)).await;
    genagent.obey("hangup");
    queue.says("CALL_ESTABLISHED", 1).await;
    caller.says("CALL_ESTABLISHED", 2).await;
    caller.says("CALL_CLOSED", 1).await;
    both_hear((&world.customer, AT_THE_QUEUE), (&place, CUSTOMER)).await;
    assert_eq!(queue.times("CALL_CLOSED"), 0, "the customer stays at the queue");

    let record = world.records(1).await.remove(0);
    ended(&record, "agent", "genagent");
    let rung = &record["hand_back"]["rungs"][0];
    assert_eq!((&rung["rung"], &rung["result"]), (&"refer:queue".into(), &"transferred".into()), "{record}");
    world.close().await;
}

/// What arrives at two places is what the other one says.
pub async fn both_hear(one: (&Place, Tone), other: (&Place, Tone)) {
    tokio::time::sleep(SETTLING).await;
    let (here, there) = (Door::open(one.0), Door::open(other.0));
    let (here, there) = tokio::join!(here.hears(LISTENING), there.hears(LISTENING));
    for ((place, tone), samples) in [(one, here), (other, there)] {
        is_heard(&format!("the door of {}", place.ip), tone, &samples, 0);
    }
}
